"""What the charts of relation-specific neurons have in common: cells, lines, tooltips, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.parts import Table
from geoprobe.reports.subject import STDERRS, Subject
from geoprobe.reports.theme import RUN_COLOURS

Frames = Mapping[str, pl.DataFrame]

GUIDE = "#7a8087"
"""A grey that is told from light paper and from dark."""
_DARK, BRIGHT = "#101214", "#fdfdfd"
"""Numbers on a coloured cell: not the theme's inks, which follow the paper."""
STEPS = ("run", "place")
BARS = f"± {STDERRS} standard errors (bootstrap over subjects)"
_SHAPES = ("circle", "square", "triangle-up")
_FORMATS = {
    **dict.fromkeys(("value", "stderr", "lo", "hi", "chance"), ".1%"),
    **dict.fromkeys(("n", "k", "neurons"), ","),
}
_LEAST_CELL = 20
"""Pixels a cell must be wide for its number."""


def heading(title: str, newest: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Pieces of a chart's heading; `newest` is the checkpoint that is shown at first."""
    return (("", title), ("run", ""), ("place", newest), *more)


def tables_of(
    subject: Subject, runs: Sequence[str], build: Callable[[Any], list[Table]]
) -> list[Table]:
    """Tables of all runs, each run's name in front where there are several."""
    return [
        replace(table, title=f"{name}: {table.title}" if subject.several else table.title)
        for name in runs
        for table in build(subject.runs[name])
    ]


def in_order(frame: pl.DataFrame) -> list[str]:
    """Relations in the order given."""
    ordered = frame.filter(pl.col("relation").is_not_null()).sort("place", maintain_order=True)
    names: list[str] = ordered["relation"].unique(maintain_order=True).to_list()
    return names


def percent(title: str | None = "", ticks: int = 5) -> dict[str, Any]:
    """Title and axis of a share."""
    return {"title": title, "axis": alt.Axis(format=".0%", tickCount=ticks, grid=True)}


def tips_of(**titles: str) -> list[alt.Tooltip]:
    """Tooltips of these fields under these titles, behind the checkpoint's."""
    found = [alt.Tooltip("checkpoint:N", title="checkpoint")]
    for field, title in titles.items():
        form: dict[str, Any] = {"format": _FORMATS[field]} if field in _FORMATS else {}
        found.append(alt.Tooltip(f"{field}:{'Q' if form else 'N'}", title=title, **form))
    return found


def by_name() -> alt.Axis:
    """An axis of names, which may be long."""
    return alt.Axis(labelAngle=-35, labelLimit=130, grid=False, ticks=False)


def shares(title: str = "") -> Callable[[str], alt.Y]:
    """The axis of shares of some field, from 0."""
    return lambda field: alt.Y(f"{field}:Q", scale=alt.Scale(zero=True), **percent(title))


def at_least(base: Any) -> Any:
    """An unseen mark that keeps an axis from ending below a tenth, or having no length at all."""
    return base.mark_rule(opacity=0).encode(y=alt.YDatum(0.1))


def _top(frame: pl.DataFrame) -> float:
    """A round number that no value of the newest checkpoints is above."""
    newest = frame.filter(pl.col("index") == pl.col("index").max().over("run"))
    greatest = float(newest["value"].max() or 0.0)  # type: ignore[arg-type]
    return min(1.0, max(0.1, math.ceil(10 * greatest - 1e-9) / 10))


def height_of(frame: pl.DataFrame) -> int:
    """Of a heat map, in pixels."""
    return max(60, 26 * frame["row"].n_unique())


def cells(
    data: str,
    frame: pl.DataFrame,
    legend: str,
    axes: tuple[str, str],
    tips: Sequence[alt.Tooltip],
) -> tuple[Any, list[Any]]:
    """A heat map from 0, with its numbers where cells are wide enough for them."""
    top = _top(frame)
    base = alt.Chart(alt.NamedData(data)).encode(
        x=alt.X("column:N", sort=alt.EncodingSortField("j", op="min"), title=axes[1]).axis(
            by_name()
        ),
        y=alt.Y("row:N", sort=alt.EncodingSortField("i", op="min"), title=axes[0]).axis(
            alt.Axis(labelLimit=190, ticks=False)
        ),
    )
    colour = alt.Color(
        "value:Q",
        title=legend,
        scale=alt.Scale(scheme="viridis", domain=[0, top], clamp=True),
        legend=alt.Legend(gradientLength=150, tickCount=5, format=".0%"),
    )
    columns = max(1, frame["column"].n_unique())
    size = alt.ExprRef(f"width / {columns} < {_LEAST_CELL} ? 0 : 11")
    number = base.mark_text(fontSize=size).encode(
        text=alt.Text("said:N"),
        color=alt.condition(f"datum.value > {0.6 * top:.4g}", alt.value(_DARK), alt.value(BRIGHT)),
    )
    rect = base.mark_rect().encode(color=colour, tooltip=list(tips))
    return base, [rect, number]


def _by_relation(names: Sequence[str]) -> dict[str, Any]:
    """Colour and shape of each relation: with more than there are colours, shapes tell too."""
    if len(names) < 2:
        return {}
    legend = alt.Legend(orient="top", columns=5, labelLimit=150, symbolOpacity=1)
    colours = [RUN_COLOURS[i % len(RUN_COLOURS)] for i in range(len(names))]
    shapes = [_SHAPES[i // len(RUN_COLOURS) % len(_SHAPES)] for i in range(len(names))]
    colour, shape = (alt.Scale(domain=list(names), range=r) for r in (colours, shapes))
    return {
        "color": alt.Color("relation:N", title=None, scale=colour, legend=legend),
        "shape": alt.Shape("relation:N", title=None, scale=shape, legend=legend),
    }


def lines(x: alt.X, y: Callable[[str], alt.Y], names: Sequence[str], base: Any, tips: Any) -> Any:
    """A line a relation, with bars for its errors."""
    look = _by_relation(names)
    colour = {name: encoding for name, encoding in look.items() if name == "color"}
    return [
        at_least(base),
        base.mark_rule(opacity=0.55).encode(x=x, y=y("lo"), y2=alt.Y2("hi:Q"), **colour),
        base.mark_line(strokeWidth=1.4).encode(
            x=x, y=y("value"), detail=alt.Detail("relation:N"), **colour
        ),
        base.mark_point(filled=True, size=34, opacity=1).encode(
            x=x, y=y("value"), tooltip=tips, **look
        ),
    ]
