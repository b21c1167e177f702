"""Which tokens `--drop-sinks` leaves out: a rule fixed on a pilot batch, then recorded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.probes.base import PILOT_SEQUENCES
from geoprobe.probes.sinks_found import CANDIDATES, Stream

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.probes.base import Feed, Survey

_SHARE = 0.5
_LEAST_OCCURRENCES = 3


class SinkRule:
    """Drops a token by its position or its id, so that it can be decided before any layer has run.

    On the pilot (the first sequences of the corpus) sinks are found as `geoprobe sinks` does: the
    primary sink where it stands out, and the tokens that share its direction. One of the first
    positions is dropped if at least half of the pilot's sequences have a sink there; a token id is
    dropped if at least half of its occurrences elsewhere (three at least) are sinks.

    Args:
        survey: What is known before the first batch.
    """

    def __init__(self, survey: Survey) -> None:
        self._stream = Stream(survey.layout.depth, survey.lengths[:PILOT_SEQUENCES])
        self.positions: tuple[int, ...] = ()
        self.token_ids: tuple[int, ...] = ()
        self.frozen = False

    def watch(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Sees one block's residual stream (batch, time, d) of a part of the pilot."""
        self._stream.add(int(site.split(".")[1]), activations.float(), feed)

    def freeze(self) -> None:
        """Draws the rule up from the pilot."""
        self.frozen = True
        stream = self._stream
        sinks = stream.find().is_sink()
        starts, elsewhere = stream.offsets[:-1], np.ones(len(sinks), dtype=bool)
        positions = []
        for k in range(CANDIDATES):
            at = starts[stream.lengths > k] + k
            if len(at) and sinks[at].mean() >= _SHARE:
                positions.append(k)
                elsewhere[at] = False
        self.positions = tuple(positions)
        as_sink = Counter(stream.ids[elsewhere & sinks].tolist())
        occurrences = Counter(stream.ids[elsewhere].tolist())
        self.token_ids = tuple(
            sorted(
                token
                for token, count in as_sink.items()
                if occurrences[token] >= _LEAST_OCCURRENCES and count / occurrences[token] >= _SHARE
            )
        )

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
            "message": (
                "Dropped as sinks: "
                + (f"positions {', '.join(map(str, self.positions))}" if self.positions else "")
                + (" and " if self.positions and self.token_ids else "")
                + (f"token ids {', '.join(map(str, self.token_ids))}" if self.token_ids else "")
                + (
                    " (the primary sink of the first sequences, and tokens along its direction)."
                    if self.positions or self.token_ids
                    else "none; no token of the first positions stands out by its norm."
                )
            ),
        }
