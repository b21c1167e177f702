"""Relations' neurons against scikit-learn, transcriptions in plain Python, and closed forms."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from geoprobe import measures
from geoprobe.errors import UsageError
from geoprobe.measures import Undefined, relation_neurons
from geoprobe.measures.registry import card, cards

DTYPES = [np.float32, np.float64]


def scored(labels: np.ndarray, scores: np.ndarray) -> list[float]:
    """What scikit-learn gives neuron by neuron."""
    return [float(average_precision_score(labels, column)) for column in scores.T]


def plain_precision(scores: list[float], labels: list[bool]) -> Fraction:
    """The mean over the relation's prompts of the precision at each one's score."""
    own = [s for s, label in zip(scores, labels, strict=True) if label]
    parts = [Fraction(sum(o >= t for o in own), sum(s >= t for s in scores)) for t in own]
    return sum(parts, Fraction(0)) / len(parts)


def labelled(prompts: int, own: int, seed: int) -> np.ndarray:
    labels = np.arange(prompts) < own
    np.random.default_rng(seed).shuffle(labels)
    return labels


@st.composite
def few_values(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores of few different values, so that most of them tie, and labels of both kinds."""
    prompts, neurons = draw(st.integers(2, 12)), draw(st.integers(1, 6))
    scores = draw(arrays(np.int8, (prompts, neurons), elements=st.integers(-3, 3)))
    labels = draw(arrays(bool, prompts).filter(lambda x: 0 < x.sum() < len(x)))
    return scores, labels


def test_the_published_example() -> None:
    scores = np.random.RandomState(1234).rand(10, 6).T
    found = measures.average_precision(scores, [1, 1, 0, 1, 0, 0])
    expected = [0.7222, 0.5556, 1, 1, 1, 0.6333, 0.9167, 0.7, 0.8056, 0.7222]
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", ["all differ", "tenths", "zero or one", "one value"])
@pytest.mark.parametrize(("prompts", "own"), [(2, 1), (25, 5), (500, 100), (333, 332)])
def test_average_precision_is_that_of_scikit_learn(
    dtype: type, values: str, prompts: int, own: int
) -> None:
    scores = np.random.default_rng(prompts).standard_normal((prompts, 40))
    scores = {
        "all differ": scores,
        "tenths": scores.round(1),
        "zero or one": (scores > 0).astype(float),
        "one value": np.full_like(scores, -0.1),
    }[values].astype(dtype)
    labels = labelled(prompts, own, seed=own)
    found = measures.average_precision(scores, labels)
    np.testing.assert_allclose(found, scored(labels, scores), rtol=0, atol=1e-12)


@given(few_values(), st.sampled_from([np.float16, np.float32, np.float64, np.int8]))
def test_ties_are_scikit_learns_in_every_type(
    given_: tuple[np.ndarray, np.ndarray], dtype: type
) -> None:
    scores, labels = given_
    found = measures.average_precision(scores.astype(dtype) / dtype(2), labels)
    np.testing.assert_allclose(found, scored(labels, scores.astype(float)), rtol=0, atol=1e-12)


@given(few_values(), st.sampled_from(DTYPES), st.randoms(use_true_random=False))
def test_only_the_order_of_scores_matters_and_not_that_of_prompts(
    given_: tuple[np.ndarray, np.ndarray], dtype: type, random: Any
) -> None:
    scores, labels = given_
    found = measures.average_precision(scores.astype(dtype), labels)
    bent = np.exp(scores.astype(dtype) * 3) - dtype(7)
    np.testing.assert_array_equal(measures.average_precision(bent, labels), found)
    order = list(range(len(labels)))
    random.shuffle(order)
    again = measures.average_precision(scores[order].astype(dtype), labels[order])
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_number_is_in_order(dtype: Any) -> None:
    """Numbers one bit apart, both zeros, the smallest, the largest and infinities, at once."""
    some = np.finfo(dtype)
    one, most, least = dtype(1), some.max, some.smallest_subnormal
    up = np.nextafter(one, dtype(2))
    upper = [dtype(0), least, some.tiny, one, up, np.nextafter(most, one), most, dtype(np.inf)]
    values = np.array([*upper, *(-v for v in upper), *upper], dtype=dtype)
    draw = np.random.default_rng(0)
    scores = np.stack([draw.permutation(values) for _ in range(200)], axis=1)
    labels = labelled(len(values), 7, seed=1)
    found = measures.average_precision(scores, labels)
    expected = [float(plain_precision(column.tolist(), labels.tolist())) for column in scores.T]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert len(set(expected)) > 50


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_of_either_sign_are_equal(dtype: type) -> None:
    scores = np.array([[0.0], [-0.0], [0.0], [-0.0]], dtype=dtype)
    for labels in ([1, 0, 0, 0], [0, 1, 0, 0]):
        assert measures.average_precision(scores, labels) == [0.25]


