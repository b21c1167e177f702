"""How much attention each query pays to chosen keys, layer by layer, without keeping a map.

The product of an attention map and a few indicator columns is what attention itself gives when
these columns stand in for the values. So a model that calls transformers' attention interface is
run with a function that attends twice: to the values, and to the columns. Families with their own
attention code are run as they are, and their softmax is read as it comes; that is whole there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from geoprobe.errors import UsageError
from geoprobe.models.examples import example

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geoprobe.models.capture import Capture, Edit

Seen = Callable[[int, "Tensor"], None]
"""Told a layer and its mass (batch, heads, queries, columns)."""

_NAME = "geoprobe"
_ROWS = 256
"""Queries whose logits are held at a time."""

LONGEST_WHOLE = 1024
"""Tokens up to which a family's own code may build its whole map."""

_TIME = 6
_SOFTMAX = (torch.softmax, torch.nn.functional.softmax, torch.Tensor.softmax)


@dataclass
class _Watch:
    """What is asked of the pass that is running."""

    columns: Tensor
    layer_of: Mapping[int, int]
    seen: Seen


_watches: list[_Watch] = []


class Attention:
    """Runs a model and shows how much attention its queries pay to chosen keys.

    Args:
        capture: The model.

    Attributes:
        whole: Whether its family's own code builds whole attention maps.

    Raises:
        UsageError: The model has no attention, or its attention is not what is read here.
    """

    def __init__(self, capture: Capture) -> None:
        layout = capture.layout
        if "attention.0" not in layout.taps:
            reason = layout.missing.get("attention", "it has no attention")
            raise UsageError(f"Attention is needed, but {reason}.")
        self._capture = capture
        self.depth = layout.depth
        self._blocks = [
            capture.backbone.get_submodule(layout.taps[f"block.{i}"].module)
            for i in range(layout.depth)
        ]
        self._layer_of = {id(m): i for i, block in enumerate(self._blocks) for m in block.modules()}
        self.whole = not _calls_the_interface(capture.backbone)
        self._check()

    def run(
        self,
        inputs: Mapping[str, Tensor],
        columns: Tensor,
        seen: Seen,
        edits: Mapping[str, Edit] | None = None,
    ) -> Tensor:
        """One pass.

        Args:
            inputs: Arguments of the backbone.
            columns: What each key counts for (batch, keys, n), n columns at once; 0 or 1 for sets.
            seen: Told each layer's mass: the attention of every query (batch, heads, queries, n).
            edits: Site name to a function giving the activations to go on with.

        Returns:
            The activations of the last site (batch, time, d).

        Raises:
            UsageError: Sequences are too long for a family whose attention is whole.
        """
        length = columns.shape[1]
        if self.whole and length > LONGEST_WHOLE:
            raise UsageError(
                f"--length {length}: the attention code of {self._capture.layout.family} models "
                f"builds whole maps, which is done up to {LONGEST_WHOLE} tokens; give less."
            )
        edits = edits or {}
        self._capture.expect(edits, inputs)  # not while attention is watched
        if self.whole:
            return self._read_softmax(inputs, columns, seen, edits)
        _register()
        _watches.append(_Watch(columns, self._layer_of, seen))
        try:
            with _attending_by(self._capture.model, _NAME):
                return self._capture.hidden(inputs, edits)
        finally:
            _watches.pop()

    def _read_softmax(
        self,
        inputs: Mapping[str, Tensor],
        columns: Tensor,
        seen: Seen,
        edits: Mapping[str, Edit],
    ) -> Tensor:
        mode = _Softmax(columns, seen)
        handles = []
        for layer, block in enumerate(self._blocks):
            handles += [
                block.register_forward_pre_hook(lambda *_, i=layer: mode.enter(i)),
                block.register_forward_hook(lambda *_: mode.enter(None)),
            ]
        try:
            with _attending_by(self._capture.model, "eager"), mode:
                return self._capture.hidden(inputs, edits)
        finally:
            for handle in handles:
                handle.remove()

    def _check(self) -> None:
        """Makes sure, on a padded batch, that the model computes what it does without us."""
        capture, family = self._capture, self._capture.layout.family
        row = example(
            capture.model, capture.layout, 2, _TIME, device=capture.device, dtype=capture.dtype
        )
        name = capture.layout.reads.mask
        kept = torch.ones(2, 1, dtype=torch.bool)
        if name is not None:
            row[name][1, _TIME // 2 :] = 0
            kept = row[name].bool()
        plain = capture.hidden(row, {})
        rows: dict[int, Tensor] = {}
        keys = plain.shape[1]
        ones = torch.ones(2, keys, 1, device=capture.device, dtype=capture.dtype)
        ours = self.run(row, ones, lambda layer, mass: rows.update({layer: mass[..., 0].clone()}))
        real = kept.expand(2, keys).to(plain.device)
        off = (ours - plain).abs()[real].max()
        loose = 1e-3 if capture.dtype == torch.float32 else 3e-2
        if not bool(off <= loose * plain.abs()[real].max()):
            raise UsageError(
                f"The attention of {family!r} models is not what geoprobe computes (the last "
                f"hidden state moves by {float(off):.2g}); sink scores would be of something else."
            )
        for layer in range(self.depth):
            if layer not in rows or float(rows[layer].max()) > 1 + loose:
                raise UsageError(
                    f"The attention of layer {layer} of {family!r} models does not come by where "
                    "it is read; sink scores would be of something else."
                )


def _calls_the_interface(backbone: nn.Module) -> bool:
    """Whether the code of a model's class is written on transformers' attention interface."""
    can = getattr(type(backbone), "_can_set_attn_implementation", None)
    return bool(can is not None and can())


@contextmanager
def _attending_by(model: nn.Module, name: str) -> Iterator[None]:
    """Lets a model attend by another function for a while."""
    configs: dict[int, Any] = {
        id(m.config): m.config for m in model.modules() if hasattr(m, "config")
    }
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, own in before:
            config._attn_implementation_internal = own


def _register() -> None:
    """Makes our function known to transformers, with the masks that its sdpa has."""
    utils: Any = import_module("transformers.modeling_utils")
    masks: Any = import_module("transformers.masking_utils")
    if _NAME not in utils.ALL_ATTENTION_FUNCTIONS:
        utils.AttentionInterface.register(_NAME, _attend)
        masks.AttentionMaskInterface.register(_NAME, masks.sdpa_mask)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' sdpa has it, to the values and to the columns."""
    watch = _watches[-1]
    options["dropout"] = 0.0
    layer = watch.layer_of[id(module)]
    columns = watch.columns.to(value.device, value.dtype)
    if options.get("softcap") is not None or options.get("s_aux") is not None:
        given, mass = _in_blocks(module, query, key, value, attention_mask, columns, options)
        watch.seen(layer, mass)
        return given, None
    sdpa: Any = import_module("transformers.integrations.sdpa_attention").sdpa_attention_forward
    given, _ = sdpa(module, query, key, value, attention_mask, **options)
    width = value.shape[-1]
    parts = []
    for part in torch.split(columns, width, dim=-1):
        # As wide as the values: kernels that never build the map take no other.
        padded = torch.nn.functional.pad(part, (0, width - part.shape[-1]))
        stand_in = padded[:, None].expand(-1, key.shape[1], -1, -1)
        mass, _ = sdpa(module, query, key, stand_in, attention_mask, **options)
        parts.append(mass[..., : part.shape[-1]].transpose(1, 2))
    watch.seen(layer, parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
    return given, None


def _in_blocks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    columns: Tensor,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """Attention with capped logits or a learned sink, a block of queries at a time."""
    softcap, sink = options.get("softcap"), options.get("s_aux")
    heads, length = query.shape[1], key.shape[2]
    key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    lowest = torch.finfo(query.dtype).min
    at = torch.arange(length, device=query.device)
    given, masses = [], []
    for start in range(0, query.shape[2], _ROWS):
        rows = slice(start, start + _ROWS)
        logits = query[:, :, rows] @ key.transpose(2, 3) * scale
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        if mask is None:
            if causal:
                logits = logits.masked_fill(at[rows, None] < at, lowest)
        elif mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask[:, :, rows], lowest)
        else:
            logits = logits + mask[:, :, rows]
        if sink is not None:
            column = sink.reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            logits = torch.cat([logits, column.to(logits.dtype)], dim=-1)
        weights = logits.softmax(-1, dtype=torch.float32)[..., :length].to(value.dtype)
        given.append(weights @ value)
        masses.append(weights @ columns[:, None])
    return torch.cat(given, dim=2).transpose(1, 2).contiguous(), torch.cat(masses, dim=2)


class _Softmax(TorchFunctionMode):
    """Reads the attention maps of a family's own code as they are made.

    Args:
        columns: What each key counts for (batch, keys, n).
        seen: Told each layer's mass.
    """

    def __init__(self, columns: Tensor, seen: Seen) -> None:
        super().__init__()
        self._columns = columns
        self._seen = seen
        self._layer: int | None = None

    def enter(self, layer: int | None) -> None:
        """A block begins, or ends."""
        self._layer = layer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        length = self._columns.shape[1]
        if func in _SOFTMAX and self._layer is not None and found.shape[-1] == length:
            whole = found.reshape(len(self._columns), -1, *found.shape[-2:])
            self._seen(self._layer, whole @ self._columns[:, None].to(whole.device, whole.dtype))
        return found
