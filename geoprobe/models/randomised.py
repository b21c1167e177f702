"""The same model with random weights: what a measure gives where nothing was learnt."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from geoprobe.errors import UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.layout import find_layout
from geoprobe.placement import free_memory

if TYPE_CHECKING:
    from torch import nn


_NEVER = 0x5EED_0000
"""Added to seeds: a network that was initialised with the seed 0 is no null of itself."""


def randomised(capture: Capture, seed: int) -> Capture:
    """A model of the same architecture, initialised as its own code does.

    Args:
        capture: The model.
        seed: Seed of its weights.

    Raises:
        UsageError: It cannot be made: there is no room, or the network does not say how it is
            initialised.
    """
    model = capture.model
    if getattr(model, "hf_device_map", None):
        raise UsageError("the model is spread over devices, and another has no room beside it")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if 2 * size > free_memory(capture.device):
        raise UsageError(f"there is no room for another model of {size / 2**30:.1f} GiB")
    with torch.random.fork_rng():
        torch.manual_seed(_NEVER + seed)
        if hasattr(model, "config") and hasattr(type(model), "_from_config"):
            made: Any = _of_config(model, capture.dtype)
            layout = find_layout(made)
        else:
            made = _reset(model)
            layout = capture.layout
    made = made.to(capture.device).eval().requires_grad_(False)
    return Capture(made, layout)


def _of_config(model: Any, dtype: torch.dtype) -> nn.Module:
    config = copy.deepcopy(model.config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    options = {"add_pooling_layer": False} if getattr(model, "pooler", 0) is None else {}
    made: nn.Module = type(model)._from_config(config, dtype=dtype, **options)
    return made


def _reset(model: nn.Module) -> nn.Module:
    """A copy whose modules initialised themselves anew.

    Raises:
        UsageError: A module with weights has no way to.
    """
    made = copy.deepcopy(model)
    for name, module in made.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        reset = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if reset is None:
            raise UsageError(
                f"the module {name or type(module).__name__} has weights, and no method "
                "reset_parameters by which to initialise them"
            )
        reset()
    return made
