"""Products of weights where an accelerator takes them: the same readings as on the processor.

The code of the accelerator runs here on tensors of the processor, which it does not notice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import geoprobe
from geoprobe import measures
from geoprobe.errors import CheckpointError
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.neurons import paired_cosines
from geoprobe.measures.rows import as_rows
from geoprobe.probes import superposition_rows
from geoprobe.probes.base import Outcome
from geoprobe.probes.superposition_rows import DeviceRows, WeightRows, with_rows
from geoprobe.probes.superposition_weights import (
    GaussianRows,
    _null,
    gaussian_tensor,
    matrix_readings,
)
from geoprobe.statistics.devices import multiplies
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer


def drawn(n: int, m: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, generator=draw, dtype=torch.float64).to(dtype)


def same(one: Outcome, other: Outcome, rel: float = 1e-9) -> None:
    assert [r.measure for r in one.readings] == [r.measure for r in other.readings]
    for a, b in zip(one.readings, other.readings, strict=True):
        assert (a.keys, a.convention, a.reason, a.n) == (b.keys, b.convention, b.reason, b.n)
        if a.value is not None:
            assert a.value == pytest.approx(b.value, rel=rel, abs=1e-12), a.measure
    assert one.arrays.keys() == other.arrays.keys()
    for name in one.arrays:
        if "counts" not in name:  # what lies on an edge of a bin may fall to either side
            np.testing.assert_allclose(one.arrays[name], other.arrays[name], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (40, 12), (12, 40), (30, 30)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("numbers", [2**24, 64, 1])
def test_readings_are_those_of_the_processor(
    shape: tuple[int, int], dtype: torch.dtype, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superposition_rows, "_NUMBERS", numbers)
    weight = drawn(*shape, seed=numbers, dtype=dtype)
    weight[shape[0] // 2 :: 5] = 0
    for view in (weight, weight.T):
        there, here = DeviceRows(view), WeightRows(view)
        same(matrix_readings("x", there), matrix_readings("x", here))


@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-150, 1e-3, 1.0, 1e120]))
def test_products_are_what_numpy_gives(seed: int, scale: float) -> None:
    weight = scale * drawn(9 + seed % 5, 7, seed)
    weight[seed % 9] = 0
    rows, plain = DeviceRows(weight), weight.numpy()
    sizes = np.linalg.norm(plain / scale, axis=1)
    np.testing.assert_allclose(rows.norms(), scale * sizes, rtol=1e-12)
    units = plain / scale / np.where(sizes > 0, sizes, 1)[:, None]
    for found in (rows.gram(unit=True), DeviceRows(weight.T).gram(unit=False)):
        assert found.solve is not None
        np.testing.assert_allclose(
            np.sort(found.solve()),
            np.linalg.eigvalsh(found.matrix),
            atol=1e-12 * found.matrix.max(),
        )
    np.testing.assert_allclose(rows.gram(unit=True).matrix, units.T @ units, atol=1e-12)
    square = np.cov(units.T)
    forms = np.einsum("ij,jk,ik->i", units, square, units)
    np.testing.assert_allclose(rows.forms(square), forms, atol=1e-12)
    between = units @ units.T - np.diag((units**2).sum(1))
    cosine, i, j = rows.closest()
    assert i < j
    assert cosine == pytest.approx(between[i, j], abs=1e-12)
    assert abs(cosine) == pytest.approx(np.abs(between).max(), abs=1e-12)


def test_the_closest_pair_is_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superposition_rows, "_NUMBERS", 100)  # of ten rows each
    for i, j in ((0, 99), (3, 4), (9, 10), (55, 51), (98, 99)):
        weight = drawn(100, 10, 0)
        weight[j] = -2 * weight[i] + 1e-5 * weight[j]
        pair = measures.closest_pair(DeviceRows(weight))
        assert (pair.first, pair.second) == (min(i, j), max(i, j))
        assert -1 <= pair.cosine < -1 + 1e-8
    alike = measures.closest_pair(DeviceRows(torch.ones(50, 3)))
    assert alike.cosine == 1.0
    nothing = measures.closest_pair(DeviceRows(torch.eye(5)))
    assert (nothing.cosine, nothing.first, nothing.second) == (0.0, 0, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_said(bad: float) -> None:
    weight = drawn(12, 5, 0, torch.float32)
    weight[7, 2] = bad
    for measure in (measures.dimensionality, measures.interference, measures.coherence):
        with pytest.raises(Undefined, match="NaN or an infinity"):
            measure(DeviceRows(weight))
    with pytest.raises(CheckpointError, match=r"the weights x cannot be measured: .* NaN"):
        matrix_readings("x", DeviceRows(weight))


def test_too_few_rows_have_no_pair() -> None:
    weight = torch.zeros(4, 3)
    weight[1] = 1
    for measure in (measures.interference, measures.coherence):
        with pytest.raises(Undefined, match="fewer than two rows"):
            measure(DeviceRows(weight))
    assert measures.matrix_rank(DeviceRows(torch.zeros(3, 2))) == 0


def test_a_model_is_measured_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Any] = []

    def run() -> Any:
        return geoprobe.measure(
            model=tiny_model("llama"),
            tokenizer=tiny_tokenizer(),
            text=tiny_text(8),
            probes=("superposition",),
        )

    here = run()
    monkeypatch.setattr(
        superposition_rows, "multiplies", lambda device: used.append(device) or True
    )
    there = run()
    assert used
    keys = [c for c in here.readings.columns if c not in ("value", "stderr")]
    both = here.readings.join(there.readings, on=keys, suffix=" there", nulls_equal=True)
    assert both.height == here.readings.height == there.readings.height
    given, found = (both[name].drop_nulls().to_numpy() for name in ("value", "value there"))
    np.testing.assert_allclose(found, given, rtol=1e-9)


def test_without_room_on_the_accelerator_the_processor_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = drawn(20, 6, 1)
    monkeypatch.setattr(superposition_rows, "multiplies", lambda device: True)
    tried: list[bool] = []
    errors: list[Exception] = []

    def full(self: DeviceRows, *, unit: bool) -> Any:
        tried.append(unit)
        raise errors[-1]

    monkeypatch.setattr(DeviceRows, "gram", full)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
    ):
        errors.append(error)
        tried.clear()
        found = with_rows(lambda rows: matrix_readings("x", rows), weight)
        assert tried
        same(found, matrix_readings("x", WeightRows(weight)))
    errors.append(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        with_rows(lambda rows: matrix_readings("x", rows), weight)


def test_cosines_with_the_same_row_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = drawn(50, 6, 0), drawn(50, 6, 1)
    one[4], other[7] = 0, 0
    here = paired_cosines(WeightRows(one), WeightRows(other))
    expected = torch.cosine_similarity(one, other).numpy()
    for numbers in (2**24, 30):
        monkeypatch.setattr(superposition_rows, "_NUMBERS", numbers)
        found = paired_cosines(DeviceRows(one), DeviceRows(other))
        np.testing.assert_allclose(found, here, rtol=1e-12)
        np.testing.assert_array_equal(paired_cosines(DeviceRows(one), other.numpy()), here)
        assert np.flatnonzero(np.isnan(found)).tolist() == [4, 7]
        np.testing.assert_allclose(np.delete(found, [4, 7]), np.delete(expected, [4, 7]))


def test_the_null_is_of_the_same_numbers() -> None:
    device = torch.device("cpu")
    for shape in ((1, 3), (63, 5), (64, 64), (4200, 2)):
        drawn = gaussian_tensor(*shape, seed=3, device=device)
        np.testing.assert_array_equal(drawn.numpy(), GaussianRows(*shape, seed=3)[0 : shape[0]])
    here, there = (_null.__wrapped__(90, 7, 0, where) for where in (None, device))
    assert there.dimensionality == pytest.approx(here.dimensionality, rel=1e-12)
    assert there.interference == pytest.approx(here.interference, rel=1e-12)
    assert there.shares == here.shares


def test_only_what_is_sure_to_know_float64_multiplies() -> None:
    known = {name: multiplies(torch.device(name)) for name in ("cpu", "mps", "xpu", "cuda", "meta")}
    assert [name for name, does in known.items() if does] == ["cuda"]


def test_norms_are_taken_once() -> None:
    class Counted(WeightRows):
        read = 0

        def __getitem__(self, rows: slice) -> Any:
            self.read += 1
            return super().__getitem__(rows)

    counted = Counted(drawn(30, 8, 0))
    given = as_rows(counted)
    for _ in range(5):
        given.norms()
        measures.frobenius_psi(given)
    assert counted.read == 1
