"""One vector an item, out of those of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.probes.base import Feed

POOLS = ("last", "mean", "first")
"""Ways to make one vector of an item's tokens."""


def pooled(activations: Tensor, feed: Feed, pool: str) -> Tensor:
    """One vector an item (batch, d).

    Args:
        activations: Those of the items' tokens (batch, time, d).
        feed: The batch.
        pool: One of `POOLS`.
    """
    if activations.shape[1] == 1:
        return activations[:, 0]
    if pool == "mean":
        return token_means(activations, feed)[0]
    if pool == "first":
        return activations[:, 0]
    last = torch.from_numpy(feed.lengths - 1).to(activations.device)
    return activations[torch.arange(len(last), device=last.device), last]


def token_means(
    activations: Tensor, feed: Feed, dropped: Tensor | None = None
) -> tuple[Tensor, NDArray[np.int64]]:
    """Mean over the kept tokens of each sequence (b, d), and the sequences that have any (b,).

    Summed in float64, and kept in float32 at least: a mean has more digits than what it is of.
    """
    activations = activations.cpu() if activations.device.type == "mps" else activations
    kept = torch.promote_types(activations.dtype, torch.float32)
    if not feed.padded and dropped is None:
        return activations.mean(1, dtype=torch.float64).to(kept), feed.index
    rows, index = [], []
    for b, length in enumerate(feed.lengths):
        tokens = activations[b, : int(length)]
        if dropped is not None:
            tokens = tokens[~dropped[b, : int(length)]]
        if len(tokens):
            rows.append(tokens.mean(0, dtype=torch.float64))
            index.append(feed.index[b])
    if not rows:
        return activations.new_zeros((0, activations.shape[-1]), dtype=kept), feed.index[:0]
    return torch.stack(rows).to(kept), np.array(index)
