"""What the report's section on a check shows: its words and tables, and one row a mark."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from geoprobe.checks.expectations import worst_first
from geoprobe.checks.verdict import FAILED, PASSED
from geoprobe.reports import check_words as words
from geoprobe.reports.parts import Table
from geoprobe.reports.subject import STDERRS
from geoprobe.reports.terminal import clean

if TYPE_CHECKING:
    from geoprobe.checks.verdict import Change, Status, Verdict
    from geoprobe.reports.subject import Subject

STATUSES: tuple[Status, ...] = ("missing", "failed", "moved", "same")
PERCENT, VALUES = "change in percent", "values"
"""What stands on the axis of before and after."""
MOST_PANELS = 6
MOST_MEASURES = 24
"""Measures in the overview that have a line of their own."""
_MOST_SHOWN, _MOST_FOLDED = 20, 300
"""Rows of the table of what failed or is missing, and of those folded under it."""
_MANY = ("head", "position")
"""Keys of which a site has many readings: a chart shows the worst of them."""
_NUMBERED = re.compile(r"(.+)\.(\d+)(\.T)?")
_STREAM = ("embed", "final", "block")
_HEADS = (
    *("measure", "site", "keys", "before", "after", "change", "%", "sigmas", "x floor"),
    "why",
)
_LEFT = (0, 1, 2, 9)

_POINTS = {
    **dict.fromkeys(("scale", "panel", "place", "site", "keys", "status"), pl.String),
    "order": pl.Int64,
    **dict.fromkeys(("before", "after", "lo", "hi"), pl.Float64),
    **dict.fromkeys(("was", "now", "change", "percent", "sigmas", "floors", "why"), pl.String),
}
_COUNTS = {
    **dict.fromkeys(("name", "status"), pl.String),
    **dict.fromkeys(("order", "readings"), pl.Int64),
    "share": pl.Float64,
}


def check_lines(verdict: Verdict) -> dict[str, Any]:
    """The verdict in words, and tables to be folded, for the template."""
    said = words.sentence(verdict)
    tone = {PASSED: "passed", FAILED: "failed"}.get(verdict.exit_code, "other")
    return {
        "tone": tone,
        "word": words.word(verdict),
        "sentence": _text(said[:1].upper() + said[1:], 600),
        "sides": _text(words.sides(verdict), 300),
        "problems": [_text(problem, 600) for problem in verdict.problems],
        "notes": [_text(note, 600) for note in verdict.notes],
        "folded": [table for table in _folded(verdict) if table.rows],
    }


def check_table(verdict: Verdict) -> Table:
    """What failed or is missing, worst first."""
    return _table("Failed or missing, worst first", _wrong(verdict)[:_MOST_SHOWN])


def _folded(verdict: Verdict) -> Iterator[Table]:
    rest = _wrong(verdict)[_MOST_SHOWN:]
    yield _table(f"{len(rest):,} more that failed or are missing", rest)
    moved = worst_first(verdict.of("moved"))
    yield _table(f"{len(moved):,} moved within what is expected", moved)


def _wrong(verdict: Verdict) -> Sequence[Change]:
    return worst_first([*verdict.of("missing"), *verdict.of("failed")])


def _table(title: str, changes: Sequence[Change]) -> Table:
    rows = []
    for change in changes[:_MOST_FOLDED]:
        named = (words.title(change), change.site, words.keys(change))
        numbers = (_text(number) for number in words.shown(change)[:-1])
        cells = [*(_text(name) for name in named), *numbers, _floors(change)]
        rows.append([*cells, _text(change.why, 300)])
    more = len(changes) - len(rows)
    note = f"{more:,} more; --junit and --json have all" if more else ""
    return Table(title, _HEADS, _LEFT, rows, note)


def _text(value: str, most: int = 80) -> str:
    """A text of others' making: no control characters, and not too long."""
    return words.brief(clean(value, "utf-8"), most)


def check_frames(subject: Subject, verdict: Verdict | None) -> dict[str, pl.DataFrame]:
    """The tables behind the charts; empty without a verdict."""
    if verdict is None:
        return {}
    changes = worst_first(verdict.changes)
    return {
        "check_points": pl.DataFrame(_points(subject, changes), schema=_POINTS),
        "check_counts": pl.DataFrame(list(_counts(changes)), schema=_COUNTS),
    }


