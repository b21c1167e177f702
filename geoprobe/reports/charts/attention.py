"""Attention sinks: scores by layer and head, norms with their stages, levels, a strip of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import spec_of
from geoprobe.reports.parts import Chart, Section, Source, choice, place_control
from geoprobe.reports.sinks import sink_tables
from geoprobe.reports.subject import Subject

_PRIMARY, _OTHERS = "#D55E00", "#0072B2"
_RUN = (("run", ""),)


def attention_sinks(subject: Subject, frames: Mapping[str, pl.DataFrame]) -> Section | None:
    """The section; where several runs are laid side by side, one of them is shown at a time."""
    if not frames["sink_norms"].height:
        return None
    runs = frames["sink_norms"]["run"].unique(maintain_order=True).to_list()
    places = subject.places()
    first = places[-1].label
    charts = [_norms(frames, first)]
    texts = frames["sink_scores"]["text"].unique(maintain_order=True).to_list()
    if texts:
        charts.insert(0, _scores(frames, first, texts))
    if frames["sink_levels"].height:
        charts.append(_levels(frames, first))
    if frames["sink_formation"].height:
        charts.append(_formation(frames, first))
    if frames["sink_strip"].height:
        charts.append(_strip(frames, first))
    controls = [*choice("run", "Run", runs, runs[0]), *place_control(places)]
    controls += choice("text", "Text", texts, "natural")
    tables = [
        replace(table, title=f"{name}: {table.title}" if len(runs) > 1 else table.title)
        for name in runs
        for table in sink_tables(subject.runs[name])
        if table.rows
    ]
    return Section("attention-sinks", "Attention sinks", charts, controls, tables=tables)


def _by_layer(data: str, x: alt.X, share: str, depth: int, tips: list[alt.Tooltip]) -> Any:
    """A map of shares of attention, the layers from bottom to top."""
    axis = alt.Axis(labelOverlap="greedy", ticks=False)
    colour = alt.Color(
        f"{share}:Q",
        title=None,
        scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        legend=alt.Legend(gradientLength=160, tickCount=5),
    )
    y = alt.Y("layer:O", sort="descending", title="layer", axis=axis)
    return (
        alt.Chart(alt.NamedData(data))
        .mark_rect()
        .encode(x=x, y=y, color=colour, tooltip=tips)
        .properties(
            width="container",
            height=max(90, min(22, max(11, 420 // max(1, depth))) * depth),
        )
    )


def _scores(frames: Mapping[str, pl.DataFrame], first: str, texts: list[str]) -> Chart:
    x = alt.X("head:O", title="head", axis=alt.Axis(ticks=False, labelAngle=0))
    tips = [
        alt.Tooltip("layer:O", title="layer"),
        alt.Tooltip("head:O", title="head"),
        alt.Tooltip("position:O", title="position"),
        alt.Tooltip("value:Q", title="sink score", format=".4f"),
        alt.Tooltip("stderr:Q", title="standard error", format=".2~g"),
    ]
    chart = _by_layer("scores", x, "value", frames["sink_scores"]["layer"].n_unique(), tips)
    return Chart(
        "sink-scores",
        "Sink score by layer and head",
        "Mean attention that the primary sink gets from the queries at and behind it.",
        spec_of(chart),
        {"scores": Source("sink_scores", {}, ("run", "place", "text"))},
        (("", "Sink score by layer and head"), *_RUN, ("place", first), ("text", texts[0])),
        width=900,
    )


def _norms(frames: Mapping[str, pl.DataFrame], first: str) -> Chart:
    names = sorted(frames["sink_norms"]["what"].unique().to_list(), reverse=True)
    colours = [_OTHERS if name.startswith("median") else _PRIMARY for name in names]
    depth = int(frames["sink_norms"]["layer"].max()) + 1  # type: ignore[arg-type]
    x = alt.X(
        "layer:Q",
        title="block",
        scale=alt.Scale(domain=[-0.5, depth - 0.5], nice=False),
        axis=alt.Axis(tickMinStep=1, grid=False),
    )
    y = alt.Y("norm:Q", title="norm", scale=alt.Scale(type="log"))
    base = alt.Chart(alt.NamedData("norms")).encode(
        x=x,
        y=y,
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=names, range=colours),
            legend=alt.Legend(orient="top", labelLimit=240, columns=3),
        ),
        tooltip=[
            alt.Tooltip("layer:Q", title="block"),
            alt.Tooltip("what:N", title="token"),
            alt.Tooltip("position:Q", title="position of the primary"),
            alt.Tooltip("norm:Q", title="norm", format=".4~g"),
        ],
    )
    shade: Any = (
        alt.Chart(alt.NamedData("stages"))
        .mark_rect(opacity=0.12, color=_PRIMARY)
        .encode(
            x=alt.X("start:Q", title="block"),
            x2=alt.X2("end:Q"),
            tooltip=[alt.Tooltip("said:N", title="stage")],
        )
    )
    chart = alt.layer(
        shade, base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=30, opacity=1)
    ).properties(width="container", height=260)
    return Chart(
        "sink-norms",
        "Norm of the primary sink over depth",
        "Norm of the residual stream after each block: mean of the primary sink, median of all "
        "other tokens. Shaded are the stages, where the first exceeds twice the second.",
        spec_of(chart),
        {
            "norms": Source("sink_norms", {}, ("run", "place")),
            "stages": Source("sink_stages", {}, ("run", "place")),
        },
        (("", "Norm over depth"), *_RUN, ("place", first)),
        width=900,
        marks_per_row=2,
    )


def _levels(frames: Mapping[str, pl.DataFrame], first: str) -> Chart:
    depth = frames["sink_norms"]["layer"].n_unique()
    scale = alt.Scale(domain=[0, depth], nice=False)
    chart = (
        alt.Chart(alt.NamedData("levels"))
        .mark_circle(opacity=0.75, color=_OTHERS)
        .encode(
            x=alt.X("l_start:Q", title="first block", scale=scale, axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "lifetime:Q",
                title="lifetime (blocks)",
                scale=scale,
                axis=alt.Axis(tickMinStep=1),
            ),
            size=alt.Size(
                "count:Q",
                title="tokens",
                scale=alt.Scale(type="sqrt", domainMin=0, range=[0, 700]),
                legend=alt.Legend(tickCount=3, tickMinStep=1),
            ),
            tooltip=[
                alt.Tooltip("l_start:Q", title="first block"),
                alt.Tooltip("lifetime:Q", title="lifetime"),
                alt.Tooltip("count:Q", title="tokens", format=","),
                alt.Tooltip("share:Q", title="share of sequences", format=".0%"),
                alt.Tooltip("tokens:N", title="most frequent"),
                alt.Tooltip("norm:Q", title="mean norm", format=".4~g"),
                alt.Tooltip("score:Q", title="sink score", format=".3f"),
            ],
        )
        .properties(width="container", height=260)
    )
    return Chart(
        "sink-levels",
        "Levels of secondary sinks",
        "Tokens whose direction is that of the primary sink (|cos| > 0.9) in some block of its "
        "span, by the first such block and by how many there are.",
        spec_of(chart),
        {"levels": Source("sink_levels", {}, ("run", "place"))},
        (("", "Levels"), *_RUN, ("place", first)),
        width=900,
    )


def _formation(frames: Mapping[str, pl.DataFrame], first: str) -> Chart:
    groups = frames["sink_formation"]["group"].unique(maintain_order=True).to_list()
    last = int(frames["sink_formation"]["layer"].max())  # type: ignore[arg-type]
    base = alt.Chart(alt.NamedData("formation")).encode(
        x=alt.X(
            "layer:Q",
            title="block",
            scale=alt.Scale(domain=[-0.5, last + 0.5], nice=False),
            axis=alt.Axis(tickMinStep=1, grid=False),
        ),
        y=alt.Y("cosine:Q", title="cosine", scale=alt.Scale(domain=[-1, 1])),
        color=alt.Color(
            "group:N",
            title=None,
            scale=alt.Scale(domain=groups),
            legend=alt.Legend(orient="top", labelLimit=240, columns=3),
        ),
        tooltip=[
            alt.Tooltip("group:N", title="sinks"),
            alt.Tooltip("layer:Q", title="MLP of block"),
            alt.Tooltip("cosine:Q", title="cosine", format=".3f"),
            alt.Tooltip("length:Q", title="written along it", format=".4~g"),
        ],
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=30, opacity=1)
    ).properties(width="container", height=220)
    return Chart(
        "sink-formation",
        "How sinks form",
        "Cosine of what each block's MLP writes at the sinks with the primary's residual stream "
        "after their first block, which ends the line; (first block, lifetime).",
        spec_of(chart),
        {"formation": Source("sink_formation", {}, ("run", "place"))},
        (("", "How sinks form"), *_RUN, ("place", first)),
        width=900,
        marks_per_row=2,
    )


def _strip(frames: Mapping[str, pl.DataFrame], first: str) -> Chart:
    strip = frames["sink_strip"]
    labelled = list(range(0, strip["place"].n_unique(), 4))
    x = alt.X(
        "place:O",
        title="position in the first sequence",
        axis=alt.Axis(values=labelled, ticks=False, labelAngle=0),
    )
    tips = [
        alt.Tooltip("token:N", title="token"),
        alt.Tooltip("place:O", title="position"),
        alt.Tooltip("layer:O", title="layer"),
        alt.Tooltip("mass:Q", title="attention to sinks", format=".3f"),
    ]
    chart = _by_layer("strip", x, "mass", strip["layer"].n_unique(), tips)
    return Chart(
        "sink-strip",
        "Attention to sinks, token by token",
        "What each token of the first sequence pays to all sinks of that sequence, averaged over "
        "the heads of a layer.",
        spec_of(chart),
        {"strip": Source("sink_strip", {}, ("run", "place"))},
        (("", "Attention to sinks"), *_RUN, ("place", first)),
        width=900,
    )
