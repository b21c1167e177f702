"""What a run says of superposition, as tables and sentences, and as rows for its charts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from geoprobe.reports import collapse, features, sinks, words
from geoprobe.reports.lookup import findings_at, readings_at
from geoprobe.reports.parts import Table
from geoprobe.reports.subject import thinned

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

NAME = "superposition"
MOST_CHECKPOINTS = 24
MOST_SAID = 3
"""Plateaus that are told under a table of the terminal."""
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
_READ = ("of", "site", "measure", "rows", "basis", "convention", "value", "stderr", "n", "reason")


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


def values(run: Run, label: str, sites: Collection[str] | None = None) -> Values:
    """Readings of a checkpoint, of some sites or of all."""
    frame = readings_at(run, label).filter(pl.col("probe") == NAME)
    if sites is not None:
        frame = frame.filter(pl.col("site").is_in(sites))
    found: dict[At, dict[str, Any]] = {}
    for row in frame.select(name for name in _READ if name in frame.columns).to_dicts():
        line = row.get("rows") or row.get("basis") or "given"
        at = At(row["of"], row["site"], row["measure"], line, row["convention"])
        found.setdefault(at, row)
    return found


def places_of(runs: Iterable[Run], of: str) -> list[str]:
    """Matrices, or sites of activations, of all checkpoints, in order of depth."""
    here = (pl.col("probe") == NAME) & (pl.col("of") == of)
    site = pl.col("site").unique(maintain_order=True)
    # Lazily, so that no other column of a long table is gone through.
    found = [run.readings.lazy().filter(here).select(site).collect() for run in runs]
    return _in_depth(name for frame in found for name in frame["site"])


def places_at(here: Values, of: str) -> list[str]:
    """The same of one checkpoint."""
    return _in_depth(at.site for at in here if at.of == of)


def _in_depth(sites: Iterable[str]) -> list[str]:
    """Each once, in order of depth where all have one."""
    found = list(dict.fromkeys(sites))
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
    here = values(run, run.labels[-1])
    found = [*_matrices(run, here, most_sites), _bases(run, here, most_sites)]
    if len(run.labels) > 1:
        found.append(_course(run))
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


def _matrices(run: Run, here: Values, most: int | None) -> Iterator[Table]:
    label = run.labels[-1]
    by_kind: dict[str, list[str]] = {}
    for site in places_at(here, "weights"):
        by_kind.setdefault(kind_and_place(site)[0], []).append(site)
    single = [s for sites in by_kind.values() if len(sites) == 1 for s in sites]
    tables = {k: s for k, s in by_kind.items() if len(s) > 1}
    tables = ({"": single} if single else {}) | tables
    plateaus = findings_at(run, label, "plateau")
    closest = {f["site"]: f for f in findings_at(run, label, "closest")}
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


def _bases(run: Run, here: Values, most: int | None) -> Table:
    label = run.labels[-1]
    by_kind: dict[str, list[str]] = {}
    for site in places_at(here, "activations"):
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


def _mains(weights: Sequence[str], activations: Sequence[str]) -> tuple[str | None, str | None]:
    """The matrix and the site of activations to look at first: the last block's neurons."""
    found = []
    for sites, kind in ((weights, "mlp.out"), (activations, "neurons")):
        best = [s for s in sites if kind_and_place(s)[0] == kind]
        found.append(next(reversed(best or sites), None))
    return found[0], found[1]


def _mains_at(here: Values) -> tuple[str | None, str | None]:
    return _mains(places_at(here, "weights"), places_at(here, "activations"))


def _course(run: Run) -> Table:
    matrix, site = _mains(places_of([run], "weights"), places_of([run], "activations"))
    labels = [run.labels[i] for i in thinned(len(run.labels), MOST_CHECKPOINTS)]
    mains = [place for place in (matrix, site) if place is not None]
    every = {label: values(run, label, mains) for label in labels}

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
    here = values(run, label)
    parts: list[str] = []
    matrix, site = _mains_at(here)
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
    plateaus = findings_at(run, label, "plateau")
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
    here = values(run, run.labels[-1])
    matrix, site = _mains_at(here)
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
