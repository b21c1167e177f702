"""The readings of one matrix whose rows are features: of a model's weights, of a decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from geoprobe import measures
from geoprobe.errors import CheckpointError
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.rows import Matrix, as_rows
from geoprobe.measures.superposition import (
    CONVENTIONS,
    PLATEAUS,
    TOLERANCE,
    plateau_share,
    plateau_surroundings,
)
from geoprobe.probes.base import Outcome
from geoprobe.probes.readings import A_NULL, Value, evaluate, jackknifed
from geoprobe.probes.superposition_rows import DeviceRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.runs.reading import Key

    Array = NDArray[np.float64]

NAME = "superposition"

KEPT_WHOLE = 5000
"""Of so many features at most each one's numbers are kept; of more, a histogram."""

BINS = 200
"""Of the histogram of dimensionalities over [0, 1]."""

PLATEAU_SHARE = 0.05
"""A plateau is told of where so much larger a share of features is near it than of the null, and
than a smooth distribution would have by what is on either side."""

_PEAK = 2.0
"""And where the share is more than so many times the latter."""

_MOST = 0.5
"""And where it is so large a share, or more features than chance has: toy models have few."""

_FAINT, _FAINT_SHARE = 0.01, 0.2
"""Features of so small a share of what shape alone gives are not represented; so many are told."""

_NOT = next(name for name, value in PLATEAUS.items() if value == 0)

FIXED = "no standard error: a property of the weights"
_COUNTED = "no standard error: it follows from the numbers of rows and dimensions"
_TILE, _DRAWN = 64, 4096
"""Rows that are drawn by a seed of their own, and that are drawn before they go to a device."""


