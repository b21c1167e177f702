"""Which tokens `--drop-sinks` leaves out: a rule fixed on a pilot batch, then recorded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.probes.base import Feed

RATIO = 10.0
"""A pilot token is a sink where its residual norm exceeds this many medians of its sequence."""

FIRST_POSITIONS = 8
"""Positions that may become sink positions."""

_SHARE = 0.5
_LEAST_OCCURRENCES = 3


class SinkRule:
    """Drops a token by its position or its id, so that it can be decided before any layer has run.

    On the pilot (the first sequences of the corpus) a token counts as a sink if, after any block,
    the norm of its residual is more than `RATIO` times the median norm of its sequence. A position
    below `FIRST_POSITIONS` is dropped if at least half of the pilot's sequences have a sink there;
    a token id is dropped if at least half of its occurrences elsewhere (three at least) are sinks.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[Feed, Tensor]] = []
        self.positions: tuple[int, ...] = ()
        self.token_ids: tuple[int, ...] = ()
        self.frozen = False

    def watch(self, activations: Tensor, feed: Feed) -> None:
        """Sees one block's residual stream (batch, time, d) of a part of the pilot."""
        norms = torch.linalg.vector_norm(activations.float(), dim=-1)
        real = feed.mask.bool()
        median = norms.masked_fill(~real, torch.nan).nanmedian(dim=1, keepdim=True).values
        sinks = ((norms > RATIO * median) & real).cpu()
        if self._seen and self._seen[-1][0].index is feed.index:
            self._seen[-1] = (feed, self._seen[-1][1] | sinks)
        else:
            self._seen.append((feed, sinks))

    def freeze(self) -> None:
        """Draws the rule up from the pilot."""
        self.frozen = True
        hits, reals = np.zeros(FIRST_POSITIONS), np.zeros(FIRST_POSITIONS)
        for feed, sinks in self._seen:
            first = min(FIRST_POSITIONS, sinks.shape[1])
            hits[:first] += sinks[:, :first].sum(0).numpy()
            reals[:first] += feed.mask[:, :first].sum(0).cpu().numpy()
        share = hits / np.maximum(reals, 1)
        self.positions = tuple(int(p) for p in np.flatnonzero(share >= _SHARE))
        as_sink: Counter[int] = Counter()
        occurrences: Counter[int] = Counter()
        for feed, sinks in self._seen:
            elsewhere = feed.mask.bool().cpu().clone()
            elsewhere[:, [p for p in self.positions if p < elsewhere.shape[1]]] = False
            ids = feed.input_ids.cpu()
            as_sink.update(ids[elsewhere & sinks].tolist())
            occurrences.update(ids[elsewhere].tolist())
        self.token_ids = tuple(
            sorted(
                token
                for token, count in as_sink.items()
                if occurrences[token] >= _LEAST_OCCURRENCES and count / occurrences[token] >= _SHARE
            )
        )
        self._seen = []

    def mask(self, feed: Feed) -> Tensor:
        """True where a real token is dropped (batch, time)."""
        dropped = torch.zeros_like(feed.mask, dtype=torch.bool)
        for position in self.positions:
            if position < dropped.shape[1]:
                dropped[:, position] = True
        if self.token_ids:
            listed = torch.isin(feed.input_ids, feed.input_ids.new_tensor(self.token_ids))
            dropped |= listed.to(dropped.device)
        return dropped & feed.mask.bool()

    def finding(self) -> dict[str, Any]:
        """The frozen rule as a finding."""
        return {
            "kind": "sink_rule",
            "positions": list(self.positions),
            "token_ids": list(self.token_ids),
            "ratio": RATIO,
            "message": (
                "Dropped as sinks: "
                + (f"positions {', '.join(map(str, self.positions))}" if self.positions else "")
                + (" and " if self.positions and self.token_ids else "")
                + (f"token ids {', '.join(map(str, self.token_ids))}" if self.token_ids else "")
                + (
                    f" (norm after some block over {RATIO:g} medians of the sequence)."
                    if self.positions or self.token_ids
                    else "none; no pilot token's norm exceeded "
                    f"{RATIO:g} medians of its sequence often enough."
                )
            ),
        }
