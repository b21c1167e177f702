"""Trains autoencoders on a model's activations, all sites in one pass, and keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.autoencoders.training import Length, Rows, Trained, Training
from geoprobe.data.inputs import Part
from geoprobe.errors import UsageError
from geoprobe.probes.features_evaluation import Member, Sinks, rows_of, those

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.autoencoders.recipe import Recipe
    from geoprobe.data.inputs import Inputs
    from geoprobe.models.capture import Capture
    from geoprobe.probes.base import Subject

_HELD_OUT = 0.1
"""Share of the sequences by which the best weights are told."""
_CHUNK_ROWS = 2**14
"""Samples of a chunk, among which they are shuffled: the same on every machine."""
_COPIES = 5
"""Of its weights: a gradient, two moments of Adam, the best so far."""


@dataclass(frozen=True)
class Activations:
    """A model's activations at several sites, as a source to train on.

    Attributes:
        subject: What is driven.
        capture: The model; not the subject's own where it is a null.
        corpus: What is fed.
        sites: The sites.
        train: Items to train on.
        test: Items that are held out.
        sinks: The rule for tokens that are left out; None leaves none out.
    """

    subject: Subject
    capture: Capture
    corpus: Inputs
    sites: Sequence[str]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    sinks: Sinks | None

    def chunks(self, epoch: int, skip: int = 0) -> Iterator[list[Tensor]]:
        """Samples of every site (n, d), some items at a time, in the epoch's own order."""
        order = np.random.default_rng([self.subject.seed, epoch]).permutation(self.train)
        yield from self._by_chunk(order, skip)

    def held_out(self) -> Iterator[list[Tensor]]:
        """Samples of every site (n, d) of the items that are held out."""
        yield from self._by_chunk(self.test, 0)

    def _by_chunk(self, index: NDArray[np.int64], skip: int) -> Iterator[list[Tensor]]:
        each = max(self.subject.survey.times.values(), default=1)
        ends = np.cumsum(self.corpus.lengths[index] * each)
        number = (ends - 1) // _CHUNK_ROWS
        for chunk in np.unique(number)[skip:]:
            yield self._collect(index[number == chunk])

    def _collect(self, index: NDArray[np.int64]) -> list[Tensor]:
        found: dict[str, list[Tensor]] = {site: [] for site in self.sites}
        for batch in self.subject.feeds(Part(self.corpus, index), told=False):

            def observe(site: str, activations: Tensor, batch: Any = batch) -> None:
                rows, _, sink = rows_of(activations, batch.at(activations), self.sinks)
                found[site].append(those(rows, ~sink).clone())

            self.capture.run(batch.inputs, self.sites, observe)
        return [torch.cat(found[site]) for site in self.sites]


def split(items: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items to train on, and those that are held out.

    Raises:
        UsageError: There are too few to hold any out.
    """
    if items < 2:
        raise UsageError("--train holds some sequences out; give at least 2 (--sequences).")
    order = np.random.default_rng([seed, items]).permutation(items)
    held = max(1, round(_HELD_OUT * items))
    return np.sort(order[held:]), np.sort(order[:held])


def train_members(
    subject: Subject,
    capture: Capture,
    recipe: Recipe,
    length: Length,
    seeds: Sequence[int],
    *,
    sites: Sequence[str],
    sinks: Sinks | None,
    folder: Path | None,
    key: str,
    what: str = "",
) -> tuple[list[Member], list[Trained]]:
    """Trains one autoencoder a site and seed on a model's activations.

    Sites of one width are trained together, as many as memory holds, on the same passes.

    Args:
        subject: What is driven.
        capture: The model.
        recipe: What is minimised.
        length: How long.
        seeds: Seeds of each site's.
        sites: Where.
        sinks: The rule for tokens that are left out.
        folder: Where states are kept, so that a training can be resumed.
        key: What the activations are of: a state of another is not taken up.
        what: What to call the training while it runs.
    """
    survey = subject.survey
    assert survey.inputs is not None
    corpus = survey.inputs
    train, test = split(len(corpus), subject.seed)
    members: list[Member] = []
    trained: list[Trained] = []
    for some in _shares(sites, capture, recipe, len(seeds), survey.memory):
        width = capture.layout.width_of(some[0])
        source = Activations(subject, capture, corpus, some, train, test, sinks)
        told = f"{what}{some[0]}" + (f" to {some[-1]}" if len(some) > 1 else "")
        state = _state_file(folder, some)
        every = min(length.every, int(corpus.lengths[train].sum()) or length.every)
        training = Training(
            source,
            recipe,
            replace(length, every=every),
            sites=some,
            width=width,
            seeds=seeds,
            device=capture.device,
            state=state,
            key=f"{key} {recipe} {length} {some} {list(seeds)} {subject.seed}",
            progress=lambda samples, most, loss, l0, dead, told=told: subject.progress.status(  # type: ignore[misc]
                f"{told}: loss {loss:.3g}, L0 {l0:.3g}, {dead:.0%} dead", samples, most
            ),
        )
        for one in training.run():
            site = some[one.site]
            coder = replace(one.autoencoder, site=site)
            members.append(Member(site, recipe.name, coder, one.seed))
            trained.append(replace(one, autoencoder=coder))
    return members, trained


def train_on_rows(
    rows: Tensor,
    test: Tensor,
    recipe: Recipe,
    length: Length,
    seed: int,
    device: torch.device,
) -> Trained:
    """One autoencoder on rows (n, d) that are in memory, as the Gaussian null has them."""
    source = Rows([rows], [test])
    length = replace(length, every=min(length.every, len(rows)))
    return Training(
        source, recipe, length, sites=["rows"], width=rows.shape[1], seeds=[seed], device=device
    ).run()[0]


def _shares(
    sites: Sequence[str], capture: Capture, recipe: Recipe, seeds: int, memory: int
) -> Iterator[list[str]]:
    """Sites of one width, as many at a time as half of the memory holds the weights of."""
    widths: dict[int, list[str]] = {}
    for site in sites:
        widths.setdefault(capture.layout.width_of(site), []).append(site)
    for width, some in widths.items():
        one = _COPIES * 8 * width * recipe.features(width) * seeds + 4 * width * _CHUNK_ROWS
        step = max(1, memory // 2 // one)
        for start in range(0, len(some), step):
            yield some[start : start + step]


def _state_file(folder: Path | None, sites: Sequence[str]) -> Path | None:
    if folder is None:
        return None
    digest = hashlib.sha256(" ".join(sites).encode()).hexdigest()[:12]
    return folder / f"training-{digest}.safetensors"
