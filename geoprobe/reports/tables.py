"""The tables and lists of the HTML report, as plain values for its template."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from geoprobe.measures.registry import Card
from geoprobe.reports import words
from geoprobe.reports.collapse import collapse_figures
from geoprobe.reports.features import features_figures
from geoprobe.reports.relations import relations_figures, summary
from geoprobe.reports.subject import Subject
from geoprobe.reports.superposition import superposition_figures

MOST_FURTHER = 200
"""Rows of other readings shown without scripts."""


@dataclass(frozen=True)
class Cell:
    """A number in a table, or why there is none."""

    text: str
    reason: str = ""


@dataclass(frozen=True)
class NewestTable:
    """The newest checkpoint of a run: sites down, measures across."""

    title: str
    measures: list[tuple[str, str, str]]
    """Name, symbol, title of each column."""
    rows: list[tuple[str, str, list[Cell]]]
    """Site, n, cells."""


@dataclass(frozen=True)
class FurtherTable:
    """Readings of the newest checkpoint that are not of a site's spectrum, one a row."""

    title: str
    rows: list[tuple[str, str, str, str, str, Cell]]
    """Measure, its title, site, keys, n, value."""
    left_out: int


@dataclass(frozen=True)
class Page:
    """Everything in the report that is not a chart."""

    title: str
    several: bool
    summaries: list[tuple[str, str]]
    figures: list[tuple[str, list[dict[str, str]]]]
    """Run, and its newest values in large type."""
    phases: list[dict[str, str]]
    warnings: list[dict[str, Any]]
    rules: list[dict[str, Any]]
    failures: list[tuple[str, str, str]]
    differences: list[str]
    newest: list[NewestTable]
    further: list[FurtherTable]
    conventions: list[dict[str, str]]
    cards: list[Card]
    settings: list[dict[str, Any]]
    bibtex: str
    readings: int


def page(subject: Subject) -> Page:
    """Gathers the page of a subject."""
    known = [c for m in _measures(subject) if (c := subject.card(m)) is not None]
    return Page(
        title=" and ".join(subject.runs) if len(subject.runs) < 3 else f"{len(subject.runs)} runs",
        several=subject.several,
        summaries=[(name, summary(subject, name)) for name in subject.runs],
        figures=[(name, found) for name in subject.runs if (found := _figures(subject, name))],
        phases=_phases(subject),
        warnings=[_warned(subject, w) for w in words.warnings(subject)],
        rules=[_warned(subject, w) for w in words.sink_rules(subject)],
        failures=[
            (name, label, message)
            for name, run in subject.runs.items()
            for label, message in run.failed.items()
        ],
        differences=_differences(subject),
        newest=[table for name in subject.runs for table in _newest(subject, name)],
        further=[t for name in subject.runs if (t := _further(subject, name)) is not None],
        conventions=_conventions(subject),
        cards=known,
        settings=[_settings(subject, name) for name in subject.runs],
        bibtex=_bibtex(known),
        readings=subject.readings.height,
    )


def _measures(subject: Subject) -> list[str]:
    rest = subject.readings["measure"].unique(maintain_order=True).to_list()
    return [*subject.measures, *(m for m in rest if m not in subject.measures)]


def _figures(subject: Subject, name: str) -> list[dict[str, str]]:
    """The newest values of the main site, in large type."""
    found = []
    for measure in ("rankme", "alpha", "alpha_r2", "participation_ratio", "top1_share"):
        series = words.series_values(subject, name, measure)
        if not series or series[-1]["index"] != len(subject.runs[name].labels) - 1:
            continue
        newest = series[-1]
        value, stderr = words.apart(newest["value"], newest["stderr"])
        found.append(
            {
                "measure": measure,
                "title": subject.title(measure),
                "value": value,
                "stderr": stderr,
                "reason": newest["reason"] or "",
                "null": "",
            }
        )
    found += [*collapse_figures(subject, name), *features_figures(subject, name)]
    return [*found, *superposition_figures(subject, name), *relations_figures(subject, name)]


def _phases(subject: Subject) -> list[dict[str, str]]:
    found = []
    for phase in subject.phases:
        z = phase.get("z")
        found.append(
            {
                "run": phase["run"],
                "name": str(phase["name"]),
                "start": str(phase["start"]),
                "end": str(phase["end"]),
                "change": f"{phase['change']:+.3f} ± {phase['stderr']:.3f}",
                "z": "" if z is None else f"{z:+.1f}",
                "alpha": "opposes" if phase.get("alpha_opposes") else "does not oppose",
                "where": f"{phase.get('site', subject.main_site)}, "
                f"{words.TOKENS.get(str(phase.get('tokens')), str(phase.get('tokens', '')))}",
            }
        )
    return found


def _warned(subject: Subject, warned: words.Warned) -> dict[str, Any]:
    total = len(subject.runs[warned.run].labels)
    labels = warned.checkpoints
    if not labels or len(labels) == total:
        at = "every checkpoint" if labels and total > 1 else ""
    elif len(labels) <= 4:
        at = ", ".join(labels)
    else:
        at = f"{len(labels)} of {total} checkpoints, {labels[0]} to {labels[-1]}"
    return {"run": warned.run, "message": warned.message, "at": at}


