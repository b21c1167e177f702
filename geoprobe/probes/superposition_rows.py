"""Weights whose rows are features: read from wherever they are, multiplied on an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from geoprobe.measures.closest import SAME
from geoprobe.measures.rows import Gram, not_finite
from geoprobe.statistics.devices import multiplies
from geoprobe.statistics.memory import out_of_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

T = TypeVar("T")

_NUMBERS = 2**24
"""Numbers of a block of a matrix, or of products of blocks: 128 MiB in float64. A few such lie on
the accelerator at a time."""


class WeightRows:
    """Rows of a parameter as NumPy has them, some at a time, wherever it is and however precise.

    Args:
        weight: The parameter (n, m), or a view of it.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()
        self.shape: tuple[int, ...] = tuple(weight.shape)
        self.device = weight.device

    def __getitem__(self, rows: slice) -> NDArray[np.floating]:
        some = self._weight[rows]
        kept = torch.promote_types(some.dtype, torch.float32)
        return np.asarray(some.to("cpu", kept).numpy())


class DeviceRows(WeightRows):
    """The same, with products taken in float64 where the parameter is.

    What comes out is on the processor: numbers of rows, and Gram matrices of the smaller side.
    """

    _norms: Tensor | None = None

    def norms(self) -> Array:
        """Euclidean norm of each row (n,)."""
        return _here(self._sizes())

    def _sizes(self) -> Tensor:
        if self._norms is None:
            found = self._empty(self.shape[0])
            for at, block in self._blocks():
                if not bool(block.isfinite().all()):
                    raise not_finite()
                largest = block.abs().amax(1)
                safe = largest.where(largest > 0, 1.0)[:, None]
                found[at] = (block / safe).square().sum(1).sqrt() * largest
            self._norms = found
        return self._norms

    def gram(self, *, unit: bool) -> Gram:
        """The Gram matrix of the smaller side."""
        (n, m), present = self.shape, int(self._sizes().count_nonzero())
        found = self._empty(min(n, m), min(n, m))
        if n < m:
            for at, block in self._blocks(unit=unit):
                for to, other in self._blocks(unit=unit, start=at.start):
                    products = block @ other.T
                    found[at, to], found[to, at] = products, products.T
        else:
            found.zero_()
            for _, block in self._blocks(unit=unit):
                found.addmm_(block.T, block)
        return Gram(_here(found), n < m, present, m, partial(_solved, found))

    def forms(self, matrix: Array) -> Array:
        """u^T S u of each unit row u."""
        there, found = torch.from_numpy(matrix).to(self.device), self._empty(self.shape[0])
        for at, units in self._blocks(unit=True):
            found[at] = ((units @ there) * units).sum(1)
        return _here(found)

    def cosines(self, other: DeviceRows) -> Array:
        """Cosine of each row with the same row of another matrix; 0 of a zero row."""
        found = self._empty(self.shape[0])
        pairs = zip(self._blocks(unit=True), other._blocks(unit=True), strict=True)
        for (at, one), (_, another) in pairs:
            found[at] = (one * another.to(self.device)).sum(1)
        return _here(found)

    def closest(self) -> tuple[float, int, int]:
        """The cosine of two different rows that is largest in size, and the two in order."""
        first, second = (int(i) for i in self._sizes().nonzero().flatten()[:2])
        best = (0.0, first, second)
        side = int(min(_NUMBERS // self.shape[1], _NUMBERS**0.5))
        for at, block in self._blocks(unit=True, step=max(1, side)):
            for to, other in self._blocks(unit=True, step=max(1, side), start=at.start):
                products = block @ other.T
                if at == to:
                    products.fill_diagonal_(0)
                place = int(products.abs().argmax())
                i, j = divmod(place, len(other))
                cosine = float(products[i, j])
                if abs(cosine) > abs(best[0]):
                    one, another = sorted((at.start + i, to.start + j))
                    best = (min(1.0, max(-1.0, cosine)), one, another)
                if abs(best[0]) >= SAME:
                    return best
        return best

    def _blocks(
        self, *, unit: bool = False, start: int = 0, step: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The rows from one on, block by block, in float64."""
        n, m = self.shape
        step = step or max(1, _NUMBERS // m)
        for first in range(start, n, step):
            at = slice(first, min(first + step, n))
            block = self._weight[at].double()
            if unit:
                norms = self._sizes()[at]
                block = block / norms.where(norms > 0, 1.0)[:, None]
            yield at, block

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=self.device)


def with_rows(measure: Callable[..., T], *weights: Tensor) -> T:
    """What is measured of parameters' rows, where they are if there is room for the products.

    Args:
        measure: Is given the rows of each.
        weights: The parameters (n, m).
    """
    if all(multiplies(weight.device) for weight in weights):
        try:
            return measure(*map(DeviceRows, weights))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
    return measure(*map(WeightRows, weights))


def _solved(matrix: Tensor) -> Array:
    return _here(torch.linalg.eigvalsh(matrix))


def _here(found: Tensor) -> Array:
    return np.asarray(found.cpu().numpy())
