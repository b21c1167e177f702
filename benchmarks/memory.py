"""Peak memory above the loaded model: flat in the number of sequences, small for last tokens.

How much one bare pass takes differs by more than a hundred MiB from pass to pass, with the holes
that the heap happens to have. So bare passes are made between the watched ones, on the same
batches and in the same process, and the largest of each are compared.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from benchmarks.machine import (
    SEQUENCES_A_BATCH,
    Line,
    alone,
    corpus,
    load_smollm2,
    peak,
    reset_peak,
    rss,
    spread,
)

FEW, MANY = 200, 2000


def run() -> list[Line]:
    """Measures each case in a process of its own."""
    few, many = (alone("benchmarks.memory:watch", n, ["all"], b) for n, b in ((FEW, 1), (MANY, 9)))
    last = alone("benchmarks.memory:watch", MANY, ["last"], 1)
    features = MANY * last["width"] * last["sites"] * 4 / 2**20
    above = [case["peak"] - case["bare"] for case in (few, many, last)]
    return [
        Line(
            f"all tokens, {MANY} against {FEW} sequences",
            f"{above[1] / above[0]:.3f} x",
            "<= 1.05 x",
            f"{above[0]:.0f} and {above[1]:.0f} MiB above the bare pass's own peak",
        ),
        Line(
            f"last tokens, {MANY} sequences, while watching",
            f"{last['watching'] - last['bare']:.0f} MiB",
            f"<= {features:.0f} MiB",
            "above the bare pass's own peak; the target is the last-token features themselves",
        ),
        Line(
            f"last tokens, {MANY} sequences, readings included",
            f"{above[2]:.0f} MiB",
            f"<= {features:.0f} MiB",
            "the same, with the eigenproblems after the pass",
        ),
    ]


def watch(sequences: int, tokens: list[str], every: int) -> dict[str, Any]:
    """Peaks in MiB above the loaded model: of bare passes, while watching, and with readings.

    A bare pass's peak is taken above what was held when it began, statistics among it.

    Args:
        sequences: How many are fed.
        tokens: What is pooled.
        every: One bare pass for so many watched ones.
    """
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.placement import statistics_memory
    from geoprobe.probes.base import Survey
    from geoprobe.probes.spectrum import SpectrumOptions, SpectrumProbe
    from geoprobe.statistics.memory import give_back
    from geoprobe.survey import feeds

    model, tokenizer = load_smollm2()
    text = corpus(tokenizer, sequences)
    layout = find_layout(model)
    capture = Capture(model, layout)
    device = torch.device("cpu")

    def bare(inputs: dict[str, Any]) -> None:
        with torch.inference_mode():
            capture.backbone(**inputs, use_cache=False)

    first = next(feeds(text, SEQUENCES_A_BATCH, device))
    inputs = {"input_ids": first.input_ids, "attention_mask": first.mask}
    capture.run(inputs, layout.sites, lambda *_: None)  # what loads late is loaded
    bare(inputs)
    give_back()  # what loading left free on the heap would hide what the passes take
    loaded = rss()
    probe = SpectrumProbe(
        SpectrumOptions(tokens=tuple(tokens)),  # type: ignore[arg-type]
        Survey(
            *(layout, layout.sites, text.lengths, 0, statistics_memory()),
            *(torch.float32, device, device),
        ),
    )
    plain, watched = [], []
    for number, feed in enumerate(feeds(text, SEQUENCES_A_BATCH, device)):
        inputs = {"input_ids": feed.input_ids, "attention_mask": feed.mask}
        if number % every == 0:
            before = rss()
            reset_peak()
            bare(inputs)
            plain.append(peak() - before)
            give_back()
        reset_peak()
        capture.run(inputs, layout.sites, lambda site, x, feed=feed: probe.observe(site, x, feed))
        watched.append(peak() - loaded)
        give_back()
    reset_peak()
    probe.finish()
    print(f"  bare {spread(plain)} MiB, watched {spread(watched)} MiB", file=sys.stderr)
    return {
        "bare": max(plain),
        "watching": max(watched),
        "peak": max(*watched, peak() - loaded),
        "width": layout.width,
        "sites": len(layout.sites),
    }
