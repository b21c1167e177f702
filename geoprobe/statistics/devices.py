"""Which devices can do what statistics need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def multiplies(device: torch.device) -> bool:
    """Whether a device is an accelerator that is sure to know float64.

    Others than CUDA are the processor itself, or have none (MPS), or need not have it (XPU).
    """
    return device.type == "cuda"