@pytest.mark.parametrize("threads", [1, 3, None])
@pytest.mark.parametrize("layout", ["rows", "columns", "every other", "read-only"])
def test_blocks_threads_and_layout_of_memory_change_nothing(
    threads: int | None, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.random.default_rng(0).standard_normal((20, 101)).round(1).astype(np.float32)
    labels = labelled(20, 4, seed=0)
    whole = scored(labels, scores)
    effect = measures.effect_size(scores, labels)
    if layout == "columns":
        scores = np.asfortranarray(scores)
    elif layout == "every other":
        scores = np.repeat(scores, 2, axis=1)[:, ::2]
    before = scores.copy()
    scores.flags.writeable = layout != "read-only"
    monkeypatch.setattr(relation_neurons, "_BLOCK_NUMBERS", 60)
    found = measures.average_precision(scores, labels, threads=threads)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(
        measures.effect_size(scores, labels, threads=threads), effect, strict=True
    )
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_that_are_not_numbers_are_counted(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relation_neurons, "_BLOCK_NUMBERS", 8)
    scores = np.random.default_rng(0).standard_normal((4, 9)).astype(dtype)
    scores[1, 2], scores[3, 2], scores[0, 7] = np.nan, -np.nan, -np.nan
    with pytest.raises(Undefined, match="2 of 9 neurons are NaN"):
        measures.average_precision(scores, [1, 0, 0, 1])
    scores[2, 0] = np.inf
    with pytest.raises(Undefined, match="3 of 9 neurons are not finite"):
        measures.effect_size(scores, [1, 0, 0, 1])


@pytest.mark.parametrize("measure", [measures.average_precision, measures.effect_size])
def test_without_a_relation_or_without_others_there_is_nothing_to_tell_apart(measure: Any) -> None:
    scores = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(Undefined, match="no prompt"):
        measure(scores, [0, 0, 0])
    with pytest.raises(Undefined, match="every prompt"):
        measure(scores, [1, 1, 1])
    with pytest.raises(Undefined, match="no prompt"):
        measure(np.zeros((0, 2)), [])
    for labels, given_ in (([1, 0], scores), ([[1], [0], [0]], scores), ([1, 0, 0], scores[:, 0])):
        with pytest.raises(UsageError, match="one label a prompt"):
            measure(given_, labels)
    assert measure(scores[:, :0], [1, 0, 0]).shape == (0,)


def test_of_few_prompts_high_precisions_come_by_chance() -> None:
    """The share of neurons at 1 is that of all choices of prompts, as the card says of 5 and 20."""
    scores = np.random.default_rng(0).random((6, 60_000), dtype=np.float32)
    found = measures.average_precision(scores, [1, 1, 0, 0, 0, 0])
    share, expected = float((found == 1).mean()), 1 / math.comb(6, 2)
    assert abs(share - expected) < 4 * math.sqrt(expected / 60_000)
    assert any(f"{math.comb(25, 5):,}" in p for p in card("average_precision").pitfalls)


def test_effect_size_is_the_difference_over_the_pooled_deviation() -> None:
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((30, 8)) * draw.uniform(0.1, 9, 8) + draw.uniform(-9, 9, 8)
    labels = labelled(30, 11, seed=0)
    expected = []
    for column in scores.T:
        sides = [[x for x, of in zip(column, labels, strict=True) if of is side] for side in
                 (np.True_, np.False_)]  # fmt: skip
        means = [math.fsum(side) / len(side) for side in sides]
        variances = [
            math.fsum((x - mean) ** 2 for x in side) / len(side)
            for side, mean in zip(sides, means, strict=True)
        ]
        expected.append((means[0] - means[1]) / math.sqrt(sum(variances) / 2))
    found = measures.effect_size(scores, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(measures.effect_size(8 * scores - 3, labels), found, rtol=1e-10)
    np.testing.assert_allclose(measures.effect_size(-scores, labels), -found, rtol=1e-12)
    single = scores.astype(np.float32)
    exact = measures.effect_size(single.astype(np.float64), labels)
    np.testing.assert_array_equal(measures.effect_size(single, labels), exact)


def test_effect_sizes_of_constants() -> None:
    """Sums of 0.1 do not give 0.1 back; constants are constant all the same."""
    labels = np.arange(10) < 3
    scores = np.full((10, 3), 0.1)
    scores[labels] += [0.0, 0.1, -0.1]
    np.testing.assert_array_equal(measures.effect_size(scores, labels), [0, np.inf, -np.inf])


def test_the_best_neurons_are_those_of_highest_precision_then_effect_then_index() -> None:
    draw = np.random.default_rng(0)
    precision = draw.integers(0, 5, 400) / 4
    effect = draw.choice([-np.inf, -1.0, 0.0, 0.5, np.inf], 400)
    order = sorted(range(400), key=lambda i: (-precision[i], -effect[i], i))
    for k in (1, 7, 150, 400):
        assert measures.top_neurons(precision, effect, k).tolist() == order[:k]


def test_rounding_does_not_decide_which_neurons_are_best() -> None:
    precision = np.array([0.5, 0.5 + 1e-14, 0.5 - 1e-14, 0.5 + 1e-11])
    assert measures.top_neurons(precision, [2, 1, 3, 0], 4).tolist() == [3, 2, 0, 1]


def test_there_must_be_as_many_neurons_as_are_asked_for() -> None:
    for k in (0, 4, -1):
        with pytest.raises(UsageError, match=f"The best {k} of 3 neurons"):
            measures.top_neurons([1, 0.5, 1], [0, 0, 0], k)
    with pytest.raises(UsageError, match="one of each a neuron"):
        measures.top_neurons([1, 0.5], [0, 0, 0], 1)
    with pytest.raises(Undefined, match="NaN"):
        measures.top_neurons([1, math.nan], [0, 0], 1)


def plain_lape(
    shares: list[list[float]], keep: float, bar: float
) -> tuple[float, list[float], list[int], list[list[int]]]:
    """Threshold, entropies, chosen neurons and each relation's, one number at a time."""
    ordered = sorted(p for row in shares for p in row)
    threshold = ordered[round(len(ordered) * bar) - 1]
    entropies = []
    for row in shares:
        if not sum(row):
            entropies.append(math.inf)
            continue
        normed = [p / sum(row) for p in row]
        entropies.append(-sum(p * math.log(p) for p in normed if p > 0))
    kept = [i for i, row in enumerate(shares) if max(row) > threshold]
    kept.sort(key=lambda i: (round(entropies[i], 9), i))
    chosen = kept[: round(len(shares) * keep)]
    members = [[i for i in chosen if shares[i][r] > threshold] for r in range(len(shares[0]))]
    return threshold, entropies, chosen, members


@pytest.mark.parametrize(("keep", "bar"), [(0.01, 0.95), (0.2, 0.5), (1.0, 0.99)])
@pytest.mark.parametrize("tokens", [5, 10_000])
def test_entropies_choose_what_a_transcription_chooses(
    keep: float, bar: float, tokens: int
) -> None:
    """Of 5 tokens, shares are few, and lie at the threshold often."""
    draw = np.random.default_rng(0)
    rates = draw.beta(0.3, 4, (1000, 5)) * draw.integers(0, 2, (1000, 1))
    shares = draw.binomial(tokens, rates) / tokens
    threshold, entropies, chosen, members = plain_lape(shares.tolist(), keep, bar)
    found = measures.lape(shares, keep=keep, bar=bar)
    assert found.threshold == threshold
    np.testing.assert_allclose(found.entropy, entropies, atol=1e-12)
    assert found.chosen.tolist() == chosen
    assert [one.tolist() for one in found.members] == members
    assert math.inf in entropies
    assert len(chosen) >= 10
    assert sum(map(len, members)) >= 10


def test_a_neuron_of_one_relation_is_chosen_and_one_of_all_is_not() -> None:
    shares = np.full((400, 4), 0.1)
    shares[7] = [0.0, 0.9, 0.0, 0.0]
    shares[8] = [0.8, 0.0, 0.8, 0.0]
    shares[9] = 0.9
    shares[10] = [1e-9, 0.0, 0.0, 0.0]  # of one relation, and never active to speak of
    found = measures.lape(shares)
    assert found.threshold == 0.1
    assert found.chosen.tolist() == [7, 8, 9]
    assert [one.tolist() for one in found.members] == [[8, 9], [7, 9], [8, 9], [9]]
    np.testing.assert_allclose(found.entropy[[7, 8, 9, 10]], np.log([1, 2, 4, 1]), atol=1e-12)
    order = [3, 1, 0, 2]
    turned = measures.lape(shares[:, order])
    assert [one.tolist() for one in turned.members] == [found.members[r].tolist() for r in order]


def test_entropies_need_two_relations_and_shares() -> None:
    with pytest.raises(UsageError, match="neurons, relations"):
        measures.lape(np.zeros(3))
    with pytest.raises(Undefined, match="needs two"):
        measures.lape(np.ones((3, 1)))
    with pytest.raises(Undefined, match="needs two"):
        measures.lape(np.ones((0, 3)))
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(Undefined, match=r"not in \[0, 1\]"):
            measures.lape([[0.5, bad]])
    with pytest.raises(UsageError, match="keep = 2"):
        measures.lape([[0.5, 0.5]], keep=2)
    silent = measures.lape(np.zeros((300, 2)))
    assert silent.chosen.tolist() == []
    assert np.isinf(silent.entropy).all()


def test_shares_of_right_answers() -> None:
    assert measures.known([True, False, True, True]) == 0.75
    assert measures.accuracy(np.zeros(3)) == 0
    for measure in (measures.known, measures.accuracy):
        with pytest.raises(Undefined, match="no prompts"):
            measure([])


def test_drops_are_relative_and_may_be_negative() -> None:
    before = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    assert measures.accuracy_drop(before[:4], [1, 0, 0, 0]) == 0.75
    assert measures.accuracy_drop(before, before) == 0
    assert measures.accuracy_drop(before, [1, 1, 1, 0, 1, 1, 1, 0]) == -0.5
    assert measures.accuracy_drop(before, ~before) == 0
    assert measures.accuracy_drop(before, np.ones(8)) == -1
    with pytest.raises(Undefined, match="none of the prompts"):
        measures.accuracy_drop(before[4:], before[:4])
    with pytest.raises(UsageError, match="the same prompts"):
        measures.accuracy_drop(before, before[:4])


@given(arrays(bool, st.tuples(st.integers(1, 30), st.just(2))))
def test_a_drop_is_that_of_the_accuracies(answers: np.ndarray) -> None:
    before, after = answers.T
    if before.any():
        whole = measures.accuracy(before)
        expected = (whole - measures.accuracy(after)) / whole
        assert measures.accuracy_drop(before, after) == pytest.approx(expected, abs=1e-12)
        assert 0 <= measures.accuracy_drop(before[before], after[before]) <= 1


def test_facts_that_break_by_the_sum_alone_are_cumulative() -> None:
    #            broken by the difference too, not, not, broken before, mended, never broken
    small = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    large = np.array([0, 0, 0, 0, 1, 1], dtype=bool)
    alone = np.array([0, 1, 1, 1, 1, 0], dtype=bool)
    assert measures.cumulativity(small, large, alone) == pytest.approx(2 / 3)
    assert measures.cumulativity(small, large, large) == 0
    assert measures.cumulativity(small, large, np.ones(6)) == 1
    with pytest.raises(Undefined, match="breaks no prompt"):
        measures.cumulativity(small, small, alone)
    with pytest.raises(UsageError, match="the same prompts"):
        measures.cumulativity(small, large, alone[:2])


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_overlap_is_that_of_sets(a: set[int], b: set[int]) -> None:
    first, second = (np.array(sorted(x), dtype=np.int64) for x in (a, b))
    if not a | b:
        with pytest.raises(Undefined, match="empty"):
            measures.jaccard(first, second)
        return
    found = measures.jaccard(np.repeat(first, 2)[::-1], second)
    assert found == len(a & b) / len(a | b)
    assert found == measures.jaccard(second, first)


@pytest.mark.parametrize(("a", "b", "total"), [(5, 5, 40), (3, 20, 25), (30, 35, 40), (0, 4, 9)])
def test_overlap_by_chance_is_that_of_random_sets(a: int, b: int, total: int) -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        sets = [draw.choice(total, n, replace=False) for n in (a, b)]
        found.append(measures.jaccard(*sets))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - measures.jaccard_by_chance(a, b, total)) <= 4 * error


@given(st.integers(1, 25), st.data())
def test_overlap_by_chance_counts_every_pair_of_sets(total: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, total)) for _ in range(2))
    if a or b:
        terms = [
            Fraction(math.comb(a, i) * math.comb(total - a, b - i), math.comb(total, b))
            * Fraction(i, a + b - i)
            for i in range(min(a, b) + 1)
        ]
        found = measures.jaccard_by_chance(a, b, total)
        assert found == pytest.approx(float(sum(terms)), rel=1e-10, abs=1e-15)


