"""Which neurons are a relation's: scores of all neurons in one streamed pass, then the selection.

By average precision: a neuron is scored by its mean output over a prompt's tokens, and by how well
these tell a relation's prompts from four times as many others. By LAPE: a neuron whose activation
is positive on the tokens of few relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.data.corpus import Corpus
from geoprobe.errors import CheckpointError
from geoprobe.feeds import feed
from geoprobe.measures.relation_neurons import (
    average_precision,
    effect_size,
    lape,
    top_neurons,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.probes.base import Feed, Subject
    from geoprobe.probes.relations_prompts import Prompt
    from geoprobe.probes.relations_units import Units

NEGATIVES = 4
"""Prompts of other relations for each of a relation's own."""
BATCH = 64
"""Prompts a batch."""
_NEURONS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Selected:
    """The neurons of one relation.

    Attributes:
        neurons: Their numbers, the most specific first; further ones may follow the first k.
        k: How many of them are the relation's.
        score: Average precision of each, or entropy in nats, by how they were chosen.
        chance: Average precision of the k-th best neuron with shuffled labels; None for entropies.
    """

    neurons: NDArray[np.int64]
    k: int
    score: NDArray[np.float64]
    chance: float | None = None

    @property
    def set(self) -> NDArray[np.int64]:
        """The relation's neurons."""
        return self.neurons[: self.k]


@dataclass
class Scores:
    """What the pass over the prompts leaves.

    Attributes:
        mean: Each neuron's mean output over a prompt's tokens (prompts, neurons).
        active: Site that closes neurons to the tokens of each relation at which each unit is
            positive (relations, units); empty where it was not asked for. Every activation function
            that is in use keeps the sign.
        tokens: Tokens of each relation (relations,).
    """

    mean: NDArray[np.float32]
    active: dict[str, NDArray[np.int64]]
    tokens: NDArray[np.int64]


@dataclass
class Watcher:
    """Takes what the selection needs of each site's activations, as they come by.

    Args:
        units: The neurons.
        relation: The relation of each prompt, by number (prompts,).
        relations: How many relations there are.
        by_mean: Whether means are wanted (average precision), or counts (LAPE).
    """

    units: Units
    relation: NDArray[np.int64]
    relations: int
    by_mean: bool = True
    scores: Scores = field(init=False)

    def __post_init__(self) -> None:
        rows = len(self.relation) if self.by_mean else 0
        self.scores = Scores(
            np.empty((rows, len(self.units)), dtype=np.float32),
            {},
            np.zeros(self.relations, dtype=np.int64),
        )

    def sites(self) -> Sequence[str]:
        """Sites to watch."""
        return self.units.sites if self.by_mean else self.units.closing()

    def observe(self, site: str, activations: torch.Tensor, batch: Feed) -> None:
        """Takes one site's activations (batch, time, d)."""
        batch = batch.at(activations)
        if self.by_mean:
            mask = batch.mask.to(torch.float32)[:, None, :]
            summed = torch.bmm(mask, activations.to(torch.float32))[:, 0]
            lengths = torch.from_numpy(batch.lengths).to(summed)
            self.scores.mean[batch.index, self.units.part(site)] = (
                (summed / lengths[:, None]).cpu().numpy()
            )
            return
        positive = ((activations > 0) & batch.mask.bool()[:, :, None]).sum(1).cpu().numpy()
        if site not in self.scores.active:
            shape = self.relations, positive.shape[1]
            self.scores.active[site] = np.zeros(shape, dtype=np.int64)
        np.add.at(self.scores.active[site], self.relation[batch.index], positive)

    def count(self, batch: Feed) -> None:
        """Counts the tokens of a batch."""
        np.add.at(self.scores.tokens, self.relation[batch.index], batch.lengths)


def score(
    subject: Subject, units: Units, prompts: Sequence[Prompt], names: Sequence[str], *, by: str
) -> Scores:
    """The pass over the prompts.

    Args:
        subject: The model.
        units: Its neurons.
        prompts: The prompts (n).
        names: Relations by number.
        by: `ap` or `lape`.
    """
    numbers = {name: i for i, name in enumerate(names)}
    relation = np.array([numbers[prompt.relation] for prompt in prompts])
    watcher = Watcher(units, relation, len(names), by_mean=by == "ap")
    batches = list(batched(prompts))
    fed = Corpus.from_ids([prompt.ids for prompt in prompts], pad_id=0, source="facts")
    capture = subject.capture
    for done, some in enumerate(batches):
        batch = feed(fed, some, capture.device, capture.layout.reads, capture.dtype)

        def observe(site: str, activations: Any, batch: Feed = batch) -> None:
            watcher.observe(site, activations, batch)

        capture.run(batch.inputs, watcher.sites(), observe)
        watcher.count(batch)
        subject.progress.status("scores of neurons", done + 1, len(batches))
    if not np.isfinite(watcher.scores.mean).all():
        raise CheckpointError(
            "The outputs of its MLPs are NaN or infinite on the facts, so no neurons were chosen; "
            "where the weights are meant to be so large, a wider --dtype may help."
        )
    return watcher.scores


def batched(prompts: Sequence[Prompt]) -> list[NDArray[np.int64]]:
    """Prompts of about the same length together, so that little is padded."""
    order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable").astype(np.int64)
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def by_precision(
    mean: NDArray[np.float32],
    relation: NDArray[np.int64],
    mine: int,
    *,
    k: int,
    most: int,
    seed: int,
) -> Selected:
    """The neurons that tell a relation's prompts from others best.

    Args:
        mean: Scores (prompts, neurons).
        relation: The relation of each prompt, by number (prompts,).
        mine: The relation.
        k: How many neurons are its own.
        most: How many to give in order, at least k.
        seed: Seed of the choice of other prompts, and of the shuffled labels.
    """
    draw = np.random.default_rng([seed, 6, mine])
    own = np.flatnonzero(relation == mine)
    others = np.flatnonzero(relation != mine)
    if len(others) > NEGATIVES * len(own):
        others = np.sort(draw.choice(others, NEGATIVES * len(own), replace=False))
    rows = np.concatenate([own, others])
    labels = np.arange(len(rows)) < len(own)
    shuffled = draw.permutation(labels)
    precision, null, effect = [], [], []
    for start in range(0, mean.shape[1], _NEURONS_AT_ONCE):
        some = mean[rows, start : start + _NEURONS_AT_ONCE]
        precision.append(average_precision(some, labels))
        null.append(average_precision(some, shuffled))
        effect.append(effect_size(some, labels))
    whole = np.concatenate(precision)
    best = top_neurons(whole, np.concatenate(effect), min(most, len(whole)))
    chance = np.sort(np.concatenate(null))[::-1]
    return Selected(best, k, whole[best], float(chance[k - 1]))


def by_entropy(
    scores: Scores, units: Units, names: Sequence[str], keep: float
) -> dict[str, Selected]:
    """LAPE's neurons of each relation, of those that can close a neuron of the MLP.

    Args:
        scores: With counts.
        units: The neurons.
        names: Relations by number.
        keep: Share of the neurons that is kept.
    """
    active = np.concatenate([scores.active[site] for site in units.closing()], axis=1)
    found = lape((active / scores.tokens[:, None]).T, keep=keep)
    numbers = units.closing_neurons()
    return {
        name: Selected(numbers[members], len(members), found.entropy[members])
        for name, members in zip(names, found.members, strict=True)
    }
