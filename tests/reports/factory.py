"""Synthetic runs for the tests of reports: power-law spectra, measured by the real measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geoprobe import measures
from geoprobe.measures.estimate import Undefined
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"><!-- [bold red]x[/]"
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


def decay(step: int, depth: float) -> float:
    """The exponent of a site's spectrum: up, down and up again, as in the published phases."""
    t = np.log1p(step) / np.log1p(STEPS[-1])
    return float(
        0.7 + 0.9 * np.exp(-(((t - 0.35) / 0.15) ** 2)) + 0.8 * max(0, t - 0.7) + depth / 3
    )


def spectrum(step: int, depth: float, width: int) -> np.ndarray:
    values = np.arange(1, width + 1, dtype=np.float64) ** -decay(step, depth)
    values[0] *= 1.5
    return values


def _readings(
    label: str,
    site: str,
    keys: Mapping[str, Any],
    values: np.ndarray,
    conventions: Sequence[str],
    noise: np.random.Generator,
) -> list[Reading]:
    n, width = 1024, len(values)
    table: list[tuple[str, str, dict[str, Any], Any]] = []
    for c in conventions:
        if c != "stringer":
            table.append(("rankme", c, {}, lambda c=c: measures.rankme(values, c, n=n)))
        if c != "garrido2023":
            table += [
                ("alpha", c, {}, lambda c=c: measures.alpha(values, c).alpha),
                ("alpha_r2", c, {}, lambda c=c: measures.alpha_r2(values, c)),
                ("alpha_r2_13_100", c, {}, lambda c=c: measures.alpha_r2_13_100(values, c)),
            ]
    pr = measures.participation_ratio(values)
    table += [
        ("participation_ratio", "exact", {}, lambda: pr),
        (
            "participation_ratio_corrected",
            "exact",
            {},
            lambda: measures.participation_ratio_corrected(values, n),
        ),
        ("nesum", "exact", {}, lambda: measures.nesum(values)),
        ("stable_rank", "exact", {}, lambda: measures.nesum(values) * 0.8),
        ("isoscore", "exact", {}, lambda: measures.isoscore(values, width)),
        ("top1_share", "exact", {}, lambda: measures.top1_share(values)),
        ("rankme_headless", "exact", {"k": 10}, lambda: measures.rankme_headless(values, 10)),
        ("matrix_entropy", "exact", {}, lambda: 0.5 + 0.001 * pr),
        ("intrinsic_dim", "exact", {}, lambda: 4 + np.log(pr)),
        ("intrinsic_dim_ml", "exact", {}, lambda: 4.1 + np.log(pr)),
    ]
    found = []
    for measure, convention, more, compute in table:
        value, stderr, reason = None, None, ""
        try:
            value = float(compute())
            stderr = abs(value) * float(noise.uniform(0.01, 0.03))
        except Undefined as undefined:
            reason = undefined.reason
        found.append(
            Reading(
                checkpoint=label,
                probe="spectrum",
                measure=measure,
                site=site,
                keys={**keys, **more},
                value=value,
                stderr=stderr,
                n=n,
                convention=convention,
                reason=reason,
            )
        )
    return found


def make_run(
    path: Path,
    *,
    name: str = "models/pebble",
    steps: Sequence[int | None] = STEPS,
    tokens: Sequence[str] = ("last",),
    sinks: Sequence[str] = ("in",),
    conventions: Sequence[str] = ("exact",),
    sites: Sequence[str] | None = None,
    blocks: int = 6,
    width: int = 128,
    labels: Sequence[str] | None = None,
    training_tokens: int | None = None,
    ablate: Sequence[int] = (),
    failed: Mapping[str, str] | None = None,
    phases: bool = True,
    warn: str | None = None,
    command: str = "rank",
    seed: int = 0,
) -> Run:
    """A run as `geoprobe rank` would leave it."""
    noise = np.random.default_rng(seed)
    labels = list(labels or [f"step{step}" if step is not None else "model" for step in steps])
    failed = dict(failed or {})
    places = list(sites or ["embed", *(f"block.{i}" for i in range(blocks)), "final"])
    entries = [
        {
            "label": label,
            "step": step,
            "tokens": None if training_tokens is None or step is None else step * training_tokens,
            "stage": None,
            "fingerprint": f"{i:064x}",
        }
        for i, (label, step) in enumerate(zip(labels, steps, strict=True))
    ]
    broken = [
        {"label": label, "step": 10**6, "tokens": None, "stage": None, "fingerprint": ""}
        for label in failed
    ]
    header = {
        "schema": "geoprobe.run/1",
        "command": command,
        "options": {"tokens": list(tokens), "conventions": list(conventions), "seed": seed},
        "corpus": {"source": "synthetic", "sequences": 1024, "fingerprint": "c" * 64},
        "environment": {
            "python": "3.11.2",
            "device": "cpu",
            "dtype": "float32",
            "libraries": {"geoprobe": "0.1.0", "numpy": "2.0.0"},
        },
        "series": {"arguments": [name], "checkpoints": [*entries, *broken]},
    }
    with Run.create(path, header) as run:
        for entry in entries:
            step = entry["step"] or 0
            readings: list[Reading] = []
            arrays: dict[str, np.ndarray] = {}
            for place, site in enumerate(places):
                depth = place / max(1, len(places) - 1)
                for t, choice in enumerate(tokens):
                    for sink in sinks:
                        values = spectrum(step, depth + 0.2 * t - 0.3 * (sink == "out"), width)
                        keys = {"tokens": choice, "sinks": sink}
                        readings += _readings(
                            entry["label"], site, keys, values, conventions, noise
                        )
                        arrays[f"spectrum/{site}/{choice}/{sink}/eigenvalues"] = values
            readings += _ablation(entry["label"], places[-1], step, ablate)
            findings: list[dict[str, Any]] = []
            if warn is not None:
                findings.append({"kind": "warning", "code": "finite_sample", "message": warn})
            if "out" in sinks:
                findings.append(
                    {"kind": "sink_rule", "message": "Dropped as sinks: positions 0 (norm ...)."}
                )
            findings = [{**f, "checkpoint": entry["label"]} for f in findings]
            run.write_checkpoint(entry, readings, findings, arrays)
        for entry in broken:
            run.write_failure(entry, failed[entry["label"]])
        if phases and len(entries) > 2:
            run.write_findings(phase_findings(run, places[-1], tokens[0]))
    return run


