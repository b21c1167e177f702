"""First and second moments of activations: one pass, float64, grouped, mergeable."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch

from geoprobe.statistics.memory import lasting_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CHUNK_ROWS = 1024
"""Rows cast to float64 at a time: the copy stays near the processor, whatever the batch is."""


Pair: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"


_mine = threading.local()


class Sample(Protocol):
    """A finished statistic of n rows in d dimensions, with any groups of rows left out.

    `without` holds the groups to leave out.
    """

    width: int

    def count(self, without: Collection[int] = ()) -> int:
        """Number of rows."""
        ...

    def groups(self) -> list[int]:
        """Groups that have rows."""
        ...

    def second_moments(self, without: Collection[int] = ()) -> Pair:
        """Symmetric matrices with the non-zero eigenvalues of the covariance and of E[x xᵀ]."""
        ...

    def unit_rows(self, without: Collection[int] = ()) -> NDArray[np.float64]:
        """A symmetric matrix with the non-zero eigenvalues of E[u uᵀ], u = x/|x|."""
        ...


class GroupedMoments:
    """Moments of rows (n, d), kept apart by group so that any group can be left out.

    Sums are taken in float64 around a shift (the first update's mean), because E[xxᵀ] - μμᵀ cancels
    when the mean is large. Only the upper block triangle of the second moment is multiplied out.

    Args:
        width: Number of dimensions d.
        groups: Number of groups; 1 keeps no groups apart.
        unit_rows: Also keep the second moment of L2-normalised rows.
        device: Where the sums live.
    """

    def __init__(
        self,
        width: int,
        groups: int,
        *,
        unit_rows: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.width = width
        self.n_groups = groups
        self.device = torch.device(device)
        self.counts = np.zeros(groups, dtype=np.int64)
        self.zero_rows = np.zeros(groups, dtype=np.int64)
        # All that lasts is made now, before the activations come.
        size = (groups, width, width)
        self._shift = torch.zeros(width, dtype=torch.float64, device=device)
        self._first = torch.zeros(size[:2], dtype=torch.float64, device=device)
        self._second = lasting_zeros(size, torch.float64, device)
        self._unit = lasting_zeros(size, torch.float64, device) if unit_rows else None

    def update(self, rows: Tensor, group: int) -> None:
        """Adds rows (n, d) of any float dtype to one group."""
        if rows.shape[0] == 0:
            return
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            self._update(rows[start : start + CHUNK_ROWS], group % self.n_groups)

    def _update(self, rows: Tensor, group: int) -> None:
        room = scratch("chunk", (CHUNK_ROWS, self.width), torch.float64, self.device)
        exact = room[: rows.shape[0]]
        exact.copy_(rows)
        if not self.counts.any():
            self._shift.copy_(exact.mean(0))
        self.counts[group] += exact.shape[0]
        if self._unit is not None:
            norms = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
            self.zero_rows[group] += int((norms == 0).sum())
            units = scratch("units", room.shape, room.dtype, self.device)[: rows.shape[0]]
            torch.div(exact, norms.masked_fill_(norms == 0, 1.0), out=units)
            add_outer(self._unit[group], units)
        exact -= self._shift
        self._first[group].add_(exact.sum(0))
        add_outer(self._second[group], exact)

    def merge(self, other: GroupedMoments) -> None:
        """Adds another accumulator's rows; it may have another shift and is left as it was."""
        if (other.width, other.n_groups) != (self.width, self.n_groups):
            raise ValueError("only accumulators of the same width and groups merge")
        if not self.counts.any():
            self._shift.copy_(other._shift)
        delta = other._shift - self._shift
        for g in other.groups():
            n = int(other.counts[g])
            moved = n * torch.outer(delta, delta) + _cross(other._first[g], delta)
            self._second[g].add_(moved.add_(other._second[g]))
            self._first[g].add_(other._first[g] + n * delta)
            if self._unit is not None and other._unit is not None:
                self._unit[g].add_(other._unit[g])
        self.counts += other.counts
        self.zero_rows += other.zero_rows

    def groups(self) -> list[int]:
        """Groups that have rows."""
        return [g for g in range(self.n_groups) if self.counts[g]]

    def count(self, without: Collection[int] = ()) -> int:
        """Number of rows."""
        return int(self.counts.sum() - self.counts[list(without)].sum())

    def mean(self, without: Collection[int] = ()) -> NDArray[np.float64]:
        """Mean of the rows, shape (d,)."""
        return np.asarray((self._offset(without) + self._shift).cpu().numpy())

    def second_moments(self, without: Collection[int] = ()) -> Pair:
        """Covariance (d, d), ddof 0, and E[x xᵀ] (d, d)."""
        offset = self._offset(without)
        covariance = self._mean_of(self._second, without).addr_(offset, offset, alpha=-1)
        mean = offset + self._shift
        return covariance.cpu().numpy(), torch.addr(covariance, mean, mean).cpu().numpy()

    def unit_rows(self, without: Collection[int] = ()) -> NDArray[np.float64]:
        """E[u uᵀ] (d, d) of L2-normalised rows; zero rows stay zero."""
        assert self._unit is not None, "unit rows were not asked for"
        return np.asarray(self._mean_of(self._unit, without).cpu().numpy())

    def _offset(self, without: Collection[int]) -> Tensor:
        """Mean minus shift."""
        return self._first[self._kept(without)].sum(0) / self.count(without)

    def _kept(self, without: Collection[int]) -> list[int]:
        return [g for g in self.groups() if g not in without]

    def _mean_of(self, parts: Tensor, without: Collection[int]) -> Tensor:
        """Mean over groups of an upper-block matrix, made symmetric."""
        first, *others = self._kept(without)
        total = parts[first].clone()
        for group in others:
            total += parts[group]
        total /= self.count(without)
        return symmetric(total)


def _cross(first: Tensor, delta: Tensor) -> Tensor:
    outer = torch.outer(first, delta)
    return outer + outer.T


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory to work in: one of each name a thread, for all accumulators of a shape."""
    held: Tensor | None = getattr(_mine, name, None)
    if held is None or (held.shape, held.dtype, held.device) != (shape, dtype, device):
        with torch.inference_mode(False):
            held = torch.empty(shape, dtype=dtype, device=device)
        setattr(_mine, name, held)
    return held


def add_outer(total: Tensor, rows: Tensor) -> None:
    """Adds rowsᵀ rows to `total`, upper block triangle only: five eighths of the whole work.

    BLAS's own dsyrk, from SciPy, is faster alone and twice as slow beside a forward pass, as its
    threads and torch's wait for one another.
    """
    for a, b in _blocks(rows.shape[1]):
        total[a:b, a:].addmm_(rows[:, a:b].T, rows[:, a:])


def symmetric(total: Tensor) -> Tensor:
    """The matrix (d, d) whose upper blocks `add_outer` has filled, in place."""
    for a, b in _blocks(len(total)):
        total[b:, a:b] = total[a:b, b:].T
    return total


def _blocks(width: int) -> list[tuple[int, int]]:
    """First dimension of each row of blocks, and the one behind its last."""
    step = -(-width // 4) if width >= 128 else width
    return [(a, min(a + step, width)) for a in range(0, width, step)]


class Rows:
    """The rows themselves, one per sequence (last tokens, means), in the order of the sequences.

    Args:
        n: Number of sequences.
        width: Number of dimensions d.
        dtype: Precision of the stored rows; the activations' own loses nothing.
    """

    def __init__(self, n: int, width: int, dtype: torch.dtype) -> None:
        self.width = width
        self.values = lasting_zeros((n, width), dtype)
        self.present = np.zeros(n, dtype=bool)

    def update(self, rows: Tensor, index: NDArray[np.int64]) -> None:
        """Stores rows (b, d) of the sequences `index`; rows of more precision widen the store."""
        wide = torch.promote_types(self.values.dtype, rows.dtype)
        if wide != self.values.dtype:
            self.values = self.values.to(wide)
        self.values[torch.from_numpy(index)] = rows.to("cpu", self.values.dtype)
        self.present[index] = True

    def take(self, activations: Tensor, at: Tensor, index: NDArray[np.int64]) -> None:
        """Stores the row at time `at` (b,) of each sequence of activations (b, time, d).

        Copied through memory that is there already: a temporary between two activations costs the
        heap more than its size.
        """
        if activations.device.type != "cpu" or activations.dtype != self.values.dtype:
            self.update(activations[torch.arange(len(at), device=at.device), at], index)
            return
        batch, time, width = activations.shape
        rows = scratch("rows", (batch, width), activations.dtype, activations.device)
        flat = activations.reshape(batch * time, width)
        torch.index_select(flat, 0, at + torch.arange(batch) * time, out=rows)
        self.values.index_copy_(0, torch.from_numpy(index), rows)
        self.present[index] = True

    def merge(self, other: Rows) -> None:
        """Takes over the rows that another store has."""
        self.values[torch.from_numpy(other.present)] = other.values[torch.from_numpy(other.present)]
        self.present |= other.present

    def sample(self, keep: NDArray[np.bool_], n_groups: int) -> Sample:
        """Finished moments of the stored rows selected by `keep` (n,)."""
        index = np.flatnonzero(self.present & keep)
        groups = index % n_groups
        if len(index) >= self.width:
            moments = GroupedMoments(self.width, n_groups, unit_rows=True)
            for g in range(n_groups):
                moments.update(self.values[torch.from_numpy(index[groups == g])], g)
            return moments
        return GramSample(self.values[torch.from_numpy(index)].double().numpy(), groups)


class GramSample:
    """Fewer rows than dimensions: the same spectra from the n x n side.

    Args:
        rows: Rows (n, d), float64.
        groups: Group of each row (n,).
    """

    def __init__(self, rows: NDArray[np.float64], groups: NDArray[np.int64]) -> None:
        self.width = rows.shape[1]
        self._groups = groups
        shift = rows.mean(0) if len(rows) else np.zeros(self.width)
        shifted = rows - shift
        self._gram = shifted @ shifted.T
        # E[x xᵀ] needs the raw rows: (z + s)(z + s)ᵀ from the shifted ones keeps the precision.
        along = shifted @ shift
        self._raw = self._gram + along[:, None] + along[None, :] + shift @ shift
        self._norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        self.zero_rows = int((self._norms == 0).sum())

    def groups(self) -> list[int]:
        """Groups that have rows."""
        return [int(g) for g in np.unique(self._groups)]

    def _kept(self, without: Collection[int]) -> NDArray[np.int64]:
        return np.flatnonzero(~np.isin(self._groups, list(without)))

    def count(self, without: Collection[int] = ()) -> int:
        """Number of rows."""
        return len(self._kept(without))

    def second_moments(self, without: Collection[int] = ()) -> Pair:
        """Doubly centred Gram matrix over n, and that of the raw rows."""
        kept = self._kept(without)
        gram = self._gram[np.ix_(kept, kept)]
        side = gram.mean(0)
        centred = (gram - side[:, None] - side[None, :] + side.mean()) / len(kept)
        return centred, self._raw[np.ix_(kept, kept)] / len(kept)

    def unit_rows(self, without: Collection[int] = ()) -> NDArray[np.float64]:
        """Cosine matrix of the rows over n."""
        kept = self._kept(without)
        norms = np.where(self._norms == 0, 1.0, self._norms)[kept]
        return np.asarray(self._raw[np.ix_(kept, kept)] / np.outer(norms, norms) / len(kept))
