"""The parts of a report: sections with controls and charts, and the tables that charts draw.

A chart is a Vega-Lite specification without data, and for each of its data sets the table it comes
from, a fixed filter, and the controls that filter further. The static picture filters in polars;
the page's script does the same to the same tables, embedded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from geoprobe.reports.subject import Place, Subject

MEASURE = "@measure"
"""Stands in a specification for the title of the measure that is shown."""

Filter = Mapping[str, Sequence[str | int]]
Tables = Mapping[str, pl.DataFrame]
Datasets = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Option:
    """One choice of a control: a column's value, or for `place` a checkpoint of each run."""

    value: str
    label: str
    at: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Control:
    """A choice that filters a section's charts.

    Attributes:
        name: The column it filters, or `place`.
        label: For people.
        options: In order.
        initial: Value of the first choice.
        slider: Whether to step through it.
    """

    name: str
    label: str
    options: tuple[Option, ...]
    initial: str
    slider: bool = False

    @property
    def chosen(self) -> Option:
        """The initial option."""
        return next(o for o in self.options if o.value == self.initial)

    @property
    def position(self) -> int:
        """Place of the initial option."""
        return self.options.index(self.chosen)


@dataclass(frozen=True)
class Source:
    """Where a data set of a chart comes from."""

    table: str
    where: Filter = field(default_factory=dict)
    controls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: Its id, and the stem of its file name.
        title: For people.
        caption: What it shows, beyond what the page adds by itself: the heading and n.
        spec: Vega-Lite, with named data sets and `width: container` where it may stretch.
        sources: Data set -> where it comes from.
        heading: What the chart's own title says, in pieces: the name of a control whose choice is
            told, and the text where the section has no such control.
        width: Of the static picture, in pixels, where it may stretch.
        marks_per_row: For choosing SVG or PNG.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    sources: Mapping[str, Source]
    heading: Sequence[tuple[str, str]] = ()
    width: int = 460
    marks_per_row: float = 1.0


@dataclass(frozen=True)
class Table:
    """A table of words, for the terminal and the page.

    Attributes:
        title: Above it.
        heads: Of the columns.
        left: Columns of text.
        rows: Cells.
        note: Under it.
        muted: Rows that stand back behind the others.
    """

    title: str
    heads: Sequence[str]
    left: Sequence[int]
    rows: Sequence[Sequence[str]]
    note: str = ""
    muted: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """Charts under one heading, with the controls that they share, and tables under them."""

    name: str
    title: str
    charts: Sequence[Chart]
    controls: Sequence[Control] = ()
    pair: bool = False
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Filled:
    """A chart as it is first shown.

    Attributes:
        spec: The specification with data.
        marks: About how many marks it draws.
        heading: What is shown: site, tokens, checkpoint.
        sizes: Sample sizes behind it, in words; the empty string where it shows no readings.
    """

    spec: dict[str, Any]
    marks: int
    heading: str = ""
    sizes: str = ""


def choice(
    name: str,
    label: str,
    values: Sequence[str],
    initial: str,
    labels: Mapping[str, str] | None = None,
) -> list[Control]:
    """A control over a column's values; none where there is nothing to choose."""
    if len(values) < 2:
        return []
    options = tuple(Option(v, (labels or {}).get(v, v)) for v in values)
    return [Control(name, label, options, initial if initial in values else values[0])]


def place_control(places: Sequence[Place]) -> list[Control]:
    """A control to step through checkpoints, the newest first shown."""
    if len(places) < 2:
        return []
    options = tuple(Option(str(i), place.label, place.at) for i, place in enumerate(places))
    return [Control("place", "Checkpoint", options, str(len(places) - 1), slider=True)]


def rows(chart: Chart, section: Section, tables: Tables, titles: Mapping[str, str]) -> Datasets:
    """The rows that each data set of a chart shows at first."""
    chosen = {control.name: control.chosen for control in section.controls}
    found = {}
    for name, source in chart.sources.items():
        frame = tables[source.table]
        for column, values in source.where.items():
            frame = frame.filter(pl.col(column).is_in(list(values)))
        for control in source.controls:
            if control not in chosen:
                continue
            option = chosen[control]
            if option.at is None:
                frame = frame.filter(pl.col(control) == option.value)
                continue
            here = pl.lit(False)
            for run, index in option.at.items():
                here = here | ((pl.col("run") == run) & (pl.col("index") == index))
            frame = frame.filter(here)
        records = frame.to_dicts()
        for record in records:
            if "measure" in record:
                record["title"] = titles.get(record["measure"], record["measure"])
        found[name] = records
    return found


def filled(chart: Chart, section: Section, tables: Tables, subject: Subject) -> Filled:
    """A chart with the data it shows at first."""
    datasets = rows(chart, section, tables, subject.panel_titles)
    marks = sum(len(records) for records in datasets.values()) * chart.marks_per_row
    chosen = {control.name: control.chosen.label for control in section.controls}
    heading = " · ".join(filter(None, (chosen.get(n, text) for n, text in chart.heading)))
    measure = next((chosen.get(n, text) for n, text in chart.heading if n == "measure"), "")
    spec = {**_named(chart.spec, measure), "datasets": dict(datasets)}
    if chart.heading:
        spec["params"] = [{"name": "heading", "value": heading}, *spec.get("params", [])]
        spec["title"] = {"text": {"expr": "heading"}}
    return Filled(spec, int(marks), heading, _sizes(datasets.get("readings", [])))


def _sizes(readings: Sequence[Mapping[str, Any]]) -> str:
    sizes = [r["n"] for r in readings if r["n"] is not None]
    if not sizes:
        return ""
    low, high = min(sizes), max(sizes)
    return f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"


def _named(part: Any, measure: str) -> Any:
    """A specification with the measure's title put in."""
    if isinstance(part, dict):
        return {name: _named(value, measure) for name, value in part.items()}
    if isinstance(part, list):
        return [_named(value, measure) for value in part]
    return measure if part == MEASURE else part