def _differences(subject: Subject) -> list[str]:
    """What keeps several runs from being compared number by number."""
    if not subject.several:
        return []
    found = []
    headers = {name: run.header for name, run in subject.runs.items()}
    for what, part, key in (
        ("corpus", "corpus", "fingerprint"),
        ("number of sequences", "corpus", "sequences"),
        ("dtype", "environment", "dtype"),
        ("conventions", "options", "conventions"),
    ):
        seen = {
            name: _in_words(header.get(part, {}).get(key))
            for name, header in headers.items()
            if key != "conventions" or key in header.get(part, {})  # not every verb has any
        }
        if len(set(seen.values())) > 1:
            found.append(
                f"The runs differ in their {what} ("
                + "; ".join(f"{name}: {_brief(text)}" for name, text in seen.items())
                + "): compare shapes, not numbers."
            )
    return found


def _brief(text: str) -> str:
    """Text without most of a fingerprint."""
    return text[:12] + "…" if re.fullmatch("[0-9a-f]{40,}", text) else text


def _in_words(value: Any) -> str:
    """A setting of a run, for people: JSON only where it has an inner structure."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and not any(isinstance(v, list | dict) for v in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _newest(subject: Subject, name: str) -> list[NewestTable]:
    frame = subject.newest(name)
    run = subject.runs[name]
    tables = []
    for tokens in subject.tokens:
        for sinks in subject.sinks:
            here = frame.filter((pl.col("tokens") == tokens) & (pl.col("sinks") == sinks))
            if not here.height:
                continue
            columns = [
                (m, c)
                for m in subject.measures
                for c in subject.conventions(m)
                if here.filter((pl.col("measure") == m) & (pl.col("convention") == c)).height
            ]
            cells = {(r["site"], r["measure"], r["convention"]): r for r in here.to_dicts()}
            rows = []
            for site in here["site"].unique(maintain_order=True).to_list():
                mine = [cells.get((site, m, c)) for m, c in columns]
                sizes = sorted({r["n"] for r in mine if r is not None})
                rows.append(
                    (
                        site,
                        " / ".join(f"{n:,}" for n in sizes),
                        [
                            Cell("")
                            if r is None
                            else Cell(words.with_error(r["value"], r["stderr"]), r["reason"] or "")
                            for r in mine
                        ],
                    )
                )
            heads = []
            for m, c in columns:
                card = subject.card(m)
                many = len(subject.conventions(m)) > 1
                heads.append(
                    (
                        m,
                        subject.symbol(m) + (f" [{c}]" if many else ""),
                        f"{card.title if card else m}, convention {c}",
                    )
                )
            title = ", ".join(
                part
                for part in (
                    name if subject.several else "",
                    run.labels[-1],
                    words.TOKENS.get(tokens, tokens),
                    words.SINKS.get(sinks, sinks) if len(subject.sinks) > 1 else "",
                )
                if part
            )
            tables.append(NewestTable(title, heads, rows))
    return tables


def _further(subject: Subject, name: str) -> FurtherTable | None:
    run = subject.runs[name]
    frame = subject.readings.filter(
        (pl.col("run") == name)
        & (pl.col("index") == len(run.labels) - 1)
        & (pl.col("tokens").is_null() | pl.col("sinks").is_null())
    )
    if not frame.height:
        return None
    rows = []
    for r in frame.head(MOST_FURTHER).to_dicts():
        keys = ", ".join(f"{key} {r[key]}" for key in subject.keys if r[key] is not None)
        cell = Cell(words.with_error(r["value"], r["stderr"]), r["reason"] or "")
        rows.append(
            (r["measure"], subject.title(r["measure"]), r["site"], keys, f"{r['n']:,}", cell)
        )
    title = f"{name}, {run.labels[-1]}" if subject.several else run.labels[-1]
    return FurtherTable(f"{title}, other readings", rows, frame.height - len(rows))


def _conventions(subject: Subject) -> list[dict[str, str]]:
    return [
        {
            "measure": measure,
            "title": subject.title(measure),
            "convention": convention,
            "meaning": card.conventions.get(convention, "") if card is not None else "",
        }
        for measure in _measures(subject)
        for card in [subject.card(measure)]
        for convention in subject.conventions(measure)
    ]


def _settings(subject: Subject, name: str) -> dict[str, Any]:
    header = subject.runs[name].header
    run = subject.runs[name]
    environment = dict(header.get("environment", {}))
    libraries = environment.pop("libraries", {}) or {}
    return {
        "run": name,
        "groups": [
            ("Command", [("command", f"geoprobe {header.get('command', '')}")]),
            ("Options", _pairs(header.get("options", {}))),
            ("Corpus", _pairs(header.get("corpus", {}))),
            ("Environment", _pairs(environment) + _pairs(libraries)),
        ],
        "checkpoints": [
            (
                str(c["label"]),
                "" if c.get("step") is None else f"{c['step']:,}",
                "" if c.get("tokens") is None else words.compact(c["tokens"]),
                str(c.get("stage") if c.get("stage") is not None else ""),
                str(c.get("fingerprint", ""))[:16],
            )
            for c in run.checkpoints
        ],
    }


def _pairs(values: Any) -> list[tuple[str, str]]:
    return [(str(key), _in_words(value)) for key, value in sorted(dict(values or {}).items())]


def _bibtex(known: list[Card]) -> str:
    from geoprobe import __version__

    own = (
        "@software{geoprobe,\n"
        "  title = {geoprobe: the geometry of neural network representations over training},\n"
        "  author = {{The geoprobe developers}},\n"
        f"  version = {{{__version__}}}\n"
        "}"
    )
    entries = dict.fromkeys(e.strip() for c in known for e in c.bibtex.split("\n\n") if e.strip())
    return "\n\n".join([own, *entries])
