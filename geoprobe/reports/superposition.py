"""What a run says of superposition, as tables and sentences, and as rows for its charts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from geoprobe.measures.superposition import PLATEAUS
from geoprobe.reports import collapse, features, sinks, words
from geoprobe.reports.features_frames import frames_of, schema
from geoprobe.reports.parts import Table
from geoprobe.reports.subject import thinned

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

NAME = "superposition"
MOST_CHECKPOINTS = 24
MOST_SAID = 3
"""Plateaus that are told under a table of the terminal."""
MOST_BARS = 60_000
"""Bars of all histograms together; where there would be more, only the newest checkpoint's."""
WEIGHTS = {
    "dimensionality": "Dimensions of a feature,\nmean of D",
    "dimensionality_sum": "Dimensions of all features,\nsum of D",
    "interference": "Interference,\nmean squared cosine of two rows",
    "coherence": "Coherence,\nlargest |cosine| of two rows",
    "row_norm": "Norm of the rows, mean",
    "in_out_cosine": "Neurons' input and output weights,\nmean cosine",
}
ACTIVATIONS = {
    "kurtosis": "Excess kurtosis",
    "privileged_basis": "Privileged basis,\ntop 1 % of coordinates over random ones",
}
_NULLS = {"weights": "gaussian", "activations": "rotated"}
_STREAM = "residual stream"
_ENDS = {"embedding": -2, "embed": -1, "final": 10**6, "unembedding": 10**6 + 1}
_NUMBERED = re.compile(r"([a-z]+(?:\.[a-z]+)*)\.(\d+)(\.T)?")
_NAMES = {1 / 2: "1/2 digon", 2 / 3: "2/3 triangle", 2 / 5: "2/5 pentagon"}
_NAMES |= {
    3 / 4: "3/4 tetrahedron",
    3 / 8: "3/8 square antiprism",
    1.0: "1 alone",
    0.0: "0 not represented",
}


class At(NamedTuple):
    """What a reading is of: `weights` or `activations`, and `given` or the null."""

    of: str
    site: str
    measure: str
    line: str = "given"
    convention: str = "exact"


Values = Mapping[At, dict[str, Any]]
"""The readings of one checkpoint."""


def has_superposition(run: Run) -> bool:
    """Whether superposition was measured."""
    return bool(run.labels) and (run.readings["probe"] == NAME).any()


def values(run: Run) -> Mapping[str, Values]:
    """Readings by checkpoint."""
    found: dict[str, dict[At, dict[str, Any]]] = {label: {} for label in run.labels}
    for row in run.readings.filter(pl.col("probe") == NAME).to_dicts():
        line = row.get("rows") or row.get("basis") or "given"
        at = At(row["of"], row["site"], row["measure"], line, row["convention"])
        found[row["checkpoint"]].setdefault(at, row)
    return found


def places_of(every: Mapping[str, Values], of: str) -> list[str]:
    """Matrices, or sites of activations, in order of depth where all have one."""
    found = list(dict.fromkeys(at.site for here in every.values() for at in here if at.of == of))
    depths = {site: _depth(site) for site in found}
    return sorted(found, key=lambda s: depths[s] or 0) if all(depths.values()) else found


def _depth(site: str) -> int | None:
    if site in _ENDS:
        return _ENDS[site]
    match = _NUMBERED.fullmatch(site)
    return None if match is None else 1 + int(match[2])


def kind_and_place(site: str) -> tuple[str, str]:
    """`mlp.out.3` is of kind `mlp.out`, in block 3; what has no block stands at its own name."""
    if site in ("embed", "final"):
        return _STREAM, site
    match = _NUMBERED.fullmatch(site)
    if match is None:
        return (site if site in _ENDS else "weights"), site
    kind = match[1] + (match[3] or "")
    return (_STREAM if kind == "block" else kind), match[2]


def superposition_tables(run: Run, most_sites: int | None = None) -> list[Table]:
    """The tables of a run: matrices by their kind, bases of activations, the course of training.

    Args:
        run: The run.
        most_sites: At most so many rows of a kind, with fewer columns; None shows all.
    """
    if not has_superposition(run):
        return []
    every = values(run)
    found = [*_matrices(run, every, most_sites), _bases(run, every, most_sites)]
    if len(run.labels) > 1:
        found.append(_course(run, every))
    return [table for table in found if table.rows]


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return "-"
    if row["measure"] == "matrix_rank":
        return f"{row['value']:,.0f}"
    return words.with_error(row["value"], row["stderr"]).replace(" ± ", "±")


