"""What a checkpoint that is not whole by itself belongs to: an adapter's model, a config.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from geoprobe.errors import UsageError
from geoprobe.models.weights import ADAPTER, shown

if TYPE_CHECKING:
    from geoprobe.models.series import Checkpoint

_LEVELS = 3
"""Folders above a state dict in which its config.json is looked for."""


def with_bases(checkpoints: Sequence[Checkpoint], base: str | Path | None) -> list[Checkpoint]:
    """The same, adapters and bare state dicts with what they belong to.

    Args:
        checkpoints: Checkpoints of any kind.
        base: What the user named (`--base`); None looks it up.

    Raises:
        UsageError: `base` is no model, or none of the checkpoints needs one.
    """
    if base is not None and not any(c.kind in ("adapter", "state") for c in checkpoints):
        raise UsageError(
            f"--base {shown(base)} is for adapters and bare state dicts, and the series has none."
        )
    find = cache(_one)
    found = []
    for checkpoint in checkpoints:
        name = base
        if checkpoint.kind == "adapter":
            name = name or _named_by(checkpoint.path)
        elif checkpoint.kind == "state":
            name = name or _config_above(checkpoint.path)
        else:
            found.append(checkpoint)
            continue
        try:
            if name is None:
                raise UsageError("nothing says which")
            found.append(replace(checkpoint, base=find(str(name), checkpoint.kind == "state")))
        except UsageError as error:
            if base is not None:
                raise
            what = (
                f"its base model is not there ({str(error).rstrip('.')})"
                if checkpoint.kind == "adapter"
                else "there is no config.json beside it or in the folders above"
            )
            hint = f"{what}; give it with --base FOLDER"
            found.append(replace(checkpoint, incomplete=hint))
    return found


def _named_by(adapter: Path) -> str | None:
    """What an adapter says that it was trained on."""
    try:
        name = json.loads((adapter / ADAPTER).read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None
    return str(name) if name else None


def _config_above(file: Path) -> Path | None:
    folders = [file.with_suffix(""), *file.absolute().parents[:_LEVELS]]
    return next((f for f in folders if (f / "config.json").is_file()), None)


def _one(name: str, config_only: bool) -> Checkpoint:
    from geoprobe.models.series import Checkpoint, find_series

    if config_only and (Path(name) / "config.json").is_file():
        return Checkpoint(Path(name).name, Path(name), "folder")
    found = find_series([name]).checkpoints
    if len(found) != 1 or found[0].kind != "folder":
        raise UsageError(f"--base {shown(name)}: give the folder of one model.")
    if found[0].incomplete and not config_only:
        raise UsageError(f"--base {shown(name)}: {found[0].incomplete}.")
    return found[0]
