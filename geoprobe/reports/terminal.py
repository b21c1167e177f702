"""The run on a terminal: what happened at a glance, in 80 columns, with or without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.box import Box
from rich.table import Table
from rich.text import Text

from geoprobe.reports import parts, words
from geoprobe.reports.collapse import collapse_tables
from geoprobe.reports.features import features_tables
from geoprobe.reports.relations import summary
from geoprobe.reports.relations_tables import left_out_lines, terminal_tables
from geoprobe.reports.sinks import sink_tables
from geoprobe.reports.subject import Subject, thinned
from geoprobe.reports.superposition import superposition_tables

if TYPE_CHECKING:
    from rich.console import Console

    from geoprobe.runs.folder import Run

MOST_SITES = 8
MOST_CHECKPOINTS = 24
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-~=+*#"
_SPARKS = (16, 13, 10, 8)
_FURTHER = {"participation_ratio": "PR", "top1_share": "top-1", "intrinsic_dim": "ID"}
_STAND_INS = {"±": "+-", "α": "alpha", "Δ": "change of", "²": "2", "…": ".."}
_ASCII_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""A line under the heads, and one column between columns."""


def render(run: Run, console: Console) -> None:
    """Prints a run for a person to read.

    Args:
        run: The run.
        console: Where to. Its encoding decides between block characters and ASCII.
    """
    subject = Subject.of([run])
    name = next(iter(subject.runs))
    out = _Printer(console)
    out.heading(name)
    out.paragraph(summary(subject, name))
    found = [*sink_tables(run), *collapse_tables(run, MOST_SITES)]
    found += [*features_tables(run, MOST_SITES), *superposition_tables(run, MOST_SITES)]
    found += terminal_tables(run, out.width)
    for table in found:
        if table.rows:
            out.table(table if out.fits(table) else _without_errors(table))
        if table.note:
            out.note(table.note)
    for line in left_out_lines(run):
        out.note(line)
    if subject.measures:
        for tokens in subject.tokens:
            out.table(_sites_table(subject, name, tokens, out))
        shown, total = len(_shown(subject.sites, MOST_SITES)), len(subject.sites)
        if shown < total:
            out.note(f"{shown} of {total} sites; the report has all.")
        if len(subject.sinks) > 1:
            out.table(_dropped_table(subject, name))
        if len(run.labels) > 1:
            out.table(_training_table(subject, name))
            if len(run.labels) > MOST_CHECKPOINTS:
                out.note(f"{MOST_CHECKPOINTS} of {len(run.labels)} checkpoints.")
    for reason in _undefined_alphas(run):
        out.item("alpha", reason)
    others = {c: None for m in ("rankme", "alpha") for c in subject.conventions(m)[1:]}
    if others:
        out.note(f"Also measured by {', '.join(others)}: see the report, or --json.")
    if subject.phases:
        out.table(_phases_table(subject))
    _ablation(subject, run, out)
    for rule in words.sink_rules(subject):
        out.item("sinks", rule.message + _count(rule, len(run.labels)))
    for warning in words.warnings(subject):
        out.item("warning", warning.message + _count(warning, len(run.labels)))
    for label, message in run.failed.items():
        out.item("failed", message if message.startswith(label) else f"{label}: {message}")


def _without_errors(table: parts.Table) -> parts.Table:
    """The same without errors that are written close, for a console too narrow for them."""
    rows = [[cell if " " in cell else cell.partition("±")[0] for cell in r] for r in table.rows]
    if rows == [list(row) for row in table.rows]:
        return table
    return replace(table, title=f"{table.title} (errors need more columns)", rows=rows)


def _undefined_alphas(run: Run) -> list[str]:
    """Why alpha is undefined in the newest checkpoint, if it is so at all its sites."""
    newest = run.readings.filter(
        pl.col("measure") == "alpha", pl.col("checkpoint") == (run.labels or [""])[-1]
    )
    if newest.is_empty() or newest["value"].is_not_null().any():
        return []
    return newest["reason"].unique(maintain_order=True).to_list()[:1]