def _table(
    title: str,
    head: str,
    names: Sequence[str],
    columns: Mapping[str, Sequence[Mapping[str, Any] | None]],
    note: Sequence[str] = (),
    texts: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """A table without its empty columns; why values are missing is noted."""
    kept = {h: [_cell(r) for r in c] for h, c in columns.items() if any(r is not None for r in c)}
    missing = dict.fromkeys(
        str(r["reason"])
        for c in columns.values()
        for r in c
        if r is not None and r["value"] is None
    )
    more = {h: c for h, c in (texts or {}).items() if any(c)}
    rows = [
        [name, *(c[i] for c in kept.values()), *(c[i] for c in more.values())]
        for i, name in enumerate(names)
    ]
    heads = [head, *(h.strip() for h in kept), *more]
    left = [0, *range(1 + len(kept), len(heads))]
    said = [*note, *(f"Undefined (-): {why}." for why in missing)]
    return Table(title, heads, left, rows, " ".join(filter(None, said)))


def _matrices(run: Run, every: Mapping[str, Values], most: int | None) -> Iterator[Table]:
    label = run.labels[-1]
    here = every[label]
    by_kind: dict[str, list[str]] = {}
    for site in places_of({label: here}, "weights"):
        by_kind.setdefault(kind_and_place(site)[0], []).append(site)
    single = [s for sites in by_kind.values() if len(sites) == 1 for s in sites]
    tables = {k: s for k, s in by_kind.items() if len(s) > 1}
    tables = ({"": single} if single else {}) | tables
    plateaus = _of(run, label, "plateau")
    closest = {f["site"]: f for f in _of(run, label, "closest")}
    for place, (kind, sites) in enumerate(tables.items()):
        shown = [sites[i] for i in thinned(len(sites), most)]

        def column(
            measure: str, line: str = "given", convention: str = "exact", shown: Any = shown
        ) -> list[dict[str, Any] | None]:
            return [here.get(At("weights", s, measure, line, convention)) for s in shown]

        columns = {
            "mean D": column("dimensionality"),
            "Gaussian": column("dimensionality", "gaussian"),
            "sum D": column("dimensionality_sum"),
            "rank": column("matrix_rank"),
            "cos²": column("interference"),
            "Gaussian ": column("interference", "gaussian"),
            "Welch": column("welch_bound"),
            "max |cos|": column("coherence"),
        }
        if most is None:
            columns |= {
                "norm": column("row_norm"),
                "cos(in, out)": column("in_out_cosine"),
                "|W|²/m": column("frobenius_psi", convention="raw"),
                "n/m": column("frobenius_psi", convention="unit_rows"),
            }
        pairs = [_pair(closest.get(s)) for s in shown] if most is None else []
        note = []
        if place == 0:
            note.append(
                "D: dimensions of a feature (a row). cos²: interference, no lower than Welch. "
                "Gaussian: the same of independent Gaussian rows, the null."
            )
        said = [str(f["message"]) for f in plateaus if f["site"] in sites]
        kept = said if most is None else said[:MOST_SAID]
        note += kept
        if len(kept) < len(said):
            note.append(f"{len(said) - len(kept)} more plateaus in the report.")
        if len(shown) < len(sites):
            note.append(f"{len(shown)} of {len(sites)} matrices; the report has all.")
        of = kind if kind not in ("", "weights") else ""
        of = of or (single[0] if not kind and len(single) == 1 else "the weights")
        title = f"Features in the rows of {of}, {label}"
        yield _table(title, "matrix", shown, columns, note, {"closest pair": pairs})


def _pair(found: Mapping[str, Any] | None) -> str:
    """The two closest rows, as tokens where they are of a vocabulary."""
    if found is None:
        return ""
    if found.get("token_ids"):
        return " and ".join(words.token_names(found))
    return " and ".join(f"{row:,}" for row in found["rows"])


def _of(run: Run, label: str, kind: str) -> list[dict[str, Any]]:
    return [f for f in run.findings if f["kind"] == kind and f.get("checkpoint") == label]


def _bases(run: Run, every: Mapping[str, Values], most: int | None) -> Table:
    label = run.labels[-1]
    here = every[label]
    by_kind: dict[str, list[str]] = {}
    for site in places_of({label: here}, "activations"):
        by_kind.setdefault(kind_and_place(site)[0], []).append(site)
    shown = [sites[i] for sites in by_kind.values() for i in thinned(len(sites), most)]

    def column(measure: str, line: str) -> list[dict[str, Any] | None]:
        return [here.get(At("activations", s, measure, line)) for s in shown]

    note = [
        "Excess kurtosis: 0 of a Gaussian. Privileged basis: share of variance in the top 1 % of "
        "coordinates over that after random rotations. rotated: the null of either."
    ]
    left_out = sum(map(len, by_kind.values())) - len(shown)
    if left_out:
        note.append(f"{left_out} more sites in the report.")
    columns = {
        "kurtosis": column("kurtosis", "given"),
        "rotated": column("kurtosis", "rotated"),
        "privileged basis": column("privileged_basis", "given"),
        "rotated ": column("privileged_basis", "rotated"),
    }
    return _table(f"Coordinates of the activations, {label}", "site", shown, columns, note)


def _mains(every: Mapping[str, Values]) -> tuple[str | None, str | None]:
    """The matrix and the site of activations to look at first: the last block's neurons."""
    found = []
    for of, kind in (("weights", "mlp.out"), ("activations", "neurons")):
        sites = places_of(every, of)
        best = [s for s in sites if kind_and_place(s)[0] == kind]
        found.append(next(reversed(best or sites), None))
    return found[0], found[1]


def _course(run: Run, every: Mapping[str, Values]) -> Table:
    matrix, site = _mains(every)
    labels = [run.labels[i] for i in thinned(len(run.labels), MOST_CHECKPOINTS)]

    def column(of: str, place: str | None, measure: str) -> list[dict[str, Any] | None]:
        if place is None:
            return [None for _ in labels]
        return [every[label].get(At(of, place, measure)) for label in labels]

    columns = {
        "mean D": column("weights", matrix, "dimensionality"),
        "sum D": column("weights", matrix, "dimensionality_sum"),
        "cos²": column("weights", matrix, "interference"),
        "max |cos|": column("weights", matrix, "coherence"),
        "kurtosis": column("activations", site, "kurtosis"),
        "privileged basis": column("activations", site, "privileged_basis"),
    }
    where = " and ".join(
        f"{what} {place}" for what, place in (("weights", matrix), ("activations", site)) if place
    )
    return _table(f"Superposition over training: {where}", "checkpoint", labels, columns)


def superposition_summary(run: Run) -> str:
    """A sentence or two on the newest checkpoint."""
    label = run.labels[-1]
    every = {label: values(run)[label]}
    here = every[label]
    parts: list[str] = []
    matrix, site = _mains(every)
    for place in dict.fromkeys((matrix, "embedding")):
        row = here.get(At("weights", place or "", "dimensionality"))
        if row is None or row["value"] is None:
            continue
        null = here.get(At("weights", place or "", "dimensionality", "gaussian"))
        beside = "" if null is None else f" ({words.number(null['value'])} of Gaussian rows)"
        what = "a feature has " if not parts else ""
        unit = " dimensions" if not parts else ""
        parts.append(f"{what}{words.number(row['value'])}{unit} on average in {place}{beside}")
    said = " and ".join(parts)
    row = here.get(At("activations", site or "", "privileged_basis"))
    if row is not None and row["value"] is not None:
        null = here.get(At("activations", site or "", "privileged_basis", "rotated"))
        beside = "" if null is None else f" ({words.number(null['value'])} by chance)"
        times = words.with_error(row["value"], row["stderr"])
        basis = f"the top 1 % of coordinates of {site} have {times} times the variance of random"
        said = "; ".join(filter(None, [said, f"{basis} ones{beside}"]))
    plateaus = _of(run, label, "plateau")
    found = len({f["site"] for f in plateaus if f["dimensionality"]})
    if found:
        said += f"; features gather at plateaus in {words.count(found, 'matrix', 'matrices')}"
    faint = len({f["site"] for f in plateaus if not f["dimensionality"]})
    if faint:
        said += f"; many are hardly represented in {words.count(faint, 'matrix', 'matrices')}"
    return f"{label}: {said or 'no measure of superposition is defined'}."


def summary(subject: Subject, name: str) -> str:
    """What happened to one model, its superposition included."""
    run = subject.runs[name]
    if not has_superposition(run):
        return features.summary(subject, name)
    said = superposition_summary(run)
    others = (sinks.has_sinks, collapse.has_collapse, features.has_features)
    if any(has(run) for has in others) or words.series_values(subject, name, "rankme"):
        return f"{features.summary(subject, name)} {said}"
    return words.summary(subject, name, said)


def superposition_figures(subject: Subject, name: str) -> list[dict[str, str]]:
    """The newest values of the last block's neurons, in large type."""
    run = subject.runs[name]
    if not has_superposition(run):
        return []
    here = values(run)[run.labels[-1]]
    matrix, site = _mains({"": here})
    found = []
    for of, place, measure, null in (
        ("weights", matrix, "dimensionality", "Gaussian rows"),
        ("weights", matrix, "interference", "Gaussian rows"),
        ("activations", site, "kurtosis", "rotated"),
        ("activations", site, "privileged_basis", "rotated"),
    ):
        row = here.get(At(of, place or "", measure))
        if row is None or row["value"] is None:
            continue
        value, stderr = words.apart(row["value"], row["stderr"])
        beside = here.get(At(of, place or "", measure, _NULLS[of]))
        known = beside is not None and beside["value"] is not None
        found.append(
            {
                "measure": measure,
                "title": f"{subject.title(measure)}, {place}",
                "value": value,
                "stderr": stderr,
                "reason": row["reason"] or "",
                "null": "",
                "note": f"{null} {words.number(beside['value'])}" if beside and known else "",
            }
        )
    return found


_FRAMES = {
    "superposition_values": schema("of site kind place measure line", "x value stderr", "n"),
    "superposition_bars": schema("site", "low high", "features"),
    "superposition_means": schema("site what", "value"),
    "superposition_gathered": schema("site said", "value"),
    "superposition_plateaus": schema("name", "value"),
}


def superposition_frames(subject: Subject) -> dict[str, pl.DataFrame]:
    """The tables behind the charts; `line` is `given`, `null` or `bound`."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _FRAMES}
    runs = {name: run for name, run in subject.runs.items() if has_superposition(run)}
    every = {name: values(run) for name, run in runs.items()}
    if runs:
        rows["superposition_plateaus"] = [
            {"value": value, "name": _NAMES[value]} for value in sorted(PLATEAUS.values())
        ]
    for name, run in runs.items():
        for index, (label, here) in enumerate(every[name].items()):
            at = {"run": name, "checkpoint": label, "index": index}
            x = subject.x_of(run, index)
            found = {
                "superposition_values": [{"x": x, **row} for row in _marks(here)],
                "superposition_bars": list(_bars(run, label, here)),
                "superposition_means": list(_means(here)),
                "superposition_gathered": [
                    {
                        "site": f["site"],
                        "value": f["dimensionality"],
                        "said": f"{100 * f['share']:.0f} % here",
                    }
                    for f in _of(run, label, "plateau")
                ],
            }
            for table, marks in found.items():
                rows[table] += [{**at, **row} for row in marks]
    if len(rows["superposition_bars"]) > MOST_BARS:
        last = {name: len(run.labels) - 1 for name, run in runs.items()}
        for table in ("superposition_bars", "superposition_means", "superposition_gathered"):
            rows[table] = [row for row in rows[table] if row["index"] == last[row["run"]]]
    return frames_of(rows, _FRAMES)


def _marks(here: Values) -> Iterator[dict[str, Any]]:
    """Values, their nulls and their bounds."""
    bounds = {
        "dimensionality_sum": "matrix_rank",
        "interference": "welch_bound",
        "coherence": "welch_bound",
    }
    titles = {"weights": WEIGHTS, "activations": ACTIVATIONS}
    for at, row in here.items():
        title = titles.get(at.of, {}).get(at.measure)
        if title is None or row["value"] is None:
            continue
        kind, place = kind_and_place(at.site)
        mark = {"of": at.of, "site": at.site, "kind": kind, "place": place, "measure": title}
        line = "given" if at.line == "given" else "null"
        yield {**mark, "line": line, **{k: row[k] for k in ("value", "stderr", "n")}}
        if line == "given" and at.measure in bounds:
            bound = here.get(At(at.of, at.site, bounds[at.measure]))
            if bound is not None and bound["value"] is not None:
                value = bound["value"] if at.measure != "coherence" else math.sqrt(bound["value"])
                yield {**mark, "line": "bound", "value": value, "n": row["n"]}


def _bars(run: Run, label: str, here: Values) -> Iterator[dict[str, Any]]:
    """How many features of a matrix have which dimensionality; fewer features, wider bins."""
    arrays = run.arrays(label)
    for site in places_of({label: here}, "weights"):
        counts = arrays.get(f"{NAME}/{site}/dimensionality_counts")
        if counts is None:
            continue
        total = int(counts.sum())
        bins = next(b for b, most in ((50, 500), (100, 5000), (200, math.inf)) if total <= most)
        if len(counts) % bins == 0:
            counts = np.asarray(counts).reshape(bins, -1).sum(1)
        for place in np.flatnonzero(counts).tolist():
            yield {
                "site": site,
                "low": round(place / len(counts), 4),
                "high": round((place + 1) / len(counts), 4),
                "features": int(counts[place]),
            }


def _means(here: Values) -> Iterator[dict[str, Any]]:
    for at, row in here.items():
        if at.measure == "dimensionality" and row["value"] is not None:
            what = "mean" if at.line == "given" else "mean of Gaussian rows"
            yield {"site": at.site, "what": what, "value": float(f"{row['value']:.5g}")}
