"""Moments of every coordinate up to the fourth: one pass, float64, grouped, mergeable."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from geoprobe.statistics.moments import scratch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

_CHUNK_NUMBERS = 2**16
"""Numbers in float64 at a time: so few that two products of them stay in the processor's cache."""

ORDERS = 4


def chunk_rows(width: int) -> int:
    """Rows of so many coordinates that are looked at together."""
    return max(16, _CHUNK_NUMBERS // width)


class Central(NamedTuple):
    """Central moments of n rows, coordinate by coordinate (d,), divided by n.

    Attributes:
        n: Number of rows.
        mean: First moment.
        m2: Second central moment, the variance; exactly 0 of a coordinate that never varies.
        m3: Third central moment.
        m4: Fourth central moment.
    """

    n: int
    mean: Array
    m2: Array
    m3: Array
    m4: Array


class NeuronMoments:
    """Moments of rows (n, d), coordinate by coordinate, kept apart by group.

    Sums of powers are taken in float64 around a shift (the first update's mean), and made central
    at the end.

    Args:
        width: Number of coordinates d.
        groups: Number of groups.
        device: Where the sums live.
    """

    def __init__(self, width: int, groups: int, *, device: torch.device | str = "cpu") -> None:
        self.width = width
        self.n_groups = groups
        self.device = torch.device(device)
        self.counts = np.zeros(groups, dtype=np.int64)
        self._shift = torch.zeros(width, dtype=torch.float64, device=device)
        self._sums = torch.zeros(groups, ORDERS, width, dtype=torch.float64, device=device)

    @staticmethod
    def bytes_of(width: int, groups: int) -> int:
        """Memory of one accumulator."""
        return 8 * width * (groups * ORDERS + 1)

    def update(self, rows: Tensor, group: int) -> None:
        """Adds rows (n, d) of any float dtype to one group."""
        step = chunk_rows(self.width)
        for start in range(0, rows.shape[0], step):
            self._update(rows[start : start + step], group % self.n_groups)

    def _update(self, rows: Tensor, group: int) -> None:
        size = (chunk_rows(self.width), self.width)
        x = scratch("powers", size, torch.float64, self.device)[: rows.shape[0]]
        square = scratch("squares", size, torch.float64, self.device)[: rows.shape[0]]
        x.copy_(rows)
        if not self.counts.any():
            self._shift.copy_(x.mean(0))
        self.counts[group] += rows.shape[0]
        sums = self._sums[group]
        x -= self._shift
        sums[0] += x.sum(0)
        torch.mul(x, x, out=square)
        sums[1] += square.sum(0)
        sums[2] += x.mul_(square).sum(0)
        sums[3] += square.mul_(square).sum(0)

    def merge(self, other: NeuronMoments) -> None:
        """Adds another accumulator's rows; it may have another shift and is left as it was."""
        if (other.width, other.n_groups) != (self.width, self.n_groups):
            raise ValueError("only accumulators of the same width and groups merge")
        if not self.counts.any():
            self._shift.copy_(other._shift)
        delta = other._shift - self._shift
        for group in np.flatnonzero(other.counts):
            # x - shift = (x - other's shift) + delta, to the power of each order.
            powers = [torch.full_like(delta, float(other.counts[group])), *other._sums[group]]
            for order in range(1, ORDERS + 1):
                self._sums[group, order - 1] += sum(
                    math.comb(order, k) * powers[k] * delta ** (order - k) for k in range(order + 1)
                )
        self.counts += other.counts

    def groups(self) -> list[int]:
        """Groups that have rows."""
        return [g for g in range(self.n_groups) if self.counts[g]]

    def count(self, without: Collection[int] = ()) -> int:
        """Number of rows."""
        return sum(int(self.counts[g]) for g in self.groups() if g not in without)

    def central(self, without: Collection[int] = ()) -> Central:
        """The moments of all rows but those of some groups.

        Raises:
            ValueError: No rows are left.
        """
        kept = [g for g in self.groups() if g not in without]
        n = self.count(without)
        if not n:
            raise ValueError("no rows are left")
        s1, s2, s3, s4 = (self._sums[kept].sum(0) / n).cpu().numpy()
        m2 = np.maximum(s2 - s1**2, 0.0)
        m3 = s3 - 3 * s1 * s2 + 2 * s1**3
        m4 = np.maximum(s4 - 4 * s1 * s3 + 6 * s1**2 * s2 - 3 * s1**4, 0.0)
        return Central(n, s1 + self._shift.cpu().numpy(), m2, m3, m4)


class Rotation:
    """A random orthogonal map of rows in n log n operations a row and without a matrix.

    Signs, a discrete Hartley transform, and both again: of any vector, also one along a coordinate,
    it makes one whose coordinates are near to independent Gaussians.

    Args:
        width: Number of coordinates d.
        seed: Which one.
        device: Where it is applied.
    """

    def __init__(self, width: int, seed: int, *, device: torch.device | str = "cpu") -> None:
        draw = np.random.default_rng([seed, width])
        signs = draw.choice(np.array([-1.0, 1.0]), (2, width)) / math.sqrt(width)
        self._signs = torch.from_numpy(signs).to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (n, d) in the other basis."""
        first, second = self._signs.to(rows.dtype)
        return _hartley(_hartley(rows * first) * second)


def _hartley(rows: Tensor) -> Tensor:
    """Sums of cos + sin of each frequency (n, d): real part less imaginary one of Fourier's."""
    width = rows.shape[1]
    half = torch.fft.rfft(rows, dim=1)
    found = torch.empty_like(rows)
    known = half.shape[1]
    torch.sub(half.real, half.imag, out=found[:, :known])
    # Those beyond are the conjugates of those before, backwards.
    mirrored = (half.real + half.imag)[:, 1 : width - known + 1].flip(1)
    found[:, known:] = mirrored
    return found
