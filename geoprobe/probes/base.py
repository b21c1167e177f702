"""The contract between a probe and the survey that drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from geoprobe.runs.reading import Reading

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.data.inputs import Inputs
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import Layout
    from geoprobe.runs.folder import Run


PILOT_SEQUENCES = 32
"""Sequences by which rules are settled before the pass."""


@dataclass(frozen=True)
class Feed:
    """One batch as the model sees it; text is padded on the right.

    Attributes:
        inputs: What the backbone is given, by name; the main input comes first.
        mask: 1 for real tokens (batch, time).
        index: Index of each item in the corpus (batch,).
        lengths: Number of real tokens of each item (batch,).
        made_by_model: Whether the model makes tokens of the items (patches, positions); `mask` and
            `lengths` are then those of items until `at` says how many there are.
    """

    inputs: Mapping[str, Tensor]
    mask: Tensor
    index: NDArray[np.int64]
    lengths: NDArray[np.int64]
    made_by_model: bool = False

    @property
    def input_ids(self) -> Tensor:
        """Token ids (batch, time), where text is fed."""
        return next(iter(self.inputs.values()))

    @property
    def padded(self) -> bool:
        """Whether any sequence is shorter than the batch is wide."""
        return bool((self.lengths < self.mask.shape[1]).any())

    def at(self, activations: Tensor) -> Feed:
        """The same at a site with these activations (batch, time, d), the mask on their device."""
        time, mask, lengths = activations.shape[1], self.mask, self.lengths
        if self.made_by_model and time != mask.shape[1]:
            mask, lengths = mask[:, :1].expand(-1, time), lengths * time
        elif mask.device == activations.device:
            return self
        return replace(self, mask=mask.to(activations.device), lengths=lengths)


@dataclass(frozen=True)
class Survey:
    """What a probe may know before the first batch.

    Attributes:
        layout: The model's sites.
        sites: The residual-stream sites that were chosen, in execution order.
        lengths: Number of tokens of every item of the corpus (n,).
        seed: Seed of whatever is drawn.
        memory: Bytes that statistics may take.
        dtype: Precision of the model's weights, and so of most activations.
        device: Where the model runs.
        statistics_on: Where statistics live and are computed, in float64.
        times: Tokens that the model makes of an item, site by site; empty where text is fed.
        inputs: What is fed, labels included; None where it is not known yet.
        rehearsal: Whether it is a stand-in, which need not be enough to measure anything.
    """

    layout: Layout
    sites: Sequence[str]
    lengths: NDArray[np.int64]
    seed: int
    memory: int
    dtype: torch.dtype
    device: torch.device
    statistics_on: torch.device
    times: Mapping[str, int] = field(default_factory=dict)
    inputs: Inputs | None = None
    rehearsal: bool = False

    def lengths_at(self, site: str) -> NDArray[np.int64]:
        """Number of tokens of every item at a site (n,)."""
        return self.lengths * self.times.get(site, 1)


@dataclass(frozen=True)
class Cost:
    """What a probe or a study needs for one checkpoint.

    Attributes:
        site: The site it is for; empty where it is for the whole model.
        memory: Bytes held until the readings are made.
        working: Bytes that one thread holds besides while it makes the readings.
        watching: Floating-point operations during the pass (float64; a multiply-add is two).
        reading: Those of the readings after it.
        passes: Further forward passes over the corpus.
        heads: Further evaluations of the language-model head at every token.
    """

    site: str = ""
    memory: int = 0
    working: int = 0
    watching: float = 0.0
    reading: float = 0.0
    passes: int = 0
    heads: int = 0


class Probe(Protocol):
    """Watches sites during the one pass over a checkpoint."""

    name: str

    def sites(self) -> Sequence[str]:
        """Sites to watch."""
        ...

    def pilot_sites(self) -> Sequence[str]:
        """Sites to be shown beforehand, on the first sequences of the corpus; often none."""
        ...

    def pilot(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Sees one such site of a part of the pilot."""
        ...

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Takes what it needs from one site's activations (batch, time, d)."""
        ...

    def finish(self) -> Outcome:
        """Readings, arrays and findings, once the pass is over."""
        ...


