"""Effective features of a site, and what must stand beside them, from finished sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.measures import features as rules
from geoprobe.measures.estimate import Undefined
from geoprobe.probes.base import Outcome
from geoprobe.probes.readings import A_NULL, evaluate, jackknifed
from geoprobe.runs.reading import Key, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.statistics.codes import CodeSums, GroupedCodes

NAME = "features"

GIVEN, RANDOM, GAUSSIAN = "given", "random_model", "gaussian"
"""Whose activations are encoded: the checkpoint's, or a null's."""

_GROUPS_THEMSELVES = "no standard error: it compares the jackknife groups themselves"
ONE_WAY = "no standard error: leaving sequences out can only raise it"


@dataclass(frozen=True)
class Measured:
    """An autoencoder's sums at a site.

    Attributes:
        site: The site.
        name: What readings call the autoencoder.
        seed: Its seed where it was trained here; else None.
        sums: Its sums.
        norms: Norms of its features' directions (D,).
        of: Whose activations were encoded.
        held_out: Whether it is text that it was not trained on, of which less is read off.
        sinks: Whether sinks are counted (`in`), not (`out`), or both.
    """

    site: str
    name: str
    seed: int | None
    sums: GroupedCodes
    norms: NDArray[np.float64]
    of: str = GIVEN
    held_out: bool = False
    sinks: tuple[str, ...] = ("in",)

    def keys(self, sinks: str, seed: int | str | None = None) -> dict[str, Key]:
        """The keys of its readings."""
        found: dict[str, Key] = {"sae": self.name, "sinks": sinks, "activations": self.of}
        named = self.seed if seed is None else seed
        return found if named is None else {**found, "seed": str(named)}


Evaluate = Callable[["CodeSums"], float]


def _measures(one: Measured) -> dict[tuple[str, str], Evaluate]:
    """What is read off the sums, by name and convention."""
    width = one.sums.width
    if one.held_out:
        return {
            ("explained_variance_held_out", "exact"): lambda s: rules.explained_variance_held_out(
                s.residual, s.total
            )
        }
    return {
        ("effective_features", "codes"): lambda s: rules.effective_features(s.mass),
        ("effective_features", "decoder_norm"): lambda s: rules.effective_features(
            s.mass * one.norms
        ),
        ("psi", "codes"): lambda s: rules.psi(s.mass, width),
        ("psi", "decoder_norm"): lambda s: rules.psi(s.mass * one.norms, width),
        ("l0", "exact"): lambda s: rules.l0(float(s.counts.sum()), s.rows),
        ("explained_variance", "exact"): lambda s: rules.explained_variance(s.residual, s.total),
        ("dead_share", "exact"): lambda s: rules.dead_share(s.counts),
    }


def readings_of(measured: Sequence[Measured]) -> Outcome:
    """Readings of autoencoders: each one's, and the seeds' mean where there are several.

    Args:
        measured: Autoencoders of any sites; those of one site and name differ in their seed.
    """
    outcome = Outcome()
    together: dict[tuple[str, str, str, bool], list[Measured]] = {}
    for one in measured:
        together.setdefault((one.site, one.name, one.of, one.held_out), []).append(one)
        if one.of == GIVEN and one.sums.levels and not one.held_out and one.seed in (None, 0):
            outcome.arrays[f"features/curve/{one.site}/{one.name}"] = _curve(one)
    for several in together.values():
        for sinks in several[0].sinks:
            each = [_each(one, sinks) for one in several]
            for found in each:
                outcome.readings += found.values()
            if len(several) > 1:
                outcome.readings += [
                    _mean(several[0].keys(sinks, "mean"), [found[key] for found in each])
                    for key in each[0]
                ]
    return outcome


def _each(one: Measured, sinks: str) -> dict[tuple[str, str], Reading]:
    """Readings of one autoencoder, by measure and convention."""
    keys, counted = one.keys(sinks), sinks == "in"
    full = one.sums.sums(sinks=counted)
    groups = one.sums.known()
    parts = (
        [one.sums.sums(sinks=counted, without=(g,)) for g in groups]
        if one.of == GIVEN and len(groups) > 1
        else []
    )
    found = {}

    def add(
        measure: str, convention: str, function: Evaluate, why: str, kept: Sequence[CodeSums] = ()
    ) -> None:
        value = evaluate(function, full) if full.rows else "there are no samples"
        left_out = [evaluate(function, part) for part in kept]
        found[measure, convention] = jackknifed(
            NAME, measure, one.site, keys, value, left_out, full.rows, why, convention
        )

    for (measure, convention), function in _measures(one).items():
        if one.of != GIVEN:
            add(measure, convention, function, A_NULL)
        elif measure == "dead_share":
            add(measure, convention, function, ONE_WAY)
        else:
            add(measure, convention, function, "", parts)
    if one.of == GIVEN and len(groups) > 1 and not one.held_out:
        halves = [
            one.sums.sums(sinks=counted, without=[g for g in groups if g % 2 != side])
            for side in (0, 1)
        ]
        for convention, scale in (("codes", 1.0), ("decoder_norm", one.norms)):

            def saturated(whole: CodeSums, scale: Any = scale) -> float:
                return rules.saturation([half.mass * scale for half in halves], whole.mass * scale)

            add("saturation", convention, saturated, _GROUPS_THEMSELVES)
    return found


def _mean(keys: Mapping[str, Key], seeds: Sequence[Reading]) -> Reading:
    """The mean over seeds; its error has that of the seeds and that of the text in quadrature."""
    first = seeds[0]

    def made(value: float | None, error: float | None, reason: str) -> Reading:
        return Reading(
            *("", NAME, first.measure, first.site, keys, value, error, first.n, first.convention),
            reason,
            _each_mean(seeds),
        )

    values = [one.value for one in seeds if one.value is not None]
    if len(values) < len(seeds):
        return made(None, None, next(one.reason for one in seeds if one.value is None))
    among = rules.seeds_error(values)
    errors = [one.stderr for one in seeds if one.stderr is not None]
    text = math.fsum(errors) / len(errors) if errors else 0.0
    # One text is behind all seeds: its error does not shrink with their number.
    error = math.hypot(among, text)
    return made(
        math.fsum(values) / len(values),
        error if error > 0 else None,
        "" if error > 0 else "no standard error: neither seeds nor groups vary",
    )


def _each_mean(seeds: Sequence[Reading]) -> tuple[float, ...]:
    """The means of the seeds' replicates, where all have the same."""
    if len({len(one.replicates) for one in seeds}) > 1:
        return ()
    parts = zip(*(one.replicates for one in seeds), strict=True)
    return tuple(math.fsum(part) / len(seeds) for part in parts)


def _curve(one: Measured) -> NDArray[np.float64]:
    """Effective features by number of samples: (2, levels), samples above."""
    rows, masses = one.sums.curve()
    found = []
    for count, mass in zip(rows, masses, strict=True):
        with suppress(Undefined):
            found.append((float(count), rules.effective_features(mass)))
    return np.array(found, dtype=np.float64).reshape(-1, 2).T
