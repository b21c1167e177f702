"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from geoprobe.errors import UsageError

PART = ".part"
"""Ending of a file that is being written."""


def write_whole(file: Path, content: str | bytes, *, parents: bool = False) -> None:
    """Writes beside the place and renames: the file is the old one or the new one, never half.

    Args:
        file: The file.
        content: What it is to hold.
        parents: Whether folders above it are made.

    Raises:
        UsageError: It cannot be written.
    """
    beside = file.with_name(file.name + PART)
    try:
        if parents:
            file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error}).") from error


def write_json(file: Path, document: Any) -> None:
    """Writes a document as JSON, whole or not at all: the same document gives the same bytes.

    Raises:
        UsageError: It cannot be written.
    """
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True)
    write_whole(file, text + "\n")
