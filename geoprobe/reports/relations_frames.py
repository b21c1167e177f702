"""What the charts of relation-specific neurons draw: one row a mark."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

import polars as pl

from geoprobe.reports.features_frames import frames_of, schema
from geoprobe.reports.relations import (
    KNOWN,
    MODULES,
    NET,
    RANDOM,
    SERIES,
    WHOLE,
    Measured,
    has_relations,
    measured,
    names_of,
    told_from,
    with_neurons,
)
from geoprobe.reports.subject import STDERRS, Place, thinned

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

MOST_PLACES = 24
"""Checkpoints to step through; the charts over training have all."""
RANDOM_ROW = "random neurons"
PARTS = {
    **{module: f"{module} only" for module in MODULES},
    WHOLE: "whole set",
    RANDOM: "random neurons",
}
"""What is off of a relation's neurons, for people."""
COURSES = {
    "known": "Prompts that the model answers",
    "drop": "Own facts that break",
    "shared": "Neurons shared with the newest",
}
"""Panels over training."""
SPREAD = 0.045
"""Lines are set apart by this share of the axis, all together, for their bars to be told."""
_FRAMES = {
    "relations_known": schema("relation state", "value stderr", "n place"),
    "relations_matrix": schema("row column convention said", "value stderr", "n i j own"),
    "relations_curve": schema("relation line", "at value stderr lo hi", "k n place kept"),
    "relations_parts": schema("relation part", "value lo hi", "n neurons place draws"),
    "relations_overlap": schema("row column said", "value chance", "i j k"),
    "relations_where": schema("relation module", "", "block neurons place"),
    "relations_course": schema("relation measure line", "x value stderr lo hi", "n place"),
}


def stops(run: Run) -> list[int]:
    """Places of the checkpoints that one can step through: those with neurons, else all."""
    known = with_neurons(run) or list(range(len(run.labels)))
    return [known[i] for i in thinned(len(known), MOST_PLACES)]


def places(subject: Subject, runs: Collection[str]) -> list[Place]:
    """The same of several runs, aligned by their share, the newest last."""
    kept = {name: stops(subject.runs[name]) for name in runs}
    count = max(map(len, kept.values()), default=0)
    found = []
    for step in range(count):
        share = step / (count - 1) if count > 1 else 1.0
        at = {name: some[round(share * (len(some) - 1))] for name, some in kept.items()}
        labels = [subject.runs[name].labels[index] for name, index in at.items()]
        found.append(Place(" / ".join(dict.fromkeys(labels)), at))
    return found


def relations_frames(subject: Subject) -> dict[str, pl.DataFrame]:
    """The tables behind the charts; `place` is a relation's among all."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _FRAMES}
    runs = {name: run for name, run in subject.runs.items() if has_relations(run)}
    every = {name: measured(run) for name, run in runs.items()}
    names = names_of(
        list(dict.fromkeys(r for run in every.values() for h in run.values() for r in h.relations))
    )
    order = {relation: place for place, relation in enumerate(names)}
    for name, run in runs.items():
        shown = set(stops(run))
        shared = _shared(run)
        for index, (label, here) in enumerate(every[name].items()):
            at = {"run": name, "checkpoint": label, "index": index}
            x = subject.x_of(run, index)
            found = {"relations_course": [{"x": x, **row} for row in _course(here, shared)]}
            if index in shown:
                found |= {
                    "relations_known": list(_known(here)),
                    "relations_curve": list(_curve(here, order)),
                    "relations_parts": list(_parts(here)),
                    "relations_where": list(_where(here)),
                    "relations_matrix": list(_matrix(here, names)),
                    "relations_overlap": list(_overlap(here, names)),
                }
            for table, marks in found.items():
                for mark in marks:
                    relation = mark.get("relation")
                    if relation is not None:
                        mark |= {"relation": names.get(relation, relation)}
                        mark.setdefault("place", order.get(relation))
                    rows[table].append({**at, **mark})
    return frames_of(rows, _FRAMES)


def _ends(value: float, stderr: float | None) -> dict[str, float]:
    """Ends of an error bar of a share."""
    error = STDERRS * (stderr or 0.0)
    return {"lo": max(0.0, value - error), "hi": min(1.0, value + error)}


def _known(here: Measured) -> Iterator[dict[str, Any]]:
    for relation in here.relations:
        row = here.row("known", relation)
        if row is not None and row["value"] is not None:
            state = "measured" if relation in here.found else "left out"
            yield {"relation": relation, "state": state, **_numbers(row)}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("value", "stderr", "n")}


def _said(value: float) -> str:
    """Whole per cent, with the minus sign of a picture."""
    return f"{round(100 * value)}".replace("-", "−")


def _matrix(here: Measured, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for convention in (KNOWN, NET):
        for i, off in enumerate(here.found):
            for j, relation in enumerate(here.found):
                row = here.drop(off, relation, convention)
                if row is not None and row["value"] is not None:
                    yield {
                        "row": names[off],
                        "column": names[relation],
                        "i": i,
                        "j": j,
                        "convention": convention,
                        "own": int(i == j),
                        "said": _said(row["value"]),
                        **_numbers(row),
                    }
    label = told_from(names.values(), RANDOM_ROW)
    for j, relation in enumerate(here.found):
        drawn = here.random(relation)
        if drawn is not None:
            yield {
                "row": label,
                "column": names[relation],
                "i": len(here.found),
                "j": j,
                "convention": KNOWN,
                "own": 0,
                "value": drawn.mean,
                "said": _said(drawn.mean),
            }


def _curve(here: Measured, order: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Own drop by the size of the set, and the mean of random sets as large."""
    middle = (len(here.found) - 1) / 2
    tried = {relation: [k for k in here.ks(relation) if k > 0] for relation in here.found}
    ends = [k for ks in tried.values() for k in ks]
    length = math.log(max(ends) / min(ends)) if ends else 0.0
    apart = math.exp(SPREAD * length / max(1, len(here.found)))
    for place, relation in enumerate(here.found):
        for k in tried[relation]:
            row = here.drop(relation, relation, k=k)
            if row is None or row["value"] is None:
                continue
            yield {
                "relation": relation,
                "line": "own",
                "k": k,
                "at": float(f"{k * apart ** (place - middle):.5g}"),
                "kept": int(k == here.k(relation)),
                **_numbers(row),
                **_ends(row["value"], row["stderr"]),
            }
    by_size: dict[int, list[float]] = {}
    for relation, k in here.drawn:
        drawn = here.random(relation, k)
        if relation in here.found and drawn is not None:
            by_size.setdefault(k, []).append(drawn.mean)
    for k, means in sorted(by_size.items()):
        yield {"line": "random", "at": float(k), "k": k, "value": fmean(means)}