def test_overlap_by_chance_of_many_neurons() -> None:
    """The mean intersection, k^2/N, is nearly all there is to it, and about k/(2N) for small k."""
    k, total = 3000, 10**6
    found = measures.jaccard_by_chance(k, k, total)
    assert found == pytest.approx(k**2 / total / (2 * k - k**2 / total), rel=1e-3)
    assert found == pytest.approx(k / (2 * total), rel=0.01)
    for a, b, n in ((5, 2, 4), (2, 5, 4), (-1, 2, 4)):
        with pytest.raises(UsageError, match="out of 4"):
            measures.jaccard_by_chance(a, b, n)
    with pytest.raises(Undefined, match="empty"):
        measures.jaccard_by_chance(0, 0, 4)


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-5, 1)))
def test_the_mean_drop_is_versatility_less_interference(drops: np.ndarray) -> None:
    broken, mended = measures.versatility(drops), measures.relation_interference(drops)
    assert broken - mended == pytest.approx(drops.mean(), abs=1e-12)
    assert broken == pytest.approx(sum(d for d in drops if d > 0) / len(drops), abs=1e-12)
    assert measures.relation_interference(-drops) == broken


@pytest.mark.parametrize("measure", [measures.versatility, measures.relation_interference])
def test_without_other_relations_there_is_neither(measure: Any) -> None:
    with pytest.raises(Undefined, match="no other relation"):
        measure([])
    with pytest.raises(Undefined, match="not finite"):
        measure([0.1, math.nan])


