"""What a whole scan costs: all one-pass probes together against the bare forward pass.

The default scan (1,024 sequences of 128 tokens), batch by batch bare and watched in turn, readings
included. Left out are the second pass, which sink masses take, and the matrices of the weights,
which take no pass: their time is printed beside.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from benchmarks.machine import (
    DEFAULT_SEQUENCES,
    SEQUENCES_A_BATCH,
    Line,
    corpus,
    load_smollm2,
    median,
    over_batches,
    spread,
)


def run() -> list[Line]:
    """SmolLM2-135M, float32."""
    model, tokenizer = load_smollm2()
    text = corpus(tokenizer, DEFAULT_SEQUENCES)
    found = scanned(model.requires_grad_(False), text, SEQUENCES_A_BATCH, torch.device("cpu"))
    each = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["each"].items())
    return [
        Line(
            "scan in one pass, sink levels",
            f"{found['ratio']:.2f} x",
            "<= 1.50 x",
            f"of the bare pass ({found['bare']:.0f} s); batches {found['spread']}; readings "
            f"{found['readings']:.1f} s",
        ),
        Line("  of it", f"{found['watching']:.2f} x", "", f"watching: {each}"),
        Line("  beside it: the weights", f"{found['weights']:.0f} s", "", "no pass"),
    ]


def scanned(model: Any, text: Any, size: int, device: torch.device) -> dict[str, Any]:
    """Every batch bare and watched by all one-pass probes, and the readings behind them."""
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.placement import statistics_memory
    from geoprobe.probes.base import Subject, Survey
    from geoprobe.probes.registry import ONE_PASS, choose_plans
    from geoprobe.statistics.memory import give_back
    from geoprobe.survey import feeds, place_statistics, show_pilot

    capture = Capture(model, find_layout(model))
    layout = capture.layout
    memory = statistics_memory(device)
    survey = Survey(
        layout, layout.sites, text.lengths, 0, memory, capture.dtype, device, device, {}, text
    )
    plans, _ = choose_plans(ONE_PASS, {"levels_only": True})
    survey = place_statistics(survey, [cost for plan in plans for cost in plan.cost(survey)])
    probes = [plan.probe(survey) for plan in plans if plan.probe is not None]
    watchers: dict[str, list[Any]] = {}
    for probe in probes:
        for site in probe.sites():
            watchers.setdefault(site, []).append(probe)
    each = dict.fromkeys((probe.name for probe in probes), 0.0)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def bare(batch: Any) -> None:
        with torch.inference_mode():
            capture.backbone(**batch.inputs, **capture.options)
        wait()

    def watched(batch: Any) -> None:
        def observe(site: str, activations: Any) -> None:
            for probe in watchers[site]:
                start = time.perf_counter()
                probe.observe(site, activations, batch.at(activations))
                each[probe.name] += time.perf_counter() - start

        capture.run(batch.inputs, watchers, observe)
        give_back()
        wait()

    show_pilot(capture, text, probes, size)
    bare(next(feeds(text, size, device, layout.reads)))
    ratios, seconds = over_batches(bare, watched, feeds(text, size, device, layout.reads))
    print(f"  {seconds[0]:.1f} s bare, {seconds[1]:.1f} s watched: {each}", file=sys.stderr)
    start = time.perf_counter()
    finishing = {}
    for probe in probes:
        before = time.perf_counter()
        probe.finish()
        finishing[probe.name] = time.perf_counter() - before
    subject = Subject(capture, lambda: feeds(text, size, device, layout.reads), survey)
    studies = {plan.study.name: plan.study for plan in plans if plan.study is not None}
    studies["collapse"].run(subject)
    readings = time.perf_counter() - start
    print(f"  {readings:.1f} s readings: {finishing}", file=sys.stderr)
    start = time.perf_counter()
    studies["superposition"].run(subject)
    weights = time.perf_counter() - start
    return {
        "ratio": (seconds[1] + readings) / seconds[0],
        "watching": seconds[1] / seconds[0],
        "median": median(ratios),
        "spread": spread(ratios),
        "bare": seconds[0],
        "readings": readings,
        "finishing": finishing,
        "weights": weights,
        "each": each,
    }
