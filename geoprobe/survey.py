"""The one loop: for each checkpoint one pass, all probes watching, readings into a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from geoprobe.corpora import Corpora, stamps
from geoprobe.entries import checkpoint_entry, describe, describe_model
from geoprobe.errors import CheckpointError, GeoprobeError, UsageError
from geoprobe.feeds import feed, feeds
from geoprobe.models.capture import Capture
from geoprobe.models.hub import Fetcher
from geoprobe.models.loading import (
    Loaded,
    Loader,
    prefetch,
)
from geoprobe.models.selfcheck import self_check
from geoprobe.models.series import Checkpoint
from geoprobe.placement import statistics_device
from geoprobe.probes.base import (
    PILOT_SEQUENCES,
    SILENT,
    Cost,
    Feed,
    Outcome,
    Plan,
    Probe,
    Progress,
    Subject,
    Survey,
)
from geoprobe.room import check_input, with_room
from geoprobe.statistics.memory import give_back

if TYPE_CHECKING:
    from pathlib import Path

    from geoprobe.data.inputs import Inputs
    from geoprobe.runs.folder import Run

T = TypeVar("T")


def measure_model(
    loaded: Loaded,
    capture: Capture,
    corpus: Inputs,
    plans: Sequence[Plan],
    batch_size: int,
    *,
    seed: int,
    memory: int,
    layers: str | None = None,
    sites: str | None = None,
    progress: Progress = SILENT,
    folder: Callable[[str], Path | None] = lambda _: None,
    key: str = "",
) -> Outcome:
    """Measures one loaded model: one pass for all probes, then the studies.

    Args:
        loaded: The model.
        capture: Its capture.
        corpus: What is fed.
        plans: The probes and studies.
        batch_size: Sequences a batch.
        seed: Seed of whatever is drawn.
        memory: Bytes that statistics may take.
        layers: Blocks to watch, as `--layers` has them.
        sites: Sites to watch, as `--sites` has them.
        progress: Told how far it is.
        folder: Makes a folder for what is kept beside the readings.
        key: What identifies the checkpoint and what it is fed.

    Raises:
        UsageError: This model does not have what the options ask for.
    """
    device, dtype = capture.device, capture.dtype
    possible = _Possible(plans)
    possible.each(lambda plan: plan.check(loaded.layout))
    chosen = loaded.layout.select(layers=layers, sites=sites)
    warning = check_input(loaded.layout, corpus)
    reads = loaded.layout.reads
    first = feed(corpus, np.arange(1), device, reads, dtype)
    times = capture.times(first.inputs, chosen) if first.made_by_model else {}
    survey = Survey(
        loaded.layout, chosen, corpus.lengths, seed, memory, dtype, device, device, times, corpus
    )
    costs = possible.each(lambda plan: plan.cost(survey))
    placed = survey = place_statistics(survey, [cost for each in costs for cost in each])
    made = possible.each(lambda plan: None if plan.probe is None else plan.probe(placed))
    plans, probes = possible.plans, [probe for probe in made if probe is not None]
    watchers: dict[str, list[Probe]] = {}
    for probe in probes:
        for site in probe.sites():
            watchers.setdefault(site, []).append(probe)
    show_pilot(capture, corpus, probes, batch_size)
    tokens = 0
    each = max(times.values(), default=1)

    def batches(fed: Inputs = corpus, *, told: bool = True) -> Iterator[Feed]:
        nonlocal tokens
        total = -(-len(fed) // batch_size)
        for done, batch in enumerate(feeds(fed, batch_size, device, reads, dtype)):
            yield batch
            tokens += int(batch.lengths.sum()) * each
            if told:
                progress.batches(done + 1, total, tokens)

    for batch in batches() if watchers else ():

        def observe(site: str, activations: Any, batch: Feed = batch) -> None:
            for probe in watchers[site]:
                probe.observe(site, activations, batch.at(activations))

        capture.run(batch.inputs, watchers, observe)
        give_back()
    outcome = Outcome(findings=[*possible.left_out, *([warning] if warning else [])])
    for probe in probes:
        outcome.add(probe.finish())
    subject = Subject(capture, batches, survey, progress, folder, key)
    for plan in plans:
        if plan.study is not None:
            outcome.add(plan.study.run(subject))
    if (decode := getattr(corpus, "decode", None)) is not None:
        outcome.findings = [_with_tokens(finding, decode) for finding in outcome.findings]
    return outcome


class _Possible:
    """The plans that a model and what it is fed have the parts for, and a warning for each other.

    Args:
        plans: All of them; only those that are optional are left out.
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = list(plans)
        self.left_out: list[dict[str, Any]] = []

    def each(self, use: Callable[[Plan], T]) -> list[T]:
        """What comes of each plan; one that cannot be used is left out.

        Raises:
            UsageError: That one is not optional, or is the last.
        """
        found, usable = [], []
        for plan in self.plans:
            try:
                found.append(use(plan))
                usable.append(plan)
            except UsageError as error:
                if not plan.optional or (plan is self.plans[-1] and not usable):
                    raise
                message = f"Left out: {error}"
                warning = {"kind": "warning", "code": "probe_left_out", "message": message}
                self.left_out.append(warning)
        self.plans = usable
        return found


