"""How fast machines are: this one by a short calibration, accelerators by their data sheets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from geoprobe.data.corpus import Corpus
from geoprobe.data.labels import Labelled, Labels
from geoprobe.errors import GeoprobeError
from geoprobe.models.capture import Capture, options_of
from geoprobe.models.examples import example
from geoprobe.models.footprint import Live
from geoprobe.models.layout import Layout, Tap, find_layout
from geoprobe.probes.base import Feed, Plan, Survey
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from geoprobe.data.inputs import Inputs

_FORWARD_BUDGET = 1.5e11
"""Floating-point operations of a calibrating pass: a second or two on a small machine."""

_LONG_ENOUGH = 0.05
"""Seconds of a product that is worth timing."""

_MOST_CALLS = 20

_WATCHING_BUDGET = 5e10
"""The same for the statistics of a calibration."""

_MOST_SEQUENCES = 4096
_WIDEST = 1024
"""Statistics are calibrated at most this wide, and scaled from there."""

_SHARE_OF_PEAK = 0.4
"""Of a data sheet's rate that a forward pass is assumed to reach."""


@dataclass(frozen=True)
class Accelerator:
    """A device by its data sheet.

    Attributes:
        name: As `--accelerator` has it.
        memory: Bytes.
        half: Dense bfloat16 or float16 operations a second.
        single: float32 operations a second outside tensor cores.
        double: float64 operations a second, with tensor cores where it has them.
    """

    name: str
    memory: int
    half: float
    single: float
    double: float


ACCELERATORS = {
    a.name: a
    for a in (
        # NVIDIA's data sheets, dense rates.
        Accelerator("t4", 16 * 2**30, 65e12, 8.1e12, 0.25e12),
        Accelerator("v100", 32 * 2**30, 125e12, 15.7e12, 7.8e12),
        Accelerator("a10g", 24 * 2**30, 70e12, 31.2e12, 0.49e12),
        Accelerator("rtx4090", 24 * 2**30, 165e12, 82.6e12, 1.3e12),
        Accelerator("l40s", 48 * 2**30, 362e12, 91.6e12, 1.4e12),
        Accelerator("a100", 80 * 2**30, 312e12, 19.5e12, 19.5e12),
        Accelerator("h100", 80 * 2**30, 989e12, 67e12, 67e12),
        Accelerator("h200", 141 * 10**9, 989e12, 67e12, 67e12),
        Accelerator("mi300x", 192 * 10**9, 1307e12, 163e12, 163e12),  # AMD's
    )
}


@dataclass(frozen=True)
class Rates:
    """Floating-point operations a second.

    Attributes:
        forward: Of a forward pass.
        watching: Of statistics while it runs.
        reading: Of the readings after it.
        seconds_a_batch: What watching a batch takes besides, however little it computes.
    """

    forward: float
    watching: float
    reading: float
    seconds_a_batch: float = 0.0


def forward_flops(
    model: nn.Module,
    layout: Layout,
    batch: int,
    length: int,
    image: tuple[int, ...] | None = None,
) -> tuple[float, int]:
    """Operations and peak activation bytes of one pass of the backbone, on the meta device.

    Args:
        model: A model on the meta device.
        layout: Where its backbone is.
        batch: Sequences or images.
        length: Tokens of each.
        image: Channels, height and width of images.
    """
    backbone = model.get_submodule(layout.backbone)
    dtype = next(model.parameters()).dtype
    meta = torch.device("meta")
    inputs = example(model, layout, batch, length, device=meta, dtype=dtype, image=image)
    if layout.vocabulary:  # without a mask, whose values some families ask for
        inputs = {layout.reads.name: inputs[layout.reads.name]}
    live = Live(model)
    with FlopCounterMode(display=False) as flops, live, torch.no_grad():
        backbone(**inputs, **options_of(backbone))
    return float(flops.get_total_flops()), live.peak


