"""The HTML report: one file that needs nothing else, and the charts as images."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geoprobe.errors import UsageError
from geoprobe.reports import embed, theme, words
from geoprobe.reports.charts import of_spectra, sections
from geoprobe.reports.check_frames import check_frames, check_lines
from geoprobe.reports.collapse_frames import collapse_frames
from geoprobe.reports.features_frames import features_frames
from geoprobe.reports.painter import Drawing, Painter, painter
from geoprobe.reports.parts import Chart, Filled, Section, Tables, filled
from geoprobe.reports.relations_frames import relations_frames
from geoprobe.reports.sinks import sink_frames
from geoprobe.reports.spectra import gather
from geoprobe.reports.subject import Subject
from geoprobe.reports.superposition_frames import superposition_frames
from geoprobe.reports.tables import Page, page
from geoprobe.reports.thinning import fewer_steps, kept_readings
from geoprobe.runs.files import write_whole

if TYPE_CHECKING:
    import polars as pl

    from geoprobe.checks.verdict import Verdict
    from geoprobe.runs.folder import Run


def write_report(runs: Sequence[Run], path: Path | str, *, verdict: Verdict | None = None) -> Path:
    """Writes one self-contained HTML report of one run or several, laid side by side.

    Args:
        runs: The runs.
        path: The file; replaced if it is there.
        verdict: What a check of the first run found, for a section of its own.

    Returns:
        The file.

    Raises:
        UsageError: There is no run, or the file cannot be written.
    """
    if not runs:
        raise UsageError("A report needs at least one run.")
    file = Path(path)
    with _uncollected():
        text = render(Subject.of(runs), verdict)
    write_whole(file, text.encode("utf-8", "replace"), parents=True)
    return file


def write_charts(runs: Sequence[Run], directory: Path | str, image: str = "png") -> list[Path]:
    """Writes each chart of the report as an image.

    Args:
        runs: The runs.
        directory: The folder; made if it is not there.
        image: `png` or `svg`.

    Returns:
        The files, in the order of the report.

    Raises:
        UsageError: There is no run, no such kind of image, or a file cannot be written.
    """
    if not runs:
        raise UsageError("Charts need at least one run.")
    if image not in ("png", "svg"):
        raise UsageError(f"Charts are written as png or svg, not {image!r}.")
    folder = Path(directory)
    subject = Subject.of(runs)
    with _uncollected():
        parts, tables = _parts(subject)
    written = []
    for section in parts:
        for chart in section.charts:
            spec = filled(chart, section, tables, subject).spec
            content = (
                theme.png(spec, chart.width)
                if image == "png"
                else theme.svg(spec, chart.width).encode()
            )
            file = folder / f"{chart.name}.{image}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            except OSError as error:
                raise UsageError(f"{file} cannot be written ({error}).") from error
            written.append(file)
    return written


def render(subject: Subject, verdict: Verdict | None = None) -> str:
    """The report of a subject as HTML text."""
    with painter(sum(run.size for run in subject.runs.values())) as drawing:
        return _rendered(subject, verdict, drawing)


def _rendered(subject: Subject, verdict: Verdict | None, drawing: Painter) -> str:
    kept, spectral = kept_readings(subject.readings, subject.keys), _spectral(subject)
    spectral = spectral._replace(tables={**spectral.tables, "readings": kept.table})
    # What can be drawn is begun; which checkpoints one can step to changes nothing of it.
    begun = _filled([*spectral.leading, *spectral.others], spectral.tables, subject)
    drawing.begin(_drawings(begun))
    parts, tables = fewer_steps(*_parts(subject, verdict, spectral))
    shown = _filled(parts, tables, subject)
    drawing.begin(_drawings(shown))
    blob = embed.Blob()
    data = embed.packed(
        {
            "tables": {
                name: embed.readings_columns(frame, blob)
                if name == "readings"
                else embed.chart_columns(frame, blob, kept.table.height)
                for name, frame in tables.items()
            },
            "titles": subject.panel_titles,
            "sections": [_described(section) for section in parts],
            "themes": {"light": theme.config(theme.LIGHT), "dark": theme.config(theme.DARK)},
        },
        blob,
    )
    described, script = page(subject), _asset("report.js")
    drawn, bundle = drawing.finish()
    text: str = (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=described,
            check=None if verdict is None else check_lines(verdict),
            readings=kept.table.height,
            left_out=kept.said,
            # Phases stand under the first section about training.
            phases_under=next((p.name for p in parts if p.name != "check"), ""),
            sections=[
                {
                    "part": section,
                    "charts": [
                        {"part": c, "shown": f, "picture": drawn[c.name]} for c, f in charts
                    ],
                }
                for section, charts in shown
            ],
            style=_asset("report.css"),
            bundle=embed.packed_text(bundle),
            script=script,
            data=data,
            policy=_policy(bundle, script),
        )
    )
    return text


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without a search for cycles.

    A long run is millions of objects, all of which stay; to go through them again and again would
    take longer than to read them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Spectral(NamedTuple):
    """Sections of the leading measures and of all others, and the tables behind both."""

    leading: list[Section]
    others: list[Section]
    tables: Tables


def _spectral(subject: Subject) -> _Spectral:
    spectra = gather(subject.ranked)
    tables: dict[str, pl.DataFrame] = {
        "readings": subject.readings,
        "spectra": spectra.table,
        "fits": spectra.fits,
        "phases": _phase_table(subject),
    }
    return _Spectral(*of_spectra(subject, spectra), tables)


def _parts(
    subject: Subject, verdict: Verdict | None = None, spectral: _Spectral | None = None
) -> tuple[list[Section], Tables]:
    """All sections and the tables behind them."""
    spectral = spectral or _spectral(subject)
    frames = sink_frames(subject) | collapse_frames(subject)
    frames |= features_frames(subject) | superposition_frames(subject)
    frames |= relations_frames(subject) | check_frames(subject, verdict)
    shown = sections(subject, (spectral.leading, spectral.others), frames, verdict)
    used = {
        source.table for part in shown for chart in part.charts for source in chart.sources.values()
    }
    return shown, {**spectral.tables, **{name: f for name, f in frames.items() if name in used}}


def _filled(
    parts: Sequence[Section], tables: Tables, subject: Subject
) -> list[tuple[Section, list[tuple[Chart, Filled]]]]:
    return [(part, [(c, filled(c, part, tables, subject)) for c in part.charts]) for part in parts]


def _drawings(shown: Sequence[tuple[Section, list[tuple[Chart, Filled]]]]) -> dict[str, Drawing]:
    return {c.name: Drawing(f.spec, f.marks, c.width) for _, charts in shown for c, f in charts}


def _phase_table(subject: Subject) -> pl.DataFrame:
    import polars as pl

    schema = {
        **dict.fromkeys(("run", "name", "start", "end", "site", "tokens"), pl.String),
        **dict.fromkeys(("x0", "x1", "change", "stderr", "z"), pl.Float64),
    }
    rows = [{name: phase.get(name) for name in schema} for phase in subject.phases]
    return pl.DataFrame(rows, schema=schema, strict=False)


def _described(section: Section) -> dict[str, Any]:
    """A section as the page's script reads it."""
    return {
        "name": section.name,
        "controls": [
            {
                "name": control.name,
                "initial": control.position,
                "options": [
                    {"value": o.value, "label": o.label, "at": None if o.at is None else dict(o.at)}
                    for o in control.options
                ],
            }
            for control in section.controls
        ],
        "charts": [
            {
                "name": chart.name,
                "spec": chart.spec,
                "heading": [list(piece) for piece in chart.heading],
                "sources": {
                    name: {
                        "table": source.table,
                        "where": {k: list(v) for k, v in source.where.items()},
                        "controls": list(source.controls),
                    }
                    for name, source in chart.sources.items()
                },
            }
            for chart in section.charts
        ],
    }


def _policy(*scripts: str) -> str:
    """No network at all, and no script but the report's own."""
    hashes = " ".join(embed.script_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src 'none'; connect-src 'none'; base-uri 'none'; "
        "form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    text = (Path(__file__).parent / "templates" / name).read_text("utf-8")
    return text.replace("\r\n", "\n")


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("geoprobe.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["anchor"] = lambda text: re.sub(r"[^A-Za-z0-9_-]", "-", str(text))
    environment.filters["number"] = words.number
    return environment


__all__ = ["Page", "render", "write_charts", "write_report"]
