"""Memory for what lives as long as a pass, apart from what comes and goes with every layer."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import time
from collections.abc import Callable
from functools import cache

import torch

_OWN_MAPPING_BYTES = 2**20
_SECONDS_BETWEEN = 1.0
_given_back = [0.0]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of no memory: each backend, and each library of it, has its own."""
    seen = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(
        words in seen
        for words in ("out of memory", "outofmemory", "can't allocate memory", "alloc_failed")
    )


def lasting_zeros(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Zeros in a mapping of their own.

    Among the activations on the heap, a block that stays keeps the free memory around it from being
    used for larger ones or given back: the process then grows by several times what it holds.

    Args:
        shape: Shape of the tensor.
        dtype: Its type.
        device: Where it lives; only the processor's memory needs this care.

    Raises:
        MemoryError: There is not so much.
    """
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < _OWN_MAPPING_BYTES:
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        room = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes") from error
    return torch.frombuffer(room, dtype=dtype).view(shape)


def give_back() -> None:
    """Gives the heap's free pages back to the system, where the C library is glibc.

    Without it the heap creeps up from batch to batch. It takes some milliseconds, so that more than
    once a second would be felt.
    """
    trim, now = _malloc_trim(), time.monotonic()
    if trim is not None and now - _given_back[0] > _SECONDS_BETWEEN:
        trim(0)
        _given_back[0] = now


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
