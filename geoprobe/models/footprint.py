"""How many bytes a pass holds at a time, on any device and on none."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from geoprobe.models.capture import module_by_module, options_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes of tensors are alive beside those of a model.

    On the meta device nothing is computed, and nothing is really taken.

    Attributes:
        peak: The most so far.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        own = [*model.parameters(), *model.buffers()]
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_meta = any(isinstance(a, torch.Tensor) and a.is_meta for a in args)
        if on_meta and func is torch.ops.aten._local_scalar_dense.default:
            return 1  # a question about values that are not there: no padding, nothing packed
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known[storage._cdata] = size = storage.nbytes()
                    self._now += size
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self._now)
        return found

    def _gone(self, key: int) -> None:
        self._now -= self._known.pop(key, 0)


def pass_bytes(backbone: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Most bytes that are alive at a time in one pass of a backbone, its weights aside."""
    live = Live(backbone)
    with live, module_by_module(), torch.no_grad():
        backbone(**inputs, **options_of(backbone))
    return live.peak
