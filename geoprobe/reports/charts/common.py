"""What charts have in common: axes, colours, tooltips, error bands, captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from geoprobe.measures.registry import cards
from geoprobe.reports.parts import Control, Source, choice
from geoprobe.reports.subject import STDERRS, Axis, Subject
from geoprobe.reports.words import SINKS, TOKENS

READINGS = alt.NamedData("readings")
BAND = f"band: ± {STDERRS} standard errors (jackknife over 8 groups of sequences)"
BARS = f"bars: ± {STDERRS} standard errors (jackknife over 8 groups of sequences)"

_SHARES = ("top1_share", "isoscore", "matrix_entropy", "ablation_accuracy")
"""Measures without a unit that are no less than 0."""

PLAIN = "format(datum.value, '.6~g')"
"""Labels of an axis as they are: Vega rounds that of a lone value."""

_NAME_LETTERS = 13
"""Letters of a checkpoint's name on an axis; its tooltip has all."""

Where = dict[str, Sequence[str | int]]


def spec_of(chart: Any, *params: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as a specification, less data and theme."""
    # Whether it is valid does not depend on the data; the tests look, which takes long.
    with alt.theme.enable("none"):
        spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("config", None)
    if params:
        spec["params"] = [*spec.get("params", []), *params]
    return spec


def bounds(chart: Any) -> Any:
    """Adds `lo` and `hi`, the ends of the error band; null where there is no value.

    Dimensions and shares end at 0, unless a correction for bias took the value itself below.
    """
    error = f"{STDERRS} * (isValid(datum.stderr) ? datum.stderr : 0)"
    positive = [m for m, card in cards().items() if card.unit == "dimensions" or m in _SHARES]
    below = f"datum.value - {error}"
    clipped = f"max({below}, min(datum.value, 0))"
    is_positive = f"indexof({json.dumps(positive)}, datum.measure) >= 0"
    return chart.transform_calculate(
        lo=f"isValid(datum.value) ? ({is_positive} ? {clipped} : {below}) : null",
        hi=f"isValid(datum.value) ? datum.value + {error} : null",
    )


def value_y(title: str, field: str = "value") -> alt.Y:
    """The axis of values: not from zero, because a fall from 80 to 60 is what to see."""
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))


def training_x(axis: Axis, field: str = "x", most: int = 12) -> alt.X:
    """The axis of training, with at most so many labels where they are names."""
    if axis.kind == "ordinal":
        places = [float(i) for i in range(len(axis.names))]
        return alt.X(
            f"{field}:Q",
            title=axis.title,
            scale=alt.Scale(zero=False, nice=False),
            axis=alt.Axis(
                values=places[:: max(1, -(-len(places) // most))],
                labelExpr="names[datum.value]",
                labelAngle=-30,
                labelLimit=110,
                grid=False,
            ),
        )
    scale = (
        alt.Scale(type="symlog", constant=axis.constant, nice=False, zero=False)
        if axis.kind == "symlog"
        else alt.Scale(type="log", nice=False)
    )
    return alt.X(
        f"{field}:Q",
        title=axis.title,
        scale=scale,
        axis=alt.Axis(
            values=list(axis.ticks),
            labelExpr="replace(format(datum.value, '~s'), 'G', 'B')",
            labelOverlap="greedy",
            grid=False,
        ),
    )


def axis_params(axis: Axis) -> list[dict[str, Any]]:
    """Names of the places on an ordinal axis, for its label expression."""
    if axis.kind != "ordinal":
        return []
    return [{"name": "names", "value": [shortened(name) for name in axis.names]}]


def shortened(name: str) -> str:
    """A checkpoint's name fit for an axis: its beginning and its end, which tell it from others."""
    if len(name) <= _NAME_LETTERS:
        return name
    half = _NAME_LETTERS // 2
    return f"{name[:half]}…{name[-half:]}"


def shortened_label() -> str:
    """The same as a label expression, where the names are the data's own."""
    half = _NAME_LETTERS // 2
    return (
        f"length(datum.label) <= {_NAME_LETTERS} ? datum.label : "
        f"slice(datum.label, 0, {half}) + '…' + slice(datum.label, -{half})"
    )


def is_path(sites: Sequence[str]) -> bool:
    """Whether sites follow one another in a model, so that a line may join them."""
    return all(s in ("embed", "final", "penultimate") or s.startswith("block.") for s in sites)


def site_x(sites: Sequence[str], most: int) -> alt.X:
    """Sites in execution order, blocks by their number, at most so many labelled."""
    path = is_path(sites)
    labelled = _labelled(sites, most) if path else list(sites)
    return alt.X(
        "site:N",
        sort=list(sites),
        title="site (blocks by number)" if path else "site",
        axis=alt.Axis(
            labelExpr="replace(datum.label, 'block.', '')",
            values=labelled,
            labelAngle=0 if path else -30,
            labelLimit=110,
            grid=False,
        ),
    )


def _labelled(sites: Sequence[str], most: int) -> list[str]:
    """The first and the last site, and blocks at even distances between them."""
    if len(sites) <= most + 1:
        return list(sites)
    stride = next(s for s in (2, 5, 10, 20, 50, 100, len(sites)) if len(sites) / s <= most - 1)
    last = len(sites) - 1
    return [
        site
        for place, site in enumerate(sites)
        if place in (0, last)
        or (
            site.startswith("block.")
            and int(site.removeprefix("block.")) % stride == 0
            and stride / 2 <= place <= last - stride / 2
        )
    ]


def run_colour(subject: Subject) -> dict[str, Any]:
    """Colour by run, where there are several."""
    if not subject.several:
        return {}
    return {
        "color": alt.Color(
            "run:N",
            title=None,
            sort=list(subject.runs),
            scale=alt.Scale(domain=list(subject.runs)),
            legend=alt.Legend(orient="top", labelLimit=200, columns=2, symbolOpacity=1),
        )
    }


def run_facet(subject: Subject) -> alt.Facet:
    """One panel a run, in the order given."""
    return alt.Facet(
        "run:N", title=None, sort=list(subject.runs), header=alt.Header(labelLimit=260)
    )


def tooltip(subject: Subject, *more: alt.Tooltip) -> list[alt.Tooltip]:
    """What a reading is, for its tooltip."""
    tips = [alt.Tooltip("run:N", title="run")] if subject.several else []
    return [
        *tips,
        alt.Tooltip("checkpoint:N", title="checkpoint"),
        alt.Tooltip("site:N", title="site"),
        *more,
        alt.Tooltip("value:Q", title="value", format=".5~g"),
        alt.Tooltip("stderr:Q", title="standard error", format=".3~g"),
        alt.Tooltip("n:Q", title="n", format=","),
        alt.Tooltip("convention:N", title="convention"),
    ]


def panels(subject: Subject, layered: Any, measures: Sequence[str], row: int = 96) -> Any:
    """One small panel a measure, each with its own scale, `row` pixels between rows."""
    layered.width, layered.height = 250, 140
    return layered.facet(
        facet=alt.Facet(
            "title:N",
            title=None,
            sort=[subject.panel_title(m) for m in measures],
            header=alt.Header(labelLimit=280, labelAnchor="start", labelAlign="left"),
        ),
        columns=3,
        data=READINGS,
        bounds="flush",
        spacing={"row": row, "column": 58},
        resolve=alt.Resolve(
            scale=alt.ScaleResolveMap(y="independent"), axis=alt.AxisResolveMap(x="independent")
        ),
    )


def common_pieces(subject: Subject) -> dict[str, tuple[str, str]]:
    """Pieces of chart headings: the control, and what to say where there is none."""
    return {
        "site": ("site", subject.main_site),
        "tokens": ("tokens", TOKENS.get(subject.main_tokens, subject.main_tokens)),
        "sinks": ("sinks", "" if len(subject.sinks) < 2 else SINKS[subject.main_sinks]),
    }


def choices(subject: Subject, *names: str) -> list[Control]:
    """The usual controls, where there is something to choose."""
    found: list[Control] = []
    if "measure" in names:
        titles = {m: subject.title(m) for m in subject.measures}
        found += choice("measure", "Measure", subject.measures, "rankme", titles)
    if "site" in names:
        found += choice("site", "Site", subject.sites, subject.main_site)
    if "tokens" in names:
        found += choice("tokens", "Tokens", subject.tokens, subject.main_tokens, TOKENS)
    if "sinks" in names:
        found += choice("sinks", "Sinks", subject.sinks, subject.main_sinks, SINKS)
    return found


def convention_choice(subject: Subject, *measures: str) -> list[Control]:
    """A control for the convention, where there are several."""
    names = conventions_of(subject, *measures)
    return choice("convention", "Convention", names, names[0] if names else "")


def conventions_of(subject: Subject, *measures: str) -> list[str]:
    """Conventions of any of the measures."""
    return list(dict.fromkeys(c for m in measures for c in subject.conventions(m)))


def said(subject: Subject, *measures: str) -> str:
    """Conventions in words, for captions."""
    names = conventions_of(subject, *measures)
    return f"convention{'s' * (len(names) > 1)} {', '.join(names)}"


def fixed(subject: Subject, source: Source) -> Source:
    """Fixes what a source would filter by, wherever there is nothing to choose."""
    where = dict(source.where)
    for name, values in (
        ("site", subject.sites),
        ("tokens", subject.tokens),
        ("sinks", subject.sinks),
        ("measure", subject.measures),
    ):
        if name in source.controls and name not in where and len(values) == 1:
            where[name] = values
    return Source(source.table, where, source.controls)
