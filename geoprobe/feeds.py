"""Batches as a model takes them, made of what is fed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.models.families import TEXT, Reads
from geoprobe.probes.base import Feed
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.data.inputs import Inputs


def feeds(
    corpus: Inputs,
    batch_size: int,
    device: torch.device,
    reads: Reads = TEXT,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Feed]:
    """Batches of a corpus, jackknife group by group.

    Items of one group come together, so that a batch's second moments are one matrix product
    instead of one a group. Moments do not depend on the order.

    Args:
        corpus: What is fed.
        batch_size: Items a batch.
        device: Where the model runs.
        reads: What the model calls its input.
        dtype: Precision of the model; numbers that are no token ids are cast to it.
    """
    order = np.argsort(np.arange(len(corpus)) % GROUPS, kind="stable")
    for start in range(0, len(order), batch_size):
        yield feed(corpus, order[start : start + batch_size], device, reads, dtype)


def feed(
    corpus: Inputs,
    index: NDArray[np.int64],
    device: torch.device,
    reads: Reads = TEXT,
    dtype: torch.dtype = torch.float32,
) -> Feed:
    """The items `index` of a corpus as one batch."""
    batch = corpus.batch(index)
    values = torch.from_numpy(batch.values)
    values = values.to(device, dtype) if values.is_floating_point() else values.to(device)
    if batch.lengths is None:
        one = np.ones(len(index), dtype=np.int64)
        return Feed(
            {reads.name: values},
            torch.ones(len(index), 1, dtype=torch.long, device=device),
            batch.index,
            one,
            made_by_model=True,
        )
    mask = torch.from_numpy(np.arange(values.shape[1]) < batch.lengths[:, None])
    mask = mask.long().to(device)
    inputs = {reads.name: values} | ({reads.mask: mask} if reads.mask is not None else {})
    return Feed(inputs, mask, batch.index, batch.lengths)