def calibrate(
    model: nn.Module,
    layout: Layout,
    plans: Sequence[Plan],
    survey: Survey,
    batch: int,
    length: int,
    flops: float,
    image: tuple[int, ...] | None = None,
) -> Rates:
    """Times a few blocks of this very model with random weights, and the statistics themselves.

    Args:
        model: The model on the meta device.
        layout: Its layout.
        plans: What is to be measured.
        survey: What the probes will be told.
        batch: Sequences a batch.
        length: Tokens of each.
        flops: Operations of a batch's forward pass.
        image: Channels, height and width of images.
    """
    forward = _forward_rate(model, layout, survey, batch, length, flops, image)
    watching, reading, overhead = _statistics_rates(layout, plans, survey, batch, length)
    return Rates(forward, watching, reading, overhead * len(survey.sites))


def _forward_rate(
    model: nn.Module,
    layout: Layout,
    survey: Survey,
    batch: int,
    length: int,
    flops: float,
    image: tuple[int, ...] | None,
) -> float:
    device, dtype = survey.device, survey.dtype
    whole = layout.item is not None  # a network whose blocks are not known
    depth = int(_FORWARD_BUDGET / flops * max(layout.depth, 1))
    weights = sum(p.numel() for p in model.parameters()) / max(layout.depth, 1)
    if depth < 1 or weights > 2**27:
        return _product_rate(dtype, device)
    try:
        if whole:
            small, found, mine = _filled(model, dtype, device), layout, flops
        else:
            depth = min(depth, layout.depth)
            empty = _shallow(model, depth, torch.bfloat16, torch.device("meta"))
            found = find_layout(empty)
            mine, _ = forward_flops(empty, found, batch, length, image)
            small = _shallow(model, depth, dtype, device)
        capture = Capture(small, found)
        inputs = example(small, found, batch, length, device=device, dtype=dtype, image=image)
        return mine / _seconds(lambda: capture.run(inputs, found.sites, lambda *_: None), 1.0)
    except (GeoprobeError, RuntimeError, ValueError, TypeError, AttributeError):
        return _product_rate(dtype, device)  # a family that cannot be made shallow