def _parts(here: Measured) -> Iterator[dict[str, Any]]:
    """Drops with only the neurons of one kind off, with all, and with random ones."""
    for relation in here.found:
        finding = here.finding("relation_neurons", relation) or {}
        sizes = {m: sum(c) for m, c in (finding.get("modules") or {}).items()}
        sizes[WHOLE] = here.k(relation)
        for module in (*MODULES, WHOLE):
            row = here.drop(relation, relation, module=module)
            if row is None or row["value"] is None:
                continue
            yield {
                "relation": relation,
                "part": PARTS[module],
                "neurons": sizes.get(module),
                "value": row["value"],
                "n": row["n"],
                **_ends(row["value"], row["stderr"]),
            }
        drawn = here.random(relation)
        if drawn is not None:
            yield {
                "relation": relation,
                "part": PARTS[RANDOM],
                "neurons": here.k(relation),
                "value": drawn.mean,
                "lo": drawn.least,
                "hi": drawn.most,
                "draws": drawn.draws,
            }


def _overlap(here: Measured, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Both halves of the matrix; a set's overlap with itself is left blank."""
    place = {relation: i for i, relation in enumerate(here.found)}
    for at, row in here.rows.items():
        pair = (at.relation, at.more)
        if at.measure != "overlap" or row["value"] is None or not place.keys() >= set(pair):
            continue
        shared = 100 * row["value"]
        for one, other in (pair, pair[::-1]):
            yield {
                "row": names[one],
                "column": names[other],
                "i": place[one],
                "j": place[other],
                "k": at.k,
                "value": row["value"],
                "chance": here.chance(one, other),
                "said": f"{shared:.0f}" if shared >= 9.95 or not shared else f"{shared:.1f}",
            }


def _where(here: Measured) -> Iterator[dict[str, Any]]:
    for finding in here.of("relation_neurons"):
        for module in MODULES:
            counts = (finding.get("modules") or {}).get(module) or []
            for block, count in enumerate(counts):
                if count or block == len(counts) - 1:  # the axis ends where the model does
                    mark = {"relation": finding["relation"], "module": module}
                    yield {**mark, "block": block, "neurons": int(count)}


Shared = Mapping[tuple[str, str], float]


def _shared(run: Run) -> Shared:
    """Neurons that checkpoints share with the newest, by relation and checkpoint."""
    return {
        (str(finding["relation"]), str(entry["checkpoint"])): float(entry["shared"])
        for finding in run.findings
        if finding["kind"] == SERIES
        for entry in finding.get("checkpoints") or []
        if entry.get("shared") is not None
    }


def _course(here: Measured, shared: Shared) -> Iterator[dict[str, Any]]:
    for relation in here.relations:
        drop = here.drop(relation, relation) if relation in here.found else None
        for measure, row in (("known", here.row("known", relation)), ("drop", drop)):
            if row is None or row["value"] is None:
                continue
            yield {
                "relation": relation,
                "measure": COURSES[measure],
                "line": "given",
                **_numbers(row),
                **_ends(row["value"], row["stderr"]),
            }
        share = shared.get((relation, here.label))
        if share is None:
            continue
        mark = {"relation": relation, "measure": COURSES["shared"]}
        yield {**mark, "line": "given", "value": share, "lo": share, "hi": share}
        if here.neurons and here.from_all:
            # So many of any neurons are among as many as there are here.
            yield {**mark, "line": "chance", "value": here.k(relation) / here.neurons}
