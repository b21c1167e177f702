"""Synthetic runs of effective features, as `geoprobe features` would leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geoprobe.reports.features import NULLS
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading

NAME = "standard-l1-0.1-4x"
SITES = ("block.0", "block.1", "final")
WIDTH, SIZE = 100, 400
PSI = {"given": 2.0, "random_model": 3.0, "gaussian": 1.25}
"""psi of the newest checkpoint at the last site; in `decoder_norm` half of it."""
EXACT = {"l0": 40.0, "explained_variance": 0.8, "dead_share": 0.125}
RECOVERED = {"zero": 0.97, "mean": 0.94}


def make_features_run(
    path: Path,
    *,
    name: str = "models/net",
    steps: Sequence[int | None] = (0, 8, 64),
    sites: Sequence[str] = SITES,
    saes: Mapping[str, Sequence[str]] | None = None,
    seeds: int = 2,
    sinks: Sequence[str] = ("in", "out"),
    nulls: Sequence[str] = tuple(NULLS),
    poor: Sequence[str] = (),
    undefined: Sequence[str] = (),
    recovered: bool = True,
    trained: bool = True,
    gaussian: float = PSI["gaussian"],
) -> Run:
    """A run as `geoprobe features` would leave it: psi grows with depth and training.

    Args:
        path: Where.
        name: Of the series.
        steps: Of the checkpoints.
        sites: In order of depth.
        saes: Names of the loaded autoencoders of each site; None where they were trained.
        seeds: Of trained ones.
        sinks: Whether sinks can be told.
        nulls: Which were measured.
        poor: Sites whose autoencoders explain nothing.
        undefined: Sites where no feature is ever active.
        recovered: Whether the loss recovered was measured.
        trained: Whether there are findings of kind `training`.
        gaussian: psi of Gaussian data.
    """
    labels = [f"step{step}" if step is not None else "model" for step in steps]
    entries = [
        {"label": label, "step": step, "tokens": None, "stage": None, "fingerprint": ""}
        for label, step in zip(labels, steps, strict=True)
    ]
    header = {
        "schema": "geoprobe.run/1",
        "command": "features",
        "options": {"probes": ["features"], "seed": 0},
        "corpus": {"source": "synthetic", "sequences": 100},
        "environment": {"dtype": "float32", "libraries": {}},
        "series": {"arguments": [name], "checkpoints": entries},
    }
    with Run.create(path, header) as run:
        for index, entry in enumerate(entries):
            readings: list[Reading] = []
            findings: list[dict[str, Any]] = []
            arrays: dict[str, np.ndarray] = {}
            for depth, site in enumerate(sites):
                factor = 2.0 ** (index + depth - len(entries) - len(sites) + 2)
                for sae in saes.get(site, ()) if saes is not None else [NAME]:
                    shown: list[str | None] = (
                        [None] if saes is not None else [*map(str, range(seeds))]
                    )
                    shown += ["mean"] if len(shown) > 1 else []
                    for seed in shown:
                        psi = {**PSI, "given": PSI["given"] * factor, "gaussian": gaussian}
                        readings += _readings(
                            site, sae, seed, psi, sinks, nulls, site in poor, site in undefined
                        )
                    if recovered:
                        readings += _recovered(site, sae, shown[0], saes is None, sinks)
                    findings += _findings(site, sae, seeds if trained and saes is None else 0)
                    arrays[f"features/curve/{site}/{sae}"] = np.array(
                        [[100.0, 200, 400], [50 * factor, 90 * factor, 100 * factor]]
                    )
            at = {"checkpoint": entry["label"]}
            readings = [replace(r, checkpoint=entry["label"]) for r in readings]
            run.write_checkpoint(entry, readings, [{**f, **at} for f in findings], arrays)
    return run


def _readings(
    site: str,
    sae: str,
    seed: str | None,
    psi_of: Mapping[str, float],
    sinks: Sequence[str],
    nulls: Sequence[str],
    poor: bool,
    undefined: bool,
) -> list[Reading]:
    found = []
    for of in ("given", *nulls):
        if of != "given" and seed not in (None, "0"):
            continue
        for which in sinks:
            if of == "gaussian" and which != sinks[-1]:
                continue
            keys = {"sae": sae, "sinks": which, "activations": of}
            keys |= {} if seed is None else {"seed": seed}
            # A seed's own value is off, and sinks make a difference.
            scale = 1.0 if seed in (None, "mean") else 1.01
            scale *= 1.0 if which == "out" else 1.5
            psi = psi_of[of] * (scale if of == "given" else 1)
            exact = {**EXACT, "explained_variance": -0.3 if poor else EXACT["explained_variance"]}
            values = [
                ("psi", "codes", psi),
                ("psi", "decoder_norm", psi / 2),
                ("effective_features", "codes", psi * WIDTH),
                ("effective_features", "decoder_norm", psi * WIDTH / 2),
                *((m, "exact", v) for m, v in exact.items()),
            ]
            if of == "given":
                values += [("saturation", c, 0.99) for c in ("codes", "decoder_norm")]
            for measure, convention, value in values:
                missing = undefined and measure in ("psi", "effective_features", "saturation")
                error = of == "given" and measure != "dead_share"
                found.append(
                    Reading(
                        *("", "features", measure, site, keys),
                        None if missing else value,
                        abs(value) / 100 if error and not missing else None,
                        1000 if which == "in" else 900,
                        convention,
                        "no feature is ever active" if missing else "",
                    )
                )
    return found


def _recovered(
    site: str, sae: str, seed: str | None, trained: bool, sinks: Sequence[str]
) -> list[Reading]:
    keys = {"sae": sae, "sinks": sinks[-1] if trained else "in", "activations": "given"}
    keys |= {} if seed is None else {"seed": seed}
    return [
        Reading("", "features", "loss_recovered", site, {**keys, "ablation": a}, value, 0.01, 500)
        for a, value in RECOVERED.items()
    ]


def _findings(site: str, sae: str, seeds: int) -> list[dict[str, Any]]:
    coder = {"architecture": "standard", "features": SIZE, "width": WIDTH, "k": None}
    found: list[dict[str, Any]] = [
        {"kind": "autoencoder", "site": site, "sae": sae, **coder, "source": "geoprobe"}
    ]
    for seed in range(seeds):
        history = [
            {"samples": s, "loss": 9.0, "held_out": 8.0 / i, "explained": 0.5, "l0": 9, "dead": 0.1}
            for i, s in enumerate((100, 200, 300), start=1)
        ]
        told = {"samples": 300, "best_at": 200, "stopped_early": True, "history": history}
        found.append({"kind": "training", "site": site, "sae": sae, "seed": seed, **told})
    return found