class GaussianRows:
    """Independent Gaussian numbers (n, m), drawn anew by the seed whenever rows are asked for.

    Args:
        n: Rows.
        m: Dimensions.
        seed: Seed of the draw.
    """

    def __init__(self, n: int, m: int, seed: int) -> None:
        self.shape: tuple[int, ...] = (n, m)
        self._seed = seed

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        start, stop, _ = rows.indices(self.shape[0])
        first = start // _TILE
        found = [
            np.random.default_rng([self._seed, tile]).standard_normal(
                (_TILE, self.shape[1]), dtype=np.float32
            )
            for tile in range(first, -(-stop // _TILE))
        ]
        offset = first * _TILE
        return np.concatenate(found)[start - offset : stop - offset]


def gaussian_tensor(n: int, m: int, seed: int, device: torch.device) -> torch.Tensor:
    """The same numbers all at once (n, m), in float32 on a device."""
    drawn, found = GaussianRows(n, m, seed), torch.empty(n, m, device=device)
    for start in range(0, n, _DRAWN):
        at = slice(start, min(start + _DRAWN, n))
        found[at] = torch.from_numpy(drawn[at])
    return found


class _Null(NamedTuple):
    dimensionality: float
    interference: Value
    shares: Mapping[str, float]


@lru_cache(maxsize=64)
def _null(n: int, m: int, seed: int, device: torch.device | None) -> _Null:
    """The same of independent Gaussian rows; once for all matrices of a shape.

    Products are taken on a device, or where there is none, block by block on the processor.
    """
    drawn: Matrix = GaussianRows(n, m, seed)
    if device is not None:
        drawn = DeviceRows(gaussian_tensor(n, m, seed, device))
    drawn = as_rows(drawn)
    values = measures.dimensionality(drawn)
    mean = "there are fewer than two rows" if n < 2 else measures.interference(drawn)
    return _Null(float(values.mean()), mean, plateau_share(values))


def operations(n: int, m: int, *, skip_coherence: bool, there: bool = False) -> float:
    """Floating-point operations, in float64, of `matrix_readings`.

    A Gram matrix of n rows in m dimensions takes n m min(n, m) of them, once of the rows as they
    are and once of unit rows, and what each row shares 2 n m^2; all of it again for the null. The
    eigenvalues are 4/3 min(n, m)^3, the pairs n^2 m, in float32 unless it is there: on an
    accelerator.
    """
    k = min(n, m)
    sums = 2.0 * n * m * k + (2.0 * n * m * m if n >= m else 0.0)
    pairs = 0.0 if skip_coherence else n * n * m / (1 if there else 2)
    return 2 * sums + 4 / 3 * k**3 + pairs


def matrix_readings(
    name: str,
    rows: Matrix,
    seed: int = 0,
    *,
    skip_coherence: bool = False,
    each_norm: bool = False,
) -> Outcome:
    """Everything that is measured of a matrix whose rows are features.

    Args:
        name: The site of the readings, and part of the names of the arrays.
        rows: Features (n, m).
        seed: Seed of the null.
        skip_coherence: Leave out what takes time with the square of the rows.
        each_norm: Keep each row's norm however many rows there are, as of neurons.

    Raises:
        CheckpointError: There is a NaN or an infinity.
    """
    given = as_rows(rows)
    n, m = given.shape
    try:
        norms = given.norms()
    except Undefined as undefined:
        raise CheckpointError(
            f"the weights {name} cannot be measured: {undefined.reason}."
        ) from None
    outcome = Outcome()
    null = _null(n, m, seed, rows.device if isinstance(rows, DeviceRows) else None)

    def add(
        measure: str,
        value: Value,
        why: str = FIXED,
        rows: str = "given",
        convention: str = "exact",
    ) -> None:
        keys: dict[str, Key] = {"of": "weights", "rows": rows}
        outcome.readings.append(
            jackknifed(NAME, measure, name, keys, value, [], n, why, convention)
        )

    values = measures.dimensionality(given)
    add("dimensionality", float(values.mean()))
    add("dimensionality", null.dimensionality, A_NULL, "gaussian")
    add("dimensionality_sum", measures.total_dimensionality(values))
    units = given.gram(unit=True)
    add("matrix_rank", float(measures.matrix_rank(units)))
    add("interference", evaluate(measures.interference, units))
    add("interference", null.interference, A_NULL, "gaussian")
    add("welch_bound", evaluate(measures.welch_bound, units.rows, m), _COUNTED)
    if not skip_coherence:
        try:
            pair = measures.closest_pair(given)
            add("coherence", abs(pair.cosine))
            outcome.findings.append(_closest(name, pair))
        except Undefined as undefined:
            add("coherence", undefined.reason)
    for convention in CONVENTIONS:
        for measure, function in (
            ("dimensions_per_feature", measures.dimensions_per_feature),
            ("frobenius_psi", measures.frobenius_psi),
        ):
            add(measure, evaluate(function, given, convention), convention=convention)
    add("row_norm", measures.row_norm(norms))
    outcome.arrays = _arrays(name, values, norms, each_norm)
    outcome.findings += _plateaus(name, values, null)
    return outcome


def _arrays(name: str, values: Array, norms: Array, each_norm: bool) -> dict[str, NDArray[Any]]:
    """The features' own numbers, or how many have which."""
    counts, _ = np.histogram(values, bins=BINS, range=(0.0, 1.0))
    found: dict[str, NDArray[Any]] = {f"{NAME}/{name}/dimensionality_counts": counts}
    if len(values) <= KEPT_WHOLE:
        found[f"{NAME}/{name}/dimensionality"] = values
    if len(values) <= KEPT_WHOLE or each_norm:
        found[f"{NAME}/{name}/row_norm"] = norms.astype(np.float32)
    return found


def _plateaus(name: str, values: Array, null: _Null) -> list[dict[str, Any]]:
    """Plateaus at which features gather, and not because of the matrix' shape alone."""
    found, around = [], plateau_surroundings(values)
    # Near 0, by itself, is what many rows in few dimensions all are.
    least = _FAINT * null.dimensionality
    faint = float((values <= least).mean())
    if faint > _FAINT_SHARE:
        found.append(
            {
                "kind": "plateau",
                "site": name,
                "plateau": _NOT,
                "dimensionality": 0.0,
                "share": faint,
                "null_share": 0.0,
                "around": 0.0,
                "count": round(faint * len(values)),
                "tolerance": least,
                "message": f"{name}: {faint:.0%} of {len(values):,} features have less than a "
                "hundredth of the dimensions of independent Gaussian rows: they are not "
                "represented, or along many others.",
            }
        )
    for plateau, share in plateau_share(values).items():
        if plateau == _NOT:
            continue
        of_null, smooth = null.shares[plateau], around[plateau]
        if not _is_peak(share, of_null, smooth, len(values)):
            continue
        found.append(
            {
                "kind": "plateau",
                "site": name,
                "plateau": plateau,
                "dimensionality": PLATEAUS[plateau],
                "share": share,
                "null_share": of_null,
                "around": smooth,
                "count": round(share * len(values)),
                "tolerance": TOLERANCE,
                "message": f"{name}: {share:.0%} of {len(values):,} features have within "
                f"{TOLERANCE:g} of {PLATEAUS[plateau]:.3g} dimensions ({plateau}); of independent "
                f"Gaussian rows {of_null:.0%}.",
            }
        )
    return found


def _is_peak(share: float, of_null: float, smooth: float, n: int) -> bool:
    """Whether so many features are near a plateau that neither shape nor chance puts them there."""
    if share <= max(of_null, smooth) + PLATEAU_SHARE or share <= _PEAK * smooth:
        return False
    # Three standard deviations of counts; what is around was counted on half the width or less.
    chance = 3 * math.sqrt(n * (share + 2 * smooth) + 1)
    return share >= _MOST or n * (share - max(of_null, smooth)) > chance


def _closest(name: str, pair: measures.Closest) -> dict[str, Any]:
    """The pair behind the coherence; of a vocabulary its tokens, which the survey spells out."""
    both = [pair.first, pair.second]
    tokens = {"token_ids": both} if name in ("embedding", "unembedding") else {}
    return {"kind": "closest", "site": name, "cosine": pair.cosine, "rows": both, **tokens}
