"""What collapse costs: classes of a classifier and next tokens, beside the bare forward pass."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.machine import (
    SEQUENCES_A_BATCH,
    Line,
    alone,
    corpus,
    load_smollm2,
    over_batches,
    peak,
    reset_peak,
    rss,
    spread,
)

CLASSES, WIDTH, EACH, IMAGES_A_BATCH = 1000, 512, 5, 64
SEQUENCES = 782
"""Of 128 tokens: 100,096 positions."""


def run() -> list[Line]:
    """Each case in a process of its own, bare pass and measured pass batch by batch in turn."""
    lines = []
    for what, function, target in (
        (f"{CLASSES} classes, d = {WIDTH}, 6-block ViT", "classifier", "1.15 x"),
        ("next tokens, SmolLM2-135M, 100,096 positions", "next_tokens", "1.3 x"),
    ):
        found = alone(f"benchmarks.collapse:{function}")
        plain = alone(f"benchmarks.collapse:{function}_two_passes")
        lines += [
            Line(
                what,
                f"{found['ratio']:.3f} x",
                target,
                f"of the bare pass ({found['bare']:.0f} s), readings ({found['readings']:.1f} s) "
                f"included; the pass alone {found['watching']:.3f} x, batches {found['spread']}; "
                f"{found['classes']} classes, {found['sites']} sites",
            ),
            Line(
                "  its memory",
                f"{found['memory']:.0f} MiB",
                "",
                f"above the bare pass's peak; {found['held']:.1f} MiB of sums and scatter a site, "
                f"{found['held'] / found['bound']:.2f} x (C x d + d^2) float64",
            ),
            Line(
                "  two passes, straightforward",
                f"{plain['ratio']:.3f} x",
                "",
                f"nc1_quotient of the last site off by {abs(plain['nc1'] / found['nc1'] - 1):.1e}",
            ),
        ]
    return lines


def _images() -> tuple[Any, Any]:
    """A random classifier of images, and images with a little of their class in them."""
    import transformers

    from geoprobe.data.examples import read_examples

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=4 * WIDTH,
        num_labels=CLASSES,
    )
    model: Any = transformers.ViTForImageClassification(config)
    draw = np.random.default_rng(0)
    y = draw.permutation(np.repeat(np.arange(CLASSES), EACH))
    x = draw.standard_normal((len(y), 3, 32, 32), dtype=np.float32)
    x += draw.standard_normal((CLASSES, 3, 32, 32), dtype=np.float32)[y]
    return model.eval().requires_grad_(False), read_examples((x, y)).fed(None, 0)


def _text() -> tuple[Any, Any]:
    model, tokenizer = load_smollm2()
    return model.requires_grad_(False), corpus(tokenizer, SEQUENCES)


def classifier() -> dict[str, Any]:
    """Case (a)."""
    return _measured(*_images(), IMAGES_A_BATCH)


def next_tokens() -> dict[str, Any]:
    """Case (c)."""
    return _measured(*_text(), SEQUENCES_A_BATCH)


def classifier_two_passes() -> dict[str, Any]:
    """Case (a), straightforwardly."""
    model, fed = _images()
    return _two_passes(model, fed, IMAGES_A_BATCH)


def next_tokens_two_passes() -> dict[str, Any]:
    """Case (c), straightforwardly."""
    model, fed = _text()
    return _two_passes(model, fed, SEQUENCES_A_BATCH)


def _measured(model: Any, fed: Any, size: int) -> dict[str, Any]:
    from geoprobe.feeds import feeds
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.placement import statistics_memory
    from geoprobe.probes.base import Subject, Survey
    from geoprobe.probes.collapse import CollapseOptions, plan
    from geoprobe.statistics.classes import ClassMoments
    from geoprobe.statistics.memory import give_back

    capture = Capture(model, find_layout(model))
    layout, cpu = capture.layout, torch.device("cpu")
    batches = list(feeds(fed, size, cpu, layout.reads))
    first = batches[0]
    times = capture.times(first.inputs, layout.sites) if first.made_by_model else {}
    memory = statistics_memory()
    survey = Survey(
        layout, layout.sites, fed.lengths, 0, memory, torch.float32, cpu, cpu, times, fed
    )

    def bare(batch: Any) -> None:
        with torch.inference_mode():
            capture.backbone(**batch.inputs, **capture.options)

    bare(first)
    before = rss()
    reset_peak()
    bare(first)
    plain_peak = peak() - before
    made = plan(CollapseOptions())
    assert made.probe is not None
    assert made.study is not None
    probe: Any = made.probe(survey)

    def watched(batch: Any) -> None:
        capture.run(
            batch.inputs, probe.sites(), lambda site, x: probe.observe(site, x, batch.at(x))
        )
        give_back()

    ratios, seconds = over_batches(bare, watched, batches)
    sites, state = len(probe.measured), probe.state[probe.last, probe.rows.names[0]]
    held = ClassMoments.bytes_of(
        state.width, state.classes, state.n_groups, own_shift=probe.rows.kind == "labels"
    )
    start = time.perf_counter()
    outcome = probe.finish()
    outcome.add(made.study.run(Subject(capture, lambda: iter(batches), survey)))
    readings = time.perf_counter() - start
    value = next(
        r.value
        for r in outcome.readings
        if (r.measure, r.site, r.keys["labels"]) == ("nc1_quotient", probe.last, "given")
    )
    return {
        "ratio": (seconds[1] + readings) / seconds[0],
        "watching": seconds[1] / seconds[0],
        "spread": spread(ratios),
        "bare": seconds[0],
        "readings": readings,
        "classes": state.classes,
        "sites": sites,
        "memory": peak() - before - plain_peak,
        "held": held / 2**20,
        "bound": 8 * (state.classes * state.width + state.width**2) / 2**20,
        "nc1": value,
    }


def _two_passes(model: Any, fed: Any, size: int) -> dict[str, Any]:
    """Class means in a first pass, scatter around them in a second, of all hidden states."""
    from geoprobe.feeds import feeds
    from geoprobe.models.layout import find_layout
    from geoprobe.probes.class_rows import MIN_COUNT

    layout, cpu = find_layout(model), torch.device("cpu")
    batches = list(feeds(fed, size, cpu, layout.reads))
    labels = getattr(fed, "labels", None)
    backbone = model.get_submodule(layout.backbone)

    def of(batch: Any) -> Any:
        if labels is not None:
            return labels.values[batch.index]
        return batch.input_ids[:, 1:].flatten().numpy()

    seen = np.bincount(np.concatenate([of(b) for b in batches]))
    kept = seen >= (2 if labels is not None else MIN_COUNT)
    number = np.cumsum(kept) - 1
    classes = int(kept.sum())

    def rows(batch: Any, states: Any) -> tuple[Any, Any]:
        x = states[:, 0] if labels is not None else states[:, :-1].flatten(0, 1)
        y = of(batch)
        return x[torch.from_numpy(kept[y])].double().numpy(), number[y[kept[y]]]

    def forward(batch: Any) -> Any:
        with torch.inference_mode():
            return backbone(**batch.inputs, output_hidden_states=True).hidden_states

    start = time.perf_counter()
    for batch in batches[:3]:
        with torch.inference_mode():
            backbone(**batch.inputs)
    bare = (time.perf_counter() - start) / 3 * len(batches)
    start = time.perf_counter()
    sums = counts = None
    for batch in batches:
        states = forward(batch)
        if sums is None:
            sums = [np.zeros((classes, s.shape[-1])) for s in states]
            counts = np.zeros(classes)
        for i, state in enumerate(states):
            x, y = rows(batch, state)
            np.add.at(sums[i], y, x)
        counts += np.bincount(y, minlength=classes)
    assert sums is not None
    assert counts is not None
    means = [s / counts[:, None] for s in sums]
    scatter = [np.zeros((m.shape[1],) * 2) for m in means]
    for batch in batches:
        for i, state in enumerate(forward(batch)):
            x, y = rows(batch, state)
            apart = x - means[i][y]
            scatter[i] += apart.T @ apart
    seconds = time.perf_counter() - start
    last, n = means[-1], counts.sum()
    if labels is not None:  # a vision model's hidden states end before the norm
        last, scatter[-1] = _after_norm(model, layout, batches, rows, counts)
    between = ((last - last.mean(0)) ** 2).sum() / classes
    return {"ratio": seconds / bare, "nc1": float(np.trace(scatter[-1]) / n / between)}


def _after_norm(
    model: Any, layout: Any, batches: Any, rows: Any, counts: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Means and scatter of what the classifier is given."""
    backbone = model.get_submodule(layout.backbone)
    found = []
    for batch in batches:
        with torch.inference_mode():
            found.append(rows(batch, backbone(**batch.inputs).last_hidden_state))
    x, y = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, y, x)
    means = sums / counts[:, None]
    apart = x - means[y]
    return means, apart.T @ apart
