"""The report of a long scan: how large it is, and how long it takes to write.

The run is made up, with as many readings, findings and arrays as a scan of such a model leaves:
values that wander over training, each within its error.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import Line, alone, peak
from geoprobe.probes.registry import ONE_PASS
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Key, Reading

MOST_BYTES = 5_000_000
MOST_SECONDS = 10
SHAPES = (
    ("scan --attention", 12, 6, 8),
    ("rank", 150, 33, 0),
    ("scan", 150, 33, 0),
    ("scan --attention", 150, 33, 32),
)
"""Command, checkpoints, blocks, heads: like the demo series, and long ones of a large model."""
WIDTH, NEURONS, VOCABULARY, CLASSES, SEQUENCES = 768, 2048, 32000, 400, 1024
_NO_ERROR = "no standard error: a property of the weights"
_SPECTRAL = (
    *("rankme", "alpha", "alpha_r2", "alpha_r2_13_100", "participation_ratio"),
    *("participation_ratio_corrected", "nesum", "stable_rank", "isoscore", "top1_share"),
    *("rankme_headless", "matrix_entropy", "rankme_corrected", "intrinsic_dim"),
    "intrinsic_dim_ml",
)
_COLLAPSE = (
    *("nc1", "nc1_quotient", "cdnv", "separation", "nc2_equinorm"),
    *("nc2_equiangular", "nc2_etf", "nc2_uniformity"),
)
_WEIGHTS = ("dimensionality_sum", "matrix_rank", "welch_bound", "coherence", "row_norm")
_SHARES = {"alpha_r2", "alpha_r2_13_100", "isoscore", "top1_share", "matrix_entropy", "coherence"}
_SHARES |= {"sink_score", "sink_rate", "sink_mass", "nc4_mismatch", "dimensionality"}


def run() -> list[Line]:
    """Each run's report in a process of its own."""
    lines = []
    for command, checkpoints, blocks, heads in SHAPES:
        of = f" of {heads} heads" if heads else ""
        name = f"{command}, {checkpoints} checkpoints, {blocks} layers{of}"
        with tempfile.TemporaryDirectory() as folder:
            probes = ONE_PASS[:1] if command == "rank" else ONE_PASS
            make_scan_run(Path(folder) / "run", checkpoints, blocks, heads, probes)
            found = alone("benchmarks.report:written", folder)
        parts = ", ".join(f"{part} {found[part] / 1e6:.2f}" for part in PARTS)
        lines += [
            Line(
                f"{name}: size",
                f"{found['size'] / 1e6:.2f} MB",
                f"< {MOST_BYTES / 1e6:.0f} MB",
                f"{found['readings']:,} readings; {parts}",
            ),
            Line(
                f"{name}: time",
                f"{found['seconds']:.0f} s",
                f"< {MOST_SECONDS} s",
                f"of the process {found['cpu']:.0f} s; peak {found['peak']:,.0f} MiB",
            ),
        ]
    return lines


def written(folder: str) -> dict[str, float]:
    """Writes the report of the run in a folder, and weighs it."""
    from geoprobe.reports.html import write_report

    start, cpu = time.perf_counter(), time.process_time()
    opened = Run.open(Path(folder) / "run")
    file = write_report([opened], Path(folder) / "report.html")
    found = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak": peak(),
        "readings": opened.readings.height,
    }
    return found | weighed(file.read_text("utf-8"))


PARTS = ("data", "pictures", "scripts", "words")


def weighed(text: str) -> dict[str, float]:
    """Bytes of a report, and of its parts."""
    packed = dict(re.findall(r'<script type="text/plain" id="geoprobe-(\w+)">([^<]*)<', text))
    scripts = [*re.findall(r"<script>(.*?)</script>", text, re.DOTALL), packed["bundle"]]
    found = {
        "size": len(text.encode()),
        "data": len(packed["data"]),
        "pictures": sum(map(len, re.findall(r'<img src="([^"]*)"', text))),
        "scripts": sum(len(script.encode()) for script in scripts),
    }
    found["words"] = 2 * found["size"] - sum(found.values())
    return found


