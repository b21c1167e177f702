"""Sums over a sparse autoencoder's codes: mass and activity of every feature, errors, variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class CodeSums:
    """What is known of some rows.

    Attributes:
        rows: Their number.
        mass: Sum of each feature's codes (D,).
        counts: Rows on which each feature is active (D,).
        residual: Sum of squared errors of the reconstruction.
        total: Sum of squared deviations from these rows' mean.
    """

    rows: int
    mass: Array
    counts: Array
    residual: float
    total: float


class GroupedCodes:
    """Sums kept apart by group, by whether a row is a sink's, and by a nested order of sequences.

    The order is for the curve of effective features by sample size: level 0 has the first sequence
    of a random order, level j those up to the 2^j-th.

    Args:
        width: Dimensions of the rows, d.
        features: Number of features, D.
        groups: Number of jackknife groups.
        levels: Number of levels; 0 keeps no curve.
        device: Where the sums live.
    """

    def __init__(
        self,
        width: int,
        features: int,
        groups: int,
        *,
        levels: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.width, self.features = width, features
        self.groups, self.levels = groups, levels
        cells = 2 * groups

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        self._rows = np.zeros(cells, dtype=np.int64)
        self._mass = zeros(cells, features)
        self._counts = zeros(cells, features)
        self._residual = zeros(cells)
        self._shift: Tensor | None = None
        self._first = zeros(cells, width)
        self._second = zeros(cells)
        self.level_rows = np.zeros(levels, dtype=np.int64)
        self._level_mass = zeros(levels, features)

    def update(
        self,
        rows: Tensor,
        codes: Tensor,
        found: Tensor,
        cells: NDArray[np.int64],
        levels: NDArray[np.int64] | None = None,
    ) -> None:
        """Adds rows.

        Args:
            rows: Activations (m, d).
            codes: Their codes (m, D).
            found: Their reconstruction (m, d).
            cells: 2 x group, plus 1 for a sink's (m,).
            levels: Level of each row's sequence (m,); -1 leaves a row out of the curve.
        """
        if not len(rows):
            return
        if self._shift is None:
            usual = torch.from_numpy(cells % 2 == 0).to(rows.device)
            self._shift = self._exact((rows[usual] if usual.any() else rows).mean(0))
        # A sink may be 1e5 times as large as what is left without it.
        centred = self._exact(rows) - self._shift
        squares = centred.square().sum(1)
        errors = (rows - found).square_().sum(1)
        active = (codes > 0).to(codes.dtype)
        here, which = np.unique(cells, return_inverse=True)
        into = torch.from_numpy(here).to(self._mass.device)
        self._rows[here] += np.bincount(which, minlength=len(here))
        member = _members(which, len(here), codes)
        # Sums of a chunk's codes in single precision, of chunks in double.
        for total, values in ((self._mass, codes), (self._counts, active)):
            total[into] += self._exact(member @ values)
        member = self._exact(member)
        self._first[into] += member @ centred
        self._second[into] += member @ squares
        self._residual[into] += member @ self._exact(errors)
        if levels is None or not self.levels:
            return
        kept = levels >= 0
        if not kept.all():
            codes, levels = codes[torch.from_numpy(kept).to(codes.device)], levels[kept]
        here, which = np.unique(levels, return_inverse=True)
        self.level_rows[here] += np.bincount(which, minlength=len(here))
        into = torch.from_numpy(here).to(self._mass.device)
        self._level_mass[into] += self._exact(_members(which, len(here), codes) @ codes)

    def _exact(self, sums: Tensor) -> Tensor:
        """In double precision where the sums live; some devices have none."""
        return sums.to(self._mass.device).double()

    def merge(self, other: GroupedCodes) -> None:
        """Adds another's rows; it may have another shift, and is left as it was."""
        if (self.width, self.features, self.groups, self.levels) != (
            *(other.width, other.features, other.groups, other.levels),
        ):
            raise ValueError("only sums of the same widths, groups and levels merge")
        if other._shift is None:
            return
        if self._shift is None:
            self._shift = other._shift
        delta = other._shift - self._shift
        n = torch.from_numpy(other._rows).to(self._first)
        self._second += other._second + 2 * (other._first @ delta) + n * float(delta.square().sum())
        self._first += other._first + n[:, None] * delta
        for name in ("_rows", "_mass", "_counts", "_residual", "level_rows", "_level_mass"):
            mine = getattr(self, name)
            mine += getattr(other, name)

    def known(self) -> list[int]:
        """Groups that have rows."""
        return [g for g in range(self.groups) if self._rows[2 * g : 2 * g + 2].any()]

    def sums(self, *, sinks: bool = True, without: Collection[int] = ()) -> CodeSums:
        """Sums over all rows, or those that are no sink's, with some groups left out."""
        cells = [
            2 * group + sink
            for group in range(self.groups)
            if group not in without
            for sink in ((0, 1) if sinks else (0,))
        ]
        rows = int(self._rows[cells].sum())
        first = self._first[cells].sum(0)
        total = float(self._second[cells].sum()) - float(first.square().sum()) / max(1, rows)
        return CodeSums(
            rows,
            self._mass[cells].sum(0).cpu().numpy(),
            self._counts[cells].sum(0).cpu().numpy(),
            float(self._residual[cells].sum()),
            total if math.isfinite(total) else math.nan,
        )

    def mean(self) -> Tensor:
        """Mean of all rows (d,), in double precision."""
        assert self._shift is not None
        found: Tensor = self._shift + self._first.sum(0) / int(self._rows.sum())
        return found

    def curve(self) -> tuple[NDArray[np.int64], Array]:
        """Rows up to each level (levels,), and the mass of each feature on them (levels, D)."""
        return self.level_rows.cumsum(), self._level_mass.cumsum(0).cpu().numpy()


def _members(which: NDArray[np.int64], count: int, like: Tensor) -> Tensor:
    """1 where a row belongs to a cell (cells, m)."""
    found = torch.from_numpy(which).to(like.device)
    member: Tensor = torch.arange(count, device=like.device)[:, None] == found
    return member.to(like.dtype)


def levels_of(count: int, seed: int) -> NDArray[np.int64]:
    """Level of each of so many sequences, by a random order: 0, then 1, then 2, then 4 of them."""
    rank = np.empty(count, dtype=np.int64)
    rank[np.random.default_rng(seed).permutation(count)] = np.arange(count)
    return np.where(rank == 0, 0, np.floor(np.log2(np.maximum(rank, 1))).astype(np.int64) + 1)
