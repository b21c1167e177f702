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

TRACED = 16
"""Secondary sinks of a sequence whose own scores are taken."""


@dataclass(frozen=True)
class Found:
    """What the residual stream shows of one checkpoint's sinks.

    Attributes:
        primary: Position of the primary sink.
        candidates: Mean norm of each candidate after every block (L, 8).
        median: Median norm of all tokens but the primary after every block (L,).
        stages: Where the primary stands out.
        spans: Where secondary sinks are sought; without one nothing is a sink.
        at: The primary's place among the tokens, of each sequence that has one.
        having: The sequences that have one.
        levels: Where each token is a secondary sink, span by span.
        secondary: Whether it is one in any of them (tokens,).
        bits: Along which candidates each token lies after every block, a bit each (L, tokens).
    """

    primary: int
    candidates: NDArray[np.float64]
    median: NDArray[np.float64]
    stages: list[rules.Stage]
    spans: list[tuple[int, int]]
    at: NDArray[np.int64]
    having: NDArray[np.int64]
    levels: list[rules.Levels]
    secondary: NDArray[np.bool_]
    bits: NDArray[np.uint8]

    @property
    def norm(self) -> NDArray[np.float64]:
        """Mean norm of the primary after every block (L,)."""
        return self.candidates[:, self.primary]

    def is_sink(self) -> NDArray[np.bool_]:
        """The primary where it stands out, and the secondary sinks (tokens,)."""
        found = self.secondary.copy()
        if self.spans:
            found[self.at] = True
        return found

    def alive(self, tokens: NDArray[np.int64], begins: int) -> NDArray[np.bool_]:
        """In which blocks these tokens are sinks, of the span in which a level begins (L, n)."""
        first, last = next(span for span in self.spans if span[0] <= begins < span[1])
        found = np.zeros((len(self.bits), len(tokens)), dtype=bool)
        found[first:last] = self.bits[first:last, tokens] >> self.primary & 1
        return found

    def attended(self, token: int, begins: int) -> list[int]:
        """Layers whose attention reads it as a sink: that of block l + 1 reads what l gave."""
        blocks = np.flatnonzero(self.alive(np.array([token]), begins)[:-1, 0])
        return [int(block) + 1 for block in blocks]

    def members(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        """The secondary sinks of each level, (first block, lifetime); the most frequent first."""
        found: dict[tuple[int, int], NDArray[np.int64]] = {}
        for levels in self.levels:
            tokens = np.flatnonzero(levels.l_start >= 0)
            pairs = np.stack([levels.l_start[tokens], levels.lifetime[tokens]], axis=1)
            for pair in np.unique(pairs, axis=0):
                found[int(pair[0]), int(pair[1])] = tokens[(pairs == pair).all(1)]
        return dict(sorted(found.items(), key=lambda level: -len(level[1])))


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

    def places(self, chosen: NDArray[np.bool_], sequence: int) -> NDArray[np.int64]:
        """Positions of the chosen ones (tokens,) among the tokens of a sequence."""
        start, end = self.offsets[sequence : sequence + 2]
        return np.flatnonzero(chosen[start:end])

    def having(self, tokens: NDArray[np.int64]) -> int:
        """How many sequences have any of these tokens."""
        return len(np.unique(np.searchsorted(self.offsets, tokens, side="right")))

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
        stages = rules.stages(norm, median) if others.any() else []
        spans = rules.spans(norm, stages)
        aligned = (self._aligned >> primary & 1).astype(bool)
        # Without the primary nothing is aligned with it, and it is not a secondary one itself.
        aligned[:, ~np.repeat(self.lengths > primary, self.lengths)] = False
        aligned[:, at] = False
        levels = [rules.levels(aligned, *span) for span in spans]
        secondary = np.zeros(len(self.ids), dtype=bool)
        for found in levels:
            secondary |= found.l_start >= 0
        return Found(
            *(primary, candidates, median, stages, spans, at, having, levels, secondary),
            self._aligned,
        )
