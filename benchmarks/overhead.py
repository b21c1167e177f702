"""Time of `rank` against the bare forward pass of the backbone, on the same batches.

A run of the default size (1,024 sequences of 128 tokens) is 32 batches and the readings after them.
Each pair times one batch bare and the same batch watched, in turn; the readings are timed on
statistics of the full default size; the ratio is that of a whole run,

    (32 x watched batch + readings) / (32 x bare batch).
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.machine import (
    DEFAULT_SEQUENCES,
    LENGTH,
    SEQUENCES_A_BATCH,
    Line,
    corpus,
    interleaved,
    load_smollm2,
    median,
    spread,
)

BATCHES = DEFAULT_SEQUENCES // SEQUENCES_A_BATCH
CONFIGURATIONS = (
    ("last tokens, every reading", {"tokens": ("last",)}, 1.05),
    (
        "all tokens, without matrix_entropy and intrinsic_dim",
        {"tokens": ("all",), "skip": ("matrix_entropy", "intrinsic_dim", "intrinsic_dim_ml")},
        1.20,
    ),
    ("all tokens, every reading", {"tokens": ("all",)}, 1.35),
)


def run(pairs: int = 7) -> list[Line]:
    """Times each configuration."""
    model, tokenizer = load_smollm2()
    text = corpus(tokenizer, DEFAULT_SEQUENCES)
    return [
        _one(model, text, name, options, target, pairs) for name, options, target in CONFIGURATIONS
    ]


def _one(
    model: Any, text: Any, name: str, options: dict[str, Any], target: float, pairs: int
) -> Line:
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.placement import statistics_memory
    from geoprobe.probes.base import Survey
    from geoprobe.probes.spectrum import SpectrumOptions, SpectrumProbe
    from geoprobe.statistics.memory import give_back
    from geoprobe.survey import feeds

    layout = find_layout(model)
    capture = Capture(model, layout)
    device = torch.device("cpu")
    survey = Survey(
        layout, layout.sites, text.lengths, 0, statistics_memory(), torch.float32, device, device
    )
    probe = SpectrumProbe(SpectrumOptions(**options), survey)
    batches = list(feeds(text, SEQUENCES_A_BATCH, device))

    def inputs(i: int) -> dict[str, Any]:
        return {"input_ids": batches[i].input_ids, "attention_mask": batches[i].mask}

    def bare(i: int) -> None:
        with torch.inference_mode():
            capture.backbone(**inputs(i), use_cache=False)

    def watched(i: int) -> None:
        capture.run(inputs(i), layout.sites, lambda s, x: probe.observe(s, x, batches[i]))
        give_back()

    times = interleaved(bare, watched, pairs)
    _fill(probe, layout, batches, pairs)
    start = time.perf_counter()
    probe.finish()
    readings = time.perf_counter() - start
    whole = [(BATCHES * ours + readings) / (BATCHES * plain) for plain, ours in times]
    return Line(
        name,
        f"{median(whole):.3f} x",
        f"<= {target:.2f} x",
        f"spread {spread(whole)}; batch alone {median([b / a for a, b in times]):.3f} x of "
        f"{median([a for a, _ in times]):.2f} s, readings {readings:.1f} s",
    )


def _fill(probe: Any, layout: Any, batches: list[Any], done: int) -> None:
    """Fills the statistics up to the default size with noise of the right shape."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.arange(1, layout.width + 1, dtype=torch.float32) ** -0.5
    for feed in batches[done:]:
        noise = torch.randn(len(feed.index), LENGTH, layout.width, generator=draw) * scale
        with torch.inference_mode():  # as during a pass
            for site in layout.sites:
                probe.observe(site, noise, feed)
