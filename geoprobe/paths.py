"""Paths as they are typed, which need not be fit for one."""

from __future__ import annotations

import os
from pathlib import Path


def typed(path: str | Path) -> Path:
    """A path with `~` for the home where it begins with it.

    pathlib's own takes `./~` for the home, too, and fails where there is no such user.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_there(path: Path) -> bool:
    """Whether there is anything; not at what is too long for a name, or has a null byte."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
