"""What the charts of effective features draw: one row a mark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from geoprobe.reports.features import (
    CONVENTIONS,
    LINES,
    NAME,
    QUALITY,
    Values,
    coders,
    found_at,
    groups,
    has_features,
    is_poor,
    sinks_of,
    values,
)

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

TRAINING = {
    "held_out": "Loss on held-out text",
    "l0": "Active features a token",
    "dead": "Dead features (share)",
    "effective": "Effective features, F (held-out)",
}
"""Columns of a training's history, with their titles."""


def schema(texts: str, floats: str, ints: str = "") -> dict[str, Any]:
    """The columns of a table of marks, each with its run and checkpoint."""
    return {
        **dict.fromkeys(("run", "checkpoint", *texts.split()), pl.String),
        **dict.fromkeys(floats.split(), pl.Float64),
        **dict.fromkeys(("index", *ints.split()), pl.Int64),
    }


def frames_of(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], schemas: Mapping[str, dict[str, Any]]
) -> dict[str, pl.DataFrame]:
    """Tables of marks; columns that a mark lacks are null, and those of no schema left out."""
    return {
        name: pl.DataFrame(
            [{key: row.get(key) for key in columns} for row in rows[name]],
            schema=columns,
            strict=False,
        )
        for name, columns in schemas.items()
    }


_FRAMES = {
    "features_values": schema(
        "shown site sae measure convention sinks line", "x value stderr", "n poor"
    ),
    "features_curve": schema("shown site sae", "samples value", "order"),
    "features_training": schema("shown site seed measure", "samples value", "order kept"),
}


def features_frames(subject: Subject) -> dict[str, pl.DataFrame]:
    """The tables behind the charts; `shown` names a run's autoencoder, `line` is as `LINES` says.

    A run without a rule for sinks has its readings under either choice of them.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _FRAMES}
    runs = {name: run for name, run in subject.runs.items() if has_features(run)}
    every = {name: values(run) for name, run in runs.items()}
    choices = {s for found in every.values() for here in found.values() for s in sinks_of(here)}
    order = {site: place for place, site in enumerate(subject.of_runs(runs).every_site)}
    for name, run in runs.items():
        named = groups(run, every[name])
        parts = len(set(named.values()))
        shown = {
            pair: ": ".join([name] * subject.several + [group] * (parts > 1 or not subject.several))
            for pair, group in named.items()
        }
        for index, (label, here) in enumerate(every[name].items()):
            at = {"run": name, "checkpoint": label, "index": index}
            x = subject.x_of(run, index)
            for pair in coders(here):
                rows["features_values"] += [
                    {**at, "shown": shown[pair], "x": x, **row}
                    for which in sorted(choices, reverse=True)
                    for row in _marks(here, *pair, which)
                ]
        at = {"run": name, "checkpoint": run.labels[-1], "index": len(run.labels) - 1}
        for table, marks in (
            ("features_curve", _curves(run)),
            ("features_training", _trainings(run)),
        ):
            rows[table] += [
                {**at, "shown": shown[row["site"], row["sae"]], "order": order[row["site"]], **row}
                for row in marks
                if (row["site"], row["sae"]) in shown
            ]
    return frames_of(rows, _FRAMES)


def _marks(here: Values, site: str, sae: str, which: str) -> Iterator[dict[str, Any]]:
    """Values of one autoencoder, and of what it is compared with."""
    known = sinks_of(here)
    tokens = which if which in known else known[0]
    poor = int(is_poor(here, site, sae, tokens))
    wanted = [("psi", c) for c in CONVENTIONS]
    wanted += [
        (m, "codes" if m in ("effective_features", "saturation") else "exact") for m in QUALITY
    ]
    for measure, convention in wanted:
        for of, line in LINES.items():
            row = found_at(here, site, sae, measure, tokens, convention=convention, of=of)
            if row is None or row["value"] is None:
                continue
            yield {
                **{key: row[key] for key in ("site", "sae", "value", "n", "stderr")},
                "measure": QUALITY.get(measure, measure),
                "convention": convention,
                "sinks": which,
                "line": line,
                "poor": poor if of == "given" else 0,
            }


def _curves(run: Run) -> Iterator[dict[str, Any]]:
    """Effective features of the newest checkpoint by the number of samples."""
    label = run.labels[-1]
    arrays = run.arrays(label)
    for site, sae in coders(values(run)[label]):
        curve = arrays.get(f"{NAME}/curve/{site}/{sae}")
        if curve is None or curve.ndim != 2 or len(curve) != 2:
            continue
        for samples, value in curve.T.tolist():
            mark = {"samples": samples, "value": float(f"{value:.5g}")}
            yield {"site": site, "sae": sae, **mark}


def _trainings(run: Run) -> Iterator[dict[str, Any]]:
    """How the autoencoders of the newest checkpoint were trained."""
    for found in run.findings:
        if found["kind"] != "training" or found.get("checkpoint") != run.labels[-1]:
            continue
        for point in found.get("history") or []:
            for key, title in TRAINING.items():
                if point.get(key) is not None:
                    yield {
                        "site": found["site"],
                        "sae": found["sae"],
                        "seed": str(found["seed"]),
                        "measure": title,
                        "samples": float(point["samples"]),
                        "value": float(f"{point[key]:.5g}"),
                        "kept": int(point["samples"] == found.get("best_at")),
                    }
