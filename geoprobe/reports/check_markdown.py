"""What a check found as Markdown for pull requests and job summaries, within a number of bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.checks.expectations import worst_first
from geoprobe.errors import UsageError
from geoprobe.reports.check_words import better, brief, keys, sentence, shown, sides, title, word
from geoprobe.reports.terminal import clean
from geoprobe.reports.words import count

if TYPE_CHECKING:
    from geoprobe.checks.verdict import Change, Verdict

STEP_SUMMARY_BYTES = 1024 * 1024 * 9 // 10
"""GitHub refuses a step's summary above 1 MiB; a tenth is left to what follows."""

_HEADS = ("measure", "site", "keys", "before", "after", "change", "%", "sigmas", "x floor", "why")
_NAME, _TEXT = 80, 300
"""Most characters of a name and of a sentence."""

_ENTITIES = re.compile(r"[<>&`|@$~^]|:(?=\S)|(?<=www)\.", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_BACKSLASHES = re.compile(r"[\\*_{}\[\]#!]|^[-+=]")


def escaped(value: str, most: int = _NAME) -> str:
    """A text that Markdown shows as it is, also in a cell of a table; cut to so many characters.

    What could open HTML, end a cell or make a link or a mention becomes a character reference.
    """
    text = _BACKSLASHES.sub(r"\\\g<0>", brief(clean(value, "utf-8"), most))
    text = _ENTITIES.sub(lambda found: f"&#{ord(found[0])};", text)
    return _NUMBERED.sub(r"\1\\\2", text)


def markdown(verdict: Verdict, limit_bytes: int | None = None) -> str:
    """The verdict as Markdown: what is wrong in a table, worst first, all else folded.

    Args:
        verdict: What the check found.
        limit_bytes: The most bytes of UTF-8. Rows that do not fit are dropped from the end of their
            table and counted there.

    Returns:
        The text; the empty string where not even the heading fits.
    """
    said = sides(verdict)
    text = sentence(verdict)
    text = escaped(text[:1].upper() + text[1:], 300)
    head = f"## geoprobe check: {word(verdict)}\n\n{text}.\n"
    head += f"\n{escaped(said, 200)}\n" if said else ""
    blocks = [block for block in _blocks(verdict) if block.total]
    if limit_bytes is None:
        return head + "".join(block.within(None) for block in blocks)
    left = limit_bytes - _size(head)
    if left < 0:
        return ""
    # Room to count what is dropped is kept for all blocks before the first is filled.
    least = [_size(block.text([])) for block in blocks]
    while sum(least) > left:
        least.pop()
        blocks.pop()
    text = head
    for place, block in enumerate(blocks):
        part = block.within(left - sum(least[place + 1 :]))
        left -= _size(part)
        text += part
    return text


def append_step_summary(verdict: Verdict, path: Path) -> None:
    """Appends the Markdown to a file that collects the summary of a step, as far as it has room.

    Raises:
        UsageError: The file cannot be written.
    """
    try:
        there = path.stat().st_size if path.exists() else 0
        between = "\n\n" if there else ""
        text = markdown(verdict, STEP_SUMMARY_BYTES - there - len(between))
        if text:
            with path.open("ab") as file:
                file.write((between + text).encode())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{path.name}: the summary cannot be written: {reason}.") from error


@dataclass(frozen=True)
class _Block:
    """A part whose rows may be dropped from the end.

    Attributes:
        opening: What comes before the rows, if there are any.
        rows: Makes the rows, one after the other.
        total: How many there are.
        closing: What comes after the rows.
        dropped: What is said of so many rows that are not shown.
    """

    opening: str
    rows: Callable[[], Iterator[str]]
    total: int
    closing: str
    dropped: Callable[[int], str]

    def text(self, rows: Sequence[str]) -> str:
        """The part with its first rows."""
        more = f"\n{self.dropped(self.total - len(rows))}\n" if len(rows) < self.total else ""
        return f"{self.opening}{''.join(rows)}{more}{self.closing}" if rows else more

    def within(self, limit: int | None) -> str:
        """The part with as many rows as fit."""
        if limit is None:
            return self.text([*self.rows()])
        rows, size = [], _size(self.opening + self.closing)
        for row in self.rows():
            size += _size(row)
            if size > limit:
                break
            rows.append(row)
        # The last rows may have to make room for the line that counts what is dropped.
        while rows and _size(self.text(rows)) > limit:
            rows.pop()
        return self.text(rows)


def _blocks(verdict: Verdict) -> Iterator[_Block]:
    wrong = worst_first([*verdict.of("missing"), *verdict.of("failed")])
    moved = worst_first(verdict.of("moved"))
    yield _list(verdict.problems, "\n", "", "problem")
    yield _table(wrong, "\n", "", "failed or missing reading")
    fold, end = _fold(f"{len(moved):,} moved within what is expected")
    yield _table(moved, fold, end, "moved reading")
    fold, end = _fold(f"Notes ({len(verdict.notes):,})")
    yield _list(verdict.notes, fold, end, "note")
    yield _known(verdict)


def _list(sentences: Sequence[str], opening: str, closing: str, name: str) -> _Block:
    return _Block(
        opening,
        lambda: (f"- {escaped(text, _TEXT)}\n" for text in sentences),
        len(sentences),
        closing,
        lambda n: f"{count(n, name)} not shown here.",
    )


def _table(changes: Sequence[Change], opening: str, closing: str, name: str) -> _Block:
    rule = ["---"] * 3 + ["---:"] * 6 + ["---"]
    return _Block(
        opening + _cells(_HEADS) + _cells(rule),
        lambda: (_cells(_row(change)) for change in changes),
        len(changes),
        closing,
        lambda n: f"{count(n, name)} not shown here.",
    )


def _known(verdict: Verdict) -> _Block:
    """What is known of the two sides."""
    before, after = _flat(verdict.before), _flat(verdict.after)
    names = list(dict.fromkeys([*before, *after]))
    opening, closing = _fold("What was compared")

    def row(name: str) -> str:
        both = (escaped(side.get(name, ""), _TEXT) for side in (before, after))
        return _cells([escaped(name), *both])

    return _Block(
        opening + _cells(["", "baseline", "now"]) + _cells(["---"] * 3),
        lambda: map(row, names),
        len(names),
        closing,
        lambda n: f"{count(n, 'fact')} of what was compared not shown here.",
    )


def _flat(side: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Facts with those of one level below them, as texts."""
    found = {}
    for name, value in side.items():
        if isinstance(value, Mapping) and not prefix:
            found.update(_flat(value, f"{name}."))
        else:
            is_text = isinstance(value, str)
            found[f"{prefix}{name}"] = value if is_text else json.dumps(value, default=str)
    return found


def _fold(summary: str) -> tuple[str, str]:
    # Markdown within HTML begins after an empty line.
    return f"\n<details><summary>{summary}</summary>\n\n", "\n</details>\n"


def _row(change: Change) -> list[str]:
    numbers = shown(change)._asdict()
    good = better(change)
    if good is not None and change.difference:
        arrow = "▲" if change.difference > 0 else "▼"
        numbers["change"] += f" {arrow} {'better' if good else 'worse'}"
    names = [escaped(text) for text in (title(change), change.site, keys(change))]
    return [*names, *numbers.values(), escaped(change.why, _TEXT)]


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _size(text: str) -> int:
    return len(text.encode())
