"""What fits where: items a batch, and the device for statistics, by the memory there is."""

from __future__ import annotations

from typing import Any

import torch

from geoprobe.statistics.devices import multiplies

TOKENS_PER_BATCH, TOKENS_PER_BATCH_THERE = 4096, 16384
"""Enough for full speed on a CPU, and on an accelerator, where a model alone needs fewer but each
operation of the statistics costs the same however few tokens there are; more only costs memory."""

_ACTIVATIONS_SHARE = 0.25
"""Of the free memory, for what a pass holds at a time."""

_WEIGHTS_SHARE = 0.8
"""Of the free memory of a device, for weights of a model that is spread over all there are."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free now where `device` computes."""
    import psutil

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    if device.type == "mps":  # memory is shared, of which it takes a part at most
        limit = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(0, min(free, int(limit)))
    return free


def statistics_memory(device: torch.device | None = None) -> int:
    """Bytes that statistics may take: half of what is free now where there is more.

    Rounded down to a power of two, so that the same machine gives the same number.
    """
    cpu = torch.device("cpu")
    free = max(free_memory(where) for where in {cpu, device or cpu})
    return _power_of_two(free // 2)


def statistics_device(device: torch.device, needed: int) -> torch.device:
    """Where statistics are kept and computed: with the model, if that device has room.

    Args:
        device: Where the model runs.
        needed: Bytes of the statistics.
    """
    fits = multiplies(device) and 2 * needed <= free_memory(device)
    return device if fits else torch.device("cpu")


def batch_size_for(tokens: int, item_bytes: int, free: int, device: torch.device) -> int:
    """Items a batch: enough for full speed, and no more than memory holds.

    Args:
        tokens: Tokens of the longest item.
        item_bytes: Most bytes that are alive at a time in its pass.
        free: Bytes that are free.
        device: Where the model runs.
    """
    enough = TOKENS_PER_BATCH if device.type == "cpu" else TOKENS_PER_BATCH_THERE
    by_room = int(_ACTIVATIONS_SHARE * free) // max(1, item_bytes)
    by_speed = enough // max(1, tokens)
    return max(1, by_speed if by_speed <= by_room else _power_of_two(by_room))


def spread(device_map: str) -> dict[str, Any]:
    """What transformers is told about where weights go; each device keeps room for the pass."""
    found: dict[int | str, int] = {
        i: int(_WEIGHTS_SHARE * free_memory(torch.device("cuda", i)))
        for i in range(torch.cuda.device_count())
    }
    found["cpu"] = int(_WEIGHTS_SHARE * free_memory(torch.device("cpu")))
    return {"device_map": device_map, "max_memory": found}


def _power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
