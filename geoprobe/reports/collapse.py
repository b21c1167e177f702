"""What a run says of neural collapse, as tables for the terminal and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from geoprobe.reports import sinks, words
from geoprobe.reports.lookup import findings_at, readings_at
from geoprobe.reports.parts import Table
from geoprobe.reports.subject import thinned

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

NAME = "collapse"
MOST_CHECKPOINTS = 24

_NC1 = {
    "nc1": "NC1",
    "nc1_quotient": "tr W / tr B",
    "cdnv": "CDNV",
    "separation": "separation",
}
_NC2 = {
    "nc2_equinorm": "norms",
    "nc2_equiangular": "angles",
    "nc2_etf": "ETF",
    "nc2_etf_floor": "floor",
    "nc2_uniformity": "uniformity",
}
_HEAD = {
    ("nc3_duality", ""): "NC3, self-duality",
    ("nc3_cosine", ""): "NC3, cosine of rows and means",
    ("nc2_equinorm", "rows"): "NC2 norms of the rows",
    ("nc4_mismatch", ""): "NC4, disagreement",
    ("gof_distance", "means"): "predicted frame, class means",
    ("gof_distance", "rows"): "predicted frame, rows",
    ("gof_distance", "logits"): "predicted frame, logits",
}
_COURSE = {
    "nc1": "NC1",
    "cdnv": "CDNV",
    "nc2_etf": "NC2, ETF",
    "nc3_duality": "NC3",
    "nc4_mismatch": "NC4",
}
_TOLD = {"nc1": "NC1", "nc2_etf": "NC2", "nc3_duality": "NC3", "nc4_mismatch": "NC4"}
"""Measures of the summary and the large figures."""


class At(NamedTuple):
    """What a reading is of."""

    data: str
    measure: str
    site: str
    labels: str = "given"
    of: str = ""


Values = Mapping[At, dict[str, Any]]
"""The readings of one checkpoint."""


def has_collapse(run: Run) -> bool:
    """Whether collapse was measured."""
    return bool(run.labels) and any(f["kind"] == "classes" for f in run.findings)


_READ = ("data", "measure", "site", "labels", "of", "value", "stderr", "n", "reason")


def values(run: Run, label: str) -> Values:
    """Readings of collapse in a checkpoint; frames' distances by their previous layer alone."""
    frame = readings_at(run, label).filter(pl.col("probe") == NAME)
    found: dict[At, dict[str, Any]] = {}
    for row in frame.select(name for name in _READ if name in frame.columns).to_dicts():
        at = At(row["data"], row["measure"], row["site"], row["labels"], row.get("of") or "")
        found.setdefault(at, row)
    return found


def data_sets(here: Values) -> list[str]:
    """Names of the data sets."""
    return list(dict.fromkeys(at.data for at in here))


def sites_of(here: Values, data: str) -> list[str]:
    """Sites in the order measured; what the classifier is given is the last of them."""
    of_layers = (at.site for at in here if at.data == data and at.measure == "nc1")
    return list(dict.fromkeys(of_layers))


def reading(
    here: Values,
    data: str,
    measure: str,
    *,
    labels: str = "given",
    of: str = "",
    sites: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """A reading in front of the classifier, with a value or without; None where there is none.

    Args:
        here: Readings of a checkpoint.
        data: The data set.
        measure: Its name.
        labels: `given` or `permuted`.
        of: What it is of, where it is of several things.
        sites: Those of the data set, where many readings are asked for: to find them takes long.
    """
    sites = sites_of(here, data) if sites is None else sites
    if measure == "nc2_equinorm" and not of:
        of = "means"
    return here.get(At(data, measure, sites[-1], labels, of)) if sites else None


def findings_of(run: Run, label: str, kind: str) -> dict[str, dict[str, Any]]:
    """Findings of a kind in a checkpoint, by data set."""
    return {f["data"]: f for f in findings_at(run, label, kind) if "data" in f}


def onsets(run: Run) -> list[dict[str, Any]]:
    """When collapse begins, for each data set where it does."""
    return [f for f in run.findings if f["kind"] == "onset"]


def class_names(finding: Mapping[str, Any]) -> list[str]:
    """Names of the largest classes, each once, in one line."""
    if "token_ids" in finding:
        names = words.token_names(finding)
    else:
        names = [" ".join(str(name).split()) for name in finding["classes"]]
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({place})"
        for place, name in enumerate(names, start=1)
    ]


