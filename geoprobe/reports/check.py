"""What a check found, for people, for scripts and for CI: each output is a function of a verdict.

Names and reasons are hostile input everywhere: they are shown, never obeyed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from geoprobe.checks.expectations import worst_first
from geoprobe.checks.verdict import FAILED, PASSED
from geoprobe.reports.check_markdown import append_step_summary, markdown
from geoprobe.reports.check_words import brief, keys, sentence, shown, sides, title, word
from geoprobe.reports.terminal import clean

if TYPE_CHECKING:
    from rich.console import Console

    from geoprobe.checks.verdict import Change, Status, Verdict

__all__ = ["append_step_summary", "document", "exit_sentence", "junit", "markdown", "render"]

SCHEMA = "geoprobe.check/1"
MOST_FAILED = 20
MOST_MOVED = 5
_STATUSES: tuple[Status, ...] = ("missing", "failed", "moved", "same")

_HEADS = ("measure", "site", "keys", "before", "after", "change", "%", "sigmas", "x floor")
_FLEXIBLE = {0: (30, 12), 1: (24, 10), 2: (24, 8)}
"""Columns of names, with the most and the fewest characters that they are cut to."""
_DISPENSABLE = (8, 7, 6)
"""Columns that go where the console is too narrow: the reason below has these numbers, too."""


def render(verdict: Verdict, console: Console, *, everything: bool = False) -> None:
    """Prints a verdict for a person to read.

    Args:
        verdict: What the check found.
        console: Where to.
        everything: Whether to list all readings, also those that are the same.
    """
    out = _Printer(console)
    style = {PASSED: "bold green", FAILED: "bold red"}.get(verdict.exit_code, "bold yellow")
    out.labelled(word(verdict), sentence(verdict), style)
    if said := sides(verdict):
        out.line(said, "dim")
    for problem in verdict.problems:
        out.labelled("problem", problem, "bold yellow")
    wrong = worst_first([*verdict.of("missing"), *verdict.of("failed")])
    moved = worst_first(verdict.of("moved"))
    out.table("Failed or missing", wrong, len(wrong) if everything else MOST_FAILED)
    out.table("Moved within what is expected", moved, len(moved) if everything else MOST_MOVED)
    if everything:
        same = verdict.of("same")
        out.table("Same", same, len(same))
    if verdict.notes:
        out.line("")
    for note in verdict.notes:
        out.labelled("note", note, "bold")


def exit_sentence(verdict: Verdict) -> str:
    """One line that says why the process ends as it does."""
    text = f"{word(verdict)}: {sentence(verdict)}"
    wrong = worst_first([*verdict.of("missing"), *verdict.of("failed")])
    if verdict.problems:
        text += f". {verdict.problems[0]}"
    elif wrong:
        worst = wrong[0]
        more = f" ({keys(worst)})" if keys(worst) else ""
        text += f"; first {title(worst)} at {worst.site}{more}: {worst.why}"
    return clean(text.rstrip(".") + ".", "utf-8")


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a JSON object; what JSON has no number for is null."""
    return {
        "schema": SCHEMA,
        "exit_code": verdict.exit_code,
        "readings": len(verdict.changes),
        "counts": {status: len(verdict.of(status)) for status in _STATUSES},
        "unpaired": verdict.unpaired,
        "problems": _plain(verdict.problems),
        "notes": _plain(verdict.notes),
        "before": _plain(verdict.before),
        "after": _plain(verdict.after),
        "changes": [_change(change) for change in verdict.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    found = {field.name: getattr(change, field.name) for field in fields(change)}
    for name in ("difference", "relative", "sigmas"):
        found[name] = getattr(change, name)
    plain: dict[str, Any] = _plain(found)
    return plain


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, str):
        # File names may hold halves of characters that cannot be written.
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(part) for name, part in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(part) for part in value]
    return _plain(value.item() if hasattr(value, "item") else str(value))


def junit(verdict: Verdict) -> str:
    """The verdict as JUnit XML: a test case for each problem and each reading.

    What failed is a failure, what is missing and each problem an error, and a reading that was not
    judged is skipped; so there are failures or errors if and only if the check does not pass.
    """
    suites = ElementTree.Element("testsuites", name="geoprobe check")
    suite = ElementTree.SubElement(suites, "testsuite", name="geoprobe check")
    labels = {n: s.get("label") for n, s in (("baseline", verdict.before), ("now", verdict.after))}
    if any(labels.values()):
        properties = ElementTree.SubElement(suite, "properties")
        for name, label in labels.items():
            ElementTree.SubElement(properties, "property", name=name, value=_attribute(label))
    problems = list(verdict.problems)
    if not problems and not verdict.changes:
        problems.append(sentence(verdict))
    for place, problem in enumerate(problems, 1):
        case = _case(suite, "geoprobe.check", f"comparable {place}")
        ElementTree.SubElement(case, "error", type="problem", message=_attribute(problem))
    for change in worst_first(verdict.changes):
        full = [f"{name}={value}" for name, value in change.keys.items()]
        full += [change.convention] * (change.convention != "exact")
        name = " ".join([change.site, *full])
        case = _case(suite, f"{change.probe}.{change.measure}", name)
        if change.status == "failed":
            found = ElementTree.SubElement(
                case, "failure", type="failed", message=_attribute(change.why)
            )
            found.text = _numbers(change)
        elif change.status == "missing":
            found = ElementTree.SubElement(
                case, "error", type="missing", message=_attribute(change.why)
            )
            found.text = _numbers(change)
        elif change.status == "same" and change.why:
            ElementTree.SubElement(case, "skipped", message=_attribute(change.why))
    if verdict.notes:
        said = ElementTree.SubElement(suite, "system-out")
        said.text = "\n".join(_attribute(note) for note in verdict.notes)
    counts = {
        "tests": len(problems) + len(verdict.changes),
        "failures": len(verdict.of("failed")),
        "errors": len(problems) + len(verdict.of("missing")),
        "skipped": sum(1 for change in verdict.of("same") if change.why),
        "time": 0,
    }
    for element in (suites, suite):
        element.attrib.update({name: str(n) for name, n in counts.items()})
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _case(suite: ElementTree.Element, classname: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=_attribute(classname), name=_attribute(name), time="0"
    )


