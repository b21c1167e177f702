"""Effective features: over the sites, over training, and what the number rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import (
    PLAIN,
    axis_params,
    is_path,
    panels,
    site_x,
    spec_of,
    training_x,
)
from geoprobe.reports.features import (
    CONVENTIONS,
    LINES,
    POOR,
    QUALITY,
    features_tables,
)
from geoprobe.reports.features_frames import TRAINING
from geoprobe.reports.parts import Chart, Section, Source, choice, place_control
from geoprobe.reports.subject import STDERRS, Subject
from geoprobe.reports.words import SINKS

Frames = Mapping[str, pl.DataFrame]

_VALUES, _CURVE, _TRAINING = "features_values", "features_curve", "features_training"
_MANY_SITES = 7
"""Of more sites colour tells the depth, not which one it is."""
_DASHES: dict[str, Any] = {"this model": [1, 0], "random model": [6, 3], "Gaussian data": [1.5, 3]}
_NULLS = {
    "random model": "Random model: the same on a randomly initialised one.",
    "Gaussian data": "Gaussian data: the same on rows drawn with the site's covariance.",
}
_ENDS = f"± {STDERRS} standard errors, of the text and, where there are several, of the seeds"


def features(subject: Subject, frames: Frames) -> list[Section]:
    """The sections of effective features; one autoencoder of one run is shown at a time."""
    frame = frames[_VALUES]
    if not frame.height:
        return []
    runs = frame["run"].unique(maintain_order=True).to_list()
    is_psi = pl.col("measure") == "psi"
    found = [
        build(subject, here, runs)
        for build, here in ((_ratio, frame.filter(is_psi)), (_quality, frame.filter(~is_psi)))
        if here.height
    ]
    samples = _samples(subject, frames)
    return [*found, samples] if samples.charts else found


def _shown(frame: pl.DataFrame) -> list[str]:
    names: list[str] = frame["shown"].unique(maintain_order=True).to_list()
    return names


def _autoencoders(subject: Subject, frame: pl.DataFrame, initial: str = "") -> list[Any]:
    """A control over runs and their autoencoders."""
    names = _shown(frame)
    is_run = subject.several and set(names) <= set(subject.runs)
    return choice("shown", "Run" if is_run else "Autoencoder", names, initial or names[0])


def _sites(subject: Subject, frame: pl.DataFrame) -> list[str]:
    there = set(frame["site"])
    return [s for s in subject.of_runs(set(frame["run"])).every_site if s in there]


def _site_x(subject: Subject, frame: pl.DataFrame, most: int) -> alt.X:
    """Sites in order; where runs differ in theirs, as many are labelled as there is room for."""
    sites = _sites(subject, frame)
    x = site_x(sites, most)
    if len({frozenset(part["site"]) for _, part in frame.group_by("run")}) > 1:
        x = x.axis(
            labelExpr="replace(datum.label, 'block.', '')",
            labelOverlap="greedy",
            labelAngle=0 if is_path(sites) else -30,
            labelLimit=110,
            grid=False,
        )
    return x


def _has(frame: pl.DataFrame, line: str) -> bool:
    return bool((frame["line"] == line).any())


def _lines_of(frame: pl.DataFrame) -> list[str]:
    return [line for line in LINES.values() if _has(frame, line)]


def _poor_words(frame: pl.DataFrame) -> str:
    if not (frame["poor"] > 0).any():
        return ""
    return f" Hollow: explained variance under {POOR:g}; such a value means little."


def _tips(*more: alt.Tooltip) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("line:N", title="activations of"),
        alt.Tooltip("checkpoint:N", title="checkpoint"),
        alt.Tooltip("site:N", title="site"),
        alt.Tooltip("sae:N", title="autoencoder"),
        *more,
        alt.Tooltip("value:Q", title="value", format=".5~g"),
        alt.Tooltip("stderr:Q", title="standard error", format=".3~g"),
        alt.Tooltip("n:Q", title="n", format=","),
        alt.Tooltip("convention:N", title="convention"),
    ]


def _layers(
    base: Any, x: alt.X, title: str, lines: Sequence[str], *, bars: bool, joined: bool
) -> list[Any]:
    """Values with their errors, and those of the nulls; hollow where they mean little."""
    error = f"{STDERRS} * (isValid(datum.stderr) ? datum.stderr : 0)"
    base = base.transform_calculate(lo=f"datum.value - {error}", hi=f"datum.value + {error}")

    def y(field: str = "value") -> alt.Y:
        axis = alt.Axis(tickCount=5, labelExpr=PLAIN)
        return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=axis)

    legend = alt.Legend(orient="top", symbolOpacity=1, symbolStrokeWidth=2, symbolType="stroke")
    colour = alt.Color("line:N", title=None, scale=alt.Scale(domain=list(lines)), legend=legend)
    dashes = alt.Scale(domain=list(lines), range=[_DASHES[line] for line in lines])
    dash = alt.StrokeDash("line:N", title=None, scale=dashes, legend=legend)
    given = base.transform_filter(f"datum.line == '{LINES['given']}'")
    ends = given.mark_rule() if bars else given.mark_area(opacity=0.22)
    found = [ends.encode(x=x, y=y("lo"), y2=alt.Y2("hi:Q"), color=colour)]
    if joined:
        line = base.mark_line(strokeWidth=1.5)
        found.append(line.encode(x=x, y=y(), color=colour, strokeDash=dash))
    for poor in (0, 1):
        some = base.transform_filter(f"datum.poor == {poor}")
        points = (
            some.mark_point(filled=False, size=40, opacity=1)
            if poor
            else some.mark_point(filled=True, size=26, opacity=1)
        )
        found.append(points.encode(x=x, y=y(), color=colour, tooltip=_tips()))
    return found


def _ratio(subject: Subject, psi: pl.DataFrame, runs: Sequence[str]) -> Section:
    """Features a dimension: by site, and over training at one site."""
    sites, lines = _sites(subject, psi), _lines_of(psi)
    last = "final" if "final" in sites else sites[-1]
    which = psi["sinks"].unique(maintain_order=True).to_list()
    places = subject.of_runs(runs).places()
    title = subject.title("psi")
    nulls = "".join(f" {said}" for line, said in _NULLS.items() if line in lines)
    nulls += (
        " A value that is not apart from its nulls says nothing of what was learned."
        if nulls
        else " No null was measured."
    )
    where = {"measure": ["psi"]}
    if len(which) > 1 and "Gaussian data" in lines:
        nulls += " The Gaussian has the covariance of the tokens that are no sinks."
    charts = [
        Chart(
            "features-depth",
            "psi by site",
            "Effective features per dimension of each site: above 1 there are more features than "
            f"dimensions.{nulls} Bars: {_ENDS}.{_poor_words(psi)}",
            spec_of(
                alt.layer(
                    *_layers(
                        alt.Chart(alt.NamedData("readings")),
                        _site_x(subject, psi, 9),
                        title,
                        lines,
                        bars=True,
                        joined=is_path(sites),
                    )
                ).properties(width="container", height=250)
            ),
            {"readings": Source(_VALUES, where, ("shown", "sinks", "convention", "place"))},
            _heading("psi by site", psi, ("place", places[-1].label)),
            marks_per_row=2,
        )
    ]
    if any(len(subject.runs[name].labels) > 1 for name in runs):
        layers = _layers(
            alt.Chart(alt.NamedData("readings")),
            training_x(subject.axis),
            title,
            lines,
            bars=False,
            joined=True,
        )
        charts.append(
            Chart(
                "features-course",
                "psi over training",
                f"The same at one site over training. Band: {_ENDS}."
                + (" The random model is one for all." if "random model" in lines else ""),
                spec_of(
                    alt.layer(*layers).properties(width="container", height=250),
                    *axis_params(subject.axis),
                ),
                {"readings": Source(_VALUES, where, ("shown", "sinks", "convention", "site"))},
                _heading("psi over training", psi, ("site", last)),
                marks_per_row=2,
            )
        )
    controls = [
        *_autoencoders(subject, psi),
        *(choice("site", "Site over training", sites, last) if len(charts) > 1 else []),
        *choice("sinks", "Sinks", which, which[0], SINKS),
        *choice("convention", "Convention", CONVENTIONS, CONVENTIONS[0]),
        *place_control(places),
    ]
    return Section("features", "Effective features per dimension", charts, controls, pair=True)


def _heading(
    title: str, frame: pl.DataFrame, *more: tuple[str, str]
) -> tuple[tuple[str, str], ...]:
    which = frame["sinks"].unique(maintain_order=True).to_list()
    said = SINKS[which[0]] if len(which) > 1 else ""
    return (("", title), ("shown", _shown(frame)[0]), *more, ("sinks", said))


def _quality(subject: Subject, shown: pl.DataFrame, runs: Sequence[str]) -> Section:
    """F with what must stand beside it, by site, and the table of the newest checkpoint."""
    there = set(shown["measure"])
    measures = [m for m in QUALITY.values() if m in there]
    sites, lines = _sites(subject, shown), _lines_of(shown)
    which = shown["sinks"].unique(maintain_order=True).to_list()
    places = subject.of_runs(runs).places()
    layers = _layers(
        alt.Chart(), _site_x(subject, shown, 7), "", lines, bars=True, joined=is_path(sites)
    )
    nulls = " Beside it the nulls, as above." if len(lines) > 1 else ""
    recovered = (
        " Loss recovered: how much of the next-token loss that replacing a site by its mean costs "
        "(or by zeros, which is easier to beat) the reconstruction avoids; 1 is all."
        if any(m.startswith("Loss") for m in measures)
        else ""
    )
    chart = Chart(
        "features-quality",
        "Quality beside F",
        "A bad autoencoder gives an F, too. Look for an explained variance near 1, few dead "
        f"features, and a saturation of 0.98 or more.{recovered}{nulls} Bars: {_ENDS}."
        f"{_poor_words(shown)} Each panel has its own scale.",
        spec_of(panels(subject, alt.layer(*layers), measures, 96 if is_path(sites) else 136)),
        {
            "readings": Source(
                _VALUES,
                {"measure": measures, "convention": ["codes", "exact"]},
                ("shown", "sinks", "place"),
            )
        },
        _heading("Quality beside F", shown, ("place", places[-1].label)),
        width=900,
        marks_per_row=2,
    )
    tables = [
        replace(table, title=f"{name}: {table.title}" if subject.several else table.title)
        for name in runs
        for table in features_tables(subject.runs[name])
    ]
    controls = [
        *_autoencoders(subject, shown),
        *choice("sinks", "Sinks", which, which[0], SINKS),
        *place_control(places),
    ]
    title = "How good the autoencoders are"
    return Section("features-quality", title, [chart], controls, tables=tables)


def _site_colour(sites: Sequence[str]) -> alt.Color:
    if len(sites) > _MANY_SITES:
        return alt.Color(
            "order:Q",
            title=["site,", "by depth"],
            scale=alt.Scale(scheme="viridis"),
            legend=alt.Legend(gradientLength=120, tickCount=4, format="d"),
        )
    return alt.Color(
        "site:N",
        title=None,
        scale=alt.Scale(domain=list(sites)),
        legend=alt.Legend(orient="top", labelLimit=160, columns=7, symbolOpacity=1),
    )


def _samples_x(title: str) -> alt.X:
    return alt.X(
        "samples:Q",
        title=title,
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(grid=False, tickCount=5, format="~s", labelOverlap="greedy"),
    )


def _samples(subject: Subject, frames: Frames) -> Section:
    """F by the number of samples, and the course of each autoencoder's training."""
    curve, training = frames[_CURVE], frames[_TRAINING]
    whole = pl.concat([f.select("shown", "checkpoint", "run") for f in (curve, training)])
    charts = []
    if curve.height:
        charts.append(_curve(subject, curve))
    if training.height:
        charts.append(_training(subject, training))
    controls = _autoencoders(subject, whole) if charts else []
    return Section("features-samples", "Enough samples?", charts, controls)


