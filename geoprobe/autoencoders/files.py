"""What is in an autoencoder's files, read with distrust: configs of any content, tensors only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from geoprobe.errors import UsageError
from geoprobe.models.tensor_files import pickled
from geoprobe.models.weights import DamagedError, shown

_CONFIG_BYTES = 16 * 2**20
"""No config of an autoencoder is nearly as large."""

_REQUIRED: Any = object()
_FORMAT = "the file is damaged or of another format"


def _shown(path: Path) -> str:
    return shown(path, 400)


@dataclass(frozen=True)
class Config:
    """A JSON object whose values are looked up with their type.

    Attributes:
        path: The file it is from.
        values: The object.
        where: Where in the file it is, as `metadata.`.
    """

    path: Path
    values: Mapping[str, Any]
    where: str = ""

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def within(self, name: str) -> Config:
        """An object inside; empty where there is none."""
        found = self._of(name, dict, "an object", None)
        return Config(self.path, found or {}, f"{self.where}{name}.")

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """A string; a missing one and null are `default`."""
        return self._of(name, str, "a string", default)

    def flag(self, name: str, default: Any = _REQUIRED) -> Any:
        """True or false; a missing one and null are `default`."""
        return self._of(name, bool, "true or false", default)

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """A finite number; a missing one and null are `default`."""
        found = self.values.get(name)
        if isinstance(found, bool):
            raise self._wrong(name, "a number")
        found = self._of(name, int | float, "a number", default)
        if found is not default and not abs(found) < 2**63:
            raise self._wrong(name, "a number")
        return found

    def count(self, name: str, default: Any = _REQUIRED) -> Any:
        """A whole number above 0; a missing one and null are `default`."""
        found = self.number(name, default)
        if found is default:
            return found
        if found < 1 or found != int(found):
            raise self._wrong(name, "a whole number above 0")
        return int(found)

    def refused(self, why: str) -> UsageError:
        """That this autoencoder is of a kind that cannot be read, and why."""
        return UsageError(f"{_shown(self.path)}: {shown(why, 700)}.")

    def _of(self, name: str, kind: Any, kind_name: str, default: Any) -> Any:
        found = self.values.get(name)
        if found is None:
            if default is _REQUIRED:
                raise UsageError(f"{_shown(self.path)} does not say {self.where}{name}; {_FORMAT}.")
            return default
        if not isinstance(found, kind):
            raise self._wrong(name, kind_name)
        return found

    def _wrong(self, name: str, kind_name: str) -> UsageError:
        try:
            found = shown(json.dumps(self.values.get(name)), 40)
        except (ValueError, RecursionError):  # whole numbers of thousands of digits; deep lists
            found = "something long"
        return UsageError(
            f"{_shown(self.path)}: {self.where}{name} is {found}, not {kind_name}; {_FORMAT}."
        )


def read_config(path: Path) -> Config:
    """The JSON object in a file.

    Raises:
        UsageError: It cannot be read, or is something else.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_CONFIG_BYTES + 1)
        if len(content) > _CONFIG_BYTES:
            raise ValueError("it is too large")
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        why = shown(" ".join(str(error).split()), 80)
        raise UsageError(
            f"{_shown(path)} cannot be read as an autoencoder's config ({why}); {_FORMAT}."
        ) from error
    return Config(path, found)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file or a state dict, as they are; no code in it is run.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else pickled(path)
    except DamagedError as error:
        raise UsageError(f"{_shown(path)} cannot be read: {error}.") from error
    except Exception as error:  # hostile bytes make either library raise almost anything
        why = shown(" ".join(str(error).split()), 80)
        raise UsageError(
            f"{_shown(path)} is truncated or damaged ({why}); fetch or save it again."
        ) from error
    size = path.stat().st_size
    for name, tensor in tensors.items():
        # A pickle may say that one number is a tensor of any shape, which a copy would spell out.
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.numel() > size:
            raise UsageError(
                f"{_shown(path)}: {shown(name)} is not a plain tensor; save the weights again."
            )
    return tensors


@dataclass(frozen=True)
class Weights:
    """Tensors of an autoencoder by name, looked up with their shape.

    Attributes:
        path: The file they are from.
        tensors: All that are in it.
    """

    path: Path
    tensors: Mapping[str, Tensor]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str, shape: Iterable[int | None]) -> Tensor:
        """A tensor in float32, in memory of its own.

        Args:
            name: Its name.
            shape: The size of each dimension; None where any will do.

        Raises:
            UsageError: It is missing, has another shape, or is not of finite real numbers.
        """
        expected = tuple(shape)
        if name not in self.tensors:
            raise UsageError(
                f"{_shown(self.path)} has no {name}, which an autoencoder of the kind that its "
                "config names has; the two are not of one autoencoder, or of another format."
            )
        tensor = self.tensors[name].detach()
        if len(expected) != tensor.ndim or any(
            size is not None and size != found
            for size, found in zip(expected, tensor.shape, strict=True)
        ):
            wanted = " x ".join("any" if s is None else str(s) for s in expected) or "one number"
            found = " x ".join(map(str, tensor.shape)) or "one number"
            raise UsageError(
                f"{_shown(self.path)}: {name} is {found}, where {wanted} is expected; its weights "
                "and its config are not of one autoencoder, or of another format."
            )
        if not tensor.is_floating_point() or 0 in tensor.shape:
            raise UsageError(
                f"{_shown(self.path)}: {name} ({tensor.dtype}, {tuple(tensor.shape)}) has no real "
                "numbers; quantised weights are not read, so save them as float32."
            )
        tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        # A feature whose threshold is infinite is one that was switched off.
        if bool(tensor.isnan().any() if "threshold" in name else ~tensor.isfinite().all()):
            raise UsageError(
                f"{_shown(self.path)}: {name} holds NaN or infinite numbers; its training diverged "
                "or the file is damaged."
            )
        return tensor
