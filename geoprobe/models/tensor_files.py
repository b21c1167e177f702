"""Reads the tensors in safetensors files and in PyTorch's pickles, by name and little by little."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from torch import Tensor

from geoprobe.models.weights import DamagedError, damaged, shown

PORTION_BYTES = 32 * 2**20
"""Of a file mapped into memory at a time; a smaller file is read whole, and by one thread."""


class Buffer:
    """A small file in memory, to be read again for the next checkpoint.

    Where the next file begins with the same header, its tensors lie where they lay: nothing is
    parsed and no memory is asked for, which for a small model takes longer than to read it.

    Args:
        path: A safetensors file.

    Raises:
        DamagedError: It is not one.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = bytearray(path.read_bytes())
        try:
            tensors = load_bytes(bytes(self._bytes))
            with safe_open(path, framework="pt") as file:
                order = file.offset_keys()
        except SafetensorError as error:
            raise damaged(path, error) from error
        begin = len(self._bytes) - sum(tensor.nbytes for tensor in tensors.values())
        self._header = bytes(self._bytes[:begin])
        self.tensors: dict[str, Tensor] = {}
        for name in order:
            like = tensors[name]
            if like.numel():
                self.tensors[name] = torch.frombuffer(
                    self._bytes, dtype=like.dtype, count=like.numel(), offset=begin
                ).view(like.shape)
            else:
                self.tensors[name] = like
            begin += like.nbytes

    def read(self, path: Path) -> bool:
        """Takes in another file; False where that has another header or size."""
        with path.open("rb", buffering=0) as stream:
            whole = stream.readinto(self._bytes) == len(self._bytes) and not stream.read(1)
        return whole and self._bytes.startswith(self._header)


def tensors_in(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of weight files, of large ones a portion in memory at a time.

    Each tensor is gone when the next one comes.

    Raises:
        DamagedError: A file is damaged, or a pickle holds more than tensors.
    """
    for path in files:
        if path.suffix != ".safetensors":
            yield from pickled(path).items()
            continue
        try:
            if path.stat().st_size <= PORTION_BYTES:
                yield from load_bytes(path.read_bytes()).items()
                continue
            names = names_in([path])
            while names:
                with safe_open(path, framework="pt") as file:  # anew: lets go of what was mapped
                    mapped = 0
                    while names and mapped < PORTION_BYTES:
                        name = names.pop()
                        tensor = file.get_tensor(name)
                        mapped += tensor.nbytes
                        yield name, tensor
                        del tensor
        except SafetensorError as error:
            raise damaged(path, error) from error


def names_in(files: Sequence[Path]) -> list[str]:
    """Names of the tensors in weight files."""
    names: list[str] = []
    for path in files:
        if path.suffix != ".safetensors":
            names += pickled(path)
            continue
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    return names


def pickled(path: Path) -> dict[str, Tensor]:
    """The state dict in a file that torch.save wrote; nothing in it is run.

    Raises:
        DamagedError: It is damaged, or holds what only code can make.
    """
    found = unpickled(path)
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise DamagedError(f"{shown(path.name)} is not a state dict", unfinished=False)
    return {str(name): tensor for name, tensor in found.items()}


def unpickled(path: Path) -> Any:
    """What is in a file that torch.save wrote, tensors mapped where its format allows.

    Raises:
        DamagedError: It is damaged, or holds what only code can make.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # before torch 1.6
    except UnpicklingError as error:
        raise DamagedError(
            f"{shown(path.name)} is damaged, or holds objects that only running code could make, "
            f"which is not done; if you trust it, save its weights alone: `{_conversion(path)}`",
            unfinished=False,
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise DamagedError(f"{shown(path.name)} is truncated or not a PyTorch file") from error


def _conversion(path: Path) -> str:
    """The command that saves a file's weights without what else is in it, in another folder."""
    folder = path.absolute().parent
    other = folder.with_name(f"{folder.name}-weights")
    code = (
        "import sys, torch; c = torch.load(sys.argv[1], weights_only=False); "
        "torch.save(c.get('state_dict', c), sys.argv[2])"
    )
    into, source, target = (shlex.quote(str(p)) for p in (other, path, other / path.name))
    return f'mkdir -p {into} && python -c "{code}" {source} {target}'
