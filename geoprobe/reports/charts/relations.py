"""Relation-specific neurons: what breaks without them, what was known, and both over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import axis_params, panels, spec_of, training_x
from geoprobe.reports.charts.relation_marks import (
    BARS,
    BRIGHT,
    GUIDE,
    STEPS,
    Frames,
    cells,
    heading,
    height_of,
    in_order,
    lines,
    percent,
    shares,
    tables_of,
    tips_of,
)
from geoprobe.reports.charts.relation_neurons import relation_neurons
from geoprobe.reports.parts import Chart, Control, Section, Source, choice, place_control
from geoprobe.reports.relations import KNOWN, NET
from geoprobe.reports.relations_frames import COURSES, places
from geoprobe.reports.relations_tables import course_tables, relation_tables
from geoprobe.reports.subject import Subject
from geoprobe.reports.theme import RUN_COLOURS

_KNOWN, _MATRIX, _COURSE = "relations_known", "relations_matrix", "relations_course"
_CONVENTIONS = {KNOWN: "of the facts it knew", NET: "net of facts that become right"}


def relations(subject: Subject, frames: Frames) -> list[Section]:
    """The sections of relation-specific neurons; one run is shown at a time."""
    course = frames[_COURSE]
    if not course.height:
        return []
    runs = course["run"].unique(maintain_order=True).to_list()
    found = places(subject, runs)
    controls = [*choice("run", "Run", runs, runs[0]), *place_control(found)]
    newest = found[-1].label
    return [
        _broken(subject, frames, runs, controls, newest),
        relation_neurons(subject, frames, runs, controls, newest),
        _over_training(subject, frames, runs),
    ]


def _broken(
    subject: Subject,
    frames: Frames,
    runs: Sequence[str],
    controls: Sequence[Control],
    newest: str,
) -> Section:
    """Which facts break without which neurons, and what the model knew."""
    charts = []
    if frames[_MATRIX].height:
        charts.append(_matrix(frames[_MATRIX], newest))
    if frames[_KNOWN].height:
        charts.append(_known(frames[_KNOWN], newest))
    conventions = [c for c in _CONVENTIONS if (frames[_MATRIX]["convention"] == c).any()]
    shown = [
        *controls,
        *choice("convention", "Count", conventions, KNOWN, _CONVENTIONS),
    ]
    tables = tables_of(subject, runs, relation_tables)
    return Section("relations", "Relation-specific neurons", charts, shown, tables=tables)


def _matrix(frame: pl.DataFrame, newest: str) -> Chart:
    tips = tips_of(
        row="neurons off", column="facts of", value="drop", stderr="standard error", n="n"
    )
    axes = ("neurons off", "facts of")
    base, layers = cells("readings", frame, "break", axes, tips)
    own = base.transform_filter("datum.own == 1")
    layers.append(own.mark_rect(filled=False, stroke=BRIGHT, strokeWidth=1.6))
    random = frame["n"].is_null().any()
    net = (
        " Net of facts that become right a number may be below 0; it has the colour of 0."
        if (frame["convention"] == NET).any()
        else ""
    )
    return Chart(
        "relations-matrix",
        "Facts that break",
        "Some neurons of a model matter for facts of one relation (capitals, say) above all. A "
        "row's neurons are set to 0 at every token; the number is the per cent of a column's "
        "known facts, of subjects by which no neurons were found, that the model then gets wrong. "
        "Specific neurons break the facts of their own relation (framed) and few others."
        + (" Last row: as many random neurons, mean of the draws." if random else "")
        + net
        + " Colours end at the largest number of the newest checkpoint.",
        spec_of(alt.layer(*layers).properties(width="container", height=height_of(frame))),
        {"readings": Source(_MATRIX, {}, (*STEPS, "convention"))},
        heading("Facts that break, %", newest, ("convention", "")),
        width=900,
        marks_per_row=2,
    )


def _known(frame: pl.DataFrame, newest: str) -> Chart:
    names = in_order(frame)
    states = [s for s in ("measured", "left out") if (frame["state"] == s).any()]
    colour: dict[str, Any] = {}
    if len(states) > 1:
        colours = [RUN_COLOURS[0], GUIDE]
        scale = alt.Scale(domain=states, range=colours)
        legend = alt.Legend(orient="top")
        colour = {"color": alt.Color("state:N", title=None, scale=scale, legend=legend)}
    bars = (
        alt.Chart(alt.NamedData("readings"))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=alt.Y("relation:N", sort=names, title=None).axis(
                alt.Axis(labelLimit=190, ticks=False)
            ),
            x=alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), **percent("prompts answered")),
            tooltip=tips_of(
                relation="relation",
                state="its neurons",
                value="answered",
                stderr="standard error",
                n="prompts",
            ),
            **colour,
        )
        .properties(width="container", height=19 * len(names))
    )
    return Chart(
        "relations-known",
        "What the model knows",
        "Per cent of a relation's prompts that the model answers; only those can break."
        + (" Left out: too few of them to look for neurons." if len(states) > 1 else ""),
        spec_of(bars),
        {"readings": Source(_KNOWN, {}, STEPS)},
        heading("What the model knows", newest),
        width=900,
    )


def _over_training(subject: Subject, frames: Frames, runs: Sequence[str]) -> Section:
    """When facts become known, and when their neurons become what they are at the end."""
    frame = frames[_COURSE]
    title = "Facts and their neurons over training"
    if all(len(subject.runs[name].labels) < 2 for name in runs):
        return Section("relations-course", title, [])
    measures = [m for m in COURSES.values() if (frame["measure"] == m).any()]
    x = training_x(subject.axis, most=5)
    row = 136 if subject.axis.kind == "ordinal" else 96  # slanting names take room
    tips = tips_of(relation="relation", value="share", stderr="standard error", n="n")

    y = shares()
    given = alt.Chart().transform_filter("datum.line == 'given'")
    layers = lines(x, y, in_order(frame), given, tips)
    shared = ""
    if COURSES["shared"] in measures:
        chance = alt.Chart().transform_filter("datum.line == 'chance'")
        dashed = chance.mark_line(color=GUIDE, strokeDash=[4, 3])
        layers.append(dashed.encode(x=x, y=y("value"), detail=alt.Detail("relation:N")))
        shared = (
            " Shared: of the neurons that a relation has at the newest checkpoint, those that are "
            "its neurons already; dashed: by chance."
        )
    chart = Chart(
        "relations-course",
        title,
        "Prompts of each relation that the model answers; of those held out and known, the ones "
        f"that break with the relation's own neurons off.{shared} Bars: {BARS}. A line begins "
        "where there are facts enough.",
        spec_of(panels(subject, alt.layer(*layers), measures, row), *axis_params(subject.axis)),
        {"readings": Source(_COURSE, {}, ("run",))},
        (("", title), ("run", "")),
        width=900,
        marks_per_row=2,
    )
    tables = tables_of(subject, runs, course_tables)
    controls = choice("run", "Run", runs, runs[0])
    return Section("relations-course", title, [chart], controls, tables=tables)
