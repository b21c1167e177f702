"""Class moments: merge = whole, the formulas written out, and collapse to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoprobe.statistics.classes import ClassMoments, ClassSample

GROUPS = 4


def _written_out(rows: NDArray[np.float64], labels: NDArray[np.int64]) -> ClassSample:
    classes = np.unique(labels)
    means = np.array([rows[labels == c].mean(0) for c in classes])
    counts = np.array([(labels == c).sum() for c in classes])
    apart = np.concatenate([rows[labels == c] - m for c, m in zip(classes, means, strict=True)])
    variances = [
        ((rows[labels == c] - m) ** 2).sum(1).mean() for c, m in zip(classes, means, strict=True)
    ]
    return ClassSample(classes, counts, means, np.array(variances), apart.T @ apart / len(rows))


def _same(found: ClassSample, expected: ClassSample, rel: float = 1e-10) -> None:
    assert (found.classes == expected.classes).all()
    assert (found.counts == expected.counts).all()
    size = np.abs(expected.means).max()
    np.testing.assert_allclose(found.means, expected.means, rtol=0, atol=rel * size)
    # Classes of one row have no scatter, and what rounding leaves of it is that of their distance.
    apart = np.abs(expected.means - expected.means.mean(0)).max() ** 2 + expected.variances.max()
    np.testing.assert_allclose(found.variances, expected.variances, rtol=rel, atol=rel * apart)
    np.testing.assert_allclose(found.within, expected.within, rtol=0, atol=rel * apart)


def _data(
    seed: int, n: int, classes: int, width: int, offset: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    rows = draw.standard_normal((n, width)) + 3 * draw.standard_normal((classes, width))[labels]
    return rows + offset, labels, np.arange(n), draw.permutation(labels)


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(3, 90),
    classes=st.integers(1, 7),
    width=st.sampled_from([1, 5, 200]),
    own=st.booleans(),
    cut=st.floats(0, 1),
)
def test_parts_merged_are_the_whole(
    seed: int, n: int, classes: int, width: int, own: bool, cut: float
) -> None:
    rows, labels, groups, null = _data(seed, n, classes, width, offset=50.0)
    at = int(cut * n)
    parts = [ClassMoments(width, classes, GROUPS, own_shift=own) for _ in range(2)]
    for part, some in zip(parts, (slice(0, at), slice(at, n)), strict=True):
        part.update(torch.from_numpy(rows[some]), labels[some], groups[some], null[some])
    parts[0].merge(parts[1])
    _same(parts[0].sample(), _written_out(rows, labels), rel=1e-9)
    _same(parts[0].sample(null=True), _written_out(rows, null), rel=1e-9)
    for g in parts[0].groups():
        kept = groups % GROUPS != g
        if kept.any():
            _same(parts[0].sample({g}), _written_out(rows[kept], labels[kept]), rel=1e-9)
            _same(parts[0].sample({g}, null=True), _written_out(rows[kept], null[kept]), rel=1e-9)


def test_many_chunks_are_one_pass() -> None:
    rows, labels, groups, null = _data(1, 2600, 30, 12)
    moments = ClassMoments(12, 30, GROUPS)
    for start in range(0, 2600, 1900):
        some = slice(start, start + 1900)
        moments.update(torch.from_numpy(rows[some]), labels[some], groups[some], null[some])
    _same(moments.sample(), _written_out(rows, labels))
    assert moments.count() == 2600


def test_classes_collapsed_to_the_last_digit_keep_their_scatter() -> None:
    """A scatter of 1e-9 around means of 1e3 is lost in one shift for all classes."""
    draw = np.random.default_rng(3)
    labels = np.repeat(np.arange(4), 50)
    # Offsets that float64 holds exactly: what is measured is the accumulator, not the input.
    noise = np.round(draw.standard_normal((200, 6)) * 2**20) * 2.0**-40
    means = np.round(1e3 * draw.standard_normal((4, 6)))
    rows = means[labels] + noise
    moments = ClassMoments(6, 4, 1, null=False)
    for batch in np.array_split(draw.permutation(200), 5):
        moments.update(torch.from_numpy(rows[batch]), labels[batch], batch * 0)
    apart = noise - np.array([noise[labels == c].mean(0) for c in range(4)])[labels]
    expected = apart.T @ apart / 200
    np.testing.assert_allclose(
        moments.sample().within, expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )


def test_low_precision_rows_are_cast_first() -> None:
    rows, labels, groups, null = _data(4, 300, 5, 8, offset=1000.0)
    low = torch.from_numpy(rows).to(torch.bfloat16)
    moments = ClassMoments(8, 5, GROUPS)
    moments.update(low, labels, groups, null)
    _same(moments.sample(), _written_out(low.double().numpy(), labels))


def test_what_does_not_fit_does_not_merge() -> None:
    with pytest.raises(ValueError, match="same classes"):
        ClassMoments(3, 4, 2).merge(ClassMoments(3, 5, 2))


def test_bytes_are_those_of_the_tensors() -> None:
    for null, own in ((True, True), (False, False)):
        moments = ClassMoments(30, 11, 2, null=null, own_shift=own)
        held = [moments._shift, moments._common, moments._scatter]
        for sums in (moments._sums, moments._null):
            held += [] if sums is None else [sums.counts, sums.first, sums.squares]
        expected = ClassMoments.bytes_of(30, 11, 2, null=null, own_shift=own)
        assert sum(t.numel() * t.element_size() for t in held) == expected
