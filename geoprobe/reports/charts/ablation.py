"""Next-token loss and accuracy with leading directions removed, or alone kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import (
    READINGS,
    Where,
    axis_params,
    bounds,
    run_facet,
    spec_of,
    tooltip,
    training_x,
    value_y,
)
from geoprobe.reports.parts import MEASURE, Chart, Section, Source, choice
from geoprobe.reports.subject import STDERRS, Subject

_UNTOUCHED = "#7a8087"
_REMOVED = ("#7FB8E0", "#0072B2", "#00517E")
_KEPT = ("#F0A870", "#D55E00", "#9A4400")


def ablation(subject: Subject) -> Section | None:
    """The study of direction ablation, where it was made."""
    found = subject.readings.filter(pl.col("measure").str.starts_with("ablation_"))
    if not found.height:
        return None
    measures = found["measure"].unique(maintain_order=True).to_list()
    titles = {m: subject.title(m) for m in measures}
    where: Where = {"measure": measures}
    chart = Chart(
        "ablation",
        "Direction ablation",
        f"Next-token prediction with the k leading directions of {found['site'][0]} removed, or "
        f"alone kept, over all tokens; ± {STDERRS} standard errors (jackknife over 8 groups of "
        "sequences).",
        spec_of(_layers(subject, variants(found)), *axis_params(subject.axis)),
        {"readings": Source("readings", where, ("measure",))},
        (("measure", titles[measures[0]]),),
        width=900,
        marks_per_row=2,
    )
    controls = choice("measure", "Measure", measures, measures[0], titles)
    return Section("ablation", chart.title, [chart], controls)


def variants(found: pl.DataFrame) -> list[str]:
    """Names of the edited models: untouched, removed by k, kept by k."""
    pairs = {(str(r["mode"]), r["k"]) for r in found.select("mode", "k").to_dicts()}
    order = {"none": 0, "removed": 1, "kept": 2}
    ranked = sorted(pairs, key=lambda pair: (order.get(pair[0], 3), float(pair[1] or 0)))
    return ["untouched" if mode == "none" else f"{mode} {k}" for mode, k in ranked]


def _layers(subject: Subject, names: Sequence[str]) -> Any:
    chart: Any = alt.Chart() if subject.several else alt.Chart(READINGS)
    base = bounds(
        chart.transform_calculate(
            variant="datum.mode == 'none' ? 'untouched' : datum.mode + ' ' + datum.k"
        )
    )
    colour = alt.Color(
        "variant:N",
        title="directions",
        sort=list(names),
        scale=alt.Scale(domain=list(names), range=_colours(names)),
        legend=alt.Legend(symbolOpacity=1) if subject.is_series else None,
    )
    if subject.is_series:
        x: Any = training_x(subject.axis)
        parts = [
            base.mark_area(opacity=0.2).encode(
                x=x, y=value_y(MEASURE, "lo"), y2=alt.Y2("hi:Q"), color=colour
            ),
            base.mark_line(strokeWidth=2).encode(x=x, y=value_y(MEASURE), color=colour),
        ]
    else:
        x = alt.X("variant:N", sort=list(names), title="directions", axis=alt.Axis(labelAngle=0))
        parts = [
            base.mark_rule().encode(x=x, y=value_y(MEASURE, "lo"), y2=alt.Y2("hi:Q"), color=colour)
        ]
    tips = tooltip(subject, alt.Tooltip("variant:N", title="directions"))
    parts.append(
        base.mark_point(filled=True, size=40, opacity=1).encode(
            x=x, y=value_y(MEASURE), color=colour, tooltip=tips
        )
    )
    layered = alt.layer(*parts)
    if subject.several:
        return layered.properties(width=320, height=220).facet(
            facet=run_facet(subject), columns=2, data=READINGS
        )
    return layered.properties(width="container", height=260)


def _colours(names: Sequence[str]) -> list[str]:
    """Grey for the untouched model, blues for removed, oranges for kept: darker with k."""
    found, seen = [], {"removed": 0, "kept": 0}
    for name in names:
        mode = name.split(" ")[0]
        if mode not in seen:
            found.append(_UNTOUCHED)
            continue
        shades = _REMOVED if mode == "removed" else _KEPT
        found.append(shades[min(seen[mode], len(shades) - 1)])
        seen[mode] += 1
    return found
