"""The entries of a BibTeX text."""

from __future__ import annotations

import re
from collections.abc import Iterator


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Key and text of each BibTeX entry, from its `@type{key,` to the brace that closes it."""
    end = 0
    for start in re.finditer(r"@\w+\s*\{\s*([^\s,{}]+)\s*,", text):
        if start.start() < end:
            continue  # inside a field of the entry before
        depth = 0
        for brace in re.finditer(r"[{}]", text[start.start() :]):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                end = start.start() + brace.end()
                yield start[1], text[start.start() : end]
                break
