"""Lasting memory is zeros like any other."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import psutil
import pytest
import torch

from geoprobe.statistics.memory import give_back, lasting_zeros


@pytest.mark.parametrize("shape", [(3,), (600, 700), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_zeros_that_can_be_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = lasting_zeros(shape, dtype)
    assert (tuple(found.shape), found.dtype) == (shape, dtype)
    assert not found.any()
    found += 1
    assert float(found.double().sum()) == found.numel()


def test_giving_back_shrinks_what_a_torn_heap_holds() -> None:
    if not Path("/proc/self/statm").exists() or platform.libc_ver()[0] != "glibc":
        pytest.skip("the heap of glibc on Linux is the one that needs this")
    blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]
    pins = blocks[::10]
    del blocks
    before = psutil.Process().memory_info().rss
    time.sleep(1.1)  # it is done once a second at most
    give_back()
    assert before - psutil.Process().memory_info().rss > 50 * 2**20
    assert len(pins) == 100
