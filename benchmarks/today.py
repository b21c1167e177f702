"""What a researcher does today, on the same work: output_hidden_states and reptrix per layer.

Both measure RankMe and alpha of every layer of SmolLM2-135M on the same full windows of text, each
in a process of its own. reptrix works in the dtype it is given, float32.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType
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

SEQUENCES = 256


def run() -> list[Line]:
    """Both, for last and for all tokens."""
    lines = []
    for tokens in ("last", "all"):
        theirs = alone("benchmarks.today:reptrix_way", SEQUENCES, tokens)
        ours = alone("benchmarks.today:geoprobe_way", SEQUENCES, tokens)
        for name, found in (("output_hidden_states + reptrix 0.1.0", theirs), ("geoprobe", ours)):
            lines.append(
                Line(
                    f"{tokens} tokens, {name}",
                    f"{found['seconds'] / found['bare']:.2f} x",
                    "",
                    f"of the bare pass ({found['bare']:.1f} s); {found['memory']:.0f} MiB above "
                    f"the loaded model (bare {found['bare_memory']:.0f}); {found['what']}",
                )
            )
        for site in theirs["rankme"]:
            if site in ("embed", "block.0", "block.14", "final"):
                a, b = theirs["rankme"][site], ours["rankme"][site]
                c, d = theirs["alpha"][site], ours["alpha"][site]
                lines.append(
                    Line(
                        f"  {site}, {tokens}: RankMe",
                        f"{a:.3f} / {b:.3f}",
                        "",
                        f"reptrix / geoprobe (reptrix0.1); alpha {c:.4f} / {d:.4f}",
                    )
                )
    return lines


def _batches(tokenizer: Any, sequences: int) -> Any:
    from geoprobe.survey import feeds

    return corpus(tokenizer, sequences), lambda text: feeds(
        text, SEQUENCES_A_BATCH, torch.device("cpu")
    )


def reptrix_way(sequences: int, tokens: str) -> dict[str, Any]:
    """All hidden states kept, then both measures per layer."""
    for name in ("matplotlib", "matplotlib.pyplot"):  # it imports them only to draw
        sys.modules.setdefault(name, ModuleType(name))
    from reptrix import alpha as alpha_module
    from reptrix import rankme as rankme_module

    model, tokenizer = load_smollm2()
    text, feeds = _batches(tokenizer, sequences)
    found: dict[str, Any] = {"rankme": {}, "alpha": {}}

    def work() -> None:
        kept: list[list[torch.Tensor]] = []
        with torch.inference_mode():
            for feed in feeds(text):
                states = model.model(
                    input_ids=feed.input_ids,
                    attention_mask=feed.mask,
                    use_cache=False,
                    output_hidden_states=True,
                ).hidden_states
                kept = kept or [[] for _ in states]
                for layer, state in zip(kept, states, strict=True):
                    rows = state[:, -1] if tokens == "last" else state.flatten(0, 1)
                    layer.append(rows.clone())
        names = ["embed", *(f"block.{i}" for i in range(len(kept) - 2)), "final"]
        for name, layer in zip(names, kept, strict=True):
            rows = torch.cat(layer)
            found["rankme"][name] = float(rankme_module.get_rankme(rows))
            found["alpha"][name] = float(alpha_module.get_alpha(rows)[0])

    found |= _timed(model, list(feeds(text)), work)
    found["what"] = "RankMe and alpha, no errors; no last block before the norm"
    return found


def geoprobe_way(sequences: int, tokens: str) -> dict[str, Any]:
    """One pass, every reading with its standard error."""
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.models.loading import Loaded
    from geoprobe.placement import statistics_memory
    from geoprobe.probes.spectrum import SpectrumOptions, plan
    from geoprobe.survey import measure_model

    model, tokenizer = load_smollm2()
    text, feeds = _batches(tokenizer, sequences)
    loaded = Loaded(model, find_layout(model), in_place=False)
    options = SpectrumOptions(tokens=(tokens,), conventions=("exact", "reptrix0.1"))  # type: ignore[arg-type]
    found: dict[str, Any] = {"rankme": {}, "alpha": {}}

    def work() -> None:
        outcome = measure_model(
            loaded,
            Capture(model, loaded.layout),
            text,
            [plan(options)],
            batch_size=SEQUENCES_A_BATCH,
            seed=0,
            memory=statistics_memory(),
        )
        for r in outcome.readings:
            if r.convention == "reptrix0.1" and r.measure in ("rankme", "alpha"):
                found[r.measure][r.site] = r.value
        found["count"] = len(outcome.readings)

    found |= _timed(model, list(feeds(text)), work)
    found["what"] = "every reading of the probe with its standard error"
    return found


def _timed(model: Any, feeds: list[Any], work: Any) -> dict[str, Any]:
    """Time and peak memory of the bare passes, half before and half after the work, and of it."""

    def bare(some: list[Any]) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for feed in some:
                model.model(input_ids=feed.input_ids, attention_mask=feed.mask, use_cache=False)
        return time.perf_counter() - start

    before = rss()
    reset_peak()
    half = len(feeds) // 2
    seconds = bare(feeds[:half])
    found = {"bare_memory": peak() - before}
    before = rss()
    reset_peak()
    start = time.perf_counter()
    work()
    found |= {"seconds": time.perf_counter() - start, "memory": peak() - before}
    found["bare"] = seconds + bare(feeds[half:])
    return found
