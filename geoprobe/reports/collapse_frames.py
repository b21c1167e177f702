"""What the charts of neural collapse draw: one row a mark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from geoprobe.reports import words
from geoprobe.reports.collapse import (
    NAME,
    At,
    Values,
    class_names,
    data_sets,
    decay,
    findings_of,
    has_collapse,
    onsets,
    reading,
    sites_of,
    values,
)
from geoprobe.reports.subject import thinned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

    Columns = dict[str, list[Any]]

COURSE_LOG = ("nc1", "nc1_quotient", "cdnv")
COURSE = ("nc2_equinorm", "nc2_equiangular", "nc2_etf", "nc3_duality", "nc4_mismatch")
DEPTH = ("nc1_quotient", "cdnv", "separation")

MOST_CELLS = 40_000
"""Cells of all cosine matrices together; with more matrices, each has fewer classes."""
MOST_CLASSES, LEAST_CLASSES = 50, 10
MOST_POINTS = 20_000
"""Points of all charts of norms together."""
BINS = 40
IMBALANCED = 1.5
"""Norms are drawn where the largest class has so many times the rows of the smallest."""

_PLACE = {"run": pl.String, "checkpoint": pl.String, "index": pl.Int64}
_READING = {
    **dict.fromkeys(("data", "measure", "site", "line"), pl.String),
    "value": pl.Float64,
    "stderr": pl.Float64,
    "n": pl.Int64,
}
_OF = {"shown": pl.String}
_FRAMES: dict[str, dict[str, Any]] = {
    "collapse_course": {"x": pl.Float64, **_READING},
    "collapse_onset": {"data": pl.String, "said": pl.String, "x0": pl.Float64, "x1": pl.Float64},
    "collapse_depth": {**_READING, "set": pl.Int64, "said": pl.String},
    "collapse_target": {**_OF, "target": pl.Float64, "said": pl.String},
    "collapse_cosines": {**_OF, "row": pl.String, "column": pl.String}
    | {"i": pl.Int64, "j": pl.Int64, "cosine": pl.Float64, "beyond": pl.Float64},
    "collapse_angles": {**_OF, "low": pl.Float64, "high": pl.Float64, "pairs": pl.Int64},
    "collapse_norms": {**_OF, "of": pl.String, "line": pl.String, "name": pl.String}
    | {"rows": pl.Int64, "norm": pl.Float64},
}


def collapse_frames(subject: Subject) -> dict[str, pl.DataFrame]:
    """The tables behind the charts, with `run`, `checkpoint` and `index`.

    `line` is `given`, `permuted`, `floor`, `fit` or `predicted`; `shown` names a data set, and its
    run where there are several.
    """
    tables = {name: _empty(name) for name in _FRAMES}
    runs = {name: run for name, run in subject.runs.items() if has_collapse(run)}
    every = {
        name: {label: values(run, label) for label in run.labels} for name, run in runs.items()
    }
    sets = set_numbers(every)
    matrices = sum(len(data_sets(here)) for found in every.values() for here in found.values())
    side = max(LEAST_CLASSES, min(MOST_CLASSES, math.isqrt(MOST_CELLS // max(1, matrices))))
    points = max(24, min(200, MOST_POINTS // max(1, matrices)))
    for name, run in runs.items():
        _add(tables["collapse_onset"], _by_column(_onsets(subject, run)), run=name)
        for index, (label, here) in enumerate(every[name].items()):
            x = subject.x_of(run, index)
            for data in data_sets(here):
                found = {
                    "collapse_course": _by_column(_course(here, data)),
                    "collapse_depth": _by_column(_depth(run, label, here, data)),
                    **_of_classes(run, label, here, data, side, points),
                }
                shown = f"{name}: {data}" if subject.several else data
                of = {"run": name, "checkpoint": label, "index": index, "x": x, "shown": shown}
                for table, marks in found.items():
                    _add(tables[table], marks, **of, set=sets[data])
    return {
        name: pl.DataFrame(columns, schema=_schema(name), strict=False)
        for name, columns in tables.items()
    }


def _schema(name: str) -> dict[str, Any]:
    return {**(_PLACE if name != "collapse_onset" else {"run": pl.String}), **_FRAMES[name]}


def _empty(name: str) -> Columns:
    return {column: [] for column in _schema(name)}


def _by_column(rows: Iterable[Mapping[str, Any]]) -> Columns:
    every = list(rows)
    names = dict.fromkeys(name for row in every for name in row)
    return {name: [row.get(name) for row in every] for name in names}


def _add(table: Columns, marks: Columns, **same: Any) -> None:
    """Adds marks to a table; what is the same for all of them is said once."""
    count = max(map(len, marks.values()), default=0)
    for name, column in table.items():
        column += marks[name] if name in marks else [same.get(name)] * count


def set_numbers(every: Mapping[str, Mapping[str, Values]]) -> dict[str, int]:
    """Data sets of all runs, numbered as they come."""
    names = [d for found in every.values() for here in found.values() for d in data_sets(here)]
    return {data: place for place, data in enumerate(dict.fromkeys(names))}


def _brief(value: Any) -> float:
    return float(f"{value:.5g}")


def _mark(row: Mapping[str, Any], line: str) -> dict[str, Any]:
    found = {name: row[name] for name in ("data", "measure", "site", "n")}
    stderr = None if row["stderr"] is None else _brief(row["stderr"])
    return {**found, "line": line, "value": _brief(row["value"]), "stderr": stderr}


def _course(here: Values, data: str) -> Iterator[dict[str, Any]]:
    """In front of the classifier; a log scale has no place for what is not positive."""
    sites = sites_of(here, data)
    for measure in (*COURSE_LOG, *COURSE):
        for labels in ("given", "permuted"):
            row = reading(here, data, measure, labels=labels, sites=sites)
            if row is None or row["value"] is None:
                continue
            if measure not in COURSE_LOG or row["value"] > 0:
                yield _mark(row, labels)
    floor = reading(here, data, "nc2_etf_floor", sites=sites)
    if floor is not None and floor["value"]:
        yield {**_mark(floor, "floor"), "measure": "nc2_etf"}


def _depth(run: Run, label: str, here: Values, data: str) -> Iterator[dict[str, Any]]:
    sites = sites_of(here, data)
    for measure in DEPTH:
        for site in sites:
            for labels in ("given", "permuted"):
                row = here.get(At(data, measure, site, labels))
                if row is not None and row["value"] is not None and row["value"] > 0:
                    yield _mark(row, labels)
    fitted = decay(here, data)
    # The sites that were fitted, and how deep each one is.
    law = findings_of(run, label, "depth").get(data, {}).get("law", {})
    rows = [here[At(data, "separation", site)] for site in law]
    if fitted is None or any(row["value"] is None or row["value"] <= 0 for row in rows):
        return
    slope = math.log(fitted[0]["value"])
    middle = float(np.mean([math.log(row["value"]) for row in rows]))
    centre = float(np.mean(list(law.values())))
    for i, (place, row) in enumerate(zip(law.values(), rows, strict=True)):
        on_line = math.exp(middle + slope * (place - centre))
        mark = _mark({**row, "value": on_line, "stderr": None}, "fit")
        yield {**mark, "said": _law(*fitted) if i == 0 else None}


def _law(rate: Mapping[str, Any], r2: Mapping[str, Any]) -> str:
    return f"x {words.number(rate['value'])}, R² {words.number(r2['value'])}"


def _onsets(subject: Subject, run: Run) -> Iterator[dict[str, Any]]:
    place = {label: index for index, label in enumerate(run.labels)}
    for found in onsets(run):
        ends = [place.get(str(found[end])) for end in ("start", "end")]
        if None not in ends:
            x0, x1 = (subject.x_of(run, index) for index in ends if index is not None)
            yield {"data": found["data"], "said": found["message"], "x0": x0, "x1": x1}


def _of_classes(
    run: Run, label: str, here: Values, data: str, side: int, points: int
) -> dict[str, Columns]:
    """The cosines of class means, their histogram, and norms."""
    classes = findings_of(run, label, "classes").get(data)
    if classes is None:
        return {}
    arrays = {
        name.removeprefix(f"{NAME}/{data}/"): array
        for name, array in run.arrays(label).items()
        if name.startswith(f"{NAME}/{data}/")
    }
    names = class_names(classes)
    cosines = np.asarray(arrays["cosines"], dtype=np.float64)
    target = -1 / (classes["number"] - 1)
    counts, edges = np.histogram(
        np.clip(cosines[np.triu_indices(len(cosines), 1)], -1, 1), BINS, (-1, 1)
    )
    shown = cosines[:side, :side]
    i, j = (place.ravel().tolist() for place in np.indices(shown.shape))
    return {
        "collapse_target": _by_column([_target(here, data, target, classes["number"], side)]),
        "collapse_cosines": {
            "row": [names[place] for place in i],
            "column": [names[place] for place in j],
            "i": i,
            "j": j,
            "cosine": np.round(shown, 3).ravel().tolist(),
            "beyond": np.round(shown - target, 3).ravel().tolist(),
        },
        "collapse_angles": _by_column(
            {"low": _brief(edges[b]), "high": _brief(edges[b + 1]), "pairs": int(counts[b])}
            for b in np.flatnonzero(counts)
        ),
        "collapse_norms": _by_column(_norms(arrays, names, points)),
    }


def _target(here: Values, data: str, target: float, number: int, side: int) -> dict[str, Any]:
    off = reading(here, data, "nc2_equiangular")
    said = f"target {words.number(target)}"
    if off is not None and off["value"] is not None:
        said += f"; {words.number(off['value'])} from it on average over {number:,} classes"
    if side < number:
        said += f"; the {side} largest are shown"
    return {"target": target, "said": said}


def _norms(
    arrays: Mapping[str, NDArray[np.float64]], names: Sequence[str], points: int
) -> Iterator[dict[str, Any]]:
    """Norms against counts, uncentred where a frame is predicted, as that frame is."""
    counts = arrays["counts"]
    predicted = "predicted_norms" in arrays
    if counts.max() <= (1 if predicted else IMBALANCED) * counts.min():
        return
    kinds = [("means", "given", "norms" if predicted else "centred_norms")]
    kinds += [("rows", "given", "row_norms")]
    kinds += [
        ("means", "predicted", "predicted_norms"),
        ("rows", "predicted", "predicted_row_norms"),
    ]
    for of, line, array in kinds:
        if array not in arrays:
            continue
        for place in thinned(len(counts), points):
            yield {
                "of": of,
                "line": line,
                "name": names[place] if place < len(names) else f"the {place + 1:,}th by size",
                "rows": int(counts[place]),
                "norm": _brief(arrays[array][place]),
            }
