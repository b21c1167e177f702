"""Which tokens are sinks, by the residual stream alone: the rule that every verb shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.measures import sinks as rules

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.probes.base import Feed

CANDIDATES = 8
"""Positions among which the primary sink is sought, and whose sink scores are given."""


@dataclass(frozen=True)
class Found:
    """What the residual stream shows of one checkpoint's sinks.

    Attributes:
        primary: Position of the primary sink.
        candidates: Mean norm of each candidate after every block (L, 8).
        median: Median norm of all tokens but the primary after every block (L,).
        stages: Where the primary stands out.
        span: The authors' span of blocks; None where no stage meets it, and nothing is a sink.
        at: The primary's place among the tokens, of each sequence that has one.
        having: The sequences that have one.
        l_start: First block in which a token is a secondary sink (tokens,); -1 for none.
        lifetime: In how many blocks (tokens,).
    """

    primary: int
    candidates: NDArray[np.float64]
    median: NDArray[np.float64]
    stages: list[rules.Stage]
    span: tuple[int, int] | None
    at: NDArray[np.int64]
    having: NDArray[np.int64]
    l_start: NDArray[np.int64]
    lifetime: NDArray[np.int64]

    @property
    def norm(self) -> NDArray[np.float64]:
        """Mean norm of the primary after every block (L,)."""
        return self.candidates[:, self.primary]

    def is_sink(self) -> NDArray[np.bool_]:
        """The primary where it stands out, and the secondary sinks (tokens,)."""
        found = self.l_start >= 0
        if self.span is not None:
            found[self.at] = True
        return found


class Stream:
    """Norms of every token after every block, and whether it lies along each candidate.

    Args:
        depth: Number of blocks L.
        lengths: Number of tokens of each sequence (n,).

    Attributes:
        offsets: Where each sequence begins among the tokens (n + 1,).
        norms: Norm of every token after every block (L, tokens).
        ids: Token ids (tokens,).
    """

    def __init__(self, depth: int, lengths: NDArray[np.int64]) -> None:
        self.lengths = lengths
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        total = int(self.offsets[-1])
        self.norms = np.zeros((depth, total), dtype=np.float32)
        self.ids = np.zeros(total, dtype=np.int64)
        self._aligned = np.zeros((depth, total), dtype=np.uint8)  # a bit for each candidate

    def add(self, layer: int, x: Tensor, feed: Feed) -> None:
        """Adds the output of one block, in float32 (batch, time, d)."""
        norms = torch.linalg.vector_norm(x, dim=-1)
        first = x[:, :CANDIDATES]
        cosine = (x @ first.transpose(1, 2)).abs()
        cosine /= (norms[:, :, None] * norms[:, None, :CANDIDATES]).clamp(min=1e-30)
        bits = torch.arange(first.shape[1], device=x.device)
        aligned = ((cosine > rules.ALIGNED).int() << bits).sum(-1)
        host = norms.cpu().numpy(), aligned.cpu().numpy()
        ids = feed.input_ids.cpu().numpy()
        for row, (item, length) in enumerate(zip(feed.index, feed.lengths, strict=True)):
            at = slice(self.offsets[item], self.offsets[item + 1])
            self.norms[layer, at] = host[0][row, :length]
            self._aligned[layer, at] = host[1][row, :length]
            self.ids[at] = ids[row, :length]

    def find(self) -> Found:
        """The primary, its stages, and the secondary sinks of what was seen."""
        starts = self.offsets[:-1]
        candidates = np.zeros((len(self.norms), CANDIDATES))
        for k in range(CANDIDATES):
            if (long := self.lengths > k).any():
                candidates[:, k] = self.norms[:, starts[long] + k].mean(1, dtype=np.float64)
        primary = rules.primary_position(candidates)
        having = np.flatnonzero(self.lengths > primary)
        at = starts[having] + primary
        others = np.ones(len(self.ids), dtype=bool)
        others[at] = False
        median = np.array([float(np.median(n[others])) if others.any() else 0 for n in self.norms])
        norm = candidates[:, primary]
        stages = rules.stages(norm, median)
        first, last = rules.span(norm)
        span = (first, last) if any(s.start < last and first < s.end for s in stages) else None
        aligned = (self._aligned >> primary & 1).astype(bool)
        # Without the primary nothing is aligned with it, and it is not a secondary one itself.
        aligned[:, ~np.repeat(self.lengths > primary, self.lengths)] = False
        aligned[:, at] = False
        levels = rules.levels(aligned, *(span or (0, 0)))
        return Found(
            *(primary, candidates, median, stages, span, at, having),
            *(levels.l_start, levels.lifetime),
        )
