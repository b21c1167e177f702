"""The superposition probe: how features share dimensions, in weights and in activations.

In one pass the moments of every coordinate of the chosen sites, and of the neurons of the chosen
blocks, as they are and after random rotations; behind it the matrices of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from geoprobe import measures
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.measures.neurons import TOP, excess_kurtosis, paired_cosines, top_share
from geoprobe.models.layout import Layout, kind_of
from geoprobe.probes.base import Cost, Feed, Outcome, Plan, Subject, Survey
from geoprobe.probes.readings import A_NULL, evaluate, jackknifed
from geoprobe.probes.superposition_names import (
    INPUTS,
    KINDS,
    Named,
    check_names,
    choose,
    weight_sites,
)
from geoprobe.probes.superposition_rows import with_rows
from geoprobe.probes.superposition_weights import (
    FIXED,
    NAME,
    gaussian_tensor,
    matrix_readings,
    operations,
)
from geoprobe.statistics import GROUPS
from geoprobe.statistics.devices import multiplies
from geoprobe.statistics.neurons import Central, NeuronMoments, Rotation, numbers_at_a_time

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.autoencoders.autoencoder import Autoencoder
    from geoprobe.runs.reading import Key, Reading

MOST_ROTATIONS = 8
_TOP_COORDINATES = 20
"""Over all rotations of a site there are so many coordinates among the top ones, if eight rotations
are enough for it: what one alone gives depends on the draw."""

ROTATED_TOKENS = 2**12
"""About so many tokens of a text are rotated: their moments are a null, or a mean over coordinates,
and a rotation costs more than the moments do."""

_REHEARSED_ROWS = 4
"""A rehearsal measures a matrix of so many times as many rows as dimensions."""


@dataclass(frozen=True)
class SuperpositionOptions:
    """What to measure.

    Attributes:
        weights: Matrices whose rows are features: `embedding`, `unembedding`, `mlp.in`, `mlp.out`,
            one block's (`mlp.out.3`), or parameters by name; `*` stands for anything, and `.T`
            behind a name takes its columns. Empty for all four kinds in the chosen blocks; of a
            network of a factory for all linear maps.
        skip_coherence: Leave out the closest pair of rows, which takes time with their square.
        sae: Folders of autoencoders, `PATH` or `SITE=PATH`, whose decoders' directions are measured
            as well.
    """

    weights: tuple[str, ...] = ()
    skip_coherence: bool = False
    sae: tuple[str, ...] = ()


Options = SuperpositionOptions


def plan(options: SuperpositionOptions) -> Plan:
    """The probe, and the study that reads the weights."""
    from geoprobe.autoencoders.given import read_given, recorded

    if "" in options.weights:
        raise UsageError(f"--weights: an empty name; give {', '.join(KINDS)}, or parameters.")
    coders = read_given(options.sae) if options.sae else []
    study = WeightStudy(options, coders)

    def make(survey: Survey) -> SuperpositionProbe:
        study.survey = survey
        return SuperpositionProbe(survey)

    return Plan(
        probe=make,
        study=study,
        check=lambda layout: check_names(options.weights, layout),
        cost=lambda survey: _cost(options, survey),
        recorded=recorded(coders),
    )


def chosen_blocks(survey: Survey) -> list[int]:
    """Numbers of the blocks that the chosen sites are in; those of a factory's network are none."""
    if survey.layout.item is not None:
        return []
    numbered = (site for site in survey.sites if kind_of(site) != site)
    return sorted({int(site.rsplit(".", 1)[1]) for site in numbered})