class _Printer:
    """Prints text that may hold markup, control characters and what the encoding lacks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.plain = not _can_print(console, _BLOCKS)

    @property
    def width(self) -> int:
        """Columns of the console."""
        return self._console.width

    def text(self, value: object, style: str = "") -> Text:
        """A text without markup, printable in the console's encoding."""
        return Text(clean(str(value), self._console.encoding, plain=self.plain), style=style)

    def heading(self, value: str) -> None:
        self._console.print(self.text(value, "bold"))

    def paragraph(self, value: str) -> None:
        self._console.print(self.text(value))

    def note(self, value: str) -> None:
        self._console.print(self.text(value, "dim"))

    def item(self, kind: str, value: str) -> None:
        style = {"failed": "bold red", "warning": "yellow"}.get(kind, "bold")
        self._console.print()
        self._console.print(Text(f"{kind}: ", style) + self.text(value))

    def fits(self, content: _Content | parts.Table) -> bool:
        """Whether a table needs no more than the console's columns."""
        widths = self._widths(content)
        return sum(widths) + len(widths) - 1 <= self.width

    def table(self, content: _Content | parts.Table) -> None:
        widths = self._widths(content)
        gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= self.width else 1
        table = Table(
            box=_ASCII_RULE if self.plain else _RULE,
            padding=(0, gap - 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for place, head in enumerate(content.heads):
            table.add_column(
                self.text(head, "bold"),
                justify="left" if place in content.left else "right",
                no_wrap=True,
                overflow="crop" if self.plain else "ellipsis",
            )
        for place, row in enumerate(content.rows):
            style = "dim" if place in content.muted else ""
            table.add_row(*(self.text(cell, style) for cell in row))
        self._console.print()
        self._console.print(self.text(content.title, "bold"))
        self._console.print(table)

    def _widths(self, content: _Content | parts.Table) -> list[int]:
        lines = [content.heads, *content.rows]
        return [
            max(self.text(cell).cell_len for cell in column) for column in zip(*lines, strict=True)
        ]


class _Content:
    """A table before it is printed."""

    def __init__(self, title: str, heads: Sequence[str], left: Sequence[int]) -> None:
        self.title = title
        self.heads = list(heads)
        self.left = set(left)
        self.rows: list[list[str]] = []
        self.muted: Sequence[int] = ()


def clean(text: str, encoding: str, *, plain: bool = False) -> str:
    """Text without control characters, and in the letters that the encoding has."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    if plain:
        for letter, stand_in in _STAND_INS.items():
            text = text.replace(letter, stand_in)
    return text.encode(encoding, "replace").decode(encoding)


def sparkline(
    values: Sequence[float | None], *, plain: bool = False, width: int = _SPARKS[0]
) -> str:
    """Values as bars between their own least and greatest; a space where one is missing."""
    marks = _ASCII if plain else _BLOCKS
    kept = [values[i] for i in thinned(len(values), width)]
    known = [v for v in kept if v is not None and math.isfinite(v)]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    top = len(marks) - 1
    return "".join(
        " " if v is None or not math.isfinite(v) else marks[round((v - low) / span * top)]
        for v in kept
    )


def _can_print(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return not console.legacy_windows


def _shown(sites: Sequence[str], most: int) -> list[str]:
    """Sites spread evenly over the depth, the first and the last among them."""
    return [sites[i] for i in thinned(len(sites), most)]


def _sites_table(subject: Subject, name: str, tokens: str, out: _Printer) -> _Content:
    """The newest values at sites over the depth, the sparklines as wide as the console allows."""
    tables = (_with_sparks(subject, name, tokens, out, width) for width in _SPARKS)
    content = next(tables)
    while not out.fits(content) and (narrower := next(tables, None)) is not None:
        content = narrower
    return content


def _with_sparks(subject: Subject, name: str, tokens: str, out: _Printer, width: int) -> _Content:
    run = subject.runs[name]
    last = len(run.labels) - 1
    series = last > 0
    values = _Values(subject, tokens, subject.main_sinks)
    wide = not series or out.width >= 100
    content = _Content(
        f"{run.labels[-1]}, {words.TOKENS.get(tokens, tokens)}"
        + (f", {words.SINKS[subject.main_sinks]}" if len(subject.sinks) > 1 else ""),
        ["site", "RankMe", *["course"] * series, "α", *["course"] * series, "R²"],
        [0],
    )
    further = [m for m in _FURTHER if m in subject.measures]
    content.heads += [_FURTHER[m] for m in further]
    for site in _shown(subject.sites, MOST_SITES):
        row = [_brief(site, 14)]
        for measure in ("rankme", "alpha"):
            row.append(_tight(values.at(site, measure, last)))
            if series:
                course = [values.at(site, measure, i)["value"] for i in range(last + 1)]
                row.append(sparkline(course, plain=out.plain, width=width))
        row.append(_bare(values.at(site, "alpha_r2", last)))
        row += [(_tight if wide else _bare)(values.at(site, m, last)) for m in further]
        content.rows.append(row)
    return content


def _dropped_table(subject: Subject, name: str) -> _Content:
    """RankMe with sinks kept and dropped, for each token choice."""
    last = len(subject.runs[name].labels) - 1
    content = _Content("RankMe with sink tokens kept, and dropped", ["site"], [0])
    content.rows = [[_brief(site, 14)] for site in _shown(subject.sites, MOST_SITES)]
    for tokens in subject.tokens:
        short = {"last": "last", "mean": "mean", "all": "all"}.get(tokens, tokens)
        for sinks in subject.sinks:
            values = _Values(subject, tokens, sinks)
            content.heads.append(f"{short}, {'dropped' if sinks == 'out' else 'kept'}")
            sites = _shown(subject.sites, MOST_SITES)
            for row, site in zip(content.rows, sites, strict=True):
                row.append(_tight(values.at(site, "rankme", last)))
    return content


class _Values:
    """Readings of the preferred convention by site, measure and place in the series."""

    def __init__(self, subject: Subject, tokens: str, sinks: str) -> None:
        frame = subject.spectral.filter(
            (pl.col("tokens") == tokens) & (pl.col("sinks") == sinks) & (pl.col("preferred") == 1)
        )
        self._found = {
            (site, measure, index): {"value": value, "stderr": stderr}
            for site, measure, index, value, stderr in frame.select(
                "site", "measure", "index", "value", "stderr"
            ).iter_rows()
        }

    def at(self, site: str, measure: str, index: int) -> dict[str, Any]:
        """`value` and `stderr`, both None where there is no reading."""
        return self._found.get((site, measure, index), {"value": None, "stderr": None})


def _tight(reading: dict[str, Any]) -> str:
    """A value with its error and no spaces; in tables of many columns."""
    return _value(reading).replace(" ± ", "±")


def _bare(reading: dict[str, Any]) -> str:
    return "-" if reading["value"] is None else words.number(reading["value"])


def _value(reading: dict[str, Any]) -> str:
    if reading["value"] is None:
        return "-"
    return words.with_error(reading["value"], reading["stderr"])


def _brief(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2] + ".."


def _training_table(subject: Subject, name: str) -> _Content:
    run = subject.runs[name]
    content = _Content(
        f"{words.where(subject)} over training",
        ["checkpoint", "step", "tokens", "RankMe", "α", "R²", "phase"],
        [0, 6],
    )
    series = {
        m: {r["index"]: r for r in words.series_values(subject, name, m)}
        for m in ("rankme", "alpha", "alpha_r2")
    }
    nothing = {"value": None, "stderr": None}
    for index in thinned(len(run.labels), MOST_CHECKPOINTS):
        entry = run.checkpoints[index]
        r2 = series["alpha_r2"].get(index, nothing)["value"]
        content.rows.append(
            [
                _brief(str(entry["label"]), 20),
                "" if entry.get("step") is None else f"{entry['step']:,}",
                words.compact(entry.get("tokens")),
                _value(series["rankme"].get(index, nothing)),
                _value(series["alpha"].get(index, nothing)),
                "" if r2 is None else f"{r2:.3f}",
                _phase_at(subject, name, index),
            ]
        )
    for column in (2, 1):
        if not any(row[column] for row in content.rows):
            content.heads.pop(column)
            content.left = {p - 1 if p > column else p for p in content.left}
            for row in content.rows:
                row.pop(column)
    return content


def _phase_at(subject: Subject, name: str, index: int) -> str:
    """The phase that leads to a checkpoint."""
    places = {label: i for i, label in enumerate(subject.runs[name].labels)}
    for phase in subject.phases:
        if places[str(phase["start"])] < index <= places[str(phase["end"])]:
            return str(phase["name"])
    return ""


def _phases_table(subject: Subject) -> _Content:
    content = _Content(
        "Phases (changes beyond 2 standard errors)",
        ["phase", "from", "to", "Δ ln RankMe", "z", "alpha"],
        [0, 1, 2, 5],
    )
    for phase in subject.phases:
        z = phase.get("z")
        content.rows.append(
            [
                str(phase["name"]),
                _brief(str(phase["start"]), 14),
                _brief(str(phase["end"]), 14),
                f"{phase['change']:+.2f} ± {phase['stderr']:.2f}",
                "" if z is None else f"{z:+.1f}",
                "opposes" if phase.get("alpha_opposes") else "same way",
            ]
        )
    return content


def _ablation(subject: Subject, run: Run, out: _Printer) -> None:
    found = subject.readings.filter(
        pl.col("measure").str.starts_with("ablation_") & (pl.col("index") == len(run.labels) - 1)
    )
    if not found.height:
        return
    content = _Content(
        f"Directions of {found['site'][0]} ablated, {run.labels[-1]}",
        ["directions", "loss (nats)", "accuracy"],
        [0],
    )
    by: dict[str, dict[str, Any]] = {}
    for row in found.to_dicts():
        name = "untouched" if row["mode"] == "none" else f"{row['mode']} {row['k']}"
        by.setdefault(name, {})[row["measure"]] = row
    nothing = {"value": None, "stderr": None}
    for name, values in by.items():
        content.rows.append(
            [name, *(_value(values.get(f"ablation_{m}", nothing)) for m in ("loss", "accuracy"))]
        )
    out.table(content)


def _count(warned: words.Warned, total: int) -> str:
    labels = warned.checkpoints
    if total < 2 or not labels:
        return ""
    if len(labels) == total:
        return f" (all {total} checkpoints)"
    return f" ({len(labels)} of {total} checkpoints)"
