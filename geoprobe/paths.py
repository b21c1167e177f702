"""Paths as they are typed, which need not be fit for one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def typed(path: str | Path) -> Path:
    """A path with `~` for the home where it begins with it.

    pathlib's own takes `./~` for the home, too, and fails where there is no such user.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_there(path: Path) -> bool:
    """Whether there is anything."""
    return _is(path.exists)


def is_file(path: Path) -> bool:
    """Whether there is a file."""
    return _is(path.is_file)


def is_folder(path: Path) -> bool:
    """Whether there is a folder."""
    return _is(path.is_dir)


def _is(there: Callable[[], bool]) -> bool:
    try:
        return there()
    except (OSError, ValueError):  # too long for a name, or with a null byte
        return False
