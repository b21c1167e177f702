"""Effective features: sparse autoencoders, loaded or trained here, over a model's activations.

Loaded ones watch the one pass; what they must be compared with, and training, is the study's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from geoprobe.autoencoders.recipe import Recipe
from geoprobe.autoencoders.stack import Stack, autoencoder
from geoprobe.autoencoders.training import Length
from geoprobe.errors import UsageError
from geoprobe.probes.base import Cost, Outcome, Plan, Survey
from geoprobe.probes.features_evaluation import Evaluation, Member
from geoprobe.probes.features_readings import GAUSSIAN, NAME, RANDOM, readings_of
from geoprobe.probes.sinks_rule import SinkRule
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.autoencoders.autoencoder import Autoencoder
    from geoprobe.models.layout import Layout
    from geoprobe.probes.base import Feed

NULLS = (RANDOM, GAUSSIAN)
_OF_TRAINING = (
    *("architecture", "expansion", "l1", "reduction", "k", "lr", "sae_batch", "train_samples"),
    *("patience", "seeds", "raw", "train_sinks"),
)
_REHEARSED = 10
"""Steps of a rehearsal's training."""


@dataclass(frozen=True)
class FeaturesOptions:
    """Which autoencoders, and what is measured beside them.

    Attributes:
        sae: Folders of autoencoders, `PATH` or `SITE=PATH`; one may hold several.
        train: Train autoencoders on the activations of every site that is measured.
        architecture: `tied` (the paper's), `standard`, `topk` or `batchtopk`.
        expansion: Features per dimension of the site.
        l1: Weight of the sparsity penalty of the first two; None is 0.1.
        reduction: What the terms of the loss are over their entries, `sum` or `mean`.
        k: Active features a sample of the others; None is 32.
        lr: Learning rate; None is the architecture's own.
        sae_batch: Samples a step.
        train_samples: Samples at most; they may be seen several times.
        patience: Evaluations without progress after which it stops; 0 never stops early.
        seeds: Number of autoencoders a site.
        raw: Train on activations as they are, not scaled.
        train_sinks: Train on attention sinks, too.
        nulls: `random_model` and `gaussian`, or `none`.
        loss_sequences: Sequences on which the loss recovered is measured; 0 leaves it out.
    """

    sae: tuple[str, ...] = ()
    train: bool = False
    architecture: Literal["tied", "standard", "topk", "batchtopk"] = "tied"
    expansion: int = 4
    l1: float | None = None
    reduction: Literal["sum", "mean"] = "sum"
    k: int | None = None
    lr: float | None = None
    sae_batch: int = 128
    train_samples: int = 300_000
    patience: int = 3
    seeds: int = 2
    raw: bool = False
    train_sinks: bool = False
    nulls: tuple[str, ...] = NULLS
    loss_sequences: int = 32

    def __post_init__(self) -> None:
        if bool(self.sae) == self.train:
            raise UsageError(
                "Give --sae PATH for autoencoders that there are, or --train to make some; one of "
                "the two."
            )
        for option, value, least in (
            ("--seeds", self.seeds, 1),
            ("--train-samples", self.train_samples, 1),
            ("--patience", self.patience, 0),
            ("--loss-sequences", self.loss_sequences, 0),
        ):
            if value < least:
                raise UsageError(f"{option} {value}: give {least} or more.")
        for name in self.nulls:
            if name not in (*NULLS, "none"):
                raise UsageError(f"--nulls {name}: not one of {', '.join(NULLS)}, none.")
        if "none" in self.nulls and len(self.nulls) > 1:
            raise UsageError(f"--nulls {','.join(self.nulls)}: none stands alone.")
        if self.sae:
            for name in _OF_TRAINING:
                if getattr(self, name) != getattr(type(self), name):
                    option = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{option} is for --train, and --sae was given; leave it out.")
        by_k = self.recipe.by_k
        if not by_k and self.k is not None:
            raise UsageError(
                f"--k {self.k} is for topk and batchtopk; give --architecture, or --l1 for how "
                f"sparse a {self.architecture} one is."
            )
        if by_k and self.l1 is not None:
            raise UsageError(
                f"--l1 {self.l1:g} is for --architecture tied or standard; give --k for how sparse "
                f"a {self.architecture} one is."
            )

    @property
    def recipe(self) -> Recipe:
        """How autoencoders are trained."""
        return Recipe(
            architecture=self.architecture,
            expansion=self.expansion,
            reduction=self.reduction,
            lr=self.lr,
            batch=self.sae_batch,
            standardise=not self.raw,
            **{n: v for n in ("l1", "k") if (v := getattr(self, n)) is not None},
        )

    @property
    def length(self) -> Length:
        """How long."""
        return Length(self.train_samples, self.patience)


Options = FeaturesOptions


