"""The one loop: for each checkpoint one pass, all probes watching, readings into a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from geoprobe.errors import CheckpointError
from geoprobe.models.capture import Capture
from geoprobe.models.loading import Loaded, Loader, load_tokenizer, prefetch, tokenizer_folder
from geoprobe.models.selfcheck import self_check
from geoprobe.models.series import Checkpoint, fingerprint
from geoprobe.probes.base import Feed, Outcome, Plan, Probe, Subject, Survey
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from geoprobe.data.corpus import Corpus
    from geoprobe.runs.folder import Run

TOKENS_PER_BATCH = 4096
"""Enough for full speed on a CPU and on most GPUs; more only costs memory."""


class Progress(Protocol):
    """Where the loop says how far it is."""

    def checkpoint(self, label: str, done: int, total: int) -> None:
        """A checkpoint begins."""
        ...

    def batches(self, done: int, total: int, tokens: int) -> None:
        """A batch was measured."""
        ...

    def note(self, message: str) -> None:
        """A sentence for the user."""
        ...


def feeds(corpus: Corpus, batch_size: int, device: torch.device) -> Iterator[Feed]:
    """Batches of a corpus, jackknife group by group.

    Sequences of one group come together, so that a batch's second moments are one matrix product
    instead of one a group. Moments do not depend on the order.
    """
    order = np.argsort(np.arange(len(corpus)) % GROUPS, kind="stable")
    for start in range(0, len(order), batch_size):
        batch = corpus.batch(order[start : start + batch_size])
        mask = torch.from_numpy(batch.attention_mask).to(device)
        yield Feed(
            input_ids=torch.from_numpy(batch.input_ids).to(device),
            mask=mask,
            index=batch.index,
            lengths=batch.attention_mask.sum(1),
        )


def measure_model(
    loaded: Loaded,
    capture: Capture,
    corpus: Corpus,
    plans: Sequence[Plan],
    *,
    batch_size: int,
    seed: int,
    memory: int,
    layers: str | None = None,
    sites: str | None = None,
    tick: Callable[[int, int, int], None] = lambda *_: None,
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
        tick: Called after each batch with batches done, batches in all, tokens fed.
    """
    device = next(loaded.model.parameters()).device
    chosen = loaded.layout.select(layers=layers, sites=sites)
    survey = Survey(loaded.layout, chosen, corpus.lengths, seed, memory)
    probes = [plan.probe(survey) for plan in plans if plan.probe is not None]
    watchers: dict[str, list[Probe]] = {}
    for probe in probes:
        for site in probe.sites():
            watchers.setdefault(site, []).append(probe)
    total = -(-len(corpus) // batch_size)
    tokens = 0
    for done, feed in enumerate(feeds(corpus, batch_size, device) if watchers else ()):
        inputs = {"input_ids": feed.input_ids, "attention_mask": feed.mask}
        if done == 0:
            _pilot(capture, inputs, feed, watchers)

        def observe(site: str, activations: Any, feed: Feed = feed) -> None:
            for probe in watchers[site]:
                probe.observe(site, activations, feed)

        capture.run(inputs, watchers, observe)
        tokens += int(feed.lengths.sum())
        tick(done + 1, total, tokens)
    outcome = Outcome()
    for probe in probes:
        outcome.add(probe.finish())
    subject = Subject(capture, lambda: feeds(corpus, batch_size, device))
    for plan in plans:
        if plan.study is not None:
            outcome.add(plan.study.run(subject))
    return outcome


def _pilot(
    capture: Capture, inputs: dict[str, Any], feed: Feed, watchers: dict[str, list[Probe]]
) -> None:
    """Shows the first batch once beforehand to the probes that ask for it."""

    def observe(site: str, activations: Any) -> None:
        for probe in watchers[site]:
            if probe.needs_pilot():
                probe.pilot(site, activations, feed)

    if any(probe.needs_pilot() for probes in watchers.values() for probe in probes):
        capture.run(inputs, watchers, observe)


class Corpora:
    """The corpus as each checkpoint's tokenizer has it; tokenised once a tokenizer.

    Args:
        tokenise: Makes the corpus with a tokenizer.
        tokenizer: Folder of a tokenizer to use for every checkpoint, or None for their own.
        trust_remote_code: Whether code that comes with a tokenizer may run.
    """

    def __init__(
        self,
        tokenise: Callable[[Any], Corpus],
        tokenizer: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self._tokenise = tokenise
        self._tokenizer = tokenizer
        self._trust_remote_code = trust_remote_code
        self._digests: dict[tuple[tuple[str, int, int], ...], str] = {}
        self._known: dict[str, Corpus] = {}

    def __call__(self, checkpoint: Checkpoint) -> Corpus:
        """The corpus for a checkpoint."""
        files = [checkpoint.path]
        if checkpoint.kind == "folder":
            folder = tokenizer_folder(checkpoint, self._tokenizer)
            files = sorted({*folder.glob("*token*"), *folder.glob("vocab*")})
        stamps = tuple((str(path), *stamp(path)) for path in files if path.is_file())
        if stamps not in self._digests:
            digest = hashlib.sha256()
            for path, *_ in stamps:
                # A .gguf file has its tokenizer in it, and its weights, which need not be read.
                whole = checkpoint.kind == "folder"
                digest.update(Path(path).read_bytes() if whole else path.encode())
            self._digests[stamps] = digest.hexdigest()
        key = self._digests[stamps]
        if key not in self._known:
            tokenizer = load_tokenizer(
                checkpoint, self._tokenizer, trust_remote_code=self._trust_remote_code
            )
            self._known[key] = self._tokenise(tokenizer)
        return self._known[key]


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file: what changes when it is written anew."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Settings:
    """How a series is measured.

    Attributes:
        corpus_for: Gives the corpus for a checkpoint.
        plans: The probes and studies.
        batch_size: Sequences a batch.
        memory: Bytes that statistics may take.
        device: Where the model runs.
        dtype: Precision of the weights.
        seed: Seed of whatever is drawn.
        layers: Blocks to watch, as `--layers` has them.
        sites: Sites to watch, as `--sites` has them.
        trust_remote_code: Whether code that comes with a checkpoint may run.
    """

    corpus_for: Corpora
    plans: Sequence[Plan]
    batch_size: int
    memory: int
    device: torch.device
    dtype: torch.dtype
    seed: int = 0
    layers: str | None = None
    sites: str | None = None
    trust_remote_code: bool = False


class Bench:
    """Makes one checkpoint after another ready to measure, reusing what it can.

    Args:
        settings: How to measure.
    """

    def __init__(self, settings: Settings) -> None:
        self._corpus_for = settings.corpus_for
        self._loader = Loader(
            settings.device, settings.dtype, trust_remote_code=settings.trust_remote_code
        )
        self._capture: Capture | None = None

    def prepare(self, checkpoint: Checkpoint) -> tuple[Loaded, Capture, Corpus]:
        """Loads a checkpoint, checks the layout of a new architecture, and tokenises its corpus.

        Raises:
            CheckpointError: The checkpoint cannot be loaded.
            UsageError: Its family is not supported, or it has no tokenizer.
        """
        corpus = self._corpus_for(checkpoint)
        loaded = self._loader.load(checkpoint)
        if self._capture is None or self._capture.model is not loaded.model:
            self._capture = None  # frees the old model before the check takes its memory
            capture = Capture(loaded.model, loaded.layout)
            self_check(capture)
            self._capture = capture
        return loaded, self._capture, corpus


def stamps(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """What changes when a checkpoint's files are written anew, file by file."""
    path = checkpoint.path
    files = [path] if checkpoint.kind == "gguf" else sorted(path.glob("*"))
    try:
        return {file.name: stamp(file) for file in files if file.is_file()}
    except OSError as error:
        raise CheckpointError(f"{checkpoint.label}: cannot be read ({error}).") from error


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
    for position, checkpoint in enumerate(checkpoints):
        progress.checkpoint(checkpoint.label, position, len(checkpoints))
        try:
            if run.has(checkpoint.label) and run.is_done(describe(checkpoint)):
                continue
            before = stamps(checkpoint)
            loaded, capture, corpus = bench.prepare(checkpoint)
            for following in checkpoints[position + 1 : position + 2]:
                prefetch(following)
            outcome = measure_model(
                loaded,
                capture,
                corpus,
                settings.plans,
                batch_size=settings.batch_size,
                seed=settings.seed,
                memory=settings.memory,
                layers=settings.layers,
                sites=settings.sites,
                tick=progress.batches,
            ).named(checkpoint.label)
            entry = {**describe(checkpoint), "corpus": corpus.fingerprint}
            if stamps(checkpoint) != before:
                raise CheckpointError(
                    f"{checkpoint.label}: its files changed while it was measured; run again once "
                    "they are whole."
                )
            run.write_checkpoint(entry, outcome.readings, outcome.findings, outcome.arrays)
        except CheckpointError as error:
            run.write_failure(checkpoint_entry(checkpoint, ""), str(error))
            progress.note(str(error))
            continue
        run.write_findings(series_findings(run, settings.plans))
    # Also where nothing was left to do: a kill may have come between a checkpoint and this.
    run.write_findings(series_findings(run, settings.plans))
    progress.checkpoint("", len(checkpoints), len(checkpoints))


def series_findings(run: Run, plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """What the series as far as it is measured shows, and whether its parts compare."""
    found = [finding for plan in plans for finding in plan.series(run)]
    corpora = {entry.get("corpus") for entry in run.checkpoints}
    if len(corpora) > 1:
        found.append(
            {
                "kind": "warning",
                "code": "corpora_differ",
                "message": f"The checkpoints have {len(corpora)} tokenizers that make different "
                "token ids of the text: readings of different ones are not comparable.",
            }
        )
    return found


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entry of a checkpoint in a run, fingerprint included.

    Raises:
        CheckpointError: The checkpoint vanished or cannot be read.
    """
    if checkpoint.incomplete:
        raise CheckpointError(f"{checkpoint.label}: {checkpoint.incomplete}.")
    try:
        return checkpoint_entry(checkpoint, fingerprint(checkpoint))
    except OSError as error:
        raise CheckpointError(f"{checkpoint.label}: cannot be read ({error}).") from error


def checkpoint_entry(checkpoint: Checkpoint, digest: str) -> dict[str, Any]:
    """The entry of a checkpoint in a run."""
    return {
        "label": checkpoint.label,
        "step": checkpoint.step,
        "tokens": checkpoint.tokens,
        "stage": checkpoint.stage,
        "fingerprint": digest,
    }


def statistics_memory() -> int:
    """Bytes that statistics may take: half of what is free now."""
    import psutil

    return int(psutil.virtual_memory().available // 2)


def choose_batch_size(length: int) -> int:
    """Sequences a batch, from the length of a sequence."""
    return max(1, TOKENS_PER_BATCH // max(1, length))
