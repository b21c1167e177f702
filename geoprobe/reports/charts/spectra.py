"""Log-log spectra with their fits, to step through."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from geoprobe.reports.charts.common import (
    choices,
    common_pieces,
    fixed,
    run_colour,
    said,
    spec_of,
)
from geoprobe.reports.parts import Chart, Section, Source, choice, place_control
from geoprobe.reports.spectra import MOST_RANKS, Spectra
from geoprobe.reports.subject import Subject

_FLOOR = 1e-9
"""Shares below this are drawn at the edge: rounding, for most purposes."""
_FIT = "#D55E00"
_FIT_OF_SEVERAL = "#7a8087"


def spectra(subject: Subject, gathered: Spectra) -> Section | None:
    """Eigenvalues of one checkpoint and site, its fitted power law, and the other checkpoints."""
    if not gathered.table.height:
        return None
    context = subject.is_series and not subject.several
    by = ("site", "tokens", "sinks")
    only = {} if len(gathered.sites) > 1 else {"site": gathered.sites}
    sources = {"context": Source("spectra", only, by)} if context else {}
    sources["now"] = Source("spectra", only, ("place", *by))
    sources["fits"] = Source("fits", only, ("place", *by))
    site = subject.main_site if subject.main_site in gathered.sites else gathered.sites[0]
    pieces = common_pieces(subject)
    chart = Chart(
        "spectra",
        "Spectra and their fits",
        _caption(subject, gathered, context=context),
        spec_of(_layers(subject, gathered, context=context)),
        {name: fixed(subject, source) for name, source in sources.items()},
        (("place", gathered.places[-1].label), ("site", site), pieces["tokens"], pieces["sinks"]),
        width=900,
    )
    controls = [
        *place_control(gathered.places),
        *choice("site", "Site", gathered.sites, site),
        *choices(subject, "tokens", "sinks"),
    ]
    return Section("spectra", chart.title, [chart], controls)


def _layers(subject: Subject, gathered: Spectra, *, context: bool) -> Any:
    x, y = _axes(gathered)
    colour = run_colour(subject)
    run = [alt.Tooltip("run:N", title="run")] if subject.several else []
    tips = [
        *run,
        alt.Tooltip("checkpoint:N", title="checkpoint"),
        alt.Tooltip("rank:Q", title="rank"),
        alt.Tooltip("share:Q", title="share of variance", format=".4~g"),
    ]
    fit_tips = [
        *run,
        alt.Tooltip("checkpoint:N", title="checkpoint"),
        alt.Tooltip("alpha:Q", title="alpha", format=".4f"),
        alt.Tooltip("r2:Q", title="R²", format=".4f"),
        alt.Tooltip("first:Q", title="first fitted rank"),
        alt.Tooltip("last:Q", title="last fitted rank"),
        alt.Tooltip("convention:N", title="convention"),
    ]
    line: dict[str, Any] = {"color": _FIT_OF_SEVERAL if subject.several else _FIT}
    own: dict[str, Any] = {} if subject.several else line
    now, fits = alt.Chart(alt.NamedData("now")), alt.Chart(alt.NamedData("fits"))
    layers = [
        now.mark_line(strokeWidth=2).encode(x=x, y=y, **colour),
        now.mark_point(filled=True, size=16, opacity=1).encode(x=x, y=y, tooltip=tips, **colour),
        fits.mark_line(strokeDash=[5, 3], strokeWidth=2, **line).encode(
            x=x, y=y, detail=alt.Detail("run:N"), tooltip=fit_tips
        ),
        fits.mark_point(shape="diamond", filled=True, size=80, opacity=1, **own).encode(
            x=x, y=y, tooltip=fit_tips, **colour
        ),
    ]
    if context:
        others = alt.Chart(alt.NamedData("context")).mark_line(
            opacity=0.3, strokeWidth=1, color="#8a9199"
        )
        layers.insert(0, others.encode(x=x, y=y, detail=alt.Detail("index:N")))
    return alt.layer(*layers).properties(width="container", height=360)


def _axes(gathered: Spectra) -> tuple[alt.X, alt.Y]:
    """Both logarithmic, and the same for every checkpoint, so that stepping shows movement."""
    low, high = gathered.table["share"].min(), gathered.table["share"].max()
    bottom, top = max(float(str(low)), _FLOOR), min(1.0, float(str(high)) * 1.2)
    last = int(str(gathered.table["rank"].max()))
    decades = range(math.floor(math.log10(bottom)), 1)
    powers = [10.0**p for p in decades if bottom * 0.999 <= 10.0**p <= top]
    ranks = [m * 10**p for p in range(6) for m in (1, 2, 5) if m * 10**p <= last]
    x = alt.X(
        "rank:Q",
        title="rank r",
        scale=alt.Scale(type="log", domain=[1, last], nice=False),
        axis=alt.Axis(values=ranks, format="~s"),
    )
    y = alt.Y(
        "share:Q",
        title="share of variance, λᵣ / Σλ",
        scale=alt.Scale(type="log", domain=[bottom, top], clamp=True, nice=False),
        axis=alt.Axis(values=powers, format="~g"),
    )
    return x, y


def _caption(subject: Subject, gathered: Spectra, *, context: bool) -> str:
    text = (
        "Eigenvalues of the centred covariance over their sum, both axes logarithmic, at up to "
        f"{MOST_RANKS} ranks evenly spaced in ln r."
    )
    if gathered.fits.height:
        text += (
            " Dashed: the fit of alpha from the first to the last fitted rank (diamonds), "
            f"convention {gathered.fits['convention'][0]}."
        )
    elif subject.conventions("alpha"):
        text += f" No power law could be fitted ({said(subject, 'alpha')})."
    if context:
        text += " Grey: the other checkpoints."
    total = max(len(run.labels) for run in subject.runs.values())
    if len(gathered.places) < total:
        text += f" {len(gathered.places)} of {total} checkpoints are shown."
    if len(gathered.sites) < len(subject.sites):
        text += (
            f" {len(gathered.sites)} of {len(subject.sites)} sites are shown: "
            f"{', '.join(gathered.sites)}."
        )
    if float(str(gathered.table["share"].min())) < _FLOOR:
        text += f" Shares below {_FLOOR:g} are drawn at the edge."
    return text
