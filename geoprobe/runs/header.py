"""The header of a run: as it is read back, and in what two of them differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MUST_AGREE = ("schema", "command", "options", "corpus", "environment")
"""Parts of run.json that may not differ when a run is resumed; a series may grow."""


def as_text(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header as it is read back; names of files that are not UTF-8 get question marks."""
    found: dict[str, Any] = json.loads(json.dumps(header))
    text: dict[str, Any] = json.loads(
        json.dumps(found, ensure_ascii=False).encode(errors="replace")
    )
    if "checkpoints" in found.get("series", {}):  # labels are kept as they are
        text["series"]["checkpoints"] = found["series"]["checkpoints"]
    return text


def differences(known: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What differs between two headers, as fragments of a sentence."""
    found: list[str] = []

    def compare(name: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in [*a, *(k for k in b if k not in a)]:
                compare(f"{name} {key}", a.get(key), b.get(key))
        elif a != b:
            was, now = _short(json.dumps(a), json.dumps(b))
            found.append(f"{name} was {was} and is now {now}")

    for name in MUST_AGREE:
        compare(name, known.get(name), given.get(name))
    return found


def _short(a: str, b: str) -> list[str]:
    """Texts cut to a length for a sentence, around the place where they begin to differ."""
    alike = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
    start = max(0, alike - 20) if max(len(a), len(b)) > 60 else 0
    cut = [text[start : start + 60] + "..." * (len(text) > start + 60) for text in (a, b)]
    return ["..." * (start > 0) + text for text in cut]
