"""Relation-specific neurons: which ones a relation's facts need, and what breaks without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from geoprobe.errors import UsageError
from geoprobe.probes.base import Cost, Plan, Survey

if TYPE_CHECKING:
    from geoprobe.data.facts import Relation
    from geoprobe.models.layout import Layout
    from geoprobe.probes.relations_file import Neurons

NAME = "relations"
USUAL_SHARE = {"ap": 0.0036, "lape": 0.01}
"""Share of the neurons that is chosen where no number is asked for: the papers' own."""
CUMULATIVE = (10, 50, 200, 500, 1000, 3000, 10_000, 30_000)
RESERVED = ("none", "random")
"""What readings call the model as it is, and without random neurons."""
_BEYOND = 3
"""The usual numbers of neurons go on to so many times those of a relation."""
_TOKENS_A_PROMPT = 12


@dataclass(frozen=True)
class RelationsOptions:
    """Which facts, which neurons, and what is measured without them.

    Attributes:
        facts: Files of relations, or folders of them; none is the built-in set.
        selector: By average precision (`ap`), or by the entropy over relations (`lape`).
        top_k: Neurons of a relation: a number (`500`) or a share of all (`0.36%`). With `lape` the
            neurons that are kept for all relations together. None is 0.36 %, 1 % with `lape`.
        neurons: A neurons.json, by which no neurons are chosen.
        held_out: Prompts of a relation that judge at most; at most half of its subjects do.
        min_known: Subjects of a relation that the model must know.
        random_draws: Random sets of as many neurons to compare with.
        cumulative: Numbers of neurons of the curve; empty is 10, 50, 200, 500, ... up to three
            times the relation's.
        perplexity_sequences: Sequences of the text for the perplexity; 0 leaves it out.
    """

    facts: tuple[str, ...] = ()
    selector: Literal["ap", "lape"] = "ap"
    top_k: str | None = None
    neurons: str | None = None
    held_out: int = 50
    min_known: int = 10
    random_draws: int = 10
    cumulative: tuple[int, ...] = ()
    perplexity_sequences: int = 32

    def __post_init__(self) -> None:
        if self.selector not in USUAL_SHARE:
            raise UsageError(f"--select {self.selector}: give ap or lape.")
        for option, value, least in (
            ("--held-out", self.held_out, 1),
            ("--min-known", self.min_known, 2),
            ("--random-draws", self.random_draws, 0),
            ("--perplexity-sequences", self.perplexity_sequences, 0),
            *(("--cumulative", k, 1) for k in self.cumulative),
        ):
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{option} {value}: give {least} or more.")
        if self.neurons is not None:
            for option, given in (("--top-k", self.top_k), ("--select", self.selector != "ap")):
                if given:
                    raise UsageError(
                        f"{option} says how neurons are chosen, and --neurons gives them; leave "
                        "one of them out."
                    )
        self.share_or_number()

    def share_or_number(self) -> float | int:
        """Neurons to choose: a share of them all below 1, or a number.

        Raises:
            UsageError: `top_k` is neither.
        """
        if self.top_k is None:
            return USUAL_SHARE[self.selector]
        text = str(self.top_k).strip()
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if 0 < share < 1:
                    return share
            elif (number := int(text)) >= 1:
                return number
        except ValueError:
            pass
        raise UsageError(
            f"--top-k {self.top_k}: give a number of neurons (500), or a share of them all (0.36%)."
        )

    def count(self, total: int) -> int:
        """Neurons to choose of so many.

        Raises:
            UsageError: More than there are.
        """
        wanted = self.share_or_number()
        number = max(1, round(wanted * total)) if isinstance(wanted, float) else wanted
        if number >= total:
            raise UsageError(f"--top-k {self.top_k}: the model has {total} neurons; give fewer.")
        return number

    def curve(self, k: int, most: int) -> list[int]:
        """Numbers of neurons of a relation's curve, k among them.

        Args:
            k: The relation's.
            most: Neurons that there are in order.
        """
        wanted = self.cumulative or [n for n in CUMULATIVE if n <= _BEYOND * k]
        return sorted({n for n in wanted if n <= most} | {k})


Options = RelationsOptions


def plan(options: RelationsOptions) -> Plan:
    """The study."""
    from geoprobe.data.facts import builtin_facts, fingerprint, read_facts
    from geoprobe.probes.relations_file import read_neurons
    from geoprobe.probes.relations_series import series
    from geoprobe.probes.relations_study import RelationsStudy

    relations = read_facts(options.facts) if options.facts else builtin_facts()
    for relation in relations:
        if relation.name in RESERVED:
            raise UsageError(
                f"--facts: a relation cannot be called {relation.name!r}, which stands for no "
                "neurons of a relation; give it another name."
            )
    if len(relations) < 2 and options.neurons is None:
        raise UsageError(
            f"--facts has one relation, {relations[0].name}; give at least two: a relation's "
            "neurons are those that tell its prompts from others."
        )
    given = None if options.neurons is None else read_neurons(options.neurons)
    if given is not None and not {r.name for r in relations} & given.sets.keys():
        raise UsageError(
            f"--neurons {given.source} has neurons of {', '.join(given.sets)}, and the facts are "
            f"of {', '.join(r.name for r in relations)}; give facts of the same relations."
        )
    recorded: dict[str, Any] = {
        "facts": {
            "relations": [relation.name for relation in relations],
            "fingerprint": fingerprint(relations),
        }
    }
    if given is not None:
        recorded["neurons"] = {"name": given.source, "fingerprint": given.fingerprint()}
    return Plan(
        study=RelationsStudy(options, relations, given),
        check=lambda layout: check(layout, given),
        cost=lambda survey: cost(options, relations, survey),
        series=series,
        recorded=recorded,
    )


def check(layout: Layout, given: Neurons | None) -> None:
    """Makes sure that a model answers in text, and has the neurons.

    Raises:
        UsageError: It does not.
    """
    if not layout.vocabulary or layout.bidirectional or layout.head is None:
        why = layout.missing.get("logits", "it predicts no next tokens")
        raise UsageError(
            f"relations asks a language model for facts, and this {layout.family} model cannot "
            f"answer: {why}; give a causal language model."
        )
    if "mlp.up.0" not in layout.taps:
        raise UsageError(
            f"relations needs the neurons of the MLPs, and this {layout.family} model has none to "
            f"watch: {layout.missing.get('mlp.up', 'its blocks have no MLP')}; give a model with "
            "dense MLPs."
        )
    if given is not None:
        given.check(layout)


def cost(options: RelationsOptions, relations: list[Relation], survey: Survey) -> list[Cost]:
    """Scores of every detection prompt, and about as many passes as sets are set to 0."""
    from geoprobe.probes.relations_units import Units

    prompts = sum(len(relation.templates) * len(relation.facts) for relation in relations)
    asked = min(prompts, 2 * options.held_out * len(relations))
    conditions = 2 * len(relations) + options.random_draws
    tokens = _TOKENS_A_PROMPT * (2 * prompts + asked * conditions)
    some = min(options.perplexity_sequences, len(survey.lengths))
    if some:
        tokens += int(survey.lengths[:some].sum()) * (2 + len(relations))
    return [
        Cost(
            memory=4 * prompts * len(Units.of(survey.layout)),
            passes=-(-tokens // max(1, int(survey.lengths.sum()))),
        )
    ]
