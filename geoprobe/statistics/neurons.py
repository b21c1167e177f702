"""Moments of every coordinate up to the fourth: one pass, summed in float64, grouped, mergeable."""

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

ORDERS = 4

_CACHED_NUMBERS = 2**19
"""Numbers at a time on a processor: so many that operations take longer than their calls, and so
few that two products of them stay in its cache."""
_PARALLEL_NUMBERS = 2**25
"""On an accelerator, where each operation costs the same however few numbers there are."""
_LEAST_SCALE = 1e-8
"""Of the largest deviation at a site: coordinates of less are scaled as if they had this."""


def numbers_at_a_time(device: torch.device) -> int:
    """How many numbers are looked at together."""
    return _CACHED_NUMBERS if device.type == "cpu" else _PARALLEL_NUMBERS


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

    Powers are of the distance from a shift (the mean of the first rows), which floats of the rows'
    own precision have exactly or nearly so. Of a few hundred rows each they are summed in that
    precision, at least float32, scaled so that none is out of its range; where one is, and of all
    rows together, in float64. Sums are made central at the end.

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
        self._scale = torch.ones_like(self._shift)
        self._sums = torch.zeros(groups, ORDERS, width, dtype=torch.float64, device=device)

    @staticmethod
    def bytes_of(width: int, groups: int) -> int:
        """Memory of one accumulator."""
        return 8 * width * (groups * ORDERS + 2)

    def update(self, rows: Tensor, group: int) -> None:
        """Adds rows (n, d) of any float dtype to one group."""
        self.add(rows[None], np.array([group]), np.array([len(rows)]))

    def add(self, items: Tensor, groups: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Adds the rows of items, each item to its group.

        Args:
            items: Rows (items, time, d) of any float dtype, on any device.
            groups: Group of each item.
            lengths: Rows of each item that count, the first ones.
        """
        groups, budget = groups % self.n_groups, numbers_at_a_time(self.device)
        time = int(lengths.max(initial=0))
        together = max(1, budget // max(1, time * self.width))
        step = max(1, budget // self.width)
        found, of = [], []
        for first in range(0, len(items), together):
            some = slice(first, first + together)
            for start in range(0, int(lengths[some].max()), step):
                left = np.clip(lengths[some] - start, 0, step)
                part = items[some, start : start + int(left.max())]
                part = part.to(self.device, torch.promote_types(part.dtype, torch.float32))
                if not self.counts.any():
                    self._begin(part, left)
                np.add.at(self.counts, groups[some], left)
                found.append(self._powers_in_range(part, left))
                of.append(groups[some])
        if found:
            self._add(torch.cat(found), np.concatenate(of))

    def _begin(self, part: Tensor, left: NDArray[np.int64]) -> None:
        """Settles shift and scale by the first rows."""
        rows = torch.cat([item[:n] for item, n in zip(part, left.tolist(), strict=True)])
        shift = rows[0] + (rows - rows[0]).mean(0)  # exactly the value of what never varies
        off = (rows - shift).abs().amax(0).double()
        if not bool(off.max() > 0):
            off = rows.abs().amax(0).double()
        off = off.clamp(min=_LEAST_SCALE * float(off.max()))
        known = (off > 0) & off.isfinite()
        power = torch.where(known, torch.frexp(off).exponent, 0)
        self._shift.copy_(shift)
        self._scale.copy_(torch.ldexp(torch.ones_like(off), -power))

    def _add(self, sums: Tensor, groups: NDArray[np.int64]) -> None:
        """Adds the sums of powers (items, 4, d) to those of the items' groups."""
        of_group = np.zeros((self.n_groups, len(groups)))
        of_group[groups, np.arange(len(groups))] = 1.0
        added = torch.from_numpy(of_group).to(self.device) @ sums.flatten(1)
        orders = torch.arange(1, ORDERS + 1, device=self.device)[:, None]
        self._sums.addcdiv_(added.view(self._sums.shape), self._scale**orders)

    def _powers_in_range(self, part: Tensor, left: NDArray[np.int64]) -> Tensor:
        """Sums of powers (items, 4, d), in float64 where float32 does not reach so far."""
        sums = self._powers(part, left)
        if part.dtype == torch.float32:
            low = (sums[:, 3] < torch.finfo(torch.float32).tiny) & (sums[:, 1] > 0)
            if bool((low | ~sums[:, 3].isfinite()).any()):
                sums = self._powers(part.double(), left)
        return sums.double()

    def _powers(self, part: Tensor, left: NDArray[np.int64]) -> Tensor:
        """Sums of scaled distances from the shift to the power of 1 to 4 (items, 4, d)."""
        size = max(numbers_at_a_time(self.device), part.numel())
        x, square = (
            scratch(name, (size,), part.dtype, self.device)[: part.numel()].view(part.shape)
            for name in ("powers", "squares")
        )
        scale = self._scale.to(part.dtype)
        torch.addcmul(-self._shift.to(part.dtype) * scale, part, scale, out=x)
        if (left < part.shape[1]).any():
            ends = torch.from_numpy(left).to(self.device)
            beyond = torch.arange(part.shape[1], device=self.device) >= ends[:, None]
            x.masked_fill_(beyond[..., None], 0.0)
        torch.mul(x, x, out=square)
        sums = [x.sum(1), square.sum(1)]
        sums += [x.mul_(square).sum(1), square.mul_(square).sum(1)]
        return torch.stack(sums, 1)

    def merge(self, other: NeuronMoments) -> None:
        """Adds another accumulator's rows; it may have another shift and is left as it was."""
        if (other.width, other.n_groups) != (self.width, self.n_groups):
            raise ValueError("only accumulators of the same width and groups merge")
        if not self.counts.any():
            self._shift.copy_(other._shift)
            self._scale.copy_(other._scale)
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