def place_statistics(survey: Survey, costs: Sequence[Cost]) -> Survey:
    """The same with the statistics that cost so much where they fit."""
    needed = sum(cost.memory for cost in costs)
    return replace(survey, statistics_on=statistics_device(survey.device, needed))


def _with_tokens(finding: dict[str, Any], decode: Callable[[int], str]) -> dict[str, Any]:
    """A finding with the text of the token ids that it names."""
    if "token_ids" in finding:
        return {**finding, "tokens_text": [decode(token) for token in finding["token_ids"]]}
    if "token_id" in finding:
        return {**finding, "token_text": decode(finding["token_id"])}
    return finding


def show_pilot(
    capture: Capture,
    corpus: Inputs,
    probes: Sequence[Probe],
    batch_size: int,
) -> None:
    """Shows the first sequences of the corpus beforehand to the probes that ask for it.

    Their number does not depend on the batch size, so neither does what is settled by them.
    """
    wanted: dict[str, list[Probe]] = {}
    for probe in probes:
        for site in probe.pilot_sites():
            wanted.setdefault(site, []).append(probe)
    first = np.arange(min(PILOT_SEQUENCES, len(corpus)))
    for start in range(0, len(first) if wanted else 0, batch_size):
        part = first[start : start + batch_size]
        batch = feed(corpus, part, capture.device, capture.layout.reads, capture.dtype)

        def observe(site: str, activations: Any, batch: Feed = batch) -> None:
            for probe in wanted[site]:
                probe.pilot(site, activations, batch.at(activations))

        capture.run(batch.inputs, wanted, observe)


@dataclass(frozen=True)
class Settings:
    """How a series is measured.

    Attributes:
        corpus_for: Gives the corpus for a checkpoint.
        fetcher: Downloads checkpoints of the hub.
        plans: The probes and studies.
        batch_size: Sequences a batch; None lets memory decide once a model is loaded.
        memory: Bytes that statistics may take.
        device: Where the model runs.
        dtype: Precision of the weights.
        seed: Seed of whatever is drawn.
        layers: Blocks to watch, as `--layers` has them.
        sites: Sites to watch, as `--sites` has them.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        factory: Builds the network, for weights of one that is in no table.
        device_map: accelerate's way to spread the model, instead of `device`.
    """

    corpus_for: Corpora
    fetcher: Fetcher
    plans: Sequence[Plan]
    batch_size: int | None
    memory: int
    device: torch.device
    dtype: torch.dtype
    seed: int = 0
    layers: str | None = None
    sites: str | None = None
    trust_remote_code: bool = False
    factory: str | None = None
    device_map: str | None = None


class Bench:
    """Makes one checkpoint after another ready to measure, reusing what it can.

    Args:
        settings: How to measure.
    """

    def __init__(self, settings: Settings) -> None:
        self._corpus_for = settings.corpus_for
        self._loader = Loader(
            settings.device,
            settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            factory=settings.factory,
            device_map=settings.device_map,
        )
        self._capture: Capture | None = None

    def prepare(self, checkpoint: Checkpoint) -> tuple[Loaded, Capture, Inputs]:
        """Loads a checkpoint, checks the layout of a new architecture, and tokenises its corpus.

        Raises:
            CheckpointError: The checkpoint cannot be loaded.
            UsageError: Its family is not supported, or it has no tokenizer.
        """
        corpus = self._corpus_for(checkpoint)
        first = corpus.batch(np.arange(1)) if checkpoint.kind == "module" else None
        loaded = self._loader.load(checkpoint, first)
        if self._capture is None or self._capture.model is not loaded.model:
            self._capture = None  # frees the old model before the check takes its memory
            capture = Capture(loaded.model, loaded.layout)
            self_check(capture)
            self._capture = capture
        return loaded, self._capture, corpus


