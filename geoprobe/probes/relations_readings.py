"""From right and wrong answers to readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.measures import relations as measures
from geoprobe.measures.bootstrap import bootstrap_error
from geoprobe.measures.estimate import Undefined
from geoprobe.probes.readings import Value, evaluate, jackknifed
from geoprobe.runs.reading import Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.probes.relations_prompts import Prompt, Split
    from geoprobe.runs.reading import Key

    Flags = NDArray[np.bool_]

PROBE, SITE = "relations", "model"
NO_SPREAD = "no standard error: it is of the neurons that were found on one set of prompts"


def plain(measure: str, keys: Mapping[str, Key], value: float, n: int) -> Reading:
    """A reading of which no sampling error is known."""
    return Reading("", PROBE, measure, SITE, keys, value, None, n, "exact", NO_SPREAD)


def perplexity(off: str, sums: NDArray[np.float64]) -> Reading:
    """Perplexity from each group's summed loss in nats and number of tokens (2, GROUPS)."""

    def of(loss: float, tokens: float) -> Value:
        return evaluate(measures.perplexity, loss, tokens)

    loss, tokens = sums.sum(1)
    there = np.flatnonzero(sums[1])
    parts = [of(loss - sums[0, g], tokens - sums[1, g]) for g in there] if len(there) > 1 else []
    why = "" if parts else "all sequences are of one group"
    keys = {"deactivated": off}
    return jackknifed(PROBE, "perplexity", SITE, keys, of(loss, tokens), parts, int(tokens), why)