def plan(options: FeaturesOptions) -> Plan:
    """The probe, and the study behind it."""
    from geoprobe.autoencoders.given import read_given, recorded
    from geoprobe.probes.features_study import FeaturesStudy

    loaded = read_given(options.sae)
    study = FeaturesStudy(options)

    def make(survey: Survey) -> FeaturesProbe:
        study.probe = FeaturesProbe(survey, options, members_of(loaded, survey))
        return study.probe

    return Plan(
        probe=make,
        study=study,
        check=lambda layout: check(loaded, options, layout),
        cost=lambda survey: _cost(loaded, options, survey),
        recorded=recorded(loaded),
    )


def check(loaded: Sequence[Autoencoder], options: FeaturesOptions, layout: Layout) -> None:
    """Makes sure that a model has the sites of the autoencoders, of their width.

    Raises:
        UsageError: It has not.
    """
    if options.train:
        for site in layout.sites:
            options.recipe.features(layout.width_of(site))
        return
    for coder in loaded:
        if coder.site is None:
            raise UsageError(
                f"--sae: the files of {coder.name} do not say where it was trained; give --sae "
                "SITE=PATH, such as block.3=PATH."
            )
        site = coder.site
        if site not in layout.taps:
            why = layout.missing.get(site, f"it has {layout.sites[0]} to {layout.sites[-1]}")
            raise UsageError(
                f"--sae: {coder.name} was trained at {site}, and this {layout.family} model has no "
                f"such site ({why}); give its own autoencoder, or --sae SITE=PATH."
            )
        width = layout.width_of(site)
        if coder.width != width:
            raise UsageError(
                f"--sae: {coder.name} reads {coder.width} dimensions, and {site} of this "
                f"{layout.family} model has {width}; it was trained on another model or site."
            )


def members_of(loaded: Sequence[Autoencoder], survey: Survey) -> list[Member]:
    """The loaded autoencoders at sites that are measured."""
    if survey.rehearsal and loaded:
        return [_stand_in(loaded, site, survey.layout.width) for site in survey.sites]
    everywhere = tuple(survey.sites) == survey.layout.sites
    found = [
        Member(str(coder.site), coder.name, coder.folded().to(survey.device))
        for coder in loaded
        if everywhere or coder.site in survey.sites
    ]
    if loaded and not found:
        raise UsageError(
            f"--layers, --sites: the autoencoders that were given are for "
            f"{', '.join(dict.fromkeys(str(c.site) for c in loaded))}; name one of these, or none."
        )
    return found


