"""The files of a checkpoint: which there are, whether they are whole, what identifies them.

Nothing here loads a weight or imports torch: a safetensors file says in its header where each
tensor ends, so a file that was cut off shows by its size.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

Kind = Literal["folder", "gguf", "state", "adapter", "module"]
"""A folder that transformers wrote, a .gguf file, a file with a state dict, PEFT's folder, weights
of a network that a function builds."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_NAMES = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Stem and ending of weight files, in the order in which transformers looks for them."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where the image processor of a vision model is described."""

_HEADER_LIMIT = 100_000_000
"""The safetensors format allows no longer header."""

_WHOLE_BYTES = 16 * 2**20
_BLOCKS, _BLOCK_BYTES = 256, 64 * 2**10


class DamagedError(Exception):
    """What is wrong with a checkpoint, as a fragment of a sentence.

    Attributes:
        unfinished: Whether a save that is still under way looks like this.
    """

    def __init__(self, reason: str, *, unfinished: bool = True) -> None:
        super().__init__(reason)
        self.unfinished = unfinished


@dataclass(frozen=True)
class Condition:
    """What the files of a checkpoint look like.

    Attributes:
        size_bytes: Bytes of the weights.
        damage: What is wrong, as a fragment of a sentence; None when nothing is.
        unfinished: Whether a save that is still under way looks like this.
        modified: When anything in it changed last, in seconds since the epoch.
    """

    size_bytes: int
    damage: str | None
    unfinished: bool
    modified: float


def shown(name: object, longest: int = 120) -> str:
    """A name fit for a sentence: file names may hold line breaks and terminal codes."""
    text = "".join(c if c.isprintable() else "?" for c in str(name))
    return text if len(text) <= longest else text[: longest - 3] + "..."


STATE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of files that torch.save writes."""

_NOT_STATES = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|.*optim_states)\b.*")


def is_state(path: Path) -> bool:
    """Whether a file may hold a state dict: not one of the others that trainers write."""
    return path.suffix.lower() in STATE_SUFFIXES and not _NOT_STATES.match(path.name)


def kind_of_folder(folder: Path) -> Kind:
    """Whether a folder holds a model, or an adapter of one."""
    return "adapter" if (folder / ADAPTER).is_file() and not _has_model(folder) else "folder"


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights of a transformers model or an adapter, whole or not."""
    return _has_model(folder) or (folder / ADAPTER).is_file()


def _has_model(folder: Path) -> bool:
    return any(
        (folder / f"{stem}.{ending}").is_file()
        or (folder / f"{stem}.{ending}.index.json").is_file()
        for stem, ending in _NAMES
    ) or any(_parts(folder))


def is_weights(name: str) -> bool:
    """Whether a file of this name, in a checkpoint folder, holds weights."""
    return (
        re.fullmatch(r"(pytorch_|adapter_)?model(-\d+-of-\d+)?\.(safetensors|bin)", name)
        is not None
    )


def _parts(folder: Path) -> Iterator[Path]:
    for stem, ending in _NAMES:
        yield from folder.glob(f"{stem}-*-of-*.{ending}")


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder, found in the order that transformers uses.

    Raises:
        DamagedError: There are none, or the index of the shards cannot be read.
    """
    for stem, ending in _NAMES:
        single, index = folder / f"{stem}.{ending}", folder / f"{stem}.{ending}.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return [folder / name for name in _shards(index, ending)]
    for part in _parts(folder):
        raise DamagedError(f"{_index_of(part)} is missing")
    if (foreign := foreign_format(folder)) is not None:
        raise DamagedError(foreign, unfinished=False)
    raise DamagedError(f"it has no weights: neither {SINGLE} nor {INDEX}")


def foreign_format(folder: Path) -> str | None:
    """What a folder holds that is not measured as it is, and the command that converts it.

    Returns:
        A fragment of a sentence; None where it is nothing known.
    """
    fsdp = folder / "pytorch_model_fsdp_0"
    for parts in (fsdp, folder):
        if (parts / ".metadata").is_file() and any(parts.glob("*.distcp")):
            command = (
                f"accelerate merge-weights {quote(str(fsdp))} {quote(str(folder))}"
                if parts == fsdp
                else "python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
                f"{quote(str(folder))} {quote(f'{folder}.pt')}"
            )
            return (
                "its weights are in PyTorch's distributed format, whose index is a pickle that may "
                f"run code; if you trust it, convert it with `{shown(command, 2000)}`"
            )
    if (folder / "zero_to_fp32.py").is_file() or any(folder.glob("global_step*/*_states.pt")):
        script = folder / "zero_to_fp32.py"
        here = quote(str(folder))
        command = f"python {quote(str(script))} {here} {here} --safe_serialization"
        return f"its weights are in DeepSpeed's parts; convert it with `{shown(command, 2000)}`"
    return None


def files_of_module(path: Path) -> list[Path]:
    """The files with the weights of a network that a function builds: one, or shards in a folder.

    Raises:
        DamagedError: There are none, or several of which it is not clear which is meant.
    """
    if path.is_file():
        return [path]
    if _has_model(path):
        return weight_files(path)
    found = sorted(f for f in path.iterdir() if is_weights_of_module(f))
    if len(found) != 1:
        what = "several files of weights: " + ", ".join(f.name for f in found[:3])
        raise DamagedError(f"it has {what if found else 'no weights'}", unfinished=not found)
    return found


def is_weights_of_module(path: Path) -> bool:
    """Whether a file may hold the weights of a network that a function builds."""
    return is_state(path) or path.suffix.lower() == ".safetensors"