def phase_findings(run: Run, site: str, tokens: str) -> list[dict[str, Any]]:
    import polars as pl

    frame = run.readings.filter(
        (pl.col("site") == site) & (pl.col("tokens") == tokens) & (pl.col("sinks") == "in")
    )
    convention = frame.filter(pl.col("measure") == "rankme")["convention"][0]
    rank = frame.filter((pl.col("measure") == "rankme") & (pl.col("convention") == convention))
    alpha = frame.filter((pl.col("measure") == "alpha") & (pl.col("convention") == convention))
    x = [float(np.log1p(s if s is not None else i)) for i, s in enumerate(rank["step"])]
    found = measures.phases(
        x,
        [float(np.log(v)) for v in rank["value"]],
        [s / v for v, s in zip(rank["value"], rank["stderr"], strict=True)],
        alpha["value"].to_list(),
    )
    return [
        {
            "kind": "phase",
            **phase._asdict(),
            "start": run.labels[phase.start],
            "end": run.labels[phase.end],
            "site": site,
            "tokens": tokens,
            "convention": convention,
        }
        for phase in found
    ]


def _ablation(label: str, site: str, step: int, ks: Sequence[int]) -> list[Reading]:
    if not ks:
        return []
    base = 6.0 - 0.4 * float(np.log1p(step))
    found = []
    for mode, k in [("none", 0), *((m, k) for k in ks for m in ("removed", "kept"))]:
        worse = 0.0 if mode == "none" else 0.02 * k if mode == "removed" else 3 / np.sqrt(k)
        for measure, value in (
            ("ablation_loss", base + worse),
            ("ablation_accuracy", float(np.exp(-(base + worse) / 2))),
        ):
            found.append(
                Reading(
                    checkpoint=label,
                    probe="ablation",
                    measure=measure,
                    site=site,
                    keys={"k": k, "mode": mode, "tokens": "all"},
                    value=float(value),
                    stderr=0.03,
                    n=50000,
                )
            )
    return found


COLLAPSED = {
    "nc1": 0.5,
    "nc1_quotient": 0.25,
    "cdnv": 0.125,
    "separation": 4.0,
    "nc2_equinorm": 0.2,
    "nc2_equiangular": 0.1,
    "nc2_etf": 0.6,
    "nc2_uniformity": 0.3,
}
"""What is planted at the last site of the newest checkpoint."""
NULL = 3
"""What permuted labels have, in units of that."""
HEADS = {"nc3_duality": 0.7, "nc3_cosine": 0.65, "nc4_mismatch": 0.125}