def _newest(frame: pl.DataFrame, subject: Subject, title: str) -> tuple[tuple[str, str], ...]:
    checkpoint = "newest checkpoint" if subject.several else frame["checkpoint"][0]
    return (("", title), ("shown", _shown(frame)[0]), ("", checkpoint))


def _curve(subject: Subject, frame: pl.DataFrame) -> Chart:
    base = alt.Chart(alt.NamedData("curve")).encode(
        x=_samples_x("samples (tokens; log scale)"),
        y=alt.Y("value:Q", title=subject.title("effective_features"), axis=alt.Axis(tickCount=6)),
        color=_site_colour(_sites(subject, frame)),
        detail=alt.Detail("site:N"),
        tooltip=[
            alt.Tooltip("site:N", title="site"),
            alt.Tooltip("sae:N", title="autoencoder"),
            alt.Tooltip("samples:Q", title="samples", format=","),
            alt.Tooltip("value:Q", title="F", format=".5~g"),
        ],
    )
    return Chart(
        "features-curve",
        "F by the number of samples",
        "F on the first so many samples of the text in a random order, without sinks where they "
        "can be told, of the newest checkpoint. Saturated: the line is flat at its right end, F on "
        "half of the text being 98 % or more of F on all of it. Where it still rises F is a lower "
        "bound, and differs between texts of different size.",
        spec_of(
            alt.layer(
                base.mark_line(strokeWidth=1.5),
                base.mark_point(filled=True, size=26, opacity=1),
            ).properties(width="container", height=260)
        ),
        {"curve": Source(_CURVE, {}, ("shown",))},
        _newest(frame, subject, "F by the number of samples"),
        width=900,
        marks_per_row=2,
    )


