"""What sinks cost: attention to sinks beside plain and eager attention, levels beside a pass."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.machine import (
    Line,
    alone,
    corpus,
    interleaved,
    load_smollm2,
    median,
    peak,
    reset_peak,
    rss,
)

LONG, SHORT = 2048, 64


def run() -> list[Line]:
    """SmolLM2-135M; eager in a process of its own, for its memory."""
    lines = []
    found = alone("benchmarks.sinks:masses", LONG)
    eager = alone("benchmarks.sinks:eager", LONG)
    lines.append(
        Line(
            f"sink mass of all layers, {LONG} tokens",
            f"{found['ratio']:.2f} x",
            "2.5 x",
            f"of the plain sdpa pass ({found['bare']:.1f} s); "
            f"at most {found['off']:.1e} from eager (target 1e-5)",
        )
    )
    lines.append(
        Line(
            "  its memory",
            f"{found['memory']:.0f} MiB",
            "a small part",
            f"of eager's {eager['memory']:.0f} MiB, which takes {eager['seconds']:.1f} s",
        )
    )
    for length, sequences in ((SHORT, 64), (1024, 4)):
        levels = alone("benchmarks.sinks:levels", length, sequences)
        lines.append(
            Line(
                f"sink levels alone, {sequences} x {length} tokens",
                f"{levels['ratio']:.2f} x",
                "1.1 x",
                f"of the plain pass ({levels['bare']:.1f} s)",
            )
        )
    return lines


def _row(tokenizer: Any, length: int) -> dict[str, torch.Tensor]:
    from geoprobe.data.corpus import build_corpus

    made = build_corpus(tokenizer, None, sequences=2, length=length)
    ids = torch.from_numpy(made.sequence(0)[None].astype("int64"))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def masses(length: int) -> dict[str, float]:
    """Attention to a few sets of keys, beside the plain pass on the same tokens."""
    from geoprobe.models.attention import Attention
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout

    model, tokenizer = load_smollm2()
    capture = Capture(model, find_layout(model))
    row = _row(tokenizer, length)
    attends = Attention(capture)
    columns = torch.zeros(1, length, 11)
    columns[:, range(8), range(8)] = 1.0
    columns[:, 0, 8:10] = 1.0
    columns[:, :, 10] = 1.0
    kept: dict[int, torch.Tensor] = {}

    def bare(_: int = 0) -> None:
        with torch.inference_mode():
            capture.backbone(**row, **capture.options)

    def watched(_: int = 0) -> None:
        attends.run(row, columns, lambda layer, mass: kept.update({layer: mass[..., :1].clone()}))

    bare()
    before = rss()
    reset_peak()
    watched()
    memory = peak() - before
    pairs = interleaved(bare, watched, 3)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "eager"
    off = 0.0

    def compare(module: Any, args: Any, output: Any) -> None:
        nonlocal off
        mine = kept[module.layer_idx][0, :, :, 0]
        off = max(off, float((output[1][0, :, :, 0] - mine).abs().max()))

    for block in model.model.layers:
        block.self_attn.register_forward_hook(compare)
    bare()
    return {
        "ratio": median([b / a for a, b in pairs]),
        "bare": median([a for a, _ in pairs]),
        "memory": memory,
        "off": off,
    }


def eager(length: int) -> dict[str, float]:
    """Eager attention that keeps its maps."""
    model, tokenizer = load_smollm2()
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "eager"
    row = _row(tokenizer, length)
    before = rss()
    reset_peak()
    start = time.perf_counter()
    with torch.inference_mode():
        model.model(**row, use_cache=False, output_attentions=True)
    return {"seconds": time.perf_counter() - start, "memory": peak() - before}


def levels(length: int, sequences: int) -> dict[str, float]:
    """The probe alone, beside the plain pass on the same tokens."""
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.probes.base import Survey
    from geoprobe.probes.sinks import SinksProbe
    from geoprobe.survey import feeds

    model, tokenizer = load_smollm2()
    capture = Capture(model, find_layout(model))
    text = corpus(tokenizer, sequences, length)
    cpu = torch.device("cpu")
    layout = capture.layout
    batch = next(feeds(text, sequences, cpu))
    survey = Survey(layout, layout.sites, text.lengths, 0, 1 << 30, torch.float32, cpu, cpu)
    probe = SinksProbe(survey)

    def bare(_: int = 0) -> None:
        with torch.inference_mode():
            capture.backbone(**batch.inputs, **capture.options)

    def watched(_: int = 0) -> None:
        capture.run(batch.inputs, probe.sites(), lambda site, x: probe.observe(site, x, batch))
        probe.finish()

    pairs = interleaved(bare, watched, 5)
    return {"ratio": median([b / a for a, b in pairs]), "bare": median([a for a, _ in pairs])}