def make_collapse_run(
    path: Path,
    *,
    name: str = "models/net",
    steps: Sequence[int | None] = (0, 8, 64, 512),
    data: Sequence[str] = ("train", "heldout"),
    classes: Sequence[str] = tuple(f"class {i}" for i in range(10)),
    tokens: bool = False,
    sites: Sequence[str] = ("block.0", "block.1", "block.2", "penultimate"),
    counts: Sequence[int] | None = None,
    absent: str = "",
    predicted: bool = False,
    floor: float = 0.0,
) -> Run:
    """A run as `geoprobe collapse` would leave it: all measures halve with depth and training."""
    labels = [f"step{step}" if step is not None else "model" for step in steps]
    entries = [
        {"label": label, "step": step, "tokens": None, "stage": None, "fingerprint": ""}
        for label, step in zip(labels, steps, strict=True)
    ]
    header = {
        "schema": "geoprobe.run/1",
        "command": "collapse",
        "options": {"probes": ["collapse"], "seed": 0},
        "corpus": {"source": "synthetic", "sequences": 100},
        "environment": {"dtype": "float32", "libraries": {}},
        "series": {"arguments": [name], "checkpoints": entries},
    }
    sizes = np.array(counts if counts is not None else [20] * len(classes))
    with Run.create(path, header) as run:
        for index, entry in enumerate(entries):
            readings: list[Reading] = []
            findings: list[dict[str, Any]] = []
            arrays: dict[str, np.ndarray] = {}
            for s, of in enumerate(data):
                factor = 2.0 ** (len(entries) - 1 - index + s)
                readings += _collapse(
                    entry["label"], of, sites, factor, absent, tokens, predicted, floor
                )
                findings += _classes(entry["label"], of, sites, classes, sizes, tokens, predicted)
                arrays |= _of_classes(f"collapse/{of}", sizes, not absent, predicted)
            run.write_checkpoint(entry, readings, findings, arrays)
        if len(entries) > 2:
            run.write_findings(
                [
                    {
                        "kind": "onset",
                        "data": data[0],
                        "site": sites[-1],
                        "start": labels[1],
                        "end": labels[2],
                        "message": f"{data[0]}: collapse begins between {labels[1]} and "
                        f"{labels[2]}.",
                    }
                ]
            )
    return run


def _collapse(
    label: str,
    data: str,
    sites: Sequence[str],
    factor: float,
    absent: str,
    tokens: bool,
    predicted: bool,
    floor: float,
) -> list[Reading]:
    keys: dict[str, Any] = {
        "classes": "tokens" if tokens else "labels",
        "data": data,
        "tokens": "last",
        "labels": "given",
    }

    def one(
        measure: str, site: str, value: float | None, *, reason: str = "", **more: str
    ) -> Reading:
        given = {**keys, **more}["labels"] == "given" and value is not None
        stderr = abs(value) / 100 if given and value is not None else None
        return Reading(
            label, "collapse", measure, site, {**keys, **more}, value, stderr, 200, reason=reason
        )

    found = []
    for place, site in enumerate(sites):
        deeper = 2.0 ** (len(sites) - 1 - place)
        for measure, value in COLLAPSED.items():
            of = {"of": "means"} if measure == "nc2_equinorm" else {}
            found.append(one(measure, site, value * factor * deeper, **of))
            found.append(one(measure, site, value * NULL, labels="permuted", **of))
        found.append(one("nc2_etf_floor", site, floor))
        if place:
            before = dict.fromkeys((sites[place - 1], sites[0]))
            found += [one("geometry_distance", site, 0.4, **{"from": other}) for other in before]
    found += [one("separation_decay", "model", 0.5), one("separation_decay_r2", "model", 1.0)]
    last = sites[-1]
    for measure, value in HEADS.items():
        if absent:
            found.append(one(measure, last, None, reason=absent))
            continue
        found += [one(measure, last, value), one(measure, last, 0.875, labels="permuted")]
    found.append(one("nc2_equinorm", last, None if absent else 0.3, reason=absent, of="rows"))
    if predicted:
        found += [one("gof_distance", last, 0.11, of=of) for of in ("means", "rows", "logits")]
    return found


def _classes(
    label: str,
    data: str,
    sites: Sequence[str],
    classes: Sequence[str],
    sizes: np.ndarray,
    tokens: bool,
    predicted: bool,
) -> list[dict[str, Any]]:
    shown = list(classes[:50])
    named = {"token_ids": list(range(len(shown))), "tokens_text": shown}
    found: list[dict[str, Any]] = [
        {
            "kind": "depth",
            "data": data,
            "sites": list(sites),
            "law": {s: int(s.split(".")[1]) for s in sites if s.startswith("block.")},
            "message": f"{data}: nc1_quotient falls from 2 to 0.25; it falls at 3 of 3 steps.",
        },
        {
            "kind": "classes",
            "data": data,
            "site": sites[-1],
            "number": len(classes),
            "rows": int(sizes.sum()),
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
            **(named if tokens else {"classes": shown}),
        },
    ]
    if predicted:
        found.append(
            {
                "kind": "imbalance",
                "data": data,
                "threshold": 4.5,
                "collapsed": [],
                "message": f"{data}: the threshold of minority collapse is 4.5 samples.",
            }
        )
    return [{**finding, "checkpoint": label} for finding in found]


def _of_classes(path: str, sizes: np.ndarray, head: bool, predicted: bool) -> dict[str, np.ndarray]:
    many = len(sizes)
    k = min(50, many)
    norms = np.linspace(3.0, 1.0, many)
    found = {
        f"{path}/cosines": np.where(np.eye(k) > 0, 1.0, -1 / (many - 1) + 0.0625),
        f"{path}/counts": np.sort(sizes)[::-1],
        f"{path}/centred_norms": norms,
        f"{path}/norms": norms + 0.5,
    }
    if head:
        found[f"{path}/row_norms"] = norms / 4
    if predicted:
        found |= {f"{path}/predicted_norms": norms + 0.75, f"{path}/predicted_row_norms": norms / 8}
    return found
