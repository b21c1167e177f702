"""What a measurement will take, from configs alone: downloads, operations, memory, time."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.machines import (
    ACCELERATORS,
    Rates,
    calibrate,
    forward_flops,
    on_accelerator,
)
from geoprobe.models.capture import Capture
from geoprobe.models.examples import example
from geoprobe.models.factory import build, describe
from geoprobe.models.hub import absent_of
from geoprobe.models.layout import find_layout
from geoprobe.models.pretrained import empty_model, quiet_transformers
from geoprobe.placement import batch_size_for, free_memory
from geoprobe.probes.base import Cost, Plan, Survey
from geoprobe.room import check_length
from geoprobe.statistics.memory import give_back
from geoprobe.survey import place_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.data.inputs import Inputs
    from geoprobe.models.series import Checkpoint

_READ_RATE = 1e9
"""Bytes of weights that are read, cast and checked in a second."""

_FIRST_SECONDS, _EACH_SECONDS = 3.0, 0.05
"""To build the model once, and to write what each checkpoint gave."""


@dataclass(frozen=True)
class Estimate:
    """What a measurement will take.

    Attributes:
        checkpoints: Number of them.
        download: Bytes to download, at most.
        family: Type of the model.
        parameters: Number of parameters.
        sequences: Sequences of each checkpoint's pass.
        tokens: Tokens of it.
        batch: Sequences a batch.
        forward: Floating-point operations of a checkpoint's passes.
        costs: What each probe needs, site by site.
        memory: Bytes by what they are for; `peak` is the most at one time, libraries included.
        here: Seconds by what they are for on this machine; `all` is the whole series.
        elsewhere: The same on a named accelerator, and whether it has the memory.
    """

    checkpoints: int
    download: int
    family: str
    parameters: int
    sequences: int
    tokens: int
    batch: int
    forward: float
    costs: list[Cost]
    memory: dict[str, int]
    here: dict[str, float]
    elsewhere: dict[str, Any] | None

    @property
    def watching(self) -> float:
        """Floating-point operations of a checkpoint's statistics during the pass."""
        return sum(cost.watching for cost in self.costs)

    @property
    def reading(self) -> float:
        """Those of its readings."""
        return sum(cost.reading for cost in self.costs)