class Judge:
    """Makes readings of which prompts are answered.

    Args:
        prompts: All of them (p,).
        right: Which ones the model answers as it is (p,).
        splits: Relations to their prompts.
        seed: Seed of the bootstrap.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        right: Flags,
        splits: Mapping[str, Split],
        seed: int,
    ) -> None:
        self._right, self._splits, self._seed = right, splits, seed
        self._relations = np.array([prompt.relation for prompt in prompts])
        # All prompts of one subject are drawn together: they are no independent samples.
        subjects = {prompt.subject: i for i, prompt in enumerate(prompts)}
        self._subjects = np.array([subjects[prompt.subject] for prompt in prompts])

    def asked(self, name: str) -> NDArray[np.int64]:
        """The prompts by which a relation is judged, known and not."""
        one = self._splits[name]
        return np.concatenate([one.evaluation, one.unknown])

    def known(self, name: str) -> Reading:
        """The share of a relation's prompts that the model answers."""
        mine = np.flatnonzero(self._relations == name)
        return self._share("known", {"relation": name}, self._right[mine], mine)

    def matrix(self, rights: Mapping[str, Flags], sizes: Mapping[str, int]) -> list[Reading]:
        """Every relation without the neurons of every one.

        Args:
            rights: Relation whose neurons are off to which prompts are answered then (p,).
            sizes: Number of those neurons.
        """
        found = []
        for name in rights:
            which = self.asked(name)
            keys = {"relation": name, "deactivated": "none"}
            found.append(self._share("accuracy", keys, self._right[which], which))
        for off, right in rights.items():
            drops: dict[str, list[float]] = {"known": [], "all": []}
            for name in rights:
                which = self.asked(name)
                keys = {"relation": name, "deactivated": off}
                found.append(self._share("accuracy", keys, right[which], which))
                for convention, these in (("known", self._splits[name].evaluation), ("all", which)):
                    reading = self._drop(name, off, sizes[off], "all", right, these, convention)
                    found.append(reading)
                    if off != name and reading.value is not None:
                        drops[convention].append(reading.value)
            for measure, function, convention in (
                ("versatility", measures.versatility, "known"),
                ("relation_interference", measures.interference, "all"),
            ):
                if drops[convention]:
                    value = float(function(drops[convention]))
                    keys_off: dict[str, Key] = {"deactivated": off, "k": sizes[off]}
                    found.append(plain(measure, keys_off, value, len(drops[convention])))
        return found

    def random(self, rights: Sequence[Flags], names: Sequence[str], k: int) -> list[Reading]:
        """Every relation without as many random neurons.

        Args:
            rights: Which prompts are answered without each random set.
            names: Relations.
            k: Neurons of a set.
        """
        found = []
        for name in names if rights else ():
            which = self._splits[name].evaluation
            draws = [self._drop(name, "", k, "", right, which, "known") for right in rights]
            values = [reading.value for reading in draws if reading.value is not None]
            keys: dict[str, Key] = {"relation": name, "k": k}
            error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
            why = "" if error else "no standard error: the draws do not vary"
            found.append(
                Reading(
                    *("", PROBE, "accuracy_drop_random", SITE, keys),
                    *(float(np.mean(values)), error or None, len(which), "known", why),
                )
            )
            found += [
                replace(one, measure="accuracy_drop_random", keys={**keys, "draw": i})
                for i, one in enumerate(draws)
            ]
        return found

    def curve(
        self, name: str, at: Mapping[int, Flags], apart: Mapping[int, Flags], own: int
    ) -> list[Reading]:
        """A relation without ever more of its neurons.

        Args:
            name: The relation.
            at: Number of neurons off to which prompts are answered then, smallest first.
            apart: The larger number of two neighbours to the same without what it adds alone.
            own: The number that has readings already.
        """
        which = self._splits[name].evaluation
        found = [
            self._drop(name, name, k, "all", right, which, "known")
            for k, right in at.items()
            if k != own
        ]
        numbers = list(at)
        for smaller, k in pairwise(numbers):
            keys: dict[str, Key] = {"relation": name, "smaller": smaller, "k": k}
            small, large, alone = at[smaller][which], at[k][which], apart[k][which]
            lost = small & ~large
            try:
                value = measures.cumulativity(small, large, alone)
            except Undefined as undefined:
                reason = undefined.reason
                found.append(
                    Reading("", PROBE, "cumulativity", SITE, keys, None, None, 0, "exact", reason)
                )
                continue
            error = self._bootstrap((lost & alone).astype(float), lost.astype(float), which)
            found.append(
                Reading(
                    *("", PROBE, "cumulativity", SITE, keys),
                    *(value, error.value, int(lost.sum()), "exact", _reason(error)),
                )
            )
        return found

    def part(self, name: str, module: str, right: Flags, k: int) -> Reading:
        """A relation without its neurons of one projection alone."""
        return self._drop(name, name, k, module, right, self._splits[name].evaluation, "known")

    def _drop(
        self,
        name: str,
        off: str,
        k: int,
        module: str,
        right: Flags,
        which: NDArray[np.int64],
        convention: str,
    ) -> Reading:
        before, after = self._right[which], right[which]
        keys: dict[str, Key] = {"relation": name, "deactivated": off, "k": k, "module": module}
        error = self._bootstrap(before.astype(float) - after, before.astype(float), which)
        return Reading(
            *("", PROBE, "accuracy_drop", SITE, keys, measures.accuracy_drop(before, after)),
            *(error.value, len(which), convention, _reason(error)),
        )

    def _share(
        self, measure: str, keys: Mapping[str, Key], right: Flags, which: NDArray[np.int64]
    ) -> Reading:
        error = self._bootstrap(right.astype(float), np.ones(len(which)), which)
        return Reading(
            *("", PROBE, measure, SITE, keys, float(right.mean()), error.value, len(which)),
            *("exact", _reason(error)),
        )

    def _bootstrap(
        self,
        numerators: NDArray[np.float64],
        denominators: NDArray[np.float64],
        which: NDArray[np.int64],
    ) -> Any:
        """Standard error of a ratio of sums, over the subjects of the prompts `which`."""
        _, cluster = np.unique(self._subjects[which], return_inverse=True)
        sums = [np.bincount(cluster, weights=part) for part in (numerators, denominators)]
        return bootstrap_error(sums[0], sums[1], seed=self._seed)


def _reason(error: Any) -> str:
    return "" if error.value is not None else f"no standard error: {error.reason}"
