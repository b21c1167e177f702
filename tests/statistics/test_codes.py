"""Sums over codes: parts = whole = merge, and NumPy over the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoprobe.statistics.codes import CodeSums, GroupedCodes, levels_of

WIDTH, FEATURES, GROUPS, ITEMS = 5, 11, 4, 13


def made(seed: int = 0) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(120, WIDTH, generator=draw) + 100  # a mean far from 0
    codes = torch.randn(120, FEATURES, generator=draw).relu()
    codes[:, 3] = 0
    return rows, codes, rows + torch.randn(120, WIDTH, generator=draw) / 9


ITEM = np.sort(np.random.default_rng(1).integers(0, ITEMS, 120))
SINK = np.random.default_rng(2).random(120) < 0.2
CELLS = 2 * (ITEM % GROUPS) + SINK
LEVELS = levels_of(ITEMS, 5)


def filled(parts: list[slice]) -> GroupedCodes:
    rows, codes, found = made()
    sums = GroupedCodes(WIDTH, FEATURES, GROUPS, levels=int(LEVELS.max()) + 1)
    for part in parts:
        sums.update(rows[part], codes[part], found[part], CELLS[part], LEVELS[ITEM[part]])
    return sums


def same(a: CodeSums, b: CodeSums) -> None:
    assert a.rows == b.rows
    np.testing.assert_allclose(a.mass, b.mass, rtol=1e-6)
    np.testing.assert_array_equal(a.counts, b.counts)
    assert a.residual == pytest.approx(b.residual, rel=1e-5)
    assert a.total == pytest.approx(b.total, rel=1e-5)


@pytest.mark.parametrize("sinks", [True, False])
@pytest.mark.parametrize("without", [(), (2,), (0, 3)])
def test_sums_are_those_of_the_rows(sinks: bool, without: tuple[int, ...]) -> None:
    rows, codes, found = (t.double().numpy() for t in made())
    kept = ~np.isin(ITEM % GROUPS, without) & (sinks | ~SINK)
    expected = CodeSums(
        int(kept.sum()),
        codes[kept].sum(0),
        (codes[kept] > 0).sum(0).astype(float),
        float(((rows - found)[kept] ** 2).sum()),
        float(((rows[kept] - rows[kept].mean(0)) ** 2).sum()),
    )
    same(filled([slice(0, 120)]).sums(sinks=sinks, without=without), expected)


def test_the_variance_without_sinks_survives_sinks_of_any_size() -> None:
    """Sinks 1e5 times as large as what is left when they are left out, one in every eight rows."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(4096, 16, generator=draw)
    sink = np.arange(4096) % 8 == 0
    rows[torch.from_numpy(sink), 0] = 1e5
    found = rows / 2
    codes = torch.zeros(4096, FEATURES)
    sums = GroupedCodes(16, FEATURES, GROUPS)
    for start in range(0, 4096, 512):
        part = slice(start, start + 512)
        sums.update(
            rows[part], codes[part], found[part], 2 * (np.arange(512) % GROUPS) + sink[part]
        )
    kept = rows[torch.from_numpy(~sink)].double().numpy()
    total = sums.sums(sinks=False).total
    assert total == pytest.approx(((kept - kept.mean(0)) ** 2).sum(), rel=1e-6)


def test_parts_are_the_whole_and_so_is_what_is_merged() -> None:
    whole = filled([slice(0, 120)])
    parts = filled([slice(0, 7), slice(7, 50), slice(50, 50), slice(50, 120)])
    one, other = filled([slice(0, 40)]), filled([slice(40, 120)])
    before = other.sums()
    one.merge(other)
    same(other.sums(), before)
    for found in (parts, one):
        same(found.sums(), whole.sums())
        same(found.sums(sinks=False, without=(1,)), whole.sums(sinks=False, without=(1,)))
        np.testing.assert_allclose(found.mean(), whole.mean(), rtol=1e-7)
        for a, b in zip(found.curve(), whole.curve(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    empty = GroupedCodes(WIDTH, FEATURES, GROUPS, levels=whole.levels)
    empty.merge(whole)
    same(empty.sums(), whole.sums())
    with pytest.raises(ValueError, match="same widths"):
        empty.merge(GroupedCodes(WIDTH, FEATURES + 1, GROUPS))


def test_what_has_no_level_is_in_no_curve() -> None:
    rows, codes, found = made()
    sums = GroupedCodes(WIDTH, FEATURES, GROUPS, levels=int(LEVELS.max()) + 1)
    sums.update(rows, codes, found, CELLS, np.where(SINK, -1, LEVELS[ITEM]))
    counts, masses = sums.curve()
    assert counts[-1] == (~SINK).sum()
    np.testing.assert_allclose(masses[-1], codes.double().numpy()[~SINK].sum(0), rtol=1e-6)


def test_the_curve_is_of_nested_sets_of_sequences() -> None:
    codes = made()[1].double().numpy()
    rows, masses = filled([slice(0, 120)]).curve()
    for level, (count, mass) in enumerate(zip(rows, masses, strict=True)):
        members = LEVELS[ITEM] <= level
        assert count == members.sum()
        np.testing.assert_allclose(mass, codes[members].sum(0), rtol=1e-6)
    assert rows[-1] == 120


@pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
def test_levels_double(count: int) -> None:
    levels = levels_of(count, 0)
    sizes = np.bincount(levels).cumsum()
    assert sizes[-1] == count
    assert all(size == 2**j for j, size in enumerate(sizes[:-1]))
    assert (levels_of(100, 1) != levels_of(100, 2)).any()
