"""How well hidden states predict the next tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.capture import Capture
    from geoprobe.probes.base import Feed

_ROWS = 1024
"""Tokens whose logits are held at a time."""


def predictions(
    hidden: Tensor, feed: Feed, members: NDArray[np.int64]
) -> Iterator[tuple[Tensor, Tensor]]:
    """States that predict a real next token, and these tokens, some at a time.

    Args:
        hidden: Last hidden states of the batch (batch, time, d).
        feed: The batch.
        members: Rows of the batch that are wanted.

    Yields:
        States (m, d) and token ids (m,).
    """
    rows = torch.from_numpy(members)
    real = feed.mask[rows].bool()[:, 1:]
    states = hidden[rows][:, :-1][real]
    targets = feed.input_ids[rows][:, 1:][real]
    for start in range(0, len(targets), _ROWS):
        yield states[start : start + _ROWS], targets[start : start + _ROWS]


def score(capture: Capture, states: Tensor, targets: Tensor) -> tuple[float, int]:
    """Summed loss in nats, and right answers."""
    logits = capture.logits(states).float()
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return float(loss.double().sum()), int((logits.argmax(-1) == targets).sum())


def losses(capture: Capture, hidden: Tensor, feed: Feed) -> NDArray[np.float64]:
    """Summed loss in nats of each sequence of a batch (batch,)."""
    return np.array(
        [
            sum(score(capture, *part)[0] for part in predictions(hidden, feed, np.array([row])))
            for row in range(len(hidden))
        ],
        dtype=np.float64,
    )
