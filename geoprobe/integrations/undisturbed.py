"""Measures a live module without a trace: nothing that it does afterwards is another thing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_BELOW = ("_buffers", "_forward_hooks", "_forward_pre_hooks")
"""Dictionaries of a module that a pass may change in place."""


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draws nothing from the generators of Python, NumPy and PyTorch that others draw from."""
    import numpy as np
    import torch

    kept: list[tuple[Callable[[Any], object], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002 (others draw from it)
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        kept.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        kept.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    try:
        yield
    finally:
        for give_back, state in kept:
            give_back(state)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Keeps a module as it is: its attributes, modes, buffers and hooks, and all random numbers.

    Inside, its forward pass is that of its weights: the mixed precision that accelerate puts around
    it is off, as it is for a checkpoint that is loaded.

    Args:
        model: The module; gradients are off for it inside.
    """
    import torch

    kept: list[tuple[nn.Module, dict[str, Any], dict[str, dict[Any, Any]]]] = [
        (module, dict(vars(module)), {name: dict(vars(module)[name]) for name in _BELOW})
        for module in model.modules()
    ]
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers())
        stack.enter_context(torch.no_grad())
        stack.callback(_restore, kept)
        _without_autocast(model)
        yield


def _without_autocast(model: nn.Module) -> None:
    """Puts the model's own forward in the place of accelerate's, which is in mixed precision."""
    attributes = vars(model)
    if "_original_forward" in attributes:
        attributes["forward"] = attributes["_original_forward"]


def _restore(kept: list[tuple[nn.Module, dict[str, Any], dict[str, dict[Any, Any]]]]) -> None:
    """Puts back what modules had in themselves: tracing leaves another `forward` in each of them.

    Straight into the dictionaries: `setattr` of a module would look at every value anew.
    """
    for module, attributes, below in kept:
        _put_back(vars(module), attributes)
        for name, contents in below.items():
            _put_back(vars(module)[name], contents)


def _put_back(now: dict[Any, Any], then: dict[Any, Any]) -> None:
    for name in now.keys() - then.keys():
        del now[name]
    now.update(then)
