"""Memory for what lives as long as a pass, apart from what comes and goes with every layer."""

from __future__ import annotations

import math
import mmap

import torch

_OWN_MAPPING_BYTES = 2**20


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
    """
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < _OWN_MAPPING_BYTES:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)
