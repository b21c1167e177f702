"""One set of neurons after another is set to 0, and the model is asked again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.measures.relations import jaccard
from geoprobe.probes.base import Outcome
from geoprobe.probes.relations_prompts import is_right, said
from geoprobe.probes.relations_readings import Judge, perplexity, plain
from geoprobe.probes.relations_units import MODULES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.probes.base import Subject
    from geoprobe.probes.relations import RelationsOptions
    from geoprobe.probes.relations_answers import Answers
    from geoprobe.probes.relations_prompts import Prompt, Split
    from geoprobe.probes.relations_scores import Selected
    from geoprobe.probes.relations_units import Units
    from geoprobe.runs.reading import Key

    Off = NDArray[np.int64]

_SHOWN = 10
"""Neurons of a relation that are named in its finding."""


@dataclass
class Asked:
    """A checkpoint, and what it knows.

    Attributes:
        subject: The model.
        units: Its neurons.
        prompts: All prompts.
        tokenizer: What made token ids of them.
        answers: Asks the model.
        before: Its answers as it is.
        right: Whether they are right.
        splits: The relations' prompts by what they are for.
        used: Relations that are not left out.
    """

    subject: Subject
    units: Units
    prompts: list[Prompt]
    tokenizer: Any
    answers: Answers
    before: list[list[int]]
    right: NDArray[np.bool_]
    splits: dict[str, Split]
    used: list[str] = field(default_factory=list)

    def rights(self, which: Off, off: Off) -> NDArray[np.bool_]:
        """Whether each of all prompts is answered with neurons off; those not asked are wrong."""
        found = np.zeros(len(self.prompts), dtype=bool)
        for i, answer in zip(which, self.answers.to(which, off), strict=True):
            found[i] = is_right(self.prompts[i], answer, self.tokenizer)
        return found

    @cached_property
    def judge(self) -> Judge:
        """Makes readings of them."""
        return Judge(self.prompts, self.right, self.splits, self.subject.seed)


class Conditions:
    """What is measured of the neurons that were found.

    Args:
        asked: The checkpoint.
        selected: The neurons of each relation.
        options: What to measure.
        select: How the neurons were chosen.
    """

    def __init__(
        self,
        asked: Asked,
        selected: Mapping[str, Selected],
        options: RelationsOptions,
        select: str,
    ) -> None:
        self._asked, self._selected, self._options = asked, selected, options
        self._select = select
        self._size = round(float(np.mean([one.k for one in selected.values()])))
        self._curves = {
            name: options.curve(one.k, len(one.neurons)) for name, one in selected.items()
        }
        self._parts = {name: self._by_module(one) for name, one in selected.items()}
        self._why_no_loss = asked.answers.no_loss()
        self._with_loss = bool(options.perplexity_sequences and not self._why_no_loss)
        self._done = 0

    def measured(self) -> Outcome:
        """All readings and findings, and the neurons as arrays."""
        outcome = Outcome()
        outcome.readings += self._matrix(outcome)
        for name in self._selected:
            outcome.readings += self._curve(name)
        outcome.add(self._selection())
        outcome.add(self._losses())
        return outcome

    def _total(self) -> int:
        """How many sets of neurons are set to 0."""
        parts = sum(len(curve) * 2 - 2 for curve in self._curves.values())
        parts += sum(map(len, self._parts.values()))
        losses = (1 + len(self._selected) + bool(self._options.random_draws)) * self._with_loss
        return len(self._selected) + self._options.random_draws + parts + losses

    def _tell(self, what: str) -> None:
        self._done += 1
        self._asked.subject.progress.status(what, self._done, self._total())

    def _matrix(self, outcome: Outcome) -> list[Any]:
        """Every relation without the neurons of every one, and without random ones."""
        asked, judge = self._asked, self._asked.judge
        everything = np.concatenate([judge.asked(name) for name in self._selected])
        rights = {}
        for name, one in self._selected.items():
            self._tell(f"without {name}")
            rights[name] = asked.rights(everything, one.set)
            outcome.findings.append(self._broken(name, everything, one.set))
        random = []
        for off in self._random():
            self._tell("without random neurons")
            random.append(asked.rights(everything, off))
        sizes = {name: one.k for name, one in self._selected.items()}
        self._rights = rights
        return judge.matrix(rights, sizes) + judge.random(random, list(rights), self._size)

    def _curve(self, name: str) -> list[Any]:
        """A relation without ever more of its neurons, without what came last, without parts."""
        asked, one, curve = self._asked, self._selected[name], self._curves[name]
        own = asked.splits[name].evaluation
        at = {one.k: self._rights[name]}
        for k in curve:
            if k != one.k:
                self._tell(f"{name}, {k} neurons")
                at[k] = asked.rights(own, one.neurons[:k])
        apart = {}
        for smaller, k in pairwise(curve):
            self._tell(f"{name}, neurons {smaller + 1} to {k}")
            apart[k] = asked.rights(own, one.neurons[smaller:k])
        readings = asked.judge.curve(name, {k: at[k] for k in curve}, apart, one.k)
        for module, off in self._parts[name].items():
            self._tell(f"{name}, {module} alone")
            readings.append(asked.judge.part(name, module, asked.rights(own, off), one.k))
        return readings

    def _random(self) -> Iterator[Off]:
        """Random sets of neurons, of the kinds that are chosen from."""
        units = self._asked.units
        pool = np.arange(len(units))
        if self._select == "lape":
            pool = units.closing_neurons()
        for i in range(self._options.random_draws):
            draw = np.random.default_rng([self._asked.subject.seed, 66, i])
            yield np.sort(draw.choice(pool, min(self._size, len(pool)), replace=False))

    def _by_module(self, one: Selected) -> dict[str, Off]:
        """A relation's neurons of each projection, where there are several."""
        modules = self._asked.units.modules(one.set)
        parts = {name: one.set[modules == name] for name in MODULES if (modules == name).any()}
        return parts if len(parts) > 1 else {}

    def _broken(self, name: str, everything: Off, off: Off) -> dict[str, Any]:
        """The relation's facts that break, and what the model says instead."""
        asked = self._asked
        after = dict(zip(everything.tolist(), asked.answers.to(everything, off), strict=True))
        facts = [
            {
                "prompt": asked.prompts[i].text,
                "object": asked.prompts[i].objects[0][0],
                "before": said(asked.before[i], asked.tokenizer).strip(),
                "after": said(after[i], asked.tokenizer).strip(),
            }
            for i in asked.splits[name].evaluation.tolist()
            if not is_right(asked.prompts[i], after[i], asked.tokenizer)
        ]
        return {
            "kind": "broken_facts",
            "relation": name,
            "broken": len(facts),
            "of": len(asked.splits[name].evaluation),
            "facts": facts,
        }

    def _selection(self) -> Outcome:
        """Which neurons they are, and how many of them relations share."""
        asked, outcome = self._asked, Outcome()
        names = list(self._selected)
        for i, name in enumerate(names):
            one = self._selected[name]
            outcome.arrays[f"relations/{name}/neurons"] = one.set.astype(np.int64)
            best: list[dict[str, Any]] = []
            for neuron in one.set[:_SHOWN].tolist():
                site, unit = asked.units.place(neuron)
                best.append({"site": site, "unit": unit})
            if len(one.score):
                outcome.arrays[f"relations/{name}/scores"] = one.score[: one.k]
                for row, score in zip(best, one.score.tolist(), strict=False):
                    row["score"] = score
            depth = asked.subject.capture.layout.depth
            outcome.findings.append(
                {
                    "kind": "relation_neurons",
                    "relation": name,
                    "modules": asked.units.counts(one.set, depth),
                    "best": best,
                }
            )
            count = len(asked.splits[name].detection)
            if one.chance is not None:
                for labels, value in (
                    ("true", float(one.score[one.k - 1])),
                    ("shuffled", one.chance),
                ):
                    keys: dict[str, Key] = {"relation": name, "k": one.k, "labels": labels}
                    outcome.readings.append(plain("average_precision", keys, value, count))
            elif len(one.score):
                keys = {"relation": name, "k": one.k}
                last = float(one.score[one.k - 1])
                outcome.readings.append(plain("lape_entropy", keys, last, count))
            for other in names[i + 1 :]:
                keys = {"relation": name, "with": other, "k": one.k}
                value = jaccard(one.set, self._selected[other].set)
                outcome.readings.append(plain("overlap", keys, value, one.k))
        return outcome

    def _losses(self) -> Outcome:
        """Perplexity of the text, as it is and without each set."""
        if not self._with_loss:
            if not self._why_no_loss:
                return Outcome()
            message = f"There is no perplexity: {self._why_no_loss}."
            warning = {"kind": "warning", "code": "no_perplexity", "message": message}
            return Outcome(findings=[warning])
        sets: dict[str, Off | None] = {"none": None}
        sets |= {name: one.set for name, one in self._selected.items()}
        first = next(self._random(), None)
        if first is not None:
            sets["random"] = first
        outcome = Outcome()
        for name, off in sets.items():
            self._tell(f"perplexity, {name} off")
            outcome.readings.append(perplexity(name, self._asked.answers.loss(off)))
        return outcome