def test_perplexity_is_the_number_of_equally_likely_tokens() -> None:
    assert measures.perplexity(10 * math.log(50), 10) == pytest.approx(50)
    assert measures.perplexity(0, 3) == 1
    for loss, tokens in ((1.0, 0), (math.inf, 1), (1e6, 1), (math.nan, 1)):
        with pytest.raises(Undefined):
            measures.perplexity(loss, tokens)


def test_the_standard_error_of_independent_prompts_is_binomial() -> None:
    right = np.arange(200) < 60
    found = measures.bootstrap_error(right, np.ones(200), repeats=20_000)
    assert found.value == pytest.approx(math.sqrt(0.3 * 0.7 / 200), rel=0.03)
    assert found.reason == ""


def test_prompts_of_one_subject_count_as_one() -> None:
    """Four prompts of a subject, right and wrong together, tell no more than one of them."""
    right = np.random.default_rng(0).random(100) < 0.4
    one = measures.bootstrap_error(right, np.ones(100), repeats=20_000)
    four = measures.bootstrap_error(4 * right, np.full(100, 4), repeats=20_000)
    apart = measures.bootstrap_error(np.repeat(right, 4), np.ones(400), repeats=20_000)
    assert one.value is not None
    assert apart.value is not None
    assert four.value == pytest.approx(one.value, rel=1e-9)
    assert one.value == pytest.approx(2 * apart.value, rel=0.05)