def adapter_file(folder: Path) -> Path:
    """The weights of an adapter.

    Raises:
        DamagedError: There are none.
    """
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise DamagedError("adapter_model.safetensors is missing")


def _index_of(part: Path) -> str:
    """Name of the index that a shard belongs to."""
    return f"{part.name.split('-')[0]}{part.suffix}.index.json"


def _shards(index: Path, ending: str) -> list[str]:
    try:
        names = sorted(
            {str(n) for n in json.loads(index.read_text("utf-8"))["weight_map"].values()}
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{index.name} is not a valid index of shards") from None
    if not names:
        raise DamagedError(f"{index.name} names no shards")
    for name in names:
        if not name.endswith(f".{ending}") or Path(name).name != name:
            raise DamagedError(
                f"{index.name} names {shown(name)!r}, which is not a .{ending} file of its folder",
                unfinished=False,
            )
    return names


def damaged(path: Path, error: Exception) -> DamagedError:
    """What the safetensors library found wrong with a file."""
    why = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
    return DamagedError(f"{shown(path.name)} is truncated or not a safetensors file ({why})")


def _check_whole(path: Path) -> None:
    """Compares what a file promises with its size; reads no tensor."""
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size == 0:
        raise DamagedError(f"{shown(path.name)} is empty")
    if path.suffix.lower() in STATE_SUFFIXES:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"PK"
        if zipped and not zipfile.is_zipfile(path):  # its table of contents comes last
            raise DamagedError(f"{shown(path.name)} is truncated")
        return
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise damaged(path, error) from error


def examine(path: Path, kind: Kind, *, temporary: bool = False) -> Condition:
    """Looks at a checkpoint's files without loading them.

    Args:
        path: A folder or a file.
        kind: What it is.
        temporary: Whether its name is that of a save under way.
    """
    files: list[Path] = [path] if kind in ("gguf", "state") else []
    damage, unfinished = None, False
    try:
        if kind == "gguf":
            _check_gguf(path)
        elif kind == "state":
            _check_whole(path)
        elif kind == "module":
            files = files_of_module(path)
            for file in files:
                _check_whole(file)
        elif kind == "adapter":
            files = [adapter_file(path)]
            _check_folder(path, files, ADAPTER)
        else:
            if not (path / "config.json").is_file():
                if (foreign := foreign_format(path)) is not None:
                    raise DamagedError(foreign, unfinished=False)
                files = [
                    f
                    for f in (*(path / ".".join(name) for name in _NAMES), *_parts(path))
                    if f.is_file()
                ]
                raise DamagedError(
                    "config.json is missing" if files else "it has neither config.json nor weights"
                )
            files = weight_files(path)
            _check_folder(path, files, "config.json")
            if (path / ADAPTER).is_file():
                raise DamagedError(
                    "it holds both a model and an adapter, and what becomes of it depends on "
                    f"whether PEFT is installed; take {ADAPTER} away, or the model's weights",
                    unfinished=False,
                )
        if temporary:
            raise DamagedError("its name is that of a save that was not finished")
    except DamagedError as error:
        damage, unfinished = str(error), error.unfinished
    except OSError as error:
        damage = f"it cannot be read ({error.strerror or error})"
    return Condition(
        sum(_size(f) for f in files),
        damage,
        unfinished,
        max((_modified(f) for f in [path, *_inside(path)]), default=0.0),
    )


def _check_folder(folder: Path, files: list[Path], config_file: str) -> None:
    try:
        config = json.loads((folder / config_file).read_text("utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise DamagedError(f"{config_file} is not valid JSON")
    for file in files:
        if not file.is_file():
            raise DamagedError(f"{shown(file.name)} is missing, which {_index_of(file)} names")
        _check_whole(file)


def _check_gguf(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(24)
    if len(head) < 24:
        raise DamagedError("the file is truncated")
    if head[:4] != b"GGUF":
        raise DamagedError("it is not a GGUF file", unfinished=False)


def _inside(path: Path) -> list[Path]:
    try:
        return list(path.iterdir()) if path.is_dir() else []
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def digest(path: Path, kind: Kind) -> str:
    """The sha256 (hex) of a checkpoint's config.json and weights.

    A file of up to 16 MiB counts whole. Of a larger one count its name, its size, its safetensors
    header, and 256 evenly spaced blocks of 64 KiB (the first and the last among them), so that
    resuming a run over many large checkpoints does not read terabytes. A step of training moves
    every weight, so two checkpoints of one run cannot agree on all blocks; a deliberate change of a
    few bytes between two blocks of a large file goes unnoticed.

    Raises:
        OSError: A file cannot be read.
        DamagedError: The folder has no weights.
    """
    found = hashlib.sha256()
    if kind == "folder":
        files = [path / "config.json", *weight_files(path)]
    elif kind == "adapter":
        files = [path / ADAPTER, adapter_file(path)]
    elif kind == "module":
        files = files_of_module(path)
    else:
        files = [path]
    for file in files:
        size = file.stat().st_size
        found.update(f"{'' if file == path else file.name}\0{size}\0".encode())
        with file.open("rb", buffering=0) as stream:
            if size <= _WHOLE_BYTES:
                found.update(stream.read())
                continue
            if file.suffix == ".safetensors":
                length = int.from_bytes(stream.read(8), "little")
                found.update(stream.read(min(length, _HEADER_LIMIT)))
            for i in range(_BLOCKS):
                stream.seek((size - _BLOCK_BYTES) * i // (_BLOCKS - 1))
                found.update(stream.read(_BLOCK_BYTES))
    return found.hexdigest()