def _points(subject: Subject, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Before and after at every site, of the measures that moved most."""
    by_panel: dict[str, dict[str, Change]] = {}
    measures: dict[str, str] = {}
    for change in changes:
        panel = _panel(change)
        # The worst of a site comes first, and stays.
        by_panel.setdefault(panel, {}).setdefault(change.site, change)
        measures.setdefault(panel, change.measure)
    moved = [p for p, sites in by_panel.items() if any(c.status != "same" for c in sites.values())]
    first = {measures[panel]: panel for panel in reversed(moved)}
    # A panel a measure, and where there is room left, measures of other keys or matrices.
    chosen = [panel for panel in moved if first[measures[panel]] == panel]
    chosen += [panel for panel in moved if panel not in chosen]
    order = {site: place for place, site in enumerate(subject.every_site)}
    for change in changes:
        order.setdefault(change.site, len(order))
    found = []
    for panel in chosen[:MOST_PANELS]:
        sites = sorted(by_panel[panel].values(), key=lambda change: order[change.site])
        for change in sites:
            said = {"panel": panel, "order": order[change.site], **_said(change)}
            found += [{**said, **ends} for ends in _ends(change)]
    return found


def _panel(change: Change) -> str:
    """Whose readings stand in one panel: title, keys, and the kind of site."""
    fewer = {name: key for name, key in change.keys.items() if name not in _MANY}
    kind = _place(change)[0]
    below = ", ".join(filter(None, (kind, words.keys(replace(change, keys=fewer)))))
    return f"{_text(words.title(change), 52)}\n{_text(below, 60)}"


def _place(change: Change) -> tuple[str, str]:
    """The kind of a site, nothing of the residual stream, and its place among those."""
    match = _NUMBERED.fullmatch(change.site)
    kind, place = (change.site, change.site) if match is None else (match[1], match[2])
    return ("" if kind in _STREAM else kind), place


def _said(change: Change) -> dict[str, str]:
    shown = words.shown(change)
    return {
        "place": _text(_place(change)[1], 40),
        "site": _text(change.site),
        "keys": _text(words.keys(change)),
        "status": change.status,
        "was": _text(shown.before),
        "now": _text(shown.after),
        "change": _text(shown.change),
        "percent": _text(shown.percent),
        "sigmas": _text(shown.sigmas),
        "floors": _floors(change),
        "why": _text(change.why, 200),
    }


def _floors(change: Change) -> str:
    """The difference in floors; what is missing has none."""
    return "" if change.difference is None else _text(words.shown(change).floors)


def _ends(change: Change) -> Iterator[dict[str, Any]]:
    """Where a mark begins and ends, once in percent of the baseline and once as it is.

    What moved by little does not move to the eye where sites differ by much.
    """
    before, after = _finite(change.before), _finite(change.after)
    error = STDERRS * (_finite(change.stderr) or math.nan)
    for scale, unit in ((PERCENT, abs(before or 0.0) / 100), (VALUES, 1.0)):
        if not unit:
            continue
        zero = (before or 0.0) if scale == PERCENT else 0.0
        ends = {
            "before": None if before is None else (before - zero) / unit,
            "after": None if after is None else (after - zero) / unit,
            "lo": None if before is None else (before - zero - error) / unit,
            "hi": None if before is None else (before - zero + error) / unit,
        }
        yield {"scale": scale, **{name: _finite(end) for name, end in ends.items()}}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _counts(changes: Sequence[Change]) -> Iterator[dict[str, Any]]:
    """How many readings of each measure have which status; the measures that pass in one line."""
    counted: dict[str, Counter[str]] = {}
    for change in changes:
        counted.setdefault(_text(words.title(change), 44), Counter())[change.status] += 1
    moved = {name: count for name, count in counted.items() if count.total() > count["same"]}
    lines = dict(list(moved.items())[:MOST_MEASURES])
    for more, rest in (
        ("more measures", {n: c for n, c in moved.items() if n not in lines}),
        ("measures that are the same", {n: c for n, c in counted.items() if n not in moved}),
    ):
        if rest:
            name = next(iter(rest)) if len(rest) == 1 else f"{len(rest)} {more}"
            lines[name] = sum(rest.values(), Counter())
    yield from _cells(lines)


def _cells(lines: Mapping[str, Counter[str]]) -> Iterator[dict[str, Any]]:
    for order, (name, count) in enumerate(lines.items()):
        for status in STATUSES:
            yield {
                "name": name,
                "status": status,
                "order": order,
                "readings": count[status],
                "share": count[status] / count.total(),
            }