def test_the_standard_error_of_a_ratio_of_sums() -> None:
    """Clusters of unlike size: the linear approximation, which is good for many of them."""
    draw = np.random.default_rng(0)
    below = draw.integers(0, 7, 1000)
    above = draw.binomial(below, draw.beta(2, 3, 1000))
    residual = above - above.sum() / below.sum() * below
    found = measures.bootstrap_error(above, below, repeats=2000)
    assert found.value == pytest.approx(math.sqrt((residual**2).sum()) / below.sum(), rel=0.07)
    scaled = measures.bootstrap_error(-3 * above, below, repeats=2000)
    assert found.value is not None
    assert scaled.value == pytest.approx(3 * found.value)
    other = measures.bootstrap_error(above, below, repeats=2000, seed=1)
    assert found == measures.bootstrap_error(above, below, repeats=2000)
    assert other.value != found.value


def test_draws_without_a_prompt_are_left_out() -> None:
    """Of 12 subjects 2 have prompts: one draw in nine has none, and the others' values spread."""
    above, below = np.zeros(12), np.zeros(12)
    above[3], below[3], below[7] = 1, 1, 1
    draw, ratios = np.random.default_rng(5), []
    for _ in range(20_000):
        drawn = draw.integers(0, 12, 12)
        if below[drawn].sum():
            ratios.append(above[drawn].sum() / below[drawn].sum())
    assert 1000 < 20_000 - len(ratios) < 4000
    found = measures.bootstrap_error(above, below, repeats=20_000)
    assert found.value == pytest.approx(np.std(ratios), rel=0.02)