def _attribute(value: object) -> str:
    """A text in the letters that XML may hold; quotes and brackets are escaped as it is written."""
    return clean(str(value), "utf-8")


def _numbers(change: Change) -> str:
    return f"before: {change.before}\nafter: {change.after}\nchange: {change.difference}"


class _Printer:
    """Prints texts that may hold markup and control characters, and tables in few columns."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @property
    def _inside(self) -> int:
        """Columns of what is indented."""
        return max(8, self._console.width - 4)

    def _clean(self, value: str) -> str:
        return clean(value, self._console.encoding)

    def line(self, value: str, style: str = "") -> None:
        self._console.print(Text(self._clean(value), style))

    def labelled(self, label: str, value: str, style: str) -> None:
        self._console.print(Text(f"{label}: ", style) + Text(self._clean(value)))

    def table(self, name: str, changes: Sequence[Change], most: int) -> None:
        """So many changes of a kind, each with its reason below it; the rest counted."""
        if not changes:
            return
        listed = changes[:most]
        counted = f"{len(listed):,} of {len(changes):,}, worst first"
        rows = [[self._clean(cell) for cell in _row(change)] for change in listed]
        widths, gap = self._layout([list(_HEADS), *rows])
        self.line("")
        self.line(
            f"{name} ({len(changes):,})" if most >= len(changes) else f"{name} ({counted})", "bold"
        )
        self._cells(_HEADS, widths, gap, "dim")
        for change, row in zip(listed, rows, strict=True):
            self._cells(row, widths, gap, "")
            below = [self._clean(change.why)] if change.why else []
            if any(cell_len(row[place]) > widths.get(place, 0) for place in _FLEXIBLE):
                # What was cut above is what tells it from its neighbours.
                below.insert(0, ", ".join(cell for cell in row[: len(_FLEXIBLE)] if cell))
            text = ": ".join(below)
            for line in Text(text, "dim").wrap(self._console, self._inside) if text else ():
                self._console.print(Text("    ") + line)

    def _layout(self, lines: list[list[str]]) -> tuple[dict[int, int], int]:
        """Columns to their widths, and the space between them."""
        widths: dict[int, int] = {}
        for place, column in enumerate(zip(*lines, strict=True)):
            if any(column[1:]):
                most = _FLEXIBLE.get(place, (self._console.width, 0))[0]
                widths[place] = min(most, max(map(cell_len, column)))
        if sum(widths.values()) + 2 * (len(widths) - 1) <= self._console.width:
            return widths, 2

        def excess() -> int:
            return sum(widths.values()) + len(widths) - 1 - self._console.width

        def slack() -> list[int]:
            return [p for p, (_, least) in _FLEXIBLE.items() if widths.get(p, 0) > least]

        for dispensable in (None, *_DISPENSABLE):
            if dispensable is not None:
                widths.pop(dispensable, None)
            while excess() > 0 and (flexible := slack()):
                widths[max(flexible, key=lambda p: widths[p])] -= 1
            if excess() <= 0:
                break
        return widths, 1

    def _cells(self, row: Iterable[str], widths: Mapping[int, int], gap: int, style: str) -> None:
        parts = []
        for place, cell in enumerate(row):
            if (width := widths.get(place)) is None:
                continue
            if cell_len(cell) > width:
                cell = set_cell_size(cell, max(0, width - 2)) + ".."[:width]
            room = " " * (width - cell_len(cell))
            parts.append(cell + room if place in _FLEXIBLE else room + cell)
        text = Text((" " * gap).join(parts).rstrip(), style)
        self._console.print(text, no_wrap=True, overflow="crop", crop=True)


def _row(change: Change) -> list[str]:
    named = title(change)
    # Titles that would be cut may differ only in what is cut; names are short.
    label = named if len(named) <= _FLEXIBLE[0][0] else change.measure
    return [brief(label, 80), brief(change.site, 80), brief(keys(change), 80), *shown(change)]
