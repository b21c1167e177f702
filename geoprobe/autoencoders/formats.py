"""Finds and reads autoencoders that other packages wrote; which one did is told by the files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geoprobe.autoencoders import dictionary_learning, saelens, sparsify
from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.files import Config, Weights, read_config, read_tensors
from geoprobe.autoencoders.saelens import write_saelens
from geoprobe.errors import UsageError
from geoprobe.models.weights import shown
from geoprobe.paths import is_there, typed

__all__ = ["find_autoencoders", "read_autoencoder", "write_saelens"]


@dataclass(frozen=True)
class _Format:
    package: str
    config: str
    weights: str
    read: Callable[[Config, Weights, str], Autoencoder]

    def __str__(self) -> str:
        return f"{self.config} with {self.weights} ({self.package})"


_FORMATS = (
    _Format("SAELens", saelens.CONFIG, saelens.WEIGHTS, saelens.read),
    _Format("dictionary_learning", "config.json", "ae.pt", dictionary_learning.read),
    _Format("sparsify", "cfg.json", "sae.safetensors", sparsify.read),
)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?:@\S+)?", re.ASCII)


def read_autoencoder(path: str | Path) -> Autoencoder:
    """Reads a sparse autoencoder from a folder that SAELens, dictionary_learning or sparsify wrote.

    Its weights are in float32 on the CPU, whatever the files have, and no code in them is run.

    Args:
        path: The folder, or one of the two files in it that make an autoencoder.

    Returns:
        The autoencoder; its `source` says which package's format it was in.

    Raises:
        UsageError: There is none, more than one, or one of a kind that is not supported; or its
            files are damaged or contradict each other.
    """
    path = _existing(path)
    folder = path if path.is_dir() else path.parent
    fitting = _formats_in(folder)
    if path != folder:
        fitting = [f for f in fitting if path.name in (f.config, f.weights)]
    if not fitting:
        raise _nothing(path)
    if len(fitting) > 1:
        named = " and ".join(f.weights for f in fitting)
        raise UsageError(
            f"{shown(folder, 400)} holds {len(fitting)} autoencoders ({named}); name the one of "
            "these files that is meant."
        )
    form = fitting[0]
    config = read_config(folder / form.config)
    weights = Weights(folder / form.weights, read_tensors(folder / form.weights))
    # "." and ".." have no name of their own, and sparsify says the site by the name alone.
    found = form.read(config, weights, shown(folder.resolve().name))
    if overflown := found.overflown():
        raise config.refused(
            f"its {overflown} would be infinite in float32; its training diverged or the file is "
            "damaged"
        )
    return found


def find_autoencoders(path: str | Path) -> list[Path]:
    """Folders that hold an autoencoder.

    Args:
        path: One such folder, a file in it, or a folder with any number beneath it.

    Returns:
        What was named, if it is one; or else all beneath it, `layers.2` before `layers.10`.

    Raises:
        UsageError: There is none.
    """
    path = _existing(path)
    if not path.is_dir():
        if not any(path.name in (f.config, f.weights) for f in _formats_in(path.parent)):
            raise _nothing(path)
        return [path]
    if _formats_in(path):
        return [path]
    found = [Path(root) for root, _, names in os.walk(path) if _fitting(set(names))]
    found = [folder for folder in found if _formats_in(folder)]  # and are not folders themselves
    if not found:
        raise _nothing(path)
    return sorted(found, key=lambda folder: [_natural(p) for p in folder.relative_to(path).parts])


def _fitting(names: set[str]) -> list[_Format]:
    return [f for f in _FORMATS if f.config in names and f.weights in names]


def _formats_in(folder: Path) -> list[_Format]:
    names = {n for f in _FORMATS for n in (f.config, f.weights) if (folder / n).is_file()}
    return _fitting(names)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in order of their value, and before words."""
    return [
        (0, int(part[:300]), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def _existing(path: str | Path) -> Path:
    given = typed(path)
    if is_there(given):
        return given
    if _HUB.fullmatch(str(path)):
        raise UsageError(
            f"{shown(path)}: there is no such folder, and autoencoders are not fetched from the "
            "hub; if it is there, download it first (`hf download`) and name the folder it is in."
        )
    raise UsageError(
        f"{shown(path, 400)}: there is no such file or folder; name the folder of an autoencoder."
    )


def _nothing(path: Path) -> UsageError:
    wanted = ", ".join(map(str, _FORMATS[:-1])) + f" or {_FORMATS[-1]}"
    where = "in it or beneath it" if path.is_dir() else "of which it is one"
    return UsageError(
        f"{shown(path, 400)} holds no sparse autoencoder: there is no {wanted} {where}; name the "
        "folder of one."
    )
