"""What switching a relation's neurons off does to the facts of this relation and of others.

Section 6 of the method. Everything here is made of right and wrong answers, one a prompt; which
neurons are a relation's is in `relation_neurons`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from geoprobe.errors import UsageError
from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.bootstrap import bootstrap_error
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, Card, measure, register
from geoprobe.measures.relation_neurons import (
    Lape,
    average_precision,
    effect_size,
    lape,
    top_neurons,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Flags = NDArray[np.bool_]
else:
    np = Lazy("numpy")

__all__ = [
    "Lape",
    "accuracy",
    "accuracy_drop",
    "average_precision",
    "bootstrap_error",
    "cumulativity",
    "effect_size",
    "interference",
    "jaccard",
    "jaccard_by_chance",
    "known",
    "lape",
    "perplexity",
    "top_neurons",
    "versatility",
]

CONVENTIONS = {
    "known": "over the evaluation prompts of j that the model answers as it is: the share of them "
    "that is broken, never negative",
    "all": "over the same prompts and as many held-out prompts of j that it does not answer, which "
    "may be mended: negative where more are mended than broken",
}
"""Which prompts an accuracy drop is over."""

_RIGHT = (
    "An answer is the greedy continuation of a prompt, of as many tokens as the object has and at "
    "least 2. It is right where the shorter of answer and object, without punctuation and white "
    "space at either end, is a prefix of the other and at least half as long as the object (any of "
    "several objects); case matters."
)
_OFF = (
    "Neurons are switched off by setting their outputs, units of gate_proj, up_proj or down_proj, "
    "to 0 at every token of prompt and answer."
)
_JUDGED = (
    "The evaluation prompts of a relation are of other subjects than those by which its neurons "
    "were found."
)
_SOURCE = "Liu et al. 2025 (arXiv 2502.17355)"
_MATCHING = (
    "The matching is lenient: a right beginning of half the object's length suffices, and objects "
    "that begin alike are not told apart."
)
_CLUSTERS = (
    "Prompts of one subject are not independent: the standard error resamples subjects, not "
    "prompts."
)
_CHANCE = (
    "Any k neurons break some facts: compare with accuracy_drop_random, of as many random ones."
)


@measure(
    name="known",
    title="Share of prompts that the model answers",
    symbol="known_r",
    formula=f"Share of the prompts of a relation r that the model answers right as it is. {_RIGHT}",
    unit="1",
    direction="up",
    conventions=ONLY_EXACT,
    source=_SOURCE,
    bibtex=sources.LIU_2025,
    pitfalls=(
        _MATCHING,
        "What can be said of a relation rests on the prompts that are answered: of a few, little.",
        _CLUSTERS,
    ),
    section="relations",
)
def known(right: ArrayLike) -> float:
    """Share of a relation's prompts that the model answers.

    Args:
        right: Whether each is answered right (prompts,).

    Raises:
        Undefined: There are no prompts.
    """
    return accuracy(right)


@measure(
    name="accuracy",
    title="Accuracy on a relation's facts",
    symbol="acc_j",
    formula="Share of prompts of a relation j that are answered right: of its evaluation prompts, "
    "all of which the model answers as it is, and of as many held-out ones that it does not. "
    f"{_JUDGED} {_RIGHT} {_OFF}",
    unit="1",
    direction="up",
    conventions=ONLY_EXACT,
    source=_SOURCE,
    bibtex=sources.LIU_2025,
    pitfalls=(
        "With no neuron switched off it is a half by construction, and more where there are fewer "
        "prompts that the model does not answer: what the model knows is in `known`.",
        _MATCHING,
        _CLUSTERS,
    ),
    section="relations",
)
def accuracy(right: ArrayLike) -> float:
    """Share of prompts that are answered right.

    Args:
        right: Whether each is (prompts,).

    Raises:
        Undefined: There are no prompts.
    """
    (answers,) = _answers(right)
    if not answers.size:
        raise Undefined("there are no prompts")
    return float(answers.mean())


@measure(
    name="accuracy_drop",
    title="Relative drop of accuracy",
    symbol="drop(i, j)",
    formula="(acc_j - acc_j|i)/acc_j: acc_j is the accuracy on the evaluation prompts of relation "
    f"j, and acc_j|i the same with the k neurons of relation i switched off. {_JUDGED} {_RIGHT} "
    f"{_OFF}",
    unit="1",
    direction="either",
    conventions=CONVENTIONS,
    source=_SOURCE,
    bibtex=sources.LIU_2025,
    pitfalls=(
        _CHANCE,
        "Neurons of a relation are specific where the drop on their own relation (i = j) exceeds "
        "those on others, not where it is large.",
        "Of prompts chosen because they are answered (`known`) some break by any disturbance, and "
        "none can be mended.",
        "Setting to 0 takes a neuron's mean away as well, which may be all it takes: look at the "
        "perplexity beside it.",
        _CLUSTERS,
    ),
    section="relations",
)
def accuracy_drop(before: ArrayLike, after: ArrayLike) -> float:
    """By which share of itself the accuracy falls when neurons are switched off.

    Args:
        before: Whether each prompt is answered right by the model as it is (prompts,).
        after: The same of the same prompts with the neurons switched off (prompts,).

    Returns:
        At most 1; below 0 where more prompts are mended than broken.

    Raises:
        UsageError: The prompts are not as many.
        Undefined: No prompt was answered right before.
    """
    intact, broken = _answers(before, after)
    right = int(intact.sum())
    if not right:
        raise Undefined("the model answers none of the prompts as it is")
    return (right - int(broken.sum())) / right


register(
    Card(
        name="accuracy_drop_random",
        title="Relative drop of accuracy by random neurons",
        symbol="drop(random, j)",
        formula="(acc_j - acc_j|random)/acc_j, as accuracy_drop with k random neurons switched off "
        f"in place of a relation's. {_OFF}",
        unit="1",
        direction="either",
        conventions=CONVENTIONS,
        source=_SOURCE,
        bibtex=sources.LIU_2025,
        pitfalls=(
            "A relation's neurons lie in some layers and matrices more than in others: neurons "
            "drawn from all alike are not the strictest comparison.",
            "Over several draws the standard error is that of the draws, and says nothing of the "
            "prompts; one draw's own says nothing of the neurons.",
        ),
        section="relations",
        function=accuracy_drop,
    )
)


@measure(
    name="versatility",
    title="Neuron versatility",
    symbol="V_i",
    formula="Mean over the other relations j of max(0, drop(i, j)), the accuracy drops over "
    "prompts that the model answers as it is (`known`): what switching off relation i's neurons "
    "breaks elsewhere.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source=f"geoprobe; one number for what {_SOURCE} call versatility",
    bibtex=sources.LIU_2025,
    pitfalls=(
        _CHANCE,
        "It is of all other relations alike: one near relation that breaks entirely and many that "
        "do not give the same as a little everywhere. Look at the single drops.",
    ),
    section="relations",
)
def versatility(drops: ArrayLike) -> float:
    """Mean of the positive parts of one relation's drops on the others.

    The mean of these drops is this less their `interference`.

    Args:
        drops: The accuracy drop on each other relation (relations - 1,).

    Raises:
        Undefined: There are none, or one of them is not finite.
    """
    return float(np.maximum(_drops(drops), 0).mean())


@measure(
    name="relation_interference",
    title="Neuron interference",
    symbol="I_i",
    formula="Mean over the other relations j of max(0, -drop(i, j)), the accuracy drops over "
    "prompts of which the model answers half as it is (`all`): what switching off relation i's "
    "neurons mends elsewhere.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source=f"geoprobe; one number for what {_SOURCE} call interference",
    bibtex=sources.LIU_2025,
    pitfalls=(
        "Versatility less interference is not the mean drop, as they are over other prompts: of "
        "the prompts that the model answers as it is nothing can be mended.",
        "It counts relations where more is mended than broken, not what is mended.",
        "Noise makes it positive: where nothing changes on average, it is about 0.4 of the drops' "
        "standard error.",
    ),
    section="relations",
)
def interference(drops: ArrayLike) -> float:
    """Mean size of the negative parts of one relation's drops on the others.

    Args:
        drops: The accuracy drop on each other relation (relations - 1,).

    Raises:
        Undefined: There are none, or one of them is not finite.
    """
    return float(np.maximum(-_drops(drops), 0).mean())


def _drops(drops: ArrayLike) -> Array:
    found = np.asarray(drops, dtype=np.float64)
    if not found.size:
        raise Undefined("there is no other relation")
    if not np.isfinite(found).all():
        raise Undefined("the drop on some other relation is not finite")
    return found


@measure(
    name="cumulativity",
    title="Neuron cumulativity",
    symbol="C_k",
    formula="Of the prompts of a relation that are right with its k best neurons switched off and "
    "wrong with the next larger set off, the share that is right with the difference of the two "
    "sets off alone: facts that break only by the sum. "
    f"{_OFF}",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source=f"{_SOURCE}, neuron cumulativity",
    bibtex=sources.LIU_2025,
    pitfalls=(
        "Over the prompts that one step breaks, often few: look at their number and the standard "
        "error.",
        "The prompts are chosen because the sum breaks them, so that some of it is chance: an "
        "answer that is nearly wrong is broken by one disturbance and not by another.",
    ),
    section="relations",
)
def cumulativity(small: ArrayLike, large: ArrayLike, difference: ArrayLike) -> float:
    """Share of the facts that a larger set breaks that its new neurons alone do not.

    Args:
        small: Whether each prompt is right with the smaller set switched off (prompts,).
        large: The same with the larger set, which contains it (prompts,).
        difference: The same with only what the larger has and the smaller has not (prompts,).

    Returns:
        From 0, where the new neurons do it alone, to 1.

    Raises:
        UsageError: The prompts are not as many.
        Undefined: No prompt is right with the smaller set and wrong with the larger.
    """
    right, wrong, alone = _answers(small, large, difference)
    broken = right & ~wrong
    if not broken.any():
        raise Undefined("the larger set breaks no prompt that the smaller leaves right")
    return float(alone[broken].mean())


def _answers(*given: ArrayLike) -> tuple[Flags, ...]:
    """Right and wrong answers to the same prompts.

    Raises:
        UsageError: The prompts are not as many.
    """
    found = tuple(np.asarray(one, dtype=bool) for one in given)
    if found[0].ndim != 1 or any(one.shape != found[0].shape for one in found):
        raise UsageError(
            f"Answers of shapes {', '.join(str(one.shape) for one in found)}: give one answer a "
            "prompt, for the same prompts."
        )
    return found


@measure(
    name="overlap",
    title="Overlap of two relations' neurons",
    symbol="Jaccard",
    formula="|A n B| / |A u B| of the k best neurons of two relations.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source=_SOURCE,
    bibtex=sources.LIU_2025,
    pitfalls=(
        "Of two random sets of k out of N neurons it is about k/(2N): several times that is above "
        "chance, however small it looks.",
        "Relations whose prompts share words or the type of their subjects share neurons.",
        "A neuron that is high on a relation's prompts is so against the others: two relations "
        "that are among each other's others are told apart, which keeps their overlap small.",
    ),
    section="relations",
)
def jaccard(a: ArrayLike, b: ArrayLike) -> float:
    """Size of the intersection of two sets over that of their union.

    Args:
        a: Indices (n,); one that is there twice counts once.
        b: The same (m,).

    Raises:
        Undefined: Both are empty.
    """
    first, second = np.unique(np.asarray(a)), np.unique(np.asarray(b))
    common = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - common
    if not union:
        raise Undefined("both sets of neurons are empty")
    return common / union


def jaccard_by_chance(a: int, b: int, total: int) -> float:
    """What `jaccard` of two independent random sets is on average.

    The sum over sizes i of the intersection, which follow the hypergeometric law, of
    i / (a + b - i); exact but for rounding.

    Args:
        a: Size of one set.
        b: Size of the other.
        total: What both are drawn from, without replacement.

    Raises:
        UsageError: A set is larger than what it is drawn from, or has a negative size.
        Undefined: Both are empty.
    """
    if min(a, b) < 0 or max(a, b) > total:
        raise UsageError(f"Sets of {a} and {b} neurons out of {total}: give sizes from 0 to that.")
    if not (a or b):
        raise Undefined("both sets of neurons are empty")
    sizes = np.arange(max(0, a + b - total), min(a, b) + 1, dtype=np.float64)
    i = sizes[:-1]
    # The logarithm of each probability over the one before.
    steps = np.log((a - i) * (b - i)) - np.log((i + 1) * (total - a - b + i + 1))
    weights = np.concatenate([[0.0], np.cumsum(steps)])
    weights = np.exp(weights - weights.max())
    return float(weights @ (sizes / (a + b - sizes)) / weights.sum())


@measure(
    name="perplexity",
    title="Perplexity without a relation's neurons",
    symbol="PPL",
    formula="exp of the mean next-token cross-entropy, in nats, over all tokens of the text. "
    f"{_OFF}",
    unit="1",
    direction="down",
    conventions=ONLY_EXACT,
    source="standard; beside a drop of accuracy as in Liu et al. 2025 (arXiv 2502.17355)",
    bibtex=sources.LIU_2025,
    pitfalls=(
        "Much above that of the model as it is, or with as many random neurons off: these neurons "
        "do more than a relation, and a drop of accuracy says little.",
        "Not comparable between models of unlike tokenizers.",
    ),
    section="relations",
)
def perplexity(loss_sum: float, tokens: float) -> float:
    """The exponential of the mean next-token loss.

    Args:
        loss_sum: Sum of the losses of all tokens, in nats.
        tokens: Number of tokens that have a loss.

    Raises:
        Undefined: There are no tokens, or the result is not finite.
    """
    if tokens < 1:
        raise Undefined("there are no tokens")
    try:
        found = math.exp(loss_sum / tokens)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise Undefined("the loss is not finite, or too large to have a perplexity")
    return found