class What(NamedTuple):
    """A reading of every checkpoint."""

    probe: str
    measure: str
    site: str
    keys: dict[str, Key]
    n: int
    error: bool = True
    convention: str = "exact"


def whats(blocks: int, heads: int) -> Iterator[What]:
    """What a scan reads of one checkpoint; without heads, what it does without attention."""
    sites = ["embed", *(f"block.{i}" for i in range(blocks)), "final"]
    tokens = SEQUENCES * 40
    for site in sites:
        for measure in _SPECTRAL:
            keys: dict[str, Key] = {"tokens": "last", "sinks": "in"}
            keys |= {"k": 10} if measure == "rankme_headless" else {}
            yield What("spectrum", measure, site, keys, SEQUENCES, measure != "rankme_corrected")
    for site in sites[1:-1]:
        yield What("sinks", "primary_norm", site, {"position": 0}, SEQUENCES, error=False)
        for k in (1, 2, 3):
            yield What("sinks", "massive_activation", site, {"k": k}, SEQUENCES)
    yield from _collapse(sites, tokens)
    for site in [*sites, *(f"neurons.{i}" for i in range(blocks))]:
        for measure in ("kurtosis", "privileged_basis"):
            for basis in ("given", "rotated"):
                keys = {"of": "activations", "tokens": "all", "basis": basis}
                yield What("superposition", measure, site, keys, tokens, basis == "given")
    for position in range(8 if heads else 0):
        keys = {"position": position, "text": "natural"}
        yield What("sinks", "sink_rate", "model", keys, SEQUENCES)
    for block in range(blocks):
        for head in range(heads):
            at: dict[str, Key] = {"head": head, "text": "natural"}
            for measure in ("sink_score", "sink_rate"):
                keys = {**at, "position": 0}
                yield What("sinks", measure, f"attention.{block}", keys, SEQUENCES)
            for chosen in ("first", "levels", "primary"):
                keys = {**at, "set": chosen}
                yield What("sinks", "sink_mass", f"attention.{block}", keys, SEQUENCES)
    for matrix in matrices(blocks):
        yield from _weights(matrix)


def matrices(blocks: int) -> list[str]:
    """The matrices whose rows are features."""
    kinds = ("mlp.gate", "mlp.up", "mlp.out")
    return ["embedding", *(f"{kind}.{i}" for kind in kinds for i in range(blocks))]


def _collapse(sites: list[str], n: int) -> Iterator[What]:
    base: dict[str, Key] = {"classes": "tokens", "data": "text", "tokens": "all"}
    for labels in ("given", "permuted"):
        keys = {**base, "labels": labels}
        for site in sites:
            for measure in _COLLAPSE:
                of: dict[str, Key] = {"of": "means"} if measure == "nc2_equinorm" else {}
                yield What("collapse", measure, site, {**keys, **of}, n, labels == "given")
        for measure in ("nc3_duality", "nc3_cosine", "nc4_mismatch"):
            yield What("collapse", measure, "final", keys, n, labels == "given")
    keys = {**base, "labels": "given"}
    yield What("collapse", "nc2_equinorm", "final", {**keys, "of": "rows"}, n)
    for place, site in enumerate(sites):
        yield What("collapse", "nc2_etf_floor", site, keys, n, error=False)
        for other in dict.fromkeys((sites[max(0, place - 1)], sites[0])):
            if other != site:
                yield What("collapse", "geometry_distance", site, {**keys, "from": other}, n)
    for measure in ("separation_decay", "separation_decay_r2"):
        yield What("collapse", measure, "model", keys, n)


