"""A small run for tests: two checkpoints, readings of all kinds, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading


def entry(label: str, step: int = 0, fingerprint: str = "f0") -> dict[str, Any]:
    return {
        "label": label,
        "step": step,
        "tokens": step * 1000,
        "stage": None,
        "fingerprint": fingerprint,
    }


def header(*labels: str, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "command": "rank",
        "options": {"length": 128, "tokens": ("last", "all"), "text": None},
        "corpus": {"source": "a.jsonl", "sequences": 10, "fingerprint": "c0"},
        "environment": {"python": "3.11.7", "libraries": {"torch": "2.13.0"}},
        "series": {
            "arguments": ["demo"],
            "checkpoints": [entry(label, i) for i, label in enumerate(labels)],
        },
    }
    return {**given, **changes}


def readings(label: str, shift: float = 0.0) -> list[Reading]:
    def reading(measure: str, site: str, keys: dict[str, Any], **rest: Any) -> Reading:
        return Reading(label, "spectrum", measure, site, keys, **rest)

    last, everything = {"tokens": "last", "sinks": "in"}, {"tokens": "all", "sinks": "out"}
    return [
        reading("rankme", "embed", last, value=1 / 3 + shift, stderr=1e-17, n=10),
        reading("rankme", "final", everything, value=2.5e300 + shift, n=10, reason="one group"),
        reading("alpha", "final", last, reason="undefined: 3 ranks, and 20 are needed", n=10),
        reading("rankme_headless", "final", {**last, "k": 10}, value=7.0, stderr=0.5, n=10),
        reading("ablation_loss", "final", {"k": 50, "mode": "kept"}, value=-0.0, n=9, reason="-"),
        reading(
            "rankme", "final", last, value=5.25 + shift, stderr=0.25, n=10, convention="li2025"
        ),
    ]


def arrays(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {
        "spectrum/final/last/in/eigenvalues": np.sort(rng.random(16))[::-1],
        "spectrum/embed/last/in/eigenvalues": rng.random((4, 4)).T,
        "spectrum/final/groups": rng.random((8, 6))[::2, 1::2],
        "count": np.array(3.0),
        "ids": np.arange(5, dtype=np.int32),
    }


def write(run: Run, label: str, step: int = 0, fingerprint: str = "f0", shift: float = 0) -> None:
    findings = [{"kind": "warning", "checkpoint": label, "message": "n/d is below 5"}]
    one = entry(label, step, fingerprint)
    run.write_checkpoint(one, readings(label, shift), findings, arrays(step))


def make_run(path: Path, *labels: str) -> Run:
    with Run.create(path, header(*labels)) as run:
        for step, label in enumerate(labels):
            write(run, label, step)
        run.write_findings([{"kind": "phase", "name": "warmup", "from": labels[0]}])
    return run


def contents(path: Path) -> dict[str, bytes]:
    """All bytes of a folder, by name."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