def rotations_of(width: int) -> int:
    """Random rotations that the coordinates of a site are compared with, from 2 to 8."""
    top = max(1, width // TOP)
    return max(2, min(MOST_ROTATIONS, -(-_TOP_COORDINATES // top)))


def _sites(survey: Survey) -> tuple[str, ...]:
    """The chosen sites, and the neurons of their blocks."""
    neurons = (f"neurons.{block}" for block in chosen_blocks(survey))
    return tuple(dict.fromkeys((*survey.sites, *(s for s in neurons if s in survey.layout.taps))))


@dataclass
class _State:
    """Moments of a site as it is, and of one token in `stride` as it is and after each rotation."""

    given: NeuronMoments
    sample: NeuronMoments
    rotated: list[NeuronMoments]
    rotations: list[Rotation]
    stride: int


@dataclass
class SuperpositionProbe:
    """Keeps moments of every coordinate.

    Args:
        survey: What is known before the first batch.
    """

    survey: Survey
    name: str = NAME
    _state: dict[str, _State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device = self.survey.statistics_on
        rotations: dict[int, list[Rotation]] = {}
        for site in self.sites():
            width = self.survey.layout.width_of(site)
            number = rotations_of(width)
            if width not in rotations:
                seeds = [MOST_ROTATIONS * self.survey.seed + i for i in range(number)]
                rotations[width] = [Rotation(width, seed, device=device) for seed in seeds]
            stride = max(1, int(self.survey.lengths_at(site).sum()) // ROTATED_TOKENS)
            every, sample, *rotated = (
                NeuronMoments(width, GROUPS, device=device) for _ in range(2 + number)
            )
            if stride == 1:
                sample = every
            self._state[site] = _State(every, sample, rotated, rotations[width], stride)

    def sites(self) -> Sequence[str]:
        """Sites to watch: those that were chosen, and the neurons of their blocks."""
        return _sites(self.survey)

    def pilot_sites(self) -> Sequence[str]:
        """None."""
        return ()

    def pilot(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Never called."""

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Adds the real tokens of one site's activations (batch, time, d)."""
        state, groups = self._state[site], feed.index % GROUPS
        state.given.add(activations, groups, feed.lengths)
        rows, lengths = activations, feed.lengths
        if state.stride > 1:
            rows, lengths = _sample(activations, feed, state.stride)
            if not rows.shape[1]:
                return
            state.sample.add(rows, groups, lengths)
        wide = torch.promote_types(rows.dtype, torch.float32)
        rows = rows.to(self.survey.statistics_on, wide)
        together = max(1, numbers_at_a_time(rows.device) // max(1, rows[0].numel()))
        for rotation, moments in zip(state.rotations, state.rotated, strict=True):
            for start in range(0, len(rows), together):
                some = slice(start, start + together)
                turned = rotation(rows[some].flatten(0, 1)).view(rows[some].shape)
                moments.add(turned, groups[some], lengths[some])

    def finish(self) -> Outcome:
        """Kurtosis and privileged basis of every site.

        Raises:
            CheckpointError: Activations are NaN or infinite.
        """
        outcome = Outcome()
        for site, state in self._state.items():
            outcome.add(_of_site(site, state))
        if self.survey.rehearsal:  # what the weights will take
            width = self.survey.layout.width
            drawn = gaussian_tensor(_REHEARSED_ROWS * width, width, 1, self.survey.device)
            with_rows(partial(matrix_readings, ""), drawn)
        return outcome


def _sample(activations: Tensor, feed: Feed, stride: int) -> tuple[Tensor, NDArray[np.int64]]:
    """One token in `stride` of each item, at positions that differ from item to item.

    Positions that an item has not stand last. The same tokens in whatever batches.

    Returns:
        The tokens (items, some, d), and how many each item has.
    """
    first = -(feed.index // GROUPS) % stride
    lengths = -(-np.maximum(feed.lengths - first, 0) // stride)
    places = first[:, None] + stride * np.arange(int(lengths.max(initial=0)))
    places = np.minimum(places, activations.shape[1] - 1)
    device = activations.device
    items = torch.arange(len(places), device=device)[:, None]
    return activations[items, torch.from_numpy(places).to(device)], lengths


def _of_site(site: str, state: _State) -> Outcome:
    """The readings of one site, and each coordinate's variance and kurtosis."""

    def at(without: tuple[int, ...] = ()) -> _Moments:
        rotated = [moments.central(without) for moments in state.rotated]
        return _Moments(state.given.central(without), state.sample.central(without), rotated)

    full = at()
    if not all(np.isfinite(each.m4).all() for each in (full.given, *full.rotated)):
        raise CheckpointError(
            f"the activations at {site} are NaN or infinite on this text, so nothing was measured; "
            "a wider --dtype may help."
        )
    groups = state.sample.groups()
    parts = [at((g,)) for g in groups] if len(groups) > 1 else []
    every, some = full.given.n, full.sample.n
    found = Outcome(
        [
            _reading("kurtosis", site, "given", _kurtosis, full, parts, every),
            _reading("kurtosis", site, "rotated", _rotated_kurtosis, full, None, some),
            _reading("privileged_basis", site, "given", _privileged, full, parts, some),
            _reading("privileged_basis", site, "rotated", _between_rotations, full, None, some),
        ]
    )
    path = f"{NAME}/{site}"
    found.arrays = {
        f"{path}/variance": full.given.m2,
        f"{path}/kurtosis": excess_kurtosis(full.given.m2, full.given.m4),
    }
    return found


class _Moments(NamedTuple):
    """Of all tokens, of the sample of them that is rotated, and of that after each rotation."""

    given: Central
    sample: Central
    rotated: list[Central]


def _kurtosis(moments: _Moments) -> float:
    return measures.kurtosis(moments.given.m2, moments.given.m4)


def _rotated_kurtosis(moments: _Moments) -> float:
    return float(np.mean([measures.kurtosis(m.m2, m.m4) for m in moments.rotated]))


def _privileged(moments: _Moments) -> float:
    rotated = np.stack([m.m2 for m in moments.rotated])
    return measures.privileged_basis(moments.sample.m2, rotated)


def _between_rotations(moments: _Moments) -> float:
    """The largest of what each rotation has over the others: how far chance goes."""
    shares = np.array([top_share(m.m2) for m in moments.rotated])
    return float((shares / ((shares.sum() - shares) / (len(shares) - 1))).max())


def _reading(
    name: str,
    site: str,
    basis: str,
    function: Callable[[_Moments], float],
    full: _Moments,
    parts: Sequence[_Moments] | None,
    n: int,
) -> Reading:
    """A reading with its jackknife; of a null (`parts` is None) without."""
    keys: dict[str, Key] = {"of": "activations", "tokens": "all", "basis": basis}
    if parts is None:
        left_out, why = [], A_NULL
    else:
        left_out, why = [evaluate(function, part) for part in parts], ""
    value = evaluate(function, full)
    return jackknifed(NAME, name, site, keys, value, left_out, n, why)


class WeightStudy:
    """Measures the matrices of a checkpoint; runs behind the pass and feeds nothing.

    Args:
        options: What to measure.
        coders: Autoencoders whose directions are measured, too.

    Attributes:
        survey: Which sites were chosen.
    """

    name = NAME
    survey: Survey

    def __init__(self, options: SuperpositionOptions, coders: Sequence[Autoencoder] = ()) -> None:
        self.options, self.coders = options, coders

    def run(self, subject: Subject) -> Outcome:
        """The readings of every matrix.

        Raises:
            UsageError: A name is not that of a matrix of this model.
            CheckpointError: Weights are NaN or infinite.
        """
        chosen = choose(subject.capture, self.options.weights, chosen_blocks(self.survey))
        outcome = Outcome()
        for matrix in chosen.matrices:
            outcome.add(self._of(matrix, subject.seed))
        for coder in self.coders:
            site = f"decoder:{coder.name}" + (f"@{coder.site}" if coder.site else "")
            outcome.add(self._read(site, coder.decoder, subject.seed))
        for first, second in chosen.tied:
            outcome.findings.append(
                {
                    "kind": "tied",
                    "sites": [first, second],
                    "message": f"{second} is the same matrix as {first}, and was measured once.",
                }
            )
        if not self.options.weights:
            outcome.findings += _absent(chosen.missing, subject.capture.layout, outcome)
        return outcome

    def _of(self, matrix: Named, seed: int) -> Outcome:
        site = matrix.site
        neurons = kind_of(site) in (*INPUTS, "mlp.out")
        found = self._read(site, matrix.weight, seed, each_norm=neurons)
        if matrix.partner is None:
            return found
        cosines = with_rows(paired_cosines, matrix.weight, matrix.partner)
        keys: dict[str, Key] = {"of": "weights", "rows": "given"}
        value = evaluate(measures.in_out_cosine, cosines)
        found.readings.append(
            jackknifed(NAME, "in_out_cosine", site, keys, value, [], len(cosines), FIXED)
        )
        found.arrays[f"{NAME}/{site}/in_out_cosine"] = cosines.astype(np.float32)
        return found

    def _read(self, site: str, weight: Tensor, seed: int, *, each_norm: bool = False) -> Outcome:
        skip = self.options.skip_coherence
        read = partial(matrix_readings, site, seed=seed, skip_coherence=skip, each_norm=each_norm)
        return with_rows(read, weight)


def _absent(missing: dict[str, str], layout: Layout, outcome: Outcome) -> list[dict[str, Any]]:
    """A warning where a model lacks some of the matrices that are measured by default."""
    if layout.item is not None:
        if outcome.readings:
            return []
        message = "this network has no linear maps: no weights were measured"
    else:
        reasons: dict[str, list[str]] = {}
        for kind in KINDS:
            if kind in missing:
                reasons.setdefault(missing[kind], []).append(kind)
        if not reasons:
            return []
        each = "; ".join(f"{' and '.join(kinds)}, as {why}" for why, kinds in reasons.items())
        message = f"Not measured of this {layout.family} model: {each}"
    return [{"kind": "warning", "code": "no_weights", "message": f"{message}."}]


def _cost(options: SuperpositionOptions, survey: Survey) -> list[Cost]:
    """What each site needs, and the weights.

    Moments take 9 operations a number, a rotation about 10 log2 d besides, all in float32.
    """
    layout, found = survey.layout, []
    for site in _sites(survey):
        d = layout.width_of(site)
        n = int(survey.lengths_at(site).sum())
        memory = NeuronMoments.bytes_of(d, GROUPS) * (2 + rotations_of(d))
        turned = 9 + rotations_of(d) * (9 + 10 * float(np.log2(max(2, d))))
        sampled = n / max(1, n // ROTATED_TOKENS)
        found.append(Cost(site, memory, 0, (9 * n + turned * sampled) * d / 2))
    if survey.rehearsal:
        shapes = [(_REHEARSED_ROWS * layout.width, layout.width)]
    else:
        blocks = chosen_blocks(survey)
        shapes = [
            shape
            for site, shape in weight_sites(layout).items()
            if kind_of(site) == site or int(site.rsplit(".", 1)[1]) in blocks
        ]
    skip = options.skip_coherence and not survey.rehearsal
    there = multiplies(survey.device)
    reading = sum(operations(n, m, skip_coherence=skip, there=there) for n, m in shapes)
    working = max((8 * 4 * min(n, m) ** 2 + 2**27 for n, m in shapes), default=0)
    found.append(Cost("", 0, working // torch.get_num_threads(), 0.0, reading))
    return found