def collapse_tables(run: Run, most_sites: int | None = None) -> list[Table]:
    """The tables of a run: NC1 and NC2 over the sites, the classifier, the course of training.

    Args:
        run: The run.
        most_sites: At most so many sites, and permuted labels only at the last of them; None shows
            all.
    """
    if not has_collapse(run):
        return []
    here = values(run, run.labels[-1])
    found = []
    for data in data_sets(here):
        found += _by_site(run, here, data, most_sites)
    found += _classifier(run, here)
    if len(run.labels) > 1:
        at = cache(partial(values, run))
        found += [_course(run, at, data) for data in data_sets(here)]
    return [table for table in found if table.rows or table.note]


def _cell(row: dict[str, Any] | None) -> str:
    """A value with its error, no wider than it must be."""
    if row is None or row["value"] is None:
        return "-"
    return words.with_error(row["value"], row["stderr"]).replace(" ± ", "±")


def _of_means(measure: str) -> str:
    return "means" if measure == "nc2_equinorm" else ""


def _by_site(run: Run, here: Values, data: str, most_sites: int | None) -> list[Table]:
    label = run.labels[-1]
    sites = sites_of(here, data)
    shown = [sites[i] for i in thinned(len(sites), most_sites)]
    classes = findings_of(run, label, "classes").get(data)
    size = "" if classes is None else f": {_rows_of(classes)}"
    notes = {
        "NC1": [_decay(here, data), _message(run, label, "depth", data)],
        "NC2": [],
    }
    if len(shown) < len(sites):
        notes["NC2"].append(f"{len(shown)} of {len(sites)} sites; the report has all.")
    found = []
    floors = (here.get(At(data, "nc2_etf_floor", site)) for site in sites)
    has_floor = any(floor is not None and floor["value"] for floor in floors)
    nc2 = {m: head for m, head in _NC2.items() if has_floor or m != "nc2_etf_floor"}
    for name, columns in (("NC1", _NC1), ("NC2", nc2)):
        rows: list[list[str]] = []
        muted: list[int] = []
        for site in shown:
            for labels in ("given", "permuted"):
                if labels == "permuted" and most_sites is not None and site != sites[-1]:
                    continue
                cells = [
                    here.get(At(data, m, site, labels, _of_means(m)))
                    for m in columns
                    if m != "nc2_etf_floor" or labels == "given"
                ]
                if labels == "permuted":
                    muted.append(len(rows))
                    if "nc2_etf_floor" in columns:
                        cells.insert(list(columns).index("nc2_etf_floor"), None)
                missing = {c["reason"] for c in cells if c is not None and c["value"] is None}
                notes[name] += [f"Undefined (-): {why}." for why in sorted(missing)]
                of = site if labels == "given" else "permuted"
                rows.append([of, *("" if c is None else _cell(c) for c in cells)])
        title = f"{name} by site, {label}, {data}{size}"
        note = " ".join(dict.fromkeys(filter(None, notes[name])))
        found.append(Table(title, ["site", *columns.values()], [0], rows, note, muted))
    return found


def _rows_of(classes: Mapping[str, Any]) -> str:
    rows = words.count(classes["rows"], "row")
    return f"{rows} in {words.count(classes['number'], 'class', 'classes')}"


def _message(run: Run, label: str, kind: str, data: str) -> str:
    """What a finding says, if there is one."""
    finding = findings_of(run, label, kind).get(data)
    return "" if finding is None else str(finding["message"])


