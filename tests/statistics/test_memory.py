"""Lasting memory is zeros like any other."""

from __future__ import annotations

import pytest
import torch

from geoprobe.statistics.memory import lasting_zeros


@pytest.mark.parametrize("shape", [(3,), (600, 700), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_zeros_that_can_be_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = lasting_zeros(shape, dtype)
    assert (tuple(found.shape), found.dtype) == (shape, dtype)
    assert not found.any()
    found += 1
    assert float(found.double().sum()) == found.numel()