@dataclass
class Outcome:
    """What a probe or a study leaves behind.

    Attributes:
        readings: Readings whose `checkpoint` is filled in by the survey.
        arrays: Name -> array, kept beside the readings.
        findings: JSON objects with a `kind`.
    """

    readings: list[Reading] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def named(self, checkpoint: str) -> Outcome:
        """The same with the checkpoint's label on every reading and finding."""
        return Outcome(
            [replace(reading, checkpoint=checkpoint) for reading in self.readings],
            self.arrays,
            [{**finding, "checkpoint": checkpoint} for finding in self.findings],
        )

    def add(self, other: Outcome) -> None:
        """Appends another outcome."""
        self.readings += other.readings
        self.arrays |= other.arrays
        self.findings += other.findings


class Progress(Protocol):
    """Where it is said how far a measurement is."""

    def checkpoint(self, label: str, done: int, total: int) -> None:
        """A checkpoint begins."""
        ...

    def batches(self, done: int, total: int, tokens: int) -> None:
        """So many batches of a pass were measured, and so many tokens fed in all passes."""
        ...

    def note(self, message: str) -> None:
        """A sentence for the user."""
        ...

    def status(self, what: str, done: int, total: int) -> None:
        """How far something else than a pass is."""
        ...


class Silent:
    """Says nothing."""

    def checkpoint(self, label: str, done: int, total: int) -> None:
        """A checkpoint begins."""

    def batches(self, done: int, total: int, tokens: int) -> None:
        """A batch was measured."""

    def note(self, message: str) -> None:
        """A sentence for the user."""

    def status(self, what: str, done: int, total: int) -> None:
        """How far something else than a pass is."""


SILENT = Silent()
"""Progress where nobody is told."""


@dataclass(frozen=True)
class Subject:
    """What a study may drive: a loaded model and the corpus it is measured on.

    Attributes:
        capture: The model.
        feeds: Gives the corpus in batches, anew at each call; or what else is to be fed, and
            whether progress is told of it.
        survey: What the probes were told.
        progress: Told how far it is.
        folder: Makes a folder for what is kept beside the readings (`autoencoders`, `relations`);
            gives None where nothing is.
        key: What identifies the checkpoint and what it is fed.
    """

    capture: Capture
    feeds: Callable[..., Iterator[Feed]]
    survey: Survey
    progress: Progress = SILENT
    folder: Callable[[str], Path | None] = lambda _: None
    key: str = ""

    @property
    def seed(self) -> int:
        """Seed of whatever is drawn."""
        return self.survey.seed


class Study(Protocol):
    """A measurement that drives the model itself: interventions, generation, training."""

    name: str

    def run(self, subject: Subject) -> Outcome:
        """Measures one checkpoint."""
        ...


Findings = list[dict[str, Any]]


def _free(_: Survey) -> list[Cost]:
    return []


def _nothing(_: Run) -> Findings:
    return []


def _fine(_: Layout) -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """How a probe or a study takes part in a survey, drawn up before anything is loaded.

    Attributes:
        probe: Makes the probe for one checkpoint; None for a study.
        study: Runs after the pass; None for a probe.
        check: Raises a UsageError, before the pass, for options that this model cannot have.
        series: Findings about the series as far as it is measured.
        cost: What it will need, site by site.
        data: What data that is given is to it: items to be fed as they are, items with labels, or
            texts in sets.
        recorded: What a run records in the place of options: of files what is in them.
        optional: Whether it is left out, with a warning, where a model does not have what it needs.
    """

    probe: Callable[[Survey], Probe] | None = None
    study: Study | None = None
    series: Callable[[Run], Findings] = _nothing
    check: Callable[[Layout], None] = _fine
    cost: Callable[[Survey], list[Cost]] = _free
    data: Literal["items", "labelled", "texts"] = "items"
    recorded: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