def decay(here: Values, data: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The fitted decay of separation and how well it fits, where there is one."""
    rate = here.get(At(data, "separation_decay", "model"))
    r2 = here.get(At(data, "separation_decay_r2", "model"))
    return None if rate is None or r2 is None or rate["value"] is None else (rate, r2)


def decay_words(rate: Mapping[str, Any], r2: Mapping[str, Any]) -> str:
    """`x 0.661 ± 0.007 a layer, R² 0.959`."""
    said = words.with_error(rate["value"], rate["stderr"])
    return f"x {said} a layer, R² {words.number(r2['value'])}"


def _decay(here: Values, data: str) -> str:
    fitted = decay(here, data)
    if fitted is not None:
        return f"Separation over the layers: {decay_words(*fitted)}."
    row = here.get(At(data, "separation_decay", "model"))
    return "" if row is None else f"Separation has no rate of decay: {row['reason']}."


def absences(here: Values, data: str) -> list[str]:
    """Why what needs the classifier is not there, each reason with what it is the reason for."""
    why: dict[str, list[str]] = {}
    for measure, name in (("nc3_duality", "NC3"), ("nc4_mismatch", "NC4")):
        row = reading(here, data, measure)
        if row is not None and row["value"] is None:
            why.setdefault(str(row["reason"]), []).append(name)
    return [
        f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} absent: {reason}."
        for reason, names in why.items()
    ]


def _classifier(run: Run, here: Values) -> list[Table]:
    label, sets = run.labels[-1], data_sets(here)
    rows = []
    for (measure, of), title in _HEAD.items():
        for data in sets:
            row = reading(here, data, measure, of=of)
            if row is None or row["value"] is None:
                continue
            null = reading(here, data, measure, labels="permuted", of=of)
            permuted = "" if null is None else _cell(null)
            rows.append([title, data, _cell(row), permuted])
    notes = [*(why for data in sets for why in absences(here, data))]
    notes += [_message(run, label, "imbalance", data) for data in sets]
    return [
        Table(
            f"The classifier and the class means it is given, {label}",
            ["measure", "data", "value", "permuted labels"],
            [0, 1],
            rows,
            " ".join(dict.fromkeys(filter(None, notes))),
        )
    ]


def _course(run: Run, at: Callable[[str], Values], data: str) -> Table:
    labels = run.labels
    newest = at(labels[-1])
    measures = [
        m
        for m in _COURSE
        if any(
            row is not None and row["value"] is not None
            for label in labels
            for row in [reading(at(label), data, m)]
        )
    ]
    rows = [
        [labels[i], *(_cell(reading(at(labels[i]), data, m)) for m in measures)]
        for i in thinned(len(labels), MOST_CHECKPOINTS)
    ]
    null = [_cell(reading(newest, data, m, labels="permuted")) for m in measures]
    begun = any(f["data"] == data for f in onsets(run))
    return Table(
        f"Collapse over training, {data}, {sites_of(newest, data)[-1]}",
        ["checkpoint", *(_COURSE[m] for m in measures)],
        [0],
        [*rows, ["permuted", *null]],
        "" if begun else "When collapse begins was not found.",
        [len(rows)],
    )


def collapse_summary(run: Run) -> str:
    """A few sentences on the newest checkpoint, and when collapse began."""
    label = run.labels[-1]
    here = values(run, label)
    found = []
    for data in data_sets(here):
        classes = findings_of(run, label, "classes").get(data)
        size = "" if classes is None else f", {words.count(classes['number'], 'class', 'classes')}"
        parts = [_told(here, data, measure) for measure in _TOLD]
        said = ", ".join(filter(None, parts)) or "no measure of collapse is defined"
        found.append(f"{label}, {data}{size}: {said}.")
    return " ".join([*found, *(f["message"] for f in onsets(run))])


def _told(here: Values, data: str, measure: str) -> str:
    """`NC1 1.77 ± 0.04 (12.3 with permuted labels)`."""
    row = reading(here, data, measure)
    if row is None or row["value"] is None:
        return ""
    beside = []
    null = reading(here, data, measure, labels="permuted")
    if null is not None and null["value"] is not None:
        of = " with permuted labels" if measure == "nc1" else ""
        beside.append(f"{words.number(null['value'])}{of}")
    floor = reading(here, data, "nc2_etf_floor") if measure == "nc2_etf" else None
    if floor is not None and floor["value"]:
        beside.append(f"floor {words.number(floor['value'])}")
    said = f"{_TOLD[measure]} {words.with_error(row['value'], row['stderr'])}"
    return f"{said} ({', '.join(beside)})" if beside else said


def summary(subject: Subject, name: str) -> str:
    """What happened to one model, its sinks and its collapse included."""
    run = subject.runs[name]
    if not has_collapse(run):
        return sinks.summary(subject, name)
    said = collapse_summary(run)
    if sinks.has_sinks(run) or words.series_values(subject, name, "rankme"):
        return f"{sinks.summary(subject, name)} {said}"
    return words.summary(subject, name, said)


def collapse_figures(subject: Subject, name: str) -> list[dict[str, str]]:
    """The newest values of the first data set, in large type, with those of permuted labels."""
    run = subject.runs[name]
    if not has_collapse(run):
        return []
    here = values(run, run.labels[-1])
    sets = data_sets(here)
    found = []
    for measure in _TOLD:
        row = reading(here, sets[0], measure)
        if row is None or row["value"] is None:
            continue
        value, stderr = words.apart(row["value"], row["stderr"])
        null = reading(here, sets[0], measure, labels="permuted")
        known = null is not None and null["value"] is not None
        found.append(
            {
                "measure": measure,
                "title": subject.title(measure) + (f", {sets[0]}" if len(sets) > 1 else ""),
                "value": value,
                "stderr": stderr,
                "reason": row["reason"] or "",
                "null": words.number(null["value"]) if null is not None and known else "",
            }
        )
    return found
