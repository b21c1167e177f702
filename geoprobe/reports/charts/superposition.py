"""Superposition: dimensions of features, matrices by layer, and bases of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import PLAIN, axis_params, panels, spec_of, training_x
from geoprobe.reports.parts import Chart, Control, Section, Source, choice, place_control
from geoprobe.reports.subject import STDERRS, Subject
from geoprobe.reports.superposition import (
    ACTIVATIONS,
    WEIGHTS,
    places_of,
    superposition_tables,
)
from geoprobe.reports.theme import RUN_COLOURS

Frames = Mapping[str, pl.DataFrame]

_VALUES, _BARS, _MEANS = "superposition_values", "superposition_bars", "superposition_means"
_GATHERED, _PLATEAUS = "superposition_gathered", "superposition_plateaus"
_GUIDE = "#7a8087"
"""A grey that is told from light paper and from dark."""
_MEANING = {"mean": RUN_COLOURS[1], "mean of Gaussian rows": RUN_COLOURS[2]}
_ENDS = f"± {STDERRS} standard errors (jackknife over 8 groups of sequences)"
_MOST_LABELS = 8


def superposition(subject: Subject, frames: Frames) -> list[Section]:
    """The sections of superposition; one run is shown at a time."""
    frame = frames[_VALUES]
    runs = frame["run"].unique(maintain_order=True).to_list()
    found = []
    for of, build in (("weights", _weights), ("activations", _activations)):
        here = frame.filter(pl.col("of") == of)
        if here.height:
            found.append(build(subject, here, frames, runs))
    return found


def _controls(
    subject: Subject, runs: Sequence[str], label: str, sites: Sequence[str], first: str
) -> list[Control]:
    return [
        *choice("run", "Run", runs, runs[0]),
        *choice("site", label, sites, first),
        *place_control(subject.of_runs(runs).places()),
    ]


def _weights(subject: Subject, frame: pl.DataFrame, frames: Frames, runs: Sequence[str]) -> Section:
    """Dimensions of the features of one matrix, all matrices by layer, one over training."""
    known = set(frame["site"].unique())
    sites = [s for s in places_of([subject.runs[name] for name in runs], "weights") if s in known]
    gathered = frames[_GATHERED]["site"].to_list()
    first = next((s for s in sites if s in gathered), sites[0])
    controls = _controls(subject, runs, "Matrix", sites, first)
    newest = subject.of_runs(runs).places()[-1].label
    measured = set(frame["measure"].unique())
    measures = [m for m in WEIGHTS.values() if m in measured]
    joined = _numbered(frame)
    rows = ": of tokens in the embedding, of neurons in the MLPs" if joined else ""
    null, bound = ("Dashed", "Dotted") if joined else ("Diamond", "Dash")
    charts = []
    if frames[_BARS].height:
        charts.append(_histogram(frames, first, newest))
    charts.append(
        Chart(
            "superposition-depth",
            "Matrices by layer",
            f"Features are the rows of the weights{rows}. {null}: independent Gaussian rows of the "
            "same shape, the null; a mean of D below it says that rows share directions more than "
            f"by chance. {bound}: what no rows can pass: the sum of D stays below the rank, "
            "interference and coherence above the Welch bound (0 where rows are no more than "
            "dimensions). Each panel has its own scale.",
            spec_of(panels(subject, alt.layer(*_depth_layers(frame)), measures, _row(frame))),
            {"readings": Source(_VALUES, {"measure": measures}, ("run", "place"))},
            (("", "Matrices by layer"), ("run", ""), ("place", newest)),
            width=900,
            marks_per_row=2,
        )
    )
    if _is_series(subject, runs):
        charts.append(
            _course(
                subject,
                "superposition-course",
                "One matrix over training",
                measures,
                first,
                "The same of one matrix over training. Dashed: Gaussian rows; dotted: the bound. "
                "Each panel has its own scale.",
            )
        )
    tables = _tables(subject, runs, activations=False)
    return Section("superposition", "Superposition in the weights", charts, controls, tables=tables)


def _activations(
    subject: Subject, frame: pl.DataFrame, frames: Frames, runs: Sequence[str]
) -> Section:
    """Kurtosis and privileged bases by layer, and over training."""
    known = set(frame["site"].unique())
    sites = [
        s for s in places_of([subject.runs[name] for name in runs], "activations") if s in known
    ]
    neurons = [s for s in sites if s.startswith("neurons.")]
    first = (neurons or sites)[-1]
    controls = _controls(subject, runs, "Site", sites, first)
    newest = subject.of_runs(runs).places()[-1].label
    measured = set(frame["measure"].unique())
    measures = [m for m in ACTIVATIONS.values() if m in measured]
    charts = [
        Chart(
            "bases-depth",
            "Bases by layer",
            "Whether a site's own coordinates (its neurons) are special. Kurtosis is 0 of a "
            "Gaussian and large where a coordinate is mostly silent. A privileged basis has its "
            "variance in few coordinates: 1 is a basis like any other. Dashed: after random "
            "rotations, the null; only what is well above it is of the basis. Bars: "
            f"{_ENDS}. Each panel has its own scale.",
            spec_of(panels(subject, alt.layer(*_depth_layers(frame)), measures, _row(frame))),
            {"readings": Source(_VALUES, {"measure": measures}, ("run", "place"))},
            (("", "Bases by layer"), ("run", ""), ("place", newest)),
            width=900,
            marks_per_row=2,
        )
    ]
    if _is_series(subject, runs):
        charts.append(
            _course(
                subject,
                "bases-course",
                "One site over training",
                measures,
                first,
                f"The same of one site over training. Dashed: after random rotations. Band: "
                f"{_ENDS}. Each panel has its own scale.",
            )
        )
    tables = _tables(subject, runs, activations=True)
    return Section("bases", "Neurons and their bases", charts, controls, tables=tables)


def _is_series(subject: Subject, runs: Sequence[str]) -> bool:
    return any(len(subject.runs[name].labels) > 1 for name in runs)


def _tables(subject: Subject, runs: Sequence[str], *, activations: bool) -> list[Any]:
    return [
        replace(table, title=f"{name}: {table.title}" if subject.several else table.title)
        for name in runs
        for table in superposition_tables(subject.runs[name])
        if (table.heads[0] == "site") == activations
    ]


def _histogram(frames: Frames, first: str, newest: str) -> Chart:
    """Features by their dimensionality, with the plateaus of regular arrangements."""
    every = frames[_BARS].select("run", "index").unique()["run"].is_duplicated().any()
    steps = ("run", "site", "place") if every else ("run", "site")
    x = alt.X(
        "low:Q",
        bin="binned",
        title="dimensions of a feature, D",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(values=[i / 10 for i in range(11)], format=".1f", grid=False),
    )
    bars = (
        alt.Chart(alt.NamedData("bars"))
        .mark_bar(opacity=0.85, binSpacing=0)
        .encode(
            x=x,
            x2=alt.X2("high:Q"),
            y=alt.Y("features:Q", title="features (rows)", axis=alt.Axis(tickCount=5)),
            tooltip=[
                alt.Tooltip("low:Q", title="D from", format=".3f"),
                alt.Tooltip("high:Q", title="to", format=".3f"),
                alt.Tooltip("features:Q", title="features", format=","),
            ],
        )
    )
    at = alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), title="")
    plateaus = alt.Chart(alt.NamedData("plateaus"))
    rules = plateaus.mark_rule(color=_GUIDE, strokeDash=[2, 3]).encode(x=at)
    layers = [rules, bars]
    # Names stand in two rows, on the side of their line where there is room.
    sides: list[tuple[tuple[str, ...], Any, int]] = [
        (("3/8 square antiprism",), "right", 1),
        (("1/2 digon", "3/4 tetrahedron"), "left", 1),
        (("0 not represented", "2/5 pentagon", "2/3 triangle"), "left", 0),
        (("1 alone",), "right", 0),
    ]
    for names, align, row in sides:
        shift = 3 if align == "left" else -3
        some = plateaus.transform_filter(alt.FieldOneOfPredicate("name", list(names)))
        text = some.mark_text(align=align, dx=shift, fontSize=10.5, baseline="bottom", opacity=0.8)
        layers.append(text.encode(x=at, y=alt.value(-3 - 14 * row), text=alt.Text("name:N")))
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(_MEANING), range=list(_MEANING.values())),
        legend=alt.Legend(orient="bottom", symbolType="stroke", symbolStrokeWidth=2),
    )
    means = alt.Chart(alt.NamedData("means")).mark_rule(strokeWidth=2)
    tip = [alt.Tooltip("what:N", title="line"), alt.Tooltip("value:Q", title="D", format=".4~g")]
    layers.append(means.encode(x=at, color=colour, tooltip=tip))
    there = alt.Chart(alt.NamedData("gathered")).mark_text(
        align="left", dx=4, dy=8, fontSize=11, fontWeight="bold"
    )
    layers.append(there.encode(x=at, y=alt.value(0), text=alt.Text("said:N")))
    sources = {
        "bars": Source(_BARS, {}, steps),
        "means": Source(_MEANS, {}, steps),
        "gathered": Source(_GATHERED, {}, steps),
        "plateaus": Source(_PLATEAUS),
    }
    when = ("place" if every else "", newest if every else "newest checkpoint")
    return Chart(
        "superposition-features",
        "Dimensions of each feature",
        "How many features (rows of the matrix) have which D: 1 is a dimension of its own, 0.5 a "
        "dimension shared by two. Features in superposition may gather where regular arrangements "
        "put them, at the dotted lines (a digon is two features, opposite on one line); where they "
        "do, their share is written there. A smooth hump near the Gaussian mean is what rows "
        "without any structure have.",
        spec_of(alt.layer(*layers).properties(width="container", height=240)),
        sources,
        (("", "Dimensions of each feature"), ("run", ""), ("site", first), when),
        width=900,
    )


def _row(frame: pl.DataFrame) -> int:
    return 96 if _numbered(frame) else 124


def _numbered(frame: pl.DataFrame) -> bool:
    """Whether everything has its place in the depth of a model."""
    ends = {"embedding", "unembedding", "embed", "final"}
    return all(p.isdigit() or p in ends for p in frame["place"].unique())


def _depth_x(frame: pl.DataFrame) -> alt.X:
    """Blocks by their number, between what is in front of them and what is behind."""
    places = frame["place"].unique(maintain_order=True).to_list()
    if not _numbered(frame):
        axis = alt.Axis(labelAngle=-30, labelLimit=110, grid=False)
        return alt.X("place:N", sort=places, title="", axis=axis)
    numbers = sorted((p for p in places if p.isdigit()), key=int)
    stride = next((s for s in (1, 2, 5, 10, 20, 50) if len(numbers) / s <= _MOST_LABELS), 100)
    front = [p for p in ("embedding", "embed") if p in places]
    back = [p for p in ("final", "unembedding") if p in places]
    kept = [p for p in numbers if int(p) % stride == 0]
    if stride > 1:  # labels of the ends take the room of numbers next to them
        near = [numbers[0]] * bool(front) + [p for p in numbers[-(stride // 2 + 1) :] if back]
        kept = [p for p in kept if p not in near]
    short = {"embedding": "emb.", "unembedding": "unemb."}
    expression = "datum.label"
    for name, brief in short.items():
        expression = f"datum.label == '{name}' ? '{brief}' : {expression}"
    return alt.X(
        "place:N",
        sort=[*front, *numbers, *back],
        title="block",
        axis=alt.Axis(
            values=[*front, *kept, *back], labelExpr=expression, labelAngle=0, grid=False
        ),
    )


def _tips() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("checkpoint:N", title="checkpoint"),
        alt.Tooltip("site:N", title="of"),
        alt.Tooltip("line:N", title="line"),
        alt.Tooltip("value:Q", title="value", format=".5~g"),
        alt.Tooltip("stderr:Q", title="standard error", format=".3~g"),
        alt.Tooltip("n:Q", title="n", format=","),
    ]


def _depth_layers(frame: pl.DataFrame) -> list[Any]:
    kinds = frame["kind"].unique(maintain_order=True).to_list()
    colour: dict[str, Any] = {}
    if len(kinds) > 1:
        legend = alt.Legend(orient="top", columns=6, symbolOpacity=1)
        scale = alt.Scale(domain=kinds)
        colour = {"color": alt.Color("kind:N", title=None, scale=scale, legend=legend)}
    return _layers(_depth_x(frame), colour, bars=True, joined=_numbered(frame))


def _layers(x: alt.X, colour: Mapping[str, Any], *, bars: bool, joined: bool = True) -> list[Any]:
    """Values with their errors; dashed the null, dotted the bound."""
    error = f"{STDERRS} * (isValid(datum.stderr) ? datum.stderr : 0)"

    def y(field: str = "value") -> alt.Y:
        scale = alt.Scale(zero=False)
        return alt.Y(
            f"{field}:Q", title="", scale=scale, axis=alt.Axis(tickCount=5, labelExpr=PLAIN)
        )

    def line(name: str) -> Any:
        return alt.Chart().transform_filter(f"datum.line == '{name}'")

    given = line("given").transform_calculate(
        lo=f"datum.value - {error}", hi=f"datum.value + {error}"
    )
    ends = given.mark_rule() if bars else given.mark_area(opacity=0.22)
    found = [ends.encode(x=x, y=y("lo"), y2=alt.Y2("hi:Q"), **colour)]
    for name, dash in (("null", [5, 3]), ("bound", [1.5, 3])):
        stroke: dict[str, Any] = {"strokeDash": dash, "strokeWidth": 1.3, "opacity": 0.8}
        if not colour:
            stroke["color"] = _GUIDE
        if joined:
            drawn = line(name).mark_line(**stroke)
            found.append(drawn.encode(x=x, y=y(), detail=alt.Detail("kind:N"), **colour))
        # A single place has no line.
        shape = "diamond" if name == "null" else "stroke"
        point: dict[str, Any] = {
            "size": 22,
            "shape": shape,
            "filled": name == "null",
            "opacity": 0.8,
        }
        if not colour:
            point["color"] = _GUIDE
        found.append(line(name).mark_point(**point).encode(x=x, y=y(), tooltip=_tips(), **colour))
    if joined:
        drawn = given.mark_line(strokeWidth=1.5)
        found.append(drawn.encode(x=x, y=y(), detail=alt.Detail("kind:N"), **colour))
    points = given.mark_point(filled=True, size=22, opacity=1)
    found.append(points.encode(x=x, y=y(), tooltip=_tips(), **colour))
    return found


def _course(
    subject: Subject, name: str, title: str, measures: Sequence[str], first: str, caption: str
) -> Chart:
    layers = _layers(training_x(subject.axis, most=5), {}, bars=False)
    row = 136 if subject.axis.kind == "ordinal" else 96  # slanting names take room
    of = "weights" if set(measures) <= set(WEIGHTS.values()) else "activations"
    return Chart(
        name,
        title,
        caption,
        spec_of(panels(subject, alt.layer(*layers), measures, row), *axis_params(subject.axis)),
        {"readings": Source(_VALUES, {"measure": measures, "of": [of]}, ("run", "site"))},
        (("", title), ("run", ""), ("site", first)),
        width=900,
        marks_per_row=2,
    )
