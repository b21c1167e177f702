"""Multi-task sparse parity, and small networks that learn it, trained side by side.

The task of Bereska et al. 2025, sections 5.2 and 6.1: 12 bits, 4 for each of 3 tasks, and which
task is asked for, one-hot; the answer is the parity of that task's bits. A network has one hidden
layer of ReLU; measured is what that layer's units are given, as in the authors' code, on samples of
all tasks (theirs are the first of the training set, which are of one task and one answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

TASKS, BITS = 3, 4
BATCH, RATE = 64, 1e-3
TRAINED = 0.8
"""Share of all inputs that networks are trained on."""


def inputs() -> tuple[Tensor, Tensor]:
    """All inputs (3 x 4096, 15) and their parities (3 x 4096,)."""
    width = TASKS * BITS
    bits = (torch.arange(2**width)[:, None] >> torch.arange(width)) & 1
    asked = torch.eye(TASKS, dtype=torch.long)
    x = torch.cat([torch.cat([row.expand(len(bits), -1), bits], 1) for row in asked])
    y = torch.cat([bits[:, t * BITS : (t + 1) * BITS].sum(1) % 2 for t in range(TASKS)])
    return x.float(), y.float()


@dataclass(frozen=True)
class Networks:
    """Trained networks, all of one width.

    Attributes:
        sites: What hidden units are given (samples, width), one tensor a network.
        accuracy: On inputs they were not trained on, without dropout.
    """

    sites: list[Tensor]
    accuracy: list[float]


def train(
    width: int,
    dropout: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
    samples: int = 1000,
    batch: int = BATCH,
    rate: float = RATE,
) -> Networks:
    """Trains one network for each pair of a rate of dropout and a seed.

    Args:
        width: Hidden units.
        dropout: Share of hidden units that are silenced at each step, of each network.
        seeds: Each network's start, its order of samples and its dropout.
        epochs: Passes over four fifths of all inputs.
        samples: Inputs that its activations are kept of.
        batch: Inputs a step.
        rate: Adam's learning rate.
    """
    x, y = inputs()
    draw = torch.Generator().manual_seed(1234)
    order = torch.randperm(len(x), generator=draw)
    cut = int(TRAINED * len(x))
    learnt, held = order[:cut], order[cut:]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    members, d = len(seeds), x.shape[1]

    def uniform(rows: int, columns: int, inward: int) -> torch.nn.Parameter:
        drawn = [torch.rand(rows, columns, generator=g) for g in draws]
        return torch.nn.Parameter((torch.stack(drawn) * 2 - 1) * inward**-0.5)

    first, first_bias = uniform(d, width, d), uniform(1, width, d)
    second, second_bias = uniform(width, 1, width), uniform(1, 1, width)
    adam = torch.optim.Adam([first, first_bias, second, second_bias], lr=rate, fused=True)
    kept = 1 - torch.tensor(list(dropout))[:, None, None]
    masks = torch.Generator().manual_seed(int(sum(seeds)))
    for _ in range(epochs):
        orders = torch.stack([learnt[torch.randperm(cut, generator=g)] for g in draws])
        for start in range(0, cut - batch + 1, batch):
            index = orders[:, start : start + batch]
            hidden = torch.baddbmm(first_bias, x[index], first).relu()
            if bool((kept < 1).any()):
                stays = torch.rand(hidden.shape, generator=masks) < kept
                hidden = hidden * stays / kept
            out = torch.baddbmm(second_bias, hidden, second)[..., 0]
            loss = functional.binary_cross_entropy_with_logits(out, y[index]) * members
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    with torch.no_grad():
        every = x[held].expand(members, -1, -1)
        out = torch.baddbmm(second_bias, torch.baddbmm(first_bias, every, first).relu_(), second)
        right = ((out[..., 0] > 0) == (y[held] > 0)).float().mean(1)
        shown = x[learnt[:samples]].expand(members, -1, -1)
        sites = torch.baddbmm(first_bias, shown, first)
    return Networks(list(sites), right.tolist())
