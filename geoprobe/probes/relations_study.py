"""The study of relation-specific neurons: filter, find, switch off, ask again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geoprobe.data.facts import fingerprint
from geoprobe.errors import UsageError
from geoprobe.probes.base import Outcome, Subject
from geoprobe.probes.relations import NAME, RelationsOptions
from geoprobe.probes.relations_answers import Answers, Kept
from geoprobe.probes.relations_conditions import Asked, Conditions
from geoprobe.probes.relations_file import NAME as FILE_NAME
from geoprobe.probes.relations_file import Neurons, write_neurons
from geoprobe.probes.relations_prompts import is_right, prompts_of, split
from geoprobe.probes.relations_scores import Selected, by_entropy, by_precision, score
from geoprobe.probes.relations_units import Units

if TYPE_CHECKING:
    from geoprobe.data.facts import Relation


class RelationsStudy:
    """Measures one checkpoint after another.

    Args:
        options: What to measure.
        relations: The facts.
        given: Neurons from elsewhere; None finds them here.
    """

    name = NAME

    def __init__(
        self, options: RelationsOptions, relations: Sequence[Relation], given: Neurons | None
    ) -> None:
        self.options = options
        self.relations = list(relations)
        if given is not None:
            self.relations = [one for one in relations if one.name in given.sets]
        self.given = given

    def run(self, subject: Subject) -> Outcome:
        """Measures one checkpoint."""
        options = self.options
        folder = subject.folder("relations")
        kept = Kept(folder, f"{subject.key} {fingerprint(self.relations)} {subject.seed}")
        asked = self._ask(subject, kept)
        selected = self._select(asked)
        outcome = self._known(asked, selected)
        if not selected:
            kept.forget()
            return outcome
        select = options.selector if self.given is None else self.given.select
        path = "" if self.given is None else self.given.source
        if folder is not None and self.given is None:
            write_neurons(
                folder,
                {name: one.set for name, one in selected.items()},
                {name: one.score[: one.k] for name, one in selected.items()},
                {name: _subjects(asked, name) for name in selected},
                asked.units,
                subject.capture.layout,
                select,
            )
            path = f"{folder.parent.name}/{folder.name}/{FILE_NAME}"
        outcome.findings.append(
            {
                "kind": "neurons_file",
                "path": path,
                "select": select,
                "neurons": len(asked.units),
                "given": self.given is not None,
            }
        )
        outcome.add(Conditions(asked, selected, options, select).measured())
        kept.forget()
        return outcome

    def _ask(self, subject: Subject, kept: Kept) -> Asked:
        """Which facts the model knows."""
        tokenizer = getattr(subject.survey.inputs, "tokenizer", None)
        if tokenizer is None:
            raise UsageError(
                "relations asks in words, and what is fed here has no tokenizer; give text, or "
                "leave --data out."
            )
        options, given = self.options, self.given
        prompts = prompts_of(self.relations, tokenizer)
        units = Units.of(subject.capture.layout)
        answers = Answers(subject, units, prompts, options.perplexity_sequences, kept)
        before = answers.to(np.arange(len(prompts)), told="facts that the model knows")
        right = np.array(
            [is_right(p, a, tokenizer) for p, a in zip(prompts, before, strict=True)], dtype=bool
        )
        used: Mapping[str, Collection[str]] | None = None if given is None else given.subjects
        splits = split(
            prompts,
            right,
            seed=subject.seed,
            held_out=options.held_out,
            min_known=options.min_known,
            used=used,
        )
        names = [name for name, one in splits.items() if not one.left_out]
        return Asked(subject, units, prompts, tokenizer, answers, before, right, splits, names)

    def _select(self, asked: Asked) -> dict[str, Selected]:
        """Each relation's neurons; those of which none can be had are left out."""
        total = len(asked.units)
        if self.given is not None:
            numbers = self.given.numbers(asked.units)
            return {
                name: Selected(numbers[name], len(numbers[name]), np.empty(0))
                for name in asked.used
            }
        # Relations of which too little is known are still something to be told from.
        of = np.array([prompt.relation for prompt in asked.prompts])
        finding = {
            name: np.flatnonzero(asked.right & (of == name)) if one.left_out else one.detection
            for name, one in asked.splits.items()
        }
        by = self.options.selector
        if by == "lape":
            finding = {name: finding[name] for name in asked.used}
        for name in list(asked.used):
            if not any(len(finding[other]) for other in finding if other != name):
                self._leave_out(asked, name, "no other relation is known to tell it from")
        if not asked.used:
            return {}
        names = list(finding)
        which = np.sort(np.concatenate(list(finding.values())))
        prompts = [asked.prompts[i] for i in which]
        scores = score(asked.subject, asked.units, prompts, names, by=by)
        if by == "lape":
            closing = len(asked.units.closing_neurons())
            keep = self.options.count(closing) / closing
            found = by_entropy(scores, asked.units, names, keep)
            for name in list(asked.used):
                if not found[name].k:
                    self._leave_out(asked, name, "no neuron is active on it and on few others")
            return {name: found[name] for name in asked.used}
        k = self.options.count(total)
        relation = np.array([names.index(prompt.relation) for prompt in prompts])
        selected = {}
        for i, name in enumerate(asked.used):
            asked.subject.progress.status("neurons of relations", i, len(asked.used))
            selected[name] = by_precision(
                scores.mean,
                relation,
                names.index(name),
                k=k,
                most=max(self.options.curve(k, total)),
                seed=asked.subject.seed,
            )
        return selected

    def _leave_out(self, asked: Asked, name: str, why: str) -> None:
        asked.splits[name] = replace(asked.splits[name], left_out=why)
        asked.used.remove(name)

    def _known(self, asked: Asked, selected: Mapping[str, Selected]) -> Outcome:
        """What the model knows of each relation, and what is done with it."""
        outcome = Outcome()
        for relation in self.relations:
            name, one = relation.name, asked.splits[relation.name]
            outcome.readings.append(asked.judge.known(name))
            mine = [i for i, prompt in enumerate(asked.prompts) if prompt.relation == name]
            right = [i for i in mine if asked.right[i]]
            outcome.findings.append(
                {
                    "kind": "relation",
                    "relation": name,
                    "facts": len(relation.facts),
                    "prompts": len(mine),
                    "known_prompts": len(right),
                    "known_subjects": len({asked.prompts[i].subject for i in right}),
                    "detection": 0 if one.left_out else len(one.detection),
                    "evaluation": 0 if one.left_out else len(one.evaluation),
                    "unknown": 0 if one.left_out else len(one.unknown),
                    "k": selected[name].k if name in selected else 0,
                    "left_out": one.left_out,
                }
            )
        return outcome


def _subjects(asked: Asked, name: str) -> list[str]:
    """Subjects by which a relation's neurons were found."""
    return list(dict.fromkeys(asked.prompts[i].subject for i in asked.splits[name].detection))