def survey_series(
    checkpoints: Sequence[Checkpoint], settings: Settings, run: Run, progress: Progress
) -> None:
    """Measures every checkpoint that the run does not have yet.

    A checkpoint that cannot be measured is noted in the run, and the others go on.

    Args:
        checkpoints: The series, in order.
        settings: How to measure.
        run: Where readings go; each checkpoint is kept as soon as it is measured.
        progress: Told how far the loop is.
    """
    bench = Bench(settings)
    batch_size = settings.batch_size
    kept = 0
    for position, checkpoint in enumerate(checkpoints):
        progress.checkpoint(checkpoint.label, position, len(checkpoints))
        try:
            if run.has(checkpoint.label):
                entry = describe(checkpoint)
                corpus = settings.corpus_for(checkpoint)
                if run.is_done({**entry, "corpus": corpus.fingerprint}):
                    settings.fetcher.done(checkpoint)  # where it was stopped just before that
                    kept += 1
                    continue
            if kept:
                progress.note(_already(kept))
                kept = 0
            settings.fetcher.whole(checkpoint)
            before = stamps(checkpoint)
            loaded, capture, corpus = bench.prepare(checkpoint)
            for following in checkpoints[position + 1 : position + 2]:
                prefetch(following)
                if not run.has(following.label):
                    settings.fetcher.ahead(following)
            entry = {
                **describe(checkpoint),
                "corpus": corpus.fingerprint,
                "model": describe_model(loaded.layout),
            }
            outcome, batch_size = with_room(
                partial(
                    measure_model,
                    loaded,
                    capture,
                    corpus,
                    settings.plans,
                    seed=settings.seed,
                    memory=settings.memory,
                    layers=settings.layers,
                    sites=settings.sites,
                    progress=progress,
                    folder=partial(run.beside, checkpoint.label),
                    key=f"{entry['fingerprint']} {corpus.fingerprint}",
                ),
                capture,
                corpus,
                batch_size,
                progress,
            )
            if settings.batch_size is None and not run.labels:
                run.choose(batch_size=batch_size)
            outcome = outcome.named(checkpoint.label)
            if stamps(checkpoint) != before:
                raise CheckpointError(
                    f"{checkpoint.label}: its files changed while it was measured; run again once "
                    "they are whole."
                )
            run.write_checkpoint(entry, outcome.readings, outcome.findings, outcome.arrays)
            settings.fetcher.done(checkpoint)
        except GeoprobeError as error:
            if isinstance(error, UsageError) and not run.labels and not run.failed:
                raise  # the first one: a mistake in the options would stand in every other's way
            message = str(error)
            if not message.startswith(checkpoint.label):
                message = f"{checkpoint.label}: {message}"
            run.write_failure(checkpoint_entry(checkpoint, ""), message)
            progress.note(message)
            continue
        run.write_findings(series_findings(run, settings.plans))
    if kept:
        progress.note(_already(kept))
    # Also where nothing was left to do: a kill may have come between a checkpoint and this.
    run.write_findings(series_findings(run, settings.plans))
    progress.checkpoint("", len(checkpoints), len(checkpoints))


def _already(count: int) -> str:
    one = count == 1
    return f"{count} checkpoint{'' if one else 's'} {'was' if one else 'were'} measured already."


def series_findings(run: Run, plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """What the series as far as it is measured shows, or why its parts do not compare."""
    found: list[dict[str, Any]] = []
    for what, code, message in (
        (
            "corpus",
            "corpora_differ",
            "The checkpoints have {} tokenizers that make different token ids of the text: "
            "readings of different ones are not comparable, and no phases are looked for.",
        ),
        (
            "model",
            "models_differ",
            "The checkpoints are of {} architectures: readings of different ones are not "
            "comparable, and no phases are looked for.",
        ),
    ):
        kinds = {str(entry.get(what)) for entry in run.checkpoints}
        if len(kinds) > 1:
            found.append({"kind": "warning", "code": code, "message": message.format(len(kinds))})
    if not found:
        found = [finding for plan in plans for finding in plan.series(run)]
    return found
