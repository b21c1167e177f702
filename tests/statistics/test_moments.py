"""Moments against plain NumPy: in parts = at once = merged, groups left out, offsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.statistics import GROUPS
from geoprobe.statistics.moments import GroupedMoments, Rows


def _data(n: int, d: int, seed: int, offset: float = 0.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw) @ torch.randn(d, d, generator=draw) + offset


def _fed(x: torch.Tensor, cuts: list[int]) -> GroupedMoments:
    moments = GroupedMoments(x.shape[1], GROUPS, unit_rows=True)
    for part, start in zip(np.split(x.numpy(), cuts), [0, *cuts], strict=True):
        rows = torch.from_numpy(part)
        group = (torch.arange(len(rows)) + start) % GROUPS
        for g in range(GROUPS):
            moments.update(rows[group == g], g)
    return moments


def _expected(x: np.ndarray, without: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = x[~np.isin(np.arange(len(x)) % GROUPS, without)]
    units = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    return np.cov(kept.T, bias=True), kept.T @ kept / len(kept), units.T @ units / len(kept)


@given(
    n=st.integers(20, 60),
    d=st.sampled_from([1, 3, 8, 200]),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 30.0]),
    data=st.data(),
)
def test_parts_whole_and_merge_agree_with_numpy(
    n: int, d: int, seed: int, offset: float, data: st.DataObject
) -> None:
    x = _data(n, d, seed, offset)
    cut = data.draw(st.integers(1, n - 1))
    whole, parts = _fed(x, []), _fed(x, [cut])
    left = _fed(x[:cut], [])
    right = GroupedMoments(d, GROUPS, unit_rows=True)
    for i in range(cut, n):
        right.update(x[i : i + 1], i % GROUPS)
    left.merge(right)
    for without in ((), (0,), (5,), (0, 2, 4, 6)):
        covariance, second, units = _expected(x.double().numpy(), without)
        for moments in (whole, parts, left):
            for got, expected in zip(
                moments.second_moments(without), (np.atleast_2d(covariance), second), strict=True
            ):
                atol = 1e-12 * np.abs(expected).max()
                np.testing.assert_allclose(got, expected, atol=atol)
                np.testing.assert_allclose(got, got.T, atol=atol)
            np.testing.assert_allclose(moments.unit_rows(without), units, atol=1e-12)


def test_a_large_offset_costs_no_precision() -> None:
    x = _data(400, 64, 0)
    x[:, :3] += 1000
    exact = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True))
    got = np.linalg.eigvalsh(_fed(x, [100]).second_moments()[0])
    np.testing.assert_allclose(got, exact, rtol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 64), (64, 40)])
def test_rows_give_the_same_spectra_from_either_side(n: int, d: int) -> None:
    x = _data(n, d, 1, offset=5.0)
    rows = Rows(n, d, torch.float32)
    index = np.random.default_rng(0).permutation(n)
    for part in np.array_split(index, 3):
        rows.update(x[torch.from_numpy(part)], part)
    sample = rows.sample(np.ones(n, dtype=bool), GROUPS)
    for without in ((), (3,), (1, 3, 5, 7)):
        for got, expected in zip(
            (*sample.second_moments(without), sample.unit_rows(without)),
            _expected(x.double().numpy(), without),
            strict=True,
        ):
            m = min(len(got), d)
            np.testing.assert_allclose(
                np.linalg.eigvalsh(got)[::-1][:m],
                np.linalg.eigvalsh(expected)[::-1][:m],
                atol=1e-10 * np.abs(expected).max() * d,
            )


def test_rows_merge_to_the_whole() -> None:
    x = _data(20, 4, 2)
    whole, a, b = (Rows(20, 4, torch.float32) for _ in range(3))
    whole.update(x, np.arange(20))
    a.update(x[:7], np.arange(7))
    b.update(x[7:], np.arange(7, 20))
    a.merge(b)
    assert torch.equal(a.values, whole.values)
    assert a.present.all()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_rows_of_more_precision_than_the_store_lose_none_of_it(narrow: torch.dtype) -> None:
    x = _data(20, 4, 3)
    rows = Rows(20, 4, narrow)
    rows.update(x[:8].to(narrow), np.arange(8))
    rows.update(x[8:], np.arange(8, 20))
    assert torch.equal(rows.values[8:], x[8:])
    assert torch.equal(rows.values[:8], x[:8].to(narrow).float())


def test_merging_with_an_empty_one_changes_nothing() -> None:
    x = _data(30, 4, 4)
    full, empty = _fed(x, []), GroupedMoments(4, GROUPS, unit_rows=True)
    before = full.second_moments()[0]
    full.merge(empty)
    empty.merge(full)
    for moments in (full, empty):
        np.testing.assert_allclose(moments.second_moments()[0], before, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_taken_out_of_activations_are_those_rows(dtype: torch.dtype) -> None:
    activations = _data(5 * 7, 4, 5).reshape(5, 7, 4).to(dtype)
    rows = Rows(9, 4, torch.float32)
    at, index = torch.tensor([6, 0, 3, 3, 1]), np.array([8, 1, 0, 4, 5])
    rows.take(activations, at, index)
    rows.take(activations.transpose(1, 2).contiguous().transpose(1, 2), at, index)
    for row in range(5):
        assert torch.equal(rows.values[index[row]], activations[row, at[row]].to(rows.values.dtype))
    assert rows.present.sum() == 5
