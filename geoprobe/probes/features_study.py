"""The study of effective features: training, the two nulls, and the loss recovered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.errors import UsageError
from geoprobe.models.randomised import randomised
from geoprobe.probes.base import Outcome, Subject
from geoprobe.probes.features import describe, doubts, gaussian_rows
from geoprobe.probes.features_evaluation import Evaluation, Member
from geoprobe.probes.features_loss import recovered
from geoprobe.probes.features_readings import GAUSSIAN, NAME, RANDOM, readings_of
from geoprobe.probes.features_training import split, train_members, train_on_rows

if TYPE_CHECKING:
    import torch

    from geoprobe.autoencoders.training import Trained
    from geoprobe.models.capture import Capture
    from geoprobe.probes.features import FeaturesOptions, FeaturesProbe
    from geoprobe.probes.features_evaluation import Sinks

_SETTLED = 0.03
"""Change of effective features between two evaluations below which a training is at its end."""
_MOST_ROWS = 2**16
"""Rows drawn for the Gaussian null at most."""


class FeaturesStudy:
    """What the one pass cannot give.

    Args:
        options: What to measure.

    Attributes:
        probe: The probe of the pass that was just made.
    """

    name = NAME

    def __init__(self, options: FeaturesOptions) -> None:
        self.options = options
        self.probe: FeaturesProbe | None = None
        self._random: dict[str, Outcome] = {}

    def run(self, subject: Subject) -> Outcome:
        """Measures one checkpoint."""
        probe, options = self.probe, self.options
        assert probe is not None
        outcome = Outcome()
        evaluation, members = probe.evaluation, probe.members
        folder = subject.folder("autoencoders") if options.train else None
        some = np.arange(len(probe.survey.lengths))
        if options.train:
            members, trained = self._train(
                subject, subject.capture, range(options.seeds), folder, subject.key
            )
            outcome.findings += [describe(m) for m in members if not m.seed]
            outcome.findings += [_history(one, options) for one in trained]
            outcome.findings += _unsettled(trained)
            _save(members, folder, subject.capture.layout.family)
            evaluation = probe.evaluation_of(members, GAUSSIAN in options.nulls)
            _, some = split(len(probe.survey.lengths), subject.seed)
            held_out = probe.evaluation_of(members, False, only=some)
            _observe(subject, subject.capture, evaluation, held_out)
            found = readings_of([*evaluation.measured(), *held_out.measured()])
            outcome.add(found)
            outcome.findings += doubts(
                found, [m for m in members if m.seed == 0], probe.usual_sinks
            )
        if GAUSSIAN in options.nulls:
            outcome.add(self._gaussian(subject, evaluation, members))
        if RANDOM in options.nulls:
            outcome.add(self._random_model(subject, members))
        if options.loss_sequences:
            first = [member for member in members if not member.seed]
            outcome.add(recovered(subject, first, self._left_out(), some[: options.loss_sequences]))
        _forget_states(folder)
        return outcome

    def _left_out(self) -> Sinks | None:
        """The rule for tokens that the autoencoders are not for."""
        assert self.probe is not None
        if self.probe.rule is None or not self.options.train or self.options.train_sinks:
            return None
        return self.probe.sinks

    def _sites(self) -> list[str]:
        assert self.probe is not None
        return list(self.probe.survey.sites)

    def _train(
        self,
        subject: Subject,
        capture: Capture,
        seeds: Sequence[int],
        folder: Path | None,
        key: str,
        what: str = "",
    ) -> tuple[list[Member], list[Trained]]:
        return train_members(
            subject,
            capture,
            self.options.recipe,
            self.options.length,
            list(seeds),
            sites=self._sites(),
            sinks=self._left_out(),
            folder=folder,
            key=key,
            what=what,
        )

    def _gaussian(
        self, subject: Subject, evaluation: Evaluation, members: Sequence[Member]
    ) -> Outcome:
        """The same on rows of a Gaussian with each site's mean and covariance, sinks left out."""
        options, probe = self.options, self.probe
        assert probe is not None
        found = []
        for site, moments in evaluation.moments.items():
            count = min(_MOST_ROWS, moments.count())
            if count < 2:
                continue  # all of its tokens are sinks
            rows = gaussian_rows(
                moments.mean(), moments.second_moments()[0], count, subject.seed
            ).to(subject.capture.device)
            here = [member for member in members if member.site == site and not member.seed]
            if options.train:
                subject.progress.status(f"{site} of a Gaussian", 0, 1)
                held = max(1, count // 10)
                one = train_on_rows(
                    rows[held:], rows[:held], options.recipe, options.length, 0, rows.device
                )
                here = [Member(site, options.recipe.name, one.autoencoder, 0)]
            drawn = Evaluation(here, count, of=GAUSSIAN, device=evaluation.device)
            drawn.add(site, rows, np.arange(count), np.zeros(count, dtype=bool))
            # The moments are of tokens that are no sinks, where these can be told.
            found += [replace(one, sinks=(probe.usual_sinks,)) for one in drawn.measured()]
        return readings_of(found)

    def _random_model(self, subject: Subject, members: Sequence[Member]) -> Outcome:
        """The same on a randomly initialised model; once for all checkpoints of one architecture.

        It is the same for all of them where the same tokens are left out as sinks. Weights of
        loaded autoencoders stay; trained ones are trained again.
        """
        probe = self.probe
        assert probe is not None
        corpus = probe.survey.inputs
        rule = probe.rule
        same = (
            f"{_architecture(subject.capture)} {self._sites()} "
            f"{corpus.fingerprint if corpus is not None else ''} "
            f"{(rule.positions, rule.token_ids) if rule is not None else ''}"
        )
        if same in self._random:
            return self._random[same]
        try:
            capture = randomised(subject.capture, subject.seed)
        except UsageError as error:
            return _warning("no_random_model", f"There is no null of random weights: {error}.")
        if self.options.train:
            folder = subject.folder("autoencoders")
            digest = hashlib.sha256(same.encode()).hexdigest()[:12]
            beside = None if folder is None else folder.parent / f"random-model-{digest}"
            if beside is not None:
                beside.mkdir(exist_ok=True)
            kept = _kept(beside, self._sites(), self.options.recipe.name, capture.device)
            if kept is not None:
                members = kept
            else:
                members, _ = self._train(subject, capture, [0], beside, same, "random model, ")
                _save(members, beside, capture.layout.family)
                _forget_states(beside)
        first = [member for member in members if not member.seed]
        evaluation = probe.evaluation_of(first, False, of=RANDOM)
        _observe(subject, capture, evaluation)
        self._random[same] = readings_of(evaluation.measured())
        return self._random[same]


def _architecture(capture: Capture) -> str:
    """What a model of random weights depends on, whatever its checkpoint is called."""
    shapes = {name: tuple(value.shape) for name, value in capture.model.state_dict().items()}
    spread = getattr(getattr(capture.model, "config", None), "initializer_range", "")
    return f"{capture.layout.family} {type(capture.model).__name__} {shapes} {spread}"


def _observe(subject: Subject, capture: Capture, *evaluations: Evaluation) -> None:
    """One pass over the corpus."""
    for batch in subject.feeds():

        def observe(site: str, activations: Any, batch: Any = batch) -> None:
            for evaluation in evaluations:
                evaluation.observe(site, activations, batch.at(activations))

        capture.run(batch.inputs, evaluations[0].sites(), observe)


def _warning(code: str, message: str) -> Outcome:
    return Outcome(findings=[{"kind": "warning", "code": code, "message": message}])


def _history(one: Trained, options: FeaturesOptions) -> dict[str, Any]:
    """How an autoencoder came about, as a finding."""
    stopped = one.stopped < options.train_samples
    return {
        "kind": "training",
        "site": one.autoencoder.site,
        "sae": options.recipe.name,
        "seed": one.seed,
        "samples": one.stopped,
        "best_at": one.best_at,
        "stopped_early": stopped,
        "history": one.history,
    }


def _unsettled(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """A warning where effective features still changed when the samples were used up."""
    changing = []
    for one in trained:
        last = [point["effective"] for point in one.history[-2:]]
        if one.seed == 0 and (len(last) < 2 or abs(last[1] - last[0]) > _SETTLED * last[1]):
            changing.append(str(one.autoencoder.site))
    if not changing:
        return []
    shown = ", ".join(changing[:3]) + (f" and {len(changing) - 3} more" if changing[3:] else "")
    message = (
        f"The training at {shown} ended at {trained[0].stopped:,} samples while effective features "
        f"still changed by more than {_SETTLED:.0%} from one evaluation to the next; give a larger "
        "--train-samples."
    )
    return [{"kind": "warning", "code": "training_unsettled", "message": message}]


def _forget_states(folder: Path | None) -> None:
    """Removes the states of trainings that are done."""
    if folder is not None:
        for state in folder.glob("training-*.safetensors"):
            state.unlink()


def _kept(
    folder: Path | None, sites: Sequence[str], name: str, device: torch.device
) -> list[Member] | None:
    """Autoencoders of a null that an earlier process has trained, if they are all there."""
    if folder is None or not all((folder / s / "seed-0" / "cfg.json").is_file() for s in sites):
        return None
    from geoprobe.autoencoders.formats import read_autoencoder

    return [
        Member(site, name, read_autoencoder(folder / site / "seed-0").to(device), 0)
        for site in sites
    ]


def _save(members: Sequence[Member], folder: Path | None, family: str) -> None:
    """Keeps trained autoencoders in SAELens' layout."""
    if folder is None:
        return
    from geoprobe.autoencoders.formats import write_saelens

    for member in members:
        place = folder / member.site / f"seed-{member.seed}"
        write_saelens(member.autoencoder, place, metadata={"model_name": family}, overwrite=True)