@pytest.mark.parametrize(
    ("above", "below", "reason"),
    [
        ([], [], "the value itself is undefined"),
        ([0, 0], [0, 0], "the value itself is undefined"),
        ([math.nan, 1], [1, 1], "the value itself is undefined"),
        ([1], [2], "at least 2 clusters with a value, and 1 had one"),
        ([1, 0, 0], [2, 0, 0], "at least 2 clusters with a value, and 1 had one"),
        ([0, 0, 0], [1, 2, 3], "the clusters do not vary"),
        ([0.1, 0.2, 0.3], [1, 2, 3], "the clusters do not vary"),
    ],
)
def test_why_there_is_no_standard_error(
    above: list[float], below: list[float], reason: str
) -> None:
    found = measures.bootstrap_error(above, below)
    assert found.value is None
    assert reason in found.reason


def test_a_bootstrap_needs_pairs_and_repeats() -> None:
    with pytest.raises(UsageError, match="one of each"):
        measures.bootstrap_error([1, 2], [1])
    with pytest.raises(UsageError, match="at least 2"):
        measures.bootstrap_error([1, 2], [1, 3], repeats=1)


RELATIONS = {
    "known", "accuracy", "accuracy_drop", "accuracy_drop_random", "versatility",
    "relation_interference", "cumulativity", "overlap", "average_precision", "perplexity",
    "lape_entropy",
}  # fmt: skip
FUNCTIONS = {
    "accuracy_drop_random": "accuracy_drop",
    "overlap": "jaccard",
    "lape_entropy": "lape",
}


def test_every_measure_of_relations_has_a_card() -> None:
    assert {n for n, c in cards().items() if c.section == "relations"} == RELATIONS


@pytest.mark.parametrize("name", sorted(RELATIONS))
def test_cards_of_relations_are_full(name: str) -> None:
    known = card(name)
    for field in ("title", "symbol", "formula", "unit", "source", "pitfalls", "bibtex"):
        assert getattr(known, field), field
    assert known.bibtex.count("{") == known.bibtex.count("}")
    assert known.bibtex.count("  title = ") == known.bibtex.count("  author = ") == 1
    assert re.search(r"2502\.17355|2402\.16438", known.source)
    assert known.function is getattr(measures, FUNCTIONS.get(name, name))
    expected = ["known", "all"] if name.startswith("accuracy_drop") else ["exact"]
    assert list(known.conventions) == expected


def test_no_symbol_is_another_measures() -> None:
    symbols = [card(name).symbol.casefold() for name in RELATIONS]
    others = {w for n, c in cards().items() if n not in RELATIONS
              for w in (n, c.symbol.casefold(), c.title.casefold())}  # fmt: skip
    assert len(set(symbols)) == len(symbols)
    assert not others & set(symbols)