def _training(subject: Subject, frame: pl.DataFrame) -> Chart:
    there = set(frame["measure"])
    measures = [title for title in TRAINING.values() if title in there]
    x = alt.X(
        "samples:Q",
        title="samples seen",
        axis=alt.Axis(grid=False, tickCount=4, format="~s", labelOverlap="greedy"),
    )
    base = alt.Chart().encode(
        x=x,
        y=alt.Y(
            "value:Q",
            title="",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(tickCount=5, labelExpr=PLAIN),
        ),
        color=_site_colour(_sites(subject, frame)),
        detail=["site:N", "seed:N"],
        tooltip=[
            alt.Tooltip("site:N", title="site"),
            alt.Tooltip("seed:N", title="seed"),
            alt.Tooltip("samples:Q", title="samples seen", format=","),
            alt.Tooltip("value:Q", title="value", format=".5~g"),
        ],
    )
    layers = [
        base.mark_line(strokeWidth=1.2),
        base.mark_point(filled=True, size=14, opacity=1),
        base.transform_filter("datum.kept == 1").mark_point(size=60, filled=False, opacity=1),
    ]
    chart = panels(subject, alt.layer(*layers), measures).resolve_axis(x="independent")
    spec = spec_of(chart)
    spec["data"] = {"name": "training"}
    return Chart(
        "features-training",
        "Training of the autoencoders",
        "One line a seed, on held-out text of the newest checkpoint. A loss that still falls at "
        "its end asks for more samples (--train-samples). The ring is where the weights that are "
        "kept come from.",
        spec,
        {"training": Source(_TRAINING, {}, ("shown",))},
        _newest(frame, subject, "Training of the autoencoders"),
        width=900,
        marks_per_row=2,
    )
