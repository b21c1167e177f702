"""Peak memory above the loaded model: flat in the number of sequences, small for last tokens."""

from __future__ import annotations

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
)

FEW, MANY = 200, 2000
BARE_PASSES = 7


def run() -> list[Line]:
    """Measures each case in a process of its own."""
    few, many = (alone("benchmarks.memory:watch", n, ["all"]) for n in (FEW, MANY))
    last = alone("benchmarks.memory:watch", MANY, ["last"])
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


def watch(sequences: int, tokens: list[str]) -> dict[str, Any]:
    """Peaks in MiB above the loaded model: of the bare pass, while watching, and with readings."""
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.probes.base import Survey
    from geoprobe.probes.spectrum import SpectrumOptions, SpectrumProbe
    from geoprobe.statistics.memory import give_back
    from geoprobe.survey import feeds, statistics_memory

    model, tokenizer = load_smollm2()
    text = corpus(tokenizer, sequences)
    layout = find_layout(model)
    capture = Capture(model, layout)
    device = torch.device("cpu")
    batches = feeds(text, SEQUENCES_A_BATCH, device)
    first = next(batches)
    inputs = {"input_ids": first.input_ids, "attention_mask": first.mask}

    def bare() -> None:
        with torch.inference_mode():
            capture.backbone(**inputs, use_cache=False)

    capture.run(inputs, layout.sites, lambda *_: None)  # what loads late is loaded
    bare()
    give_back()  # what loading left free on the heap would hide what the passes take
    loaded = rss()
    bare_peak = 0.0
    for _ in range(BARE_PASSES):  # the heap's holes differ from pass to pass
        reset_peak()
        bare()
        bare_peak = max(bare_peak, peak())
        give_back()
    probe = SpectrumProbe(
        SpectrumOptions(tokens=tuple(tokens)),  # type: ignore[arg-type]
        Survey(layout, layout.sites, text.lengths, 0, statistics_memory(), torch.float32, device),
    )
    reset_peak()
    for feed in feeds(text, SEQUENCES_A_BATCH, device):
        capture.run(
            {"input_ids": feed.input_ids, "attention_mask": feed.mask},
            layout.sites,
            lambda site, x, feed=feed: probe.observe(site, x, feed),  # type: ignore[misc]
        )
        give_back()
    watching = peak()
    probe.finish()
    return {
        "bare": bare_peak - loaded,
        "watching": watching - loaded,
        "peak": peak() - loaded,
        "width": layout.width,
        "sites": len(layout.sites),
    }