def _stand_in(loaded: Sequence[Autoencoder], site: str, width: int) -> Member:
    """An autoencoder of a rehearsal: of its width, as much larger as the largest one is."""
    times = max(coder.features // coder.width for coder in loaded)
    weights = Stack(Recipe(expansion=max(1, times)), width, [0]).weights()
    coder = autoencoder(
        Recipe(expansion=max(1, times)),
        {name: value[0] for name, value in weights.items()},
        torch.zeros(width),
        torch.ones(()),
    )
    return Member(site, "stand-in", coder)


def _cost(loaded: Sequence[Autoencoder], options: FeaturesOptions, survey: Survey) -> list[Cost]:
    """Codes of every token at every site; training, at five products a step."""
    if survey.rehearsal and options.train:
        width = survey.layout.width
        weights = width * options.recipe.features(width)
        return [Cost(reading=10.0 * weights * options.sae_batch * _REHEARSED)]
    if survey.rehearsal:
        members = members_of(loaded, survey)
        weights = sum(m.autoencoder.width * m.autoencoder.features for m in members)
        return [Cost(watching=4.0 * weights * int(survey.lengths.sum()))]
    tokens = {site: int(survey.lengths_at(site).sum()) for site in survey.layout.taps}
    nulls = sum(name in options.nulls for name in NULLS)
    costs = []
    if options.train:
        each = max(tokens.values(), default=1)
        for site in survey.sites:
            width = survey.layout.width_of(site)
            weights = width * options.recipe.features(width)
            samples = options.train_samples * (options.seeds + nulls)
            costs.append(
                Cost(
                    site,
                    memory=40 * weights * options.seeds,
                    reading=10.0 * weights * samples + 4.0 * weights * tokens[site],
                )
            )
        random = 1 if RANDOM in options.nulls else 0
        costs.append(Cost(passes=(1 + random) * (1 + options.train_samples // max(1, each))))
        return costs
    for coder in loaded:
        site = str(coder.site)
        weights = coder.width * coder.features
        costs.append(
            Cost(
                site,
                memory=8 * coder.features * (4 * GROUPS + 12) + 8 * weights,
                watching=4.0 * weights * tokens.get(site, 0) * (1 + nulls),
            )
        )
    costs.append(Cost(passes=1 if RANDOM in options.nulls else 0))
    return costs


@dataclass
class FeaturesProbe:
    """Watches the sites of loaded autoencoders, and settles which tokens are sinks.

    Args:
        survey: What is known before the first batch.
        options: What to measure.
        members: The autoencoders; none where they are still to be trained.
    """

    survey: Survey
    options: FeaturesOptions
    members: list[Member]
    name: str = NAME
    rule: SinkRule | None = None
    evaluation: Evaluation = field(init=False)

    def __post_init__(self) -> None:
        layout = self.survey.layout
        if layout.depth and layout.vocabulary and not self.survey.rehearsal:
            self.rule = SinkRule(self.survey)
        self.evaluation = self.evaluation_of(self.members, GAUSSIAN in self.options.nulls)

    def evaluation_of(self, members: Sequence[Member], spread: bool, **more: Any) -> Evaluation:
        """An evaluation of autoencoders on what is fed."""
        return Evaluation(
            members,
            len(self.survey.lengths),
            self.survey.seed,
            None if self.rule is None else self.sinks,
            spread=spread,
            device=self.survey.statistics_on,
            **more,
        )

    @property
    def usual_sinks(self) -> str:
        """By which readings an autoencoder is judged: without sinks, where they can be told."""
        return "in" if self.rule is None else "out"

    def sites(self) -> Sequence[str]:
        """Those of the loaded autoencoders."""
        return self.evaluation.sites()

    def pilot_sites(self) -> Sequence[str]:
        """Every block, by whose outputs sinks are told."""
        return [] if self.rule is None else [f"block.{i}" for i in range(self.survey.layout.depth)]

    def pilot(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Sees one block of a part of the pilot."""
        assert self.rule is not None
        self.rule.watch(site, activations, feed)

    def sinks(self, feed: Feed) -> Tensor:
        """True where a real token is a sink (batch, time)."""
        assert self.rule is not None
        if not self.rule.frozen:
            self.rule.freeze()
        return self.rule.mask(feed)

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Encodes one site's activations (batch, time, d)."""
        if self.members:
            self.evaluation.observe(site, activations, feed)

    def finish(self) -> Outcome:
        """Readings of the loaded autoencoders."""
        outcome = Outcome()
        if self.survey.rehearsal:
            self._rehearse()
            return outcome
        if self.members:
            outcome = readings_of(self.evaluation.measured())
            outcome.findings += [describe(member) for member in self.members]
            outcome.findings += doubts(outcome, self.members, self.usual_sinks)
        if self.rule is not None:
            if not self.rule.frozen:
                self.rule.freeze()
            outcome.findings.append(self.rule.finding())
        return outcome

    def _rehearse(self) -> None:
        """Some steps of a training, to know how long one takes."""
        if self.options.train:
            recipe, width = self.options.recipe, self.survey.layout.width
            stack = Stack(recipe, width, [0], self.survey.device)
            some = torch.randn(1, recipe.batch, width, device=self.survey.device)
            for _ in range(_REHEARSED):
                stack.step(some)


def describe(member: Member) -> dict[str, Any]:
    """What an autoencoder is, as a finding."""
    coder = member.autoencoder
    return {
        "kind": "autoencoder",
        "site": member.site,
        "sae": member.name,
        "architecture": coder.architecture,
        "features": coder.features,
        "width": coder.width,
        "k": coder.k,
        "source": coder.source,
    }


def doubts(outcome: Outcome, members: Sequence[Member], sinks: str) -> list[dict[str, Any]]:
    """Warnings where an autoencoder does not do what it should.

    Args:
        outcome: Readings of them.
        members: The autoencoders.
        sinks: By which readings it is told: with sinks (`in`) or without (`out`).
    """
    coders = {(member.site, member.name): member.autoencoder for member in members}
    found = []
    for reading in outcome.readings:
        if reading.value is None or reading.keys["sinks"] != sinks:
            continue
        coder = coders[reading.site, str(reading.keys["sae"])]
        said = ""
        why = (
            "it was trained on other activations"
            if coder.source != "geoprobe" or "seed" not in reading.keys
            else "its training was too short, or the text too small"
        )
        if reading.measure == "explained_variance" and reading.value < 0:
            said = (
                f"{coder.name} reconstructs {reading.site} worse than its mean does (explained "
                f"variance {reading.value:.3g}): {why}, and its effective features mean nothing "
                "here."
            )
        elif (
            reading.measure == "l0"
            and coder.k
            and not 0.5 * coder.k <= reading.value <= 1.5 * coder.k
        ):
            said = (
                f"{coder.name} has k = {coder.k}, and {reading.value:.3g} features are active at "
                f"{reading.site}: its files, or the site, are not what they are taken for."
            )
        if said:
            found.append({"kind": "warning", "code": "autoencoder_unfit", "message": said})
    return found


def gaussian_rows(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> torch.Tensor:
    """Rows (count, d) drawn from a Gaussian, in single precision."""
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    draw = np.random.default_rng([seed, 7])
    rows = np.empty((count, len(mean)), dtype=np.float32)
    for start in range(0, count, 4096):
        some = rows[start : start + 4096]
        some[:] = draw.standard_normal(some.shape) @ factor.T + mean
    return torch.from_numpy(rows)