def _filled(model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A network of the meta device with small numbers for weights."""
    found = deepcopy(model).to_empty(device=device).to(dtype)
    with torch.no_grad():
        for tensor in [*found.parameters(), *found.buffers()]:
            tensor.fill_(1 / 64 if tensor.is_floating_point() else 0)
    return found


def _shallow(model: nn.Module, depth: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The same architecture with fewer blocks and random weights."""
    config: Any = deepcopy(model.config)
    config.get_text_config().num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(0)
        small: nn.Module = type(model)(config)
    return small.to(dtype).eval().requires_grad_(False)


def _product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Of a large matrix product, near which a wide model's pass runs.

    The product grows until it takes long enough to tell: not every processor is fast in half
    precision.
    """
    for size in (256, 512, 1024, 2048, 4096):
        a = torch.full((1024, size), 0.01, dtype=dtype, device=device)
        b = torch.full((size, size), 0.01, dtype=dtype, device=device)
        seconds = _seconds(partial(torch.mm, a, b))
        if seconds > _LONG_ENOUGH:
            break
    return 2.0 * 1024 * size * size / seconds


def _statistics_rates(
    layout: Layout, plans: Sequence[Plan], survey: Survey, batch: int, length: int
) -> tuple[float, float, float]:
    """Rates of watching and reading, and the seconds that watching a site's batch takes at least.

    The probes themselves run on random activations of a few sites.
    """
    width = min(layout.width, _WIDEST)
    threads = torch.get_num_threads()
    names = [f"block.{i}" for i in range(min(layout.depth or len(survey.sites), max(2, threads)))]
    small = replace(
        layout,
        width=width,
        depth=len(names),
        taps={name: Tap("", "output", width) for name in names},
        default=None,
    )
    told = replace(survey, layout=small, sites=names, times={})
    for sequences in (min(len(survey.lengths), _MOST_SEQUENCES), 2 * batch):
        told = _told(told, survey.inputs, sequences, length)
        work = [cost for plan in plans if plan.probe is not None for cost in plan.cost(told)]
        if sum(cost.watching for cost in work) < _WATCHING_BUDGET:
            break
    draw = torch.Generator().manual_seed(0)
    scale = torch.arange(1, width + 1, dtype=torch.float32) ** -0.5
    activations = torch.randn(batch, length, width, generator=draw) * scale
    activations = activations.to(survey.device, survey.dtype)
    watched = read = least = 0.0
    for plan in plans:
        if plan.probe is None:
            continue
        short = _told(told, survey.inputs, min(sequences, 2 * batch), length)
        _rehearse(plan, short, activations)
        seconds, finish = _rehearse(plan, told, activations)
        each = seconds / len(names)
        watched += each * sequences / batch * len(names)
        least += each
        read += finish
    watching, reading = sum(c.watching for c in work), sum(c.reading for c in work)
    return (
        watching / watched if watching else float("inf"),
        reading / read if reading else float("inf"),
        0.0 if watching else least,
    )


def _told(survey: Survey, inputs: Inputs | None, sequences: int, length: int) -> Survey:
    """The same of so many sequences of full length."""
    sequences = max(4, sequences)
    stand_in = _stand_in(inputs, sequences, length)
    return replace(survey, lengths=np.full(sequences, length), inputs=stand_in, rehearsal=True)


def _stand_in(inputs: Inputs | None, sequences: int, length: int) -> Labelled | Corpus:
    """Sequences of full length with the tokens, or as many classes, as what will be fed."""
    ids = getattr(inputs, "ids", None)
    # So few tokens that each comes several times, however short the stand-in is.
    kinds = max(2, min(len(np.unique(ids)) if ids is not None else 64, sequences * length // 16))
    tokens = np.resize(np.arange(kinds), (sequences, length))
    corpus = Corpus.from_ids(tokens, pad_id=0, source="")
    labels: Labels | None = getattr(inputs, "labels", None)
    if labels is None or not labels.classes:
        return corpus
    classes = max(2, min(len(labels.classes), sequences // 2))
    sequences = len(corpus)
    zeros = np.zeros(sequences, dtype=np.int64)
    values = np.arange(sequences) % classes
    return Labelled(corpus, Labels(values, tuple(range(classes)), zeros, ("data",)))


def _rehearse(plan: Plan, told: Survey, activations: Tensor) -> tuple[float, float]:
    """Seconds that a probe takes for a batch of all its sites, and for its readings."""
    assert plan.probe is not None
    probe = plan.probe(told)
    batch, length = activations.shape[:2]
    first = _feed(np.arange(batch), length, told.device)
    for site in probe.pilot_sites():
        probe.pilot(site, activations, first)
    seconds = []
    # Group by group, as a measurement feeds them.
    order = np.argsort(np.arange(len(told.lengths)) % GROUPS, kind="stable")
    for start in range(0, len(told.lengths) - batch + 1, batch):
        feed = _feed(order[start : start + batch], length, told.device)
        begin = time.perf_counter()
        with torch.inference_mode():
            for site in told.sites:
                probe.observe(site, activations, feed)
        seconds.append(time.perf_counter() - begin)
        activations = activations.roll(1, -2)
    begin = time.perf_counter()
    probe.finish()
    return median(seconds), time.perf_counter() - begin


def _feed(index: NDArray[np.int64], length: int, device: torch.device) -> Feed:
    ids = torch.zeros(len(index), length, dtype=torch.long, device=device)
    return Feed({"input_ids": ids}, torch.ones_like(ids), index, np.full(len(index), length))


def _seconds(call: Callable[[], object], at_least: float = 0.0) -> float:
    """Median seconds of three calls or more, after one that warms up.

    Args:
        call: What to time.
        at_least: Go on for so many seconds: the first calls of many are slower than the rest.
    """
    call()
    found: list[float] = []
    while len(found) < 3 or (sum(found) < at_least and len(found) < _MOST_CALLS):
        begin = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return median(found)


def on_accelerator(accelerator: Accelerator, dtype: torch.dtype, here: Rates) -> Rates:
    """What a data sheet promises, as far as passes reach it; readings stay with this processor."""
    peak = accelerator.single if dtype == torch.float32 else accelerator.half
    return Rates(
        forward=_SHARE_OF_PEAK * peak,
        watching=_SHARE_OF_PEAK * accelerator.double,
        reading=here.reading,
    )
