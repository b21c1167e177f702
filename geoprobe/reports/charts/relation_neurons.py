"""The neurons of each relation: how many it takes, of which kind, how many are shared, where."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import spec_of
from geoprobe.reports.charts.relation_marks import (
    BARS,
    GUIDE,
    STEPS,
    Frames,
    at_least,
    by_name,
    cells,
    heading,
    height_of,
    in_order,
    lines,
    shares,
    tables_of,
    tips_of,
)
from geoprobe.reports.parts import Chart, Control, Section, Source
from geoprobe.reports.relations import MODULES
from geoprobe.reports.relations_frames import PARTS
from geoprobe.reports.relations_tables import neuron_tables
from geoprobe.reports.subject import Subject
from geoprobe.reports.theme import RUN_COLOURS

_CURVE, _PARTS = "relations_curve", "relations_parts"
_OVERLAP, _WHERE = "relations_overlap", "relations_where"
_MODULE_COLOURS = dict(zip(MODULES, RUN_COLOURS, strict=False))
_PART_COLOURS = {
    **{PARTS[module]: colour for module, colour in _MODULE_COLOURS.items()},
    PARTS["all"]: RUN_COLOURS[3],
    PARTS["random"]: GUIDE,
}
_MOST_LABELS = 10


def relation_neurons(
    subject: Subject,
    frames: Frames,
    runs: Sequence[str],
    controls: Sequence[Control],
    newest: str,
) -> Section:
    """How many neurons it takes, of which kind, where they are, and how many relations share."""
    charts = []
    if frames[_CURVE].filter(pl.col("line") == "own")["k"].n_unique() > 1:
        charts.append(_curve(frames[_CURVE], newest))
    parts = frames[_PARTS]
    if parts["part"].is_in([PARTS[module] for module in MODULES]).any():
        charts.append(_by_part(parts, newest))
    if frames[_OVERLAP].height:
        charts.append(_overlap(frames[_OVERLAP], newest))
    if frames[_WHERE].height:
        charts.append(_where(frames[_WHERE], newest))
    tables = tables_of(subject, runs, neuron_tables)
    title = "The neurons of each relation"
    return Section("relation-neurons", title, charts, controls, tables=tables)


def _curve(frame: pl.DataFrame, newest: str) -> Chart:
    ticks = sorted(frame["k"].unique().to_list())
    x = alt.X(
        "at:Q",
        title="neurons off (log scale)",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(values=ticks, format=",", labelOverlap="greedy", grid=False),
    )

    y = shares("own facts broken")
    tips = tips_of(
        relation="relation",
        k="neurons off",
        value="own facts that break",
        stderr="standard error",
        n="n",
    )
    base = alt.Chart(alt.NamedData("readings"))
    own = base.transform_filter("datum.line == 'own'")
    layers = lines(x, y, in_order(frame), own, tips)
    kept = own.transform_filter("datum.kept == 1").mark_point(size=120, opacity=0.9, color=GUIDE)
    layers.append(kept.encode(x=x, y=y("value")))
    drawn = base.transform_filter("datum.line == 'random'")
    if (frame["line"] == "random").any():
        layers += [
            drawn.mark_line(color=GUIDE, strokeDash=[4, 3]).encode(x=x, y=y("value")),
            drawn.mark_point(color=GUIDE, filled=True, size=26, shape="diamond", opacity=1).encode(
                x=x, y=y("value"), tooltip=[tips[0], tips[2], tips[3]]
            ),
        ]
    random = (
        " Grey diamonds: as many random neurons, mean over relations and draws."
        if (frame["line"] == "random").any()
        else ""
    )
    return Chart(
        "relations-curve",
        "How many neurons it takes",
        "Per cent of a relation's own known facts that break with so many of its neurons off, the "
        "most specific ones first. Ring: as many as all other charts have. Lines are set a little "
        f"apart for their bars to be told. Bars: {BARS}.{random}",
        spec_of(alt.layer(*layers).properties(width="container", height=280)),
        {"readings": Source(_CURVE, {}, STEPS)},
        heading("How many neurons it takes", newest),
        width=900,
        marks_per_row=3,
    )


def _by_part(frame: pl.DataFrame, newest: str) -> Chart:
    names = in_order(frame)
    there = [part for part in PARTS.values() if (frame["part"] == part).any()]
    x = alt.X("relation:N", sort=names, title=None).axis(by_name())
    offset = alt.XOffset("part:N", sort=there, scale=alt.Scale(domain=there, paddingOuter=0.3))
    base = alt.Chart(alt.NamedData("readings"))
    y = shares("own facts broken")
    bars = base.mark_bar().encode(
        x=x,
        xOffset=offset,
        y=y("value"),
        color=alt.Color(
            "part:N",
            title=None,
            scale=alt.Scale(domain=there, range=[_PART_COLOURS[part] for part in there]),
            legend=alt.Legend(orient="top", columns=5),
        ),
        tooltip=tips_of(
            relation="relation",
            part="off",
            neurons="neurons",
            value="own facts that break",
            lo="from",
            hi="to",
            n="n",
        ),
    )
    ends = base.mark_rule(color=GUIDE, strokeWidth=1.3).encode(
        x=x, xOffset=offset, y=y("lo"), y2=alt.Y2("hi:Q")
    )
    gates = "outputs of the gate, of the up and of the down projection"
    if PARTS["gate"] not in there:
        gates = "outputs of the up and of the down projection"
    drawn = (
        " Grey: as many random neurons as the whole set; its bar is from the least draw to the "
        "largest."
        if PARTS["random"] in there
        else ""
    )
    return Chart(
        "relations-parts",
        "Each kind of neuron alone",
        f"Per cent of a relation's own known facts that break with only one kind of its neurons "
        f"off ({gates}), and with all of them. Bars: {BARS}.{drawn}",
        spec_of(alt.layer(at_least(base), bars, ends).properties(width="container", height=240)),
        {"readings": Source(_PARTS, {}, STEPS)},
        heading("Each kind of neuron alone", newest),
        width=900,
        marks_per_row=2,
    )


def _overlap(frame: pl.DataFrame, newest: str) -> Chart:
    tips = tips_of(
        row="neurons of",
        column="and of",
        k="neurons of each",
        value="shared, of all of both",
        chance="by chance",
    )
    chances = sorted(frame["chance"].drop_nulls().unique().to_list())
    said = [f"{100 * chance:.2g} %" for chance in chances]
    said = [said[0], *(s for s in said[-1:] if s != said[0])] if said else []
    chance = f" By chance: {' to '.join(said)}." if said else ""
    _, layers = cells("pairs", frame, "shared", ("", ""), tips)
    return Chart(
        "relations-overlap",
        "Neurons that relations share",
        "Per cent of the neurons of either relation that both have (Jaccard index)." + chance,
        spec_of(alt.layer(*layers).properties(width="container", height=height_of(frame))),
        {"pairs": Source(_OVERLAP, {}, STEPS)},
        heading("Neurons that relations share, %", newest),
        width=900,
        marks_per_row=2,
    )


def _where(frame: pl.DataFrame, newest: str) -> Chart:
    names = in_order(frame)
    there = [m for m in MODULES if (frame["module"] == m).any()]
    blocks = list(range(int(frame["block"].max()) + 1))  # type: ignore[arg-type]
    stride = next(
        (s for s in (1, 2, 5, 10, 20, 50) if len(blocks) / s <= _MOST_LABELS), len(blocks)
    )
    bars = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("block:O", title="block", scale=alt.Scale(domain=blocks)).axis(
                alt.Axis(values=blocks[::stride], labelAngle=0, grid=False, ticks=False)
            ),
            y=alt.Y("neurons:Q", title="neurons", axis=alt.Axis(tickCount=3)),
            order=alt.Order("layer:Q"),
            color=alt.Color(
                "module:N",
                title=None,
                scale=alt.Scale(domain=there, range=[_MODULE_COLOURS[m] for m in there]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=tips_of(
                relation="relation", block="block", module="projection", neurons="neurons"
            ),
        )
        .transform_calculate(layer=f"indexof({there}, datum.module)")
        .properties(width=250, height=90)
        .facet(
            facet=alt.Facet(
                "relation:N",
                title=None,
                sort=names,
                header=alt.Header(labelLimit=260, labelAnchor="start", labelAlign="left"),
            ),
            columns=3,
            data=alt.NamedData("neurons"),
            bounds="flush",
            spacing={"row": 66, "column": 58},
        )
        .resolve_axis(x="independent", y="independent")
    )
    return Chart(
        "relations-where",
        "Where they are",
        "How many of a relation's neurons are in which block of the model, by the projection whose "
        "output they are.",
        spec_of(bars),
        {"neurons": Source(_WHERE, {}, STEPS)},
        heading("Where they are", newest),
        width=900,
    )