def _weights(matrix: str) -> Iterator[What]:
    n = VOCABULARY if matrix == "embedding" else NEURONS
    keys: dict[str, Key] = {"of": "weights", "rows": "given"}
    for measure in ("dimensionality", "interference"):
        for rows in ("given", "gaussian"):
            of = {**keys, "rows": rows}
            yield What("superposition", measure, matrix, of, n, error=False)
    for measure in _WEIGHTS:
        yield What("superposition", measure, matrix, keys, n, error=False)
    for convention in ("raw", "unit_rows"):
        for measure in ("dimensions_per_feature", "frobenius_psi"):
            yield What("superposition", measure, matrix, keys, n, False, convention)
    if matrix.startswith(("mlp.gate", "mlp.up")):
        yield What("superposition", "in_out_cosine", matrix, keys, n, error=False)


def make_scan_run(
    path: Path, checkpoints: int, blocks: int, heads: int, probes: tuple[str, ...] = ONE_PASS
) -> Run:
    """A run as `geoprobe scan` would leave it, less arrays that no report reads."""
    draw = np.random.default_rng(0)
    wanted = [what for what in whats(blocks, heads) if what.probe in probes]
    values, errors = _wander(draw, wanted, checkpoints)
    steps = [0, *np.unique(np.rint(np.geomspace(1, 150_000, checkpoints - 1) * 1e3)).astype(int)]
    labels = [f"step-{step:09d}" for step in steps]
    entries = [
        {"label": label, "step": int(step), "tokens": None, "stage": None, "fingerprint": f"{i:x}"}
        for i, (label, step) in enumerate(zip(labels, steps, strict=True))
    ]
    header = {
        "schema": "geoprobe.run/1",
        "command": "scan" if len(probes) > 1 else "rank",
        "options": {"probes": list(probes), "seed": 0},
        "corpus": {"source": "synthetic", "sequences": SEQUENCES},
        "environment": {"dtype": "float32", "libraries": {}},
        "series": {"arguments": ["models/long"], "checkpoints": entries},
    }
    with Run.create(path, header, fresh=True) as run:
        for index, entry in enumerate(entries):
            readings = [
                Reading(
                    *(labels[index], what.probe, what.measure, what.site, what.keys),
                    value=float(value),
                    stderr=float(error) if what.error else None,
                    n=what.n,
                    convention=what.convention,
                    reason="" if what.error else _NO_ERROR,
                )
                for what, value, error in zip(wanted, values[index], errors[index], strict=True)
            ]
            arrays = {
                name: array
                for name, array in _arrays(draw, blocks, heads, index / checkpoints).items()
                if name.partition("/")[0] in probes
            }
            found = _findings(blocks, heads) if len(probes) > 1 else ()
            findings = [{**f, "checkpoint": labels[index]} for f in found]
            run.write_checkpoint(entry, readings, findings, arrays)
    return run


def _wander(draw: np.random.Generator, wanted: list[What], checkpoints: int) -> Any:
    """Values and their errors, a row a checkpoint."""
    shape = (checkpoints, len(wanted))
    with_error = np.array([what.error for what in wanted])
    relative = np.where(with_error, draw.uniform(0.003, 0.03, len(wanted)), 1e-4)
    start = draw.normal(0, 1.5, len(wanted))
    walk = np.cumsum(draw.normal(0, 0.02, shape), axis=0) + start
    logs = walk + relative * draw.normal(size=shape)
    share = np.array([what.measure in _SHARES for what in wanted])
    values = np.where(share, 1 / (1 + np.exp(-logs)), np.exp(logs))
    whole = np.array([what.measure == "matrix_rank" for what in wanted])
    values[:, whole] = WIDTH
    # What eight groups say of an error varies by a quarter.
    errors = values * relative * np.sqrt(draw.chisquare(7, shape) / 7)
    return values, errors


