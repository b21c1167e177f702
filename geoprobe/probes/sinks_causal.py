"""What sinks do: their direction is taken from what an MLP writes, and the model goes on.

From the MLP's output at the sinks, that which lies along the primary's residual stream is removed;
then the attention that the sinks get and the loss of the next tokens are measured anew. The control
does the same to as many other tokens of the same sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.errors import UsageError
from geoprobe.measures.estimate import jackknife
from geoprobe.probes.base import Feed, Outcome, Subject
from geoprobe.probes.next_tokens import losses
from geoprobe.probes.sinks_formation import Formation, Group, written
from geoprobe.probes.sinks_found import TRACED, Found, Stream
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.attention import Attention
    from geoprobe.models.capture import Capture

MOST_LEVELS, LEAST_SHARE = 3, 0.1
"""Levels that are tried: the most frequent ones, in at least this share of the sequences."""

_AS_IT_IS, _WITHOUT, _CONTROL = range(3)


@dataclass
class _Trial:
    """One edit: the tokens of a group, and the block whose MLP is edited.

    Attributes:
        group: The sinks.
        layer: The block.
        scores: Sums over the sinks of a sequence of their score; as it is, without, control (n, 3).
        sinks: How many sinks it has (n,).
        scored: How many of them some attention reads (n,); `TRACED` of them at most.
        losses: Summed losses of a sequence, likewise (n, 3).
        targets: How many tokens were predicted (n,).
    """

    group: Group
    layer: int
    sequences: int
    scores: NDArray[np.float64] = field(init=False)
    sinks: NDArray[np.int64] = field(init=False)
    scored: NDArray[np.int64] = field(init=False)
    losses: NDArray[np.float64] = field(init=False)
    targets: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        n = self.sequences
        self.scores, self.losses = np.zeros((n, 3)), np.zeros((n, 3))
        self.sinks, self.scored, self.targets = np.zeros((3, n), dtype=np.int64)

    def finding(self, *, attends: bool, predicts: bool) -> dict[str, Any]:
        """The trial as a finding, by the sequences that have such sinks."""
        found: dict[str, Any] = {
            "kind": "causal",
            "of": self.group.of,
            "l_start": self.group.begins,
            "lifetime": self.group.lives,
            "layer": self.layer,
            "count": len(self.group.tokens),
            "sequences": int((self.sinks > 0).sum()),
        }
        had = self.sinks > 0
        for name, sums, counts, taken in (
            ("sink_score", self.scores, self.scored, attends),
            ("loss", self.losses, self.targets, predicts),
        ):
            if taken and counts[had].sum():
                found[name] = _compared(sums[had], counts[had], np.flatnonzero(had) % GROUPS)
            else:
                found[name] = None
        return found


def _compared(
    sums: NDArray[np.float64], counts: NDArray[np.int64], groups: NDArray[np.int64]
) -> dict[str, float | None]:
    """Means of the three variants, the change of two of them, and its standard error.

    Args:
        sums: Of each sequence (n, 3).
        counts: Of what they are sums (n,).
        groups: Group of each sequence for the jackknife (n,).
    """
    changes = (sums - sums[:, :1])[:, [_WITHOUT, _CONTROL]]

    def mean(of: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(of[kept].sum(0) / counts[kept].sum())

    everyone = np.ones(len(counts), dtype=bool)
    change = mean(changes, everyone)
    left_out = [mean(changes, kept) for g in np.unique(groups) if counts[kept := groups != g].sum()]
    errors = [
        jackknife(float(value), [float(part[i]) for part in left_out]).value
        for i, value in enumerate(change)
    ]
    return {
        "before": float(mean(sums, everyone)[_AS_IT_IS]),
        "after": float(mean(sums, everyone)[_WITHOUT]),
        "change": float(change[0]),
        "stderr": errors[0],
        "control": float(change[1]),
        "control_stderr": errors[1],
    }


def causal(
    attends: Attention | None, subject: Subject, formed: Formation, found: Found, stream: Stream
) -> Outcome:
    """Edits the MLP that writes each kind of sink first, and the one that writes it most.

    Args:
        attends: The model's attention; None where it cannot be asked.
        subject: The model and the corpus.
        formed: How its sinks form.
        found: The sinks.
        stream: What they were found in.
    """
    outcome = Outcome()
    count = len(stream.lengths)
    levels = [group for group in formed.groups if group.of == "level"]
    levels = [group for group in levels if stream.having(group.tokens) >= LEAST_SHARE * count]
    groups = [group for group in formed.groups if group.of == "primary"] + levels[:MOST_LEVELS]
    trials = [_Trial(group, layer, count) for group in groups for layer in _layers(group)]
    if not trials:
        why = formed.missing or (
            "no MLP writes the direction of the sinks" if groups else "there are no sinks"
        )
        message = f"--causal has nothing to take away: {why}."
        outcome.findings.append({"kind": "warning", "code": "no_causal", "message": message})
        return outcome
    predicts = None
    for feed in subject.feeds():
        if predicts is None:
            predicts = _predicts(subject.capture, feed, outcome)
            if attends is None and not predicts:
                return outcome
        _Batch(attends, subject, feed, found, stream, predicts).take(trials)
    outcome.findings += [
        trial.finding(attends=attends is not None, predicts=bool(predicts)) for trial in trials
    ]
    return outcome


def _layers(group: Group) -> list[int]:
    """The MLP that writes a group first, and the one that writes most of it."""
    first = group.first()
    layers = (None if first is None else first[0], group.most())
    return list(dict.fromkeys(layer for layer in layers if layer is not None))


def _predicts(capture: Capture, feed: Feed, outcome: Outcome) -> bool:
    """Whether the model's next-token loss can be had; a warning where it cannot."""
    try:
        capture.check_head(feed.inputs)
    except UsageError as error:
        outcome.findings.append(
            {
                "kind": "warning",
                "code": "no_causal_loss",
                "message": f"--causal gives no change of the loss: {error}",
            }
        )
        return False
    return True


