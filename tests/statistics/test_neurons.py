"""Moments of every coordinate against SciPy: in parts = at once = merged; and rotations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.measures.neurons import excess_kurtosis
from geoprobe.statistics import GROUPS, neurons
from geoprobe.statistics.neurons import NeuronMoments, Rotation, numbers_at_a_time


def _data(n: int, d: int, seed: int, offset: float) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.standard_normal((n, d)) ** 3 + offset)


def _fed(x: torch.Tensor, first: int = 0) -> NeuronMoments:
    moments = NeuronMoments(x.shape[1], GROUPS)
    groups = (torch.arange(len(x)) + first) % GROUPS
    for g in range(GROUPS):
        moments.update(x[groups == g], g)
    return moments


@given(
    n=st.integers(20, 80),
    d=st.sampled_from([1, 3, 40]),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 50.0]),
    data=st.data(),
)
def test_parts_whole_and_merge_agree_with_scipy(
    n: int, d: int, seed: int, offset: float, data: st.DataObject
) -> None:
    x = _data(n, d, seed, offset)
    cut = data.draw(st.integers(1, n - 1))
    whole, merged, other = _fed(x), _fed(x[:cut]), _fed(x[cut:], cut)
    before = other.central()
    merged.merge(other)
    np.testing.assert_array_equal(other.central().m4, before.m4)
    single = NeuronMoments(d, GROUPS)
    for i in range(n):
        single.update(x[i : i + 1], i % GROUPS)
    empty = NeuronMoments(d, GROUPS)
    empty.merge(whole)
    for without in ((), (0,), (1, 3, 5)):
        kept = x.numpy()[~np.isin(np.arange(n) % GROUPS, without)]
        for moments in (whole, merged, single, empty):
            found = moments.central(without)
            assert found.n == len(kept) == moments.count(without)
            np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-10, atol=1e-10)
            for order, got in ((2, found.m2), (3, found.m3), (4, found.m4)):
                expected = scipy.stats.moment(kept, order, axis=0)
                scale = np.abs(kept - kept.mean(0)).max() ** order
                np.testing.assert_allclose(got, expected, atol=1e-11 * scale)
            np.testing.assert_allclose(
                excess_kurtosis(found.m2, found.m4), scipy.stats.kurtosis(kept, axis=0), rtol=1e-6
            )


def test_a_large_offset_and_many_chunks_cost_no_precision() -> None:
    n, d = 3 * (numbers_at_a_time(torch.device("cpu")) // 200) + 5, 200
    x = _data(n, d, 1, 0.0).float()
    x[:, ::7] += 1000
    exact = x.double().numpy()
    found = _fed(x).central()
    np.testing.assert_allclose(found.m2, exact.var(0), rtol=1e-6)
    np.testing.assert_allclose(
        excess_kurtosis(found.m2, found.m4), scipy.stats.kurtosis(exact, axis=0), rtol=1e-6
    )
    wide = _fed(x.double()).central()
    np.testing.assert_allclose(wide.m2, exact.var(0), rtol=1e-11)


@given(
    time=st.integers(1, 9),
    d=st.sampled_from([1, 5]),
    numbers=st.sampled_from([1, 7, 16, 2**25]),
    seed=st.integers(0, 99),
)
def test_items_are_their_rows_whatever_is_looked_at_together(
    time: int, d: int, numbers: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    items = torch.from_numpy(draw.standard_normal((11, time, d)))
    lengths = draw.integers(0, time + 1, 11)
    lengths[-1] = time
    index = draw.permutation(40)[:11]
    for item, n in zip(items, lengths, strict=True):
        item[n:] = torch.nan  # what stands beyond an item's end has no part in anything
    found, plain = NeuronMoments(d, GROUPS), NeuronMoments(d, GROUPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neurons, "_CACHED_NUMBERS", numbers)
        found.add(items, index, lengths)
    for i, item, n in zip(index, items, lengths, strict=True):
        if n:
            plain.update(item[:n], int(i))
    np.testing.assert_array_equal(found.counts, plain.counts)
    for without in ((), (int(index[0]) % GROUPS,)):
        if found.count(without):
            for a, b in zip(found.central(without), plain.central(without), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_the_range_of_float32_is_no_limit(scale: float) -> None:
    """Nor is it for a coordinate far below the others, or one that is silent at first."""
    x = _data(400, 4, 5, 0.0).float()
    x[:, 1] *= 1e-7
    x[:50, 2] *= 1e-6
    x[:50, 3] = 0.0
    x *= scale
    exact = x.double().numpy()
    moments = NeuronMoments(4, GROUPS)
    for i, rows in enumerate(x.split(50)):
        moments.update(rows, i)
    found = moments.central()
    np.testing.assert_allclose(found.m2, exact.var(0), rtol=1e-6)
    np.testing.assert_allclose(
        excess_kurtosis(found.m2, found.m4), scipy.stats.kurtosis(exact, axis=0), rtol=1e-5
    )


def test_a_coordinate_that_never_varies_has_no_kurtosis() -> None:
    x = _data(64, 3, 0, 0.0)
    x[:, 0], x[:, 1] = 0.0, 0.1 + 1e7
    for moments in (_fed(x), _fed(x[:10])):
        moments.merge(_fed(x[10:] * 1.0))
        found = moments.central()
        assert found.m2[0] == found.m2[1] == found.m4[1] == 0.0
        assert np.isnan(excess_kurtosis(found.m2, found.m4)).tolist() == [True, True, False]


def test_only_alike_accumulators_merge_and_nothing_has_no_moments() -> None:
    with pytest.raises(ValueError, match="same width"):
        NeuronMoments(3, 8).merge(NeuronMoments(4, 8))
    with pytest.raises(ValueError, match="no rows"):
        _fed(_data(8, 2, 0, 0.0)).central(range(GROUPS))


@pytest.mark.parametrize("width", [1, 2, 7, 64, 97])
def test_a_rotation_is_one(width: int) -> None:
    rotation = Rotation(width, 3)
    matrix = rotation(torch.eye(width, dtype=torch.float64))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)
    rows = torch.randn(5, width, dtype=torch.float64)
    np.testing.assert_allclose(rotation(rows), rows @ matrix, atol=1e-12)
    assert torch.allclose(rotation(rows.float()).double(), rotation(rows), atol=1e-5)
    assert torch.equal(Rotation(width, 3)(rows), rotation(rows))


def test_a_rotation_makes_gaussians_of_single_coordinates() -> None:
    """As a uniformly random one does: else a privileged basis would be compared with another."""
    width = 600
    entries = np.concatenate(
        [
            np.asarray(
                Rotation(width, seed)(torch.eye(width, dtype=torch.float64)[[0, 1, 300, 599]])
            )
            for seed in range(3)
        ]
    ) * np.sqrt(width)
    assert scipy.stats.kstest(entries.ravel(), "norm").pvalue > 1e-3
    top = np.sort(entries**2, axis=1)[:, -width // 100 :].sum(1) / width
    haar = np.random.default_rng(0).standard_normal((2000, width))
    expected = np.sort(haar**2, axis=1)[:, -width // 100 :].sum(1) / (haar**2).sum(1)
    assert top.mean() == pytest.approx(expected.mean(), rel=0.15)
    assert not torch.equal(Rotation(width, 0)._signs, Rotation(width, 1)._signs)
