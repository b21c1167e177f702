"""State dicts in files of their own: torch.save of a training loop, a Lightning .ckpt.

Such a file names its tensors as the training loop saw them (`model.`, `module.`, `_orig_mod.` in
front) and may hold an optimiser beside the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from geoprobe.models.tensor_files import tensors_in, unpickled
from geoprobe.models.weights import DamagedError, shown

_HELD_AS = ("state_dict", "model_state_dict", "model", "module", "params", "weights")
"""Keys under which training loops keep the weights; Lightning's is the first."""

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names."""

_DEEPEST = 4


def read_state(path: Path, expected: Collection[str]) -> dict[str, Tensor]:
    """The weights in a file, named as a model names them.

    Args:
        path: A file that torch.save wrote, or a safetensors file.
        expected: The model's names.

    Raises:
        DamagedError: It is damaged, holds no weights, or those of another model.
    """
    if path.suffix == ".safetensors":
        state = dict(tensors_in([path]))
    else:
        state = weights_in(unpickled(path))
    if not state:
        raise DamagedError(f"{shown(path.name)} holds no state dict", unfinished=False)
    return fit(state, expected)


def weights_in(found: Any) -> dict[str, Tensor]:
    """The state dict in what a training loop saved; empty where there is none."""
    if not isinstance(found, Mapping):
        return {}
    for name in _HELD_AS:
        if isinstance(found.get(name), Mapping) and (inner := weights_in(found[name])):
            return inner
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def fit(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """A state dict without what its names have in front of the model's own.

    The prefix is the one that leaves most names that the model has; tensors without it (a loss, a
    metric) are left out.

    Raises:
        DamagedError: Two prefixes do equally well: a teacher beside a student, an average.
    """
    expected = set(expected)
    plain = {_unwrapped(name): tensor for name, tensor in state.items()}
    prefixes = {""}
    for name in plain:
        parts = name.split(".")
        prefixes |= {".".join(parts[:n]) + "." for n in range(1, min(_DEEPEST, len(parts) - 1) + 1)}

    def hits(prefix: str) -> tuple[int, int]:
        found = sum(n.startswith(prefix) and n[len(prefix) :] in expected for n in plain)
        return found, -len(prefix)  # of none, the shortest

    best = max(sorted(prefixes), key=hits)
    equal = [p for p in sorted(prefixes) if p != best and hits(p)[0] == hits(best)[0] > 0]
    if equal:
        raise DamagedError(
            f"it holds weights of the same names twice, under {shown(best)!r} and "
            f"{shown(equal[0])!r}; save those that are meant alone",
            unfinished=False,
        )
    return {n[len(best) :]: tensor for n, tensor in plain.items() if n.startswith(best)}


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