def _arrays(draw: np.random.Generator, blocks: int, heads: int, when: float) -> dict[str, Any]:
    ranks = np.arange(1, WIDTH + 1, dtype=np.float64)
    sites = ["embed", *(f"block.{i}" for i in range(blocks)), "final"]
    found: dict[str, Any] = {
        f"spectrum/{site}/last/in/eigenvalues": ranks ** -(0.8 + when / 2 + place / len(sites) / 3)
        * np.exp(0.02 * np.sort(draw.normal(size=WIDTH))[::-1])
        for place, site in enumerate(sites)
    }
    cosines = np.clip(draw.normal(0, 0.1, (50, 50)) + np.eye(50), -1, 1)
    found |= {
        "collapse/text/cosines": (cosines + cosines.T) / 2,
        "collapse/text/counts": np.sort(draw.integers(10, 5000, CLASSES))[::-1].copy(),
        **{
            f"collapse/text/{name}": draw.uniform(1, 4, CLASSES)
            for name in ("norms", "centred_norms", "row_norms")
        },
        "sinks/candidate_norms": draw.uniform(50, 900, (blocks, 8)),
        "sinks/median_norm": draw.uniform(20, 90, blocks),
    }
    if heads:
        found |= {
            "sinks/strip": draw.uniform(0, 1, (blocks, 34)).astype(np.float32),
            "sinks/formation/primary-2-20": draw.uniform(0, 1, (2, blocks)).astype(np.float32),
            "sinks/formation/level-5-9": draw.uniform(0, 1, (2, blocks)).astype(np.float32),
        }
    for matrix in matrices(blocks):
        n = VOCABULARY if matrix == "embedding" else NEURONS
        spread = draw.normal(0.3 + 0.2 * when, 0.05, n)
        counts = np.histogram(np.clip(spread, 0, 1), 200, (0, 1))[0]
        found[f"superposition/{matrix}/dimensionality_counts"] = counts
    return found


def _findings(blocks: int, heads: int) -> Iterator[dict[str, Any]]:
    sites = ["embed", *(f"block.{i}" for i in range(blocks)), "final"]
    token: dict[str, Any] = {"token_ids": [1], "tokens_text": ["<bos>"]}
    where = {"position": 0, "spans": [[2, 22]], "shares": [1.0], "secondary": 900}
    yield {"kind": "primary", **where, **token}
    peak = {"peak_norm": 705.2, "peak_ratio": 12.2}
    yield {"kind": "stage", "position": 0, "layer_start": 2, "layer_end": 22, **peak}
    for place in range(20):
        at = {"l_start": place % (blocks - 1), "lifetime": 1 + place % 5, "token_counts": [90]}
        of = {"count": 900 - 40 * place, "share": 0.8 - place / 40, "mean_norm": 400.0 - place}
        yes = {"authors": True, "depth": True, "sink_score": 0.13 if heads else None}
        yield {"kind": "level", **at, **of, **yes, **token}
    for of, start, life in (("primary", 2, 20), ("level", 5, 9)) if heads else ():
        first = {"cosine": 0.9, "layer": 1, "share": 1.0}
        most = {"cosine": 0.93, "layer": 2, "length": 227.5}
        formed = {"l_start": start, "lifetime": life, "count": 900, "first": first, "most": most}
        yield {"kind": "formation", "of": of, "cosine": {}, "output_along": 0.93, **formed}
    words = [f"token {i}" for i in range(34)]
    if heads:
        yield {"kind": "strip", "token_ids": list(range(34)), "tokens_text": words}
    law = {site: i for i, site in enumerate(sites[1:-1])}
    falls = {"falls": [True] * (len(sites) - 1), "values": [1.0] * len(sites)}
    said = {"message": "text: nc1_quotient falls from 1.25 (embed) to 0.576 (final)."}
    yield {"kind": "depth", "data": "text", "sites": sites, "law": law, **falls, **said}
    names = {"token_ids": list(range(50)), "tokens_text": [f"class {i}" for i in range(50)]}
    sizes = {"number": CLASSES, "rows": 36543, "largest": 4999, "smallest": 10}
    yield {"kind": "classes", "data": "text", "site": "final", **sizes, **names}
    for matrix in matrices(blocks):
        pair: dict[str, Any] = {"rows": [0, 9]}
        if matrix == "embedding":
            pair |= {"token_ids": [0, 9], "tokens_text": ["a", "b"]}
        yield {"kind": "closest", "site": matrix, "cosine": 0.99, **pair}