@dataclass
class _Batch:
    """One batch, run as it is and edited."""

    attends: Attention | None
    subject: Subject
    feed: Feed
    found: Found
    stream: Stream
    predicts: bool

    def take(self, trials: Sequence[_Trial]) -> None:
        """Adds this batch to every trial."""
        index, layout = self.feed.index, self.subject.capture.layout
        directions = self._directions({trial.group.begins for trial in trials})
        tried = [(trial, self._places(trial.group.tokens)) for trial in trials]
        tried = [(trial, mine) for trial, mine in tried if any(len(places) for places in mine)]
        if not tried:
            return
        self._pass(tried, _AS_IT_IS, {})
        sinks = self.found.is_sink()
        for trial, mine in tried:
            trial.sinks[index] = [len(places) for places in mine]
            trial.targets[index] = self.feed.lengths - 1
            site, along = written(layout, trial.layer), directions[trial.group.begins]
            self._pass([(trial, mine)], _WITHOUT, {site: _without(mine, along)})
            others = self._others(mine, sinks)
            self._pass([(trial, mine)], _CONTROL, {site: _without(others, along)})

    def _directions(self, blocks: set[int]) -> dict[int, Tensor]:
        """Unit vector of the primary's residual stream after each block (batch, d)."""
        kept: dict[int, Tensor] = {}

        def keep(site: str, x: Tensor) -> None:
            primary = x[:, min(self.found.primary, x.shape[1] - 1)].float()
            kept[int(site.split(".")[1])] = torch.nn.functional.normalize(primary, dim=-1)

        self.subject.capture.run(self.feed.inputs, [f"block.{b}" for b in blocks], keep)
        return kept

    def _places(self, tokens: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Positions of the tokens of a group, row by row."""
        wanted = np.zeros(int(self.stream.offsets[-1]), dtype=bool)
        wanted[tokens] = True
        return [self.stream.places(wanted, int(item)) for item in self.feed.index]

    def _others(
        self, mine: Sequence[NDArray[np.int64]], sinks: NDArray[np.bool_]
    ) -> list[NDArray[np.int64]]:
        """As many tokens of each row that are no sinks."""
        drawn = []
        for item, positions in zip(self.feed.index, mine, strict=True):
            free = self.stream.places(~sinks, int(item))
            draw = np.random.default_rng([self.subject.seed, int(item)])
            drawn.append(draw.choice(free, min(len(positions), len(free)), replace=False))
        return drawn

    def _pass(
        self,
        tried: Sequence[tuple[_Trial, Sequence[NDArray[np.int64]]]],
        variant: int,
        edits: dict[str, Callable[[Tensor], Tensor]],
    ) -> None:
        """Runs the batch, and fills in one variant of these trials."""
        capture, feed, attends = self.subject.capture, self.feed, self.attends
        if attends is None:
            hidden = capture.hidden(feed.inputs, edits)
        else:
            batch, time = feed.mask.shape
            columns = torch.zeros(batch, time, TRACED * len(tried), device=capture.device)
            scored = []
            for place, (trial, mine) in enumerate(tried):
                for row, positions in enumerate(mine):
                    item, count = feed.index[row], 0
                    for slot, position in enumerate(positions[:TRACED].tolist()):
                        token = int(self.stream.offsets[item]) + position
                        layers = self.found.attended(token, trial.group.begins)
                        if layers:
                            column = place * TRACED + slot
                            columns[row, position, column] = 1.0
                            scored.append((trial, layers, row, position, column))
                            count += 1
                    trial.scored[item] = count

            def seen(layer: int, mass: Tensor) -> None:
                for trial, layers, row, position, column in scored:
                    if layer in layers:
                        own = mass[row, :, position : int(feed.lengths[row]), column]
                        score = float(own.double().mean()) / len(layers)
                        trial.scores[feed.index[row], variant] += score

            hidden = attends.run(feed.inputs, columns, seen, edits)
        if self.predicts:
            lost = losses(capture, hidden, feed)
            for trial, _ in tried:
                trial.losses[feed.index, variant] = lost


def _without(
    positions: Sequence[NDArray[np.int64]], directions: Tensor
) -> Callable[[Tensor], Tensor]:
    """Removes what lies along the direction of a row (batch, d) from these of its positions."""

    def edit(x: Tensor) -> Tensor:
        found = x.clone()
        for row, places in enumerate(positions):
            if len(places):
                direction = directions[row].to(x.device)
                at = torch.from_numpy(places).to(x.device)
                mine = x[row, at].float()
                along = (mine @ direction)[:, None] * direction
                found[row, at] = (mine - along).to(x.dtype)
        return found

    return edit
