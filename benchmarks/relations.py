"""Scoring a million neurons on a relation's prompts: time, memory, and scikit-learn beside it."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks.machine import Line, alone, peak, reset_peak, rss

NEURONS, PROMPTS, OWN = 1_000_000, 500, 100
K = 3000
_EVERY = 2001
"""One neuron in so many is held against scikit-learn's, which takes a millisecond each."""


def run() -> list[Line]:
    """Scores neurons in a process of its own."""
    found = alone("benchmarks.relations:score")
    size = f"{NEURONS:,} neurons x {PROMPTS} prompts, float32"
    return [
        Line(
            f"average precision, {size}",
            f"{found['seconds']:.1f} s",
            "< 30 s on two cores",
            f"{found['cpu']:.1f} s of processor time, {found['cores']} cores; scikit-learn, one "
            f"neuron at a time, would take {found['theirs']:.0f} s",
        ),
        Line(
            "its memory above the scores",
            f"{found['memory']:.0f} MiB",
            "< 512 MiB",
            f"the scores are {4 * NEURONS * PROMPTS / 2**20:.0f} MiB",
        ),
        Line(
            f"largest difference from scikit-learn, {found['compared']} neurons",
            f"{found['difference']:.1e}",
            "<= 1e-12",
            f"a quarter of the neurons with ties; {found['tied']} of those compared",
        ),
        Line(
            "effect sizes of the same",
            f"{found['effect']:.1f} s",
            "",
            f"{found['effect_memory']:.0f} MiB above the scores",
        ),
        Line(f"the best {K} of them", f"{found['best']:.2f} s"),
    ]


def score() -> dict[str, Any]:
    """Seconds, MiB above the scores, and the largest difference from scikit-learn's values."""
    from sklearn.metrics import average_precision_score

    from geoprobe.measures import average_precision, effect_size, top_neurons

    draw = np.random.default_rng(0)
    scores = np.empty((PROMPTS, NEURONS), dtype=np.float32)
    for row in scores:
        draw.standard_normal(dtype=np.float32, out=row)
        row[::4] = row[::4].round(1)
    labels = np.arange(PROMPTS) < OWN
    draw.shuffle(labels)
    average_precision(scores[:, :1000], labels)  # what loads late is loaded

    def watched(function: Any) -> tuple[Any, float, float, float]:
        before = rss()
        reset_peak()
        start, cpu = time.perf_counter(), time.process_time()
        found = function(scores, labels)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"  {function.__name__}: {seconds:.1f} s", file=sys.stderr, flush=True)
        return found, seconds, cpu, peak() - before

    precision, seconds, cpu, memory = watched(average_precision)
    effect, effect_seconds, _, effect_memory = watched(effect_size)
    start = time.perf_counter()
    top_neurons(precision, effect, K)
    best = time.perf_counter() - start
    some = np.arange(0, NEURONS, _EVERY)
    start = time.perf_counter()
    theirs = np.array([average_precision_score(labels, scores[:, i]) for i in some])
    each = (time.perf_counter() - start) / len(some)
    return {
        "seconds": seconds,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory,
        "theirs": each * NEURONS,
        "compared": len(some),
        "tied": int((some % 4 == 0).sum()),
        "difference": float(np.abs(precision[some] - theirs).max()),
        "effect": effect_seconds,
        "effect_memory": effect_memory,
        "best": best,
    }