def estimate(
    checkpoints: Sequence[Checkpoint],
    plans: Sequence[Plan],
    corpus: Inputs | None,
    *,
    lengths: NDArray[np.int64],
    batch: int | None,
    memory: int,
    device: torch.device,
    dtype: torch.dtype,
    layers: str | None = None,
    sites: str | None = None,
    accelerator: str | None = None,
    trust_remote_code: bool = False,
    factory: str | None = None,
) -> Estimate:
    """Estimates a series' measurement by its newest checkpoint.

    Args:
        checkpoints: The series; configs must be here, weights need not.
        plans: What is to be measured.
        corpus: What is to be fed; None for full sequences of text.
        lengths: Tokens of each of its items (n,).
        batch: Sequences a batch; None for as many as a measurement chooses.
        memory: Bytes that statistics may take.
        device: Where the model will run.
        dtype: Precision of the weights.
        layers: Blocks to watch, as `--layers` has them.
        sites: Sites to watch, as `--sites` has them.
        accelerator: A name in `ACCELERATORS` to estimate for as well.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        factory: Builds the network, for weights of one that is in no table.

    Raises:
        UsageError: The config or an option is wrong.
    """
    import psutil

    newest = checkpoints[-1]
    first = None if corpus is None else corpus.batch(np.arange(1))
    if factory is not None:
        assert first is not None
        with torch.device("meta"):
            model = build(factory).to(torch.bfloat16)
        layout = describe(model, first, factory)
    else:
        # Some kernels of mixtures of experts exist in bfloat16 alone; operations are as many.
        model = empty_model(newest, trust_remote_code=trust_remote_code).to(torch.bfloat16)
        layout = find_layout(model)
    for plan in plans:
        plan.check(layout)
    check_length(layout, int(lengths.max()))
    chosen = layout.select(layers=layers, sites=sites)
    image, times = None, {}
    if first is not None and first.lengths is None:  # the model makes the tokens
        image = first.values.shape[1:]
        meta = torch.device("meta")
        one = example(model, layout, 1, 1, image=image, device=meta, dtype=torch.bfloat16)
        times = Capture(model, layout).times(one, chosen)
    longest = int(lengths.max()) * max(times.values(), default=1)
    survey = Survey(layout, chosen, lengths, 0, memory, dtype, device, device, times, corpus)
    costs = [cost for plan in plans for cost in plan.cost(survey)]
    survey = place_statistics(survey, costs)
    with quiet_transformers():
        if batch is None:
            _, taken = forward_flops(model, layout, 1, longest, image)
            parameters = sum(p.numel() for p in model.parameters()) * dtype.itemsize
            free = max(0, free_memory(device) - parameters)
            batch = batch_size_for(longest, taken // 2 * dtype.itemsize, free, device)
        batch = min(batch, len(lengths))
        flops, live = forward_flops(model, layout, batch, longest, image)
        rates = calibrate(model, layout, plans, survey, batch, longest, flops, image)
    gc.collect()
    give_back()  # the calibration has imported what a measurement imports, and is gone
    libraries = int(psutil.Process().memory_info().rss)
    tokens = int(lengths.sum()) * max(times.values(), default=1)
    batches = -(-len(lengths) // batch)
    # A batch is as wide as its longest sequence.
    padded = sum(
        int(part.max()) * len(part) for part in np.array_split(lengths, batches) if len(part)
    ) * max(times.values(), default=1)
    passes = (any(plan.probe is not None for plan in plans)) + sum(c.passes for c in costs)
    head = 2.0 * layout.width * layout.vocabulary * tokens * sum(c.heads for c in costs)
    forward = flops / (batch * longest) * padded * passes + head
    parameters = sum(p.numel() for p in model.parameters())
    found = _memory(checkpoints, parameters, live, costs, survey, libraries)
    download = sum(absent_of(checkpoints).values())

    def seconds(rates: Rates) -> dict[str, float]:
        each = {
            "load": parameters * dtype.itemsize / _READ_RATE,
            "forward": forward / rates.forward,
            "watching": sum(c.watching for c in costs) / rates.watching
            + rates.seconds_a_batch * batches,
            "readings": sum(c.reading for c in costs) / rates.reading,
        }
        one = sum(each.values()) + _EACH_SECONDS
        return {**each, "checkpoint": one, "all": one * len(checkpoints) + _FIRST_SECONDS}

    elsewhere: dict[str, Any] | None = None
    if accelerator is not None:
        device_of = ACCELERATORS[accelerator]
        needs = found["peak"] - found["libraries"]
        elsewhere = {
            "name": accelerator,
            **seconds(on_accelerator(device_of, dtype, rates)),
            "memory": device_of.memory,
            "fits": needs <= device_of.memory,
        }
    return Estimate(
        checkpoints=len(checkpoints),
        download=download,
        family=layout.family,
        parameters=parameters,
        sequences=len(lengths),
        tokens=tokens,
        batch=batch,
        forward=forward,
        costs=costs,
        memory=found,
        here=seconds(rates),
        elsewhere=elsewhere,
    )


def _memory(
    checkpoints: Sequence[Checkpoint],
    parameters: int,
    live: int,
    costs: Sequence[Cost],
    survey: Survey,
    libraries: int,
) -> dict[str, int]:
    """Bytes of one checkpoint's measurement; the peak is while loading or while measuring."""
    weights = parameters * survey.dtype.itemsize
    on_disk = max(c.size_bytes for c in checkpoints)
    activations = live // 2 * survey.dtype.itemsize  # counted in bfloat16
    statistics = sum(cost.memory for cost in costs)
    working = max((cost.working for cost in costs), default=0) * torch.get_num_threads()
    loading = weights + on_disk
    measuring = weights + statistics + max(activations, working)
    return {
        "libraries": libraries,
        "weights": weights,
        "activations": activations,
        "statistics": statistics,
        "readings": working,
        "peak": libraries + max(loading, measuring),
    }
