"""Class means and within-class scatter of activations: one pass, float64, grouped, mergeable."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.statistics.memory import lasting_zeros
from geoprobe.statistics.moments import CHUNK_ROWS, add_outer, scratch, symmetric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClassSample:
    """Finished class statistics of n rows in d dimensions.

    Attributes:
        classes: Which classes have rows (C,).
        counts: How many (C,).
        means: Their means (C, d).
        variances: Mean squared distance of a class's rows to its mean (C,).
        within: Within-class covariance, ddof 0 (d, d).
    """

    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    means: Array
    variances: Array
    within: Array


class _Sums:
    """Sums of rows by group and class, around a shift."""

    def __init__(self, groups: int, classes: int, width: int, device: torch.device) -> None:
        self.counts = torch.zeros(groups * classes, dtype=torch.int64, device=device)
        self.first = lasting_zeros((groups * classes, width), torch.float64, device)
        self.squares = torch.zeros(groups * classes, dtype=torch.float64, device=device)

    def add(self, place: Tensor, rows: Tensor) -> None:
        """Adds rows (n, d) at their places (n,)."""
        self.counts += torch.bincount(place, minlength=len(self.counts))
        self.first.index_add_(0, place, rows)
        # Without products in memory of their own, as vecdot has them.
        self.squares.index_add_(0, place, torch.linalg.vector_norm(rows, dim=1).square_())

    def merge(self, other: _Sums, delta: Tensor) -> None:
        """Adds sums around another shift, which is `delta` further (places, d)."""
        n = other.counts[:, None]
        moved = 2 * torch.linalg.vecdot(other.first, delta)
        self.squares += other.squares + moved + other.counts * torch.linalg.vecdot(delta, delta)
        self.first += other.first + n * delta
        self.counts += other.counts


class ClassMoments:
    """Sums and scatter of rows (n, d) of C classes, kept apart by group.

    Rows are taken relative to a row of their own class, as the scatter within collapsed classes is
    what would be left of far larger numbers; or, to save C x d numbers, relative to one for all
    (`own_shift`). Beside the labels a second labelling of the same rows is followed, the permuted
    labels of a null: its scatter within classes is what its means leave of the whole scatter.

    Args:
        width: Number of dimensions d.
        classes: Number of classes C.
        groups: Number of groups; 1 keeps none apart.
        null: Whether a second labelling is followed.
        own_shift: Whether each class has a shift of its own.
        device: Where the sums live.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        groups: int,
        *,
        null: bool = True,
        own_shift: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.width, self.classes, self.n_groups = width, classes, groups
        self.device = torch.device(device)
        shifts = classes if own_shift else 1
        self._own = own_shift
        self._shift = torch.zeros((shifts, width), dtype=torch.float64, device=device)
        self._has_shift = torch.zeros(shifts, dtype=torch.bool, device=device)
        self._common = torch.zeros(width, dtype=torch.float64, device=device)
        self._sums = _Sums(groups, classes, width, self.device)
        self._null = _Sums(groups, classes, width, self.device) if null else None
        self._scatter = lasting_zeros((groups, width, width), torch.float64, device)

    @staticmethod
    def bytes_of(
        width: int, classes: int, groups: int, *, null: bool = True, own_shift: bool = True
    ) -> int:
        """What an accumulator takes."""
        sums = (1 + null) * groups * classes * (width + 2)
        shifts = (classes if own_shift else 1) * width + width
        return 8 * (sums + shifts + groups * width * width)

    def update(
        self,
        rows: Tensor,
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        null: NDArray[np.int64] | None = None,
    ) -> None:
        """Adds rows of any float dtype.

        Args:
            rows: Rows (n, d).
            labels: Class of each (n,).
            groups: Group of each (n,).
            null: Its class by the second labelling (n,), where one is followed.
        """
        for start in range(0, len(labels), CHUNK_ROWS):
            some = slice(start, start + CHUNK_ROWS)
            self._update(
                rows[some], labels[some], groups[some], null[some] if null is not None else None
            )

    def _update(
        self,
        rows: Tensor,
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        null: NDArray[np.int64] | None,
    ) -> None:
        room = scratch("chunk", (CHUNK_ROWS, self.width), torch.float64, self.device)
        exact = room[: len(labels)]
        exact.copy_(rows)
        group = groups % self.n_groups
        first = not bool(self._has_shift.any())
        if first:
            self._common.copy_(exact.mean(0))
        at = torch.from_numpy(labels).to(self.device)
        self._settle(exact, at)
        other = scratch("units", room.shape, room.dtype, self.device)[: len(labels)]
        if self._null is not None:
            assert null is not None, "a second labelling was asked for"
            torch.sub(exact, self._common, out=other)
            place = torch.from_numpy(group * self.classes + null).to(self.device)
            self._null.add(place, other)
        exact -= torch.index_select(self._shift, 0, at, out=other) if self._own else self._shift
        self._sums.add(torch.from_numpy(group * self.classes + labels).to(self.device), exact)
        present = np.unique(group)
        for g in present:
            mine = torch.from_numpy(np.flatnonzero(group == g)).to(self.device)
            add_outer(self._scatter[g], exact if len(present) == 1 else exact[mine])

    def _settle(self, exact: Tensor, at: Tensor) -> None:
        """The shift of classes that are seen for the first time: their mean so far."""
        if not self._own:
            if not self._has_shift[0]:
                self._shift[0].copy_(self._common)
                self._has_shift[0] = True
            return
        new = ~self._has_shift[at]
        if new.any():
            index, rows = at[new], exact[new]
            self._shift.index_add_(0, index, rows)
            times = torch.bincount(index, minlength=self.classes)
            self._shift /= times.clamp(min=1)[:, None]
            self._has_shift |= times > 0

    def merge(self, other: ClassMoments) -> None:
        """Adds another accumulator's rows; it may have other shifts and is left as it was."""
        shape = self.width, self.classes, self.n_groups, self._own, self._null is None
        if shape != (
            *(other.width, other.classes, other.n_groups, other._own, other._null is None),
        ):
            raise ValueError("only accumulators of the same classes, width and groups merge")
        if not self._has_shift.any():
            self._common.copy_(other._common)
        fresh = other._has_shift & ~self._has_shift
        self._shift[fresh] = other._shift[fresh]
        self._has_shift |= fresh
        delta = torch.where(other._has_shift[:, None], other._shift - self._shift, 0.0)
        delta = delta.expand(self.classes, self.width)
        for g in range(self.n_groups):
            part = slice(g * self.classes, (g + 1) * self.classes)
            first, counts = other._sums.first[part], other._sums.counts[part]
            cross = first.T @ delta
            moved = cross + cross.T + (delta * counts[:, None]).T @ delta
            self._scatter[g] += other._scatter[g] + moved
        every = delta.repeat(self.n_groups, 1)
        self._sums.merge(other._sums, every)
        if self._null is not None and other._null is not None:
            self._null.merge(other._null, (other._common - self._common).expand_as(every))

    def groups(self) -> list[int]:
        """Groups that have rows."""
        counts = self._sums.counts.view(self.n_groups, self.classes).sum(1)
        return [g for g in range(self.n_groups) if counts[g]]

    def count(self) -> int:
        """Number of rows."""
        return int(self._sums.counts.sum())

    def sample(self, without: Collection[int] = (), *, null: bool = False) -> ClassSample:
        """The statistics without some groups, by the labels or by the second labelling.

        Args:
            without: Groups to leave out.
            null: Whether to take the second labelling.
        """
        kept = [g for g in self.groups() if g not in without]
        counts, first, squares = self._kept(self._sums, kept)
        total = symmetric(_total(self._scatter, kept))
        mean = first / counts.clamp(min=1)[:, None]
        within = total - mean.T @ first
        means = mean + self._shift
        if null:
            assert self._null is not None
            n = counts.double()
            middle = (n @ means) / n.sum()
            around = (means - middle) * (counts > 0)[:, None]
            whole = within + (around * n[:, None]).T @ around
            counts, first, squares = self._kept(self._null, kept)
            mean = first / counts.clamp(min=1)[:, None]
            means = mean + self._common
            around = (means - middle) * (counts > 0)[:, None]
            within = whole - (around * counts[:, None]).T @ around
        variances = squares / counts.clamp(min=1) - torch.linalg.vecdot(mean, mean)
        there = (counts > 0).cpu().numpy()
        return ClassSample(
            np.flatnonzero(there),
            counts.cpu().numpy()[there],
            means.cpu().numpy()[there],
            variances.clamp(min=0.0).cpu().numpy()[there],
            (within / max(1, int(counts.sum()))).cpu().numpy(),
        )

    def _kept(self, sums: _Sums, kept: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Counts (C,), sums (C, d) and sums of squares (C,) of some groups together."""
        shape = (self.n_groups, self.classes)
        return (
            _total(sums.counts.view(shape), kept),
            _total(sums.first.view(*shape, self.width), kept),
            _total(sums.squares.view(shape), kept),
        )


def _total(parts: Tensor, kept: list[int]) -> Tensor:
    """The sum of some, without a copy of them all; zeros of none."""
    total = parts[kept[0]].clone() if kept else torch.zeros_like(parts[0])
    for part in kept[1:]:
        total += parts[part]
    return total
