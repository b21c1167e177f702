"""Reads and edits a model's sites while it runs. The only file that knows nnsight.

A trace body calls one function and assigns nothing: names rebound inside it would be lost. Each
module's input or output is asked for once, in the order of execution recorded on a first pass, and
is handed to every observer there and then, so no layer's activations outlive their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from nnsight import NNsight

from geoprobe.errors import UsageError
from geoprobe.models.layout import Layout, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

Observer = Callable[[str, "Tensor"], None]
Edit = Callable[["Tensor"], "Tensor"]


def _first(value: Any) -> Tensor:
    """Blocks return a tensor in some families and a tuple that begins with it in others."""
    tensor: Tensor = value[0] if isinstance(value, tuple) else value
    return tensor


class Capture:
    """Runs a model and shows its sites to observers.

    Args:
        model: The loaded model; the capture wraps its backbone, so the head costs nothing.
        layout: Where the sites are.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self.layout = layout
        self.model = model
        self.backbone = model.get_submodule(layout.backbone)
        self._wrapped = NNsight(self.backbone)
        self._order: dict[str, int] = {}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        sites: Iterable[str],
        observe: Observer,
        edits: Mapping[str, Edit] | None = None,
    ) -> None:
        """One forward pass; stops after the deepest site asked for.

        Args:
            inputs: Arguments of the backbone (`input_ids`, `attention_mask`).
            sites: Names of the sites to show.
            observe: Called with each site's name and its activations (batch, time, d) as they are
                produced. Observers must not keep the tensor without copying it.
            edits: Site name to a function giving the activations to go on with. Observers see the
                edited activations.
        """
        edits = edits or {}
        watched = set(sites)
        wanted = self._in_order({*watched, *edits}, inputs)
        with torch.inference_mode(), self._wrapped.trace(**inputs, use_cache=False) as tracer:
            self._body(tracer, wanted, watched, observe, edits)

    def _body(
        self,
        tracer: Any,
        wanted: list[str],
        watched: set[str],
        observe: Observer,
        edits: Mapping[str, Edit],
    ) -> None:
        for site in wanted:
            tap = self.layout.taps[site]
            module = self._wrapped.get(tap.module)
            value = module.input if tap.side == "input" else module.output
            tensor = _first(value)
            if site in edits:
                tensor = edits[site](tensor)
                if tap.side == "input":
                    module.input = tensor
                elif isinstance(value, tuple):
                    module.output = (tensor, *value[1:])
                else:
                    module.output = tensor
            if site in watched:
                observe(site, tensor)
        tracer.stop()

    def hidden(self, inputs: Mapping[str, Tensor], edits: Mapping[str, Edit]) -> Tensor:
        """The last hidden state (batch, time, d) of a pass with some sites edited."""
        found: list[Tensor] = []
        last = self.layout.sites[-1]
        self.run(inputs, [last], lambda _, x: found.append(x), edits)
        return found[0]

    def logits(self, final: Tensor) -> Tensor:
        """The head's answer (..., vocabulary) to last hidden states (..., d).

        Raises:
            UsageError: The model has no language-model head.
        """
        if self.layout.head is None:
            raise UsageError(f"The logits are needed, but {self.layout.missing['logits']}.")
        with torch.inference_mode():
            head = self.model.get_submodule(self.layout.head)
            found: Tensor = head(final.to(next(head.parameters()).dtype))
        return found

    def check_head(self, inputs: Mapping[str, Tensor]) -> None:
        """Makes sure that the head alone turns `final` into the model's own logits.

        Raises:
            UsageError: It does not: the family scales, caps or otherwise changes its logits.
        """
        small = {name: value[:1] for name, value in inputs.items()}
        ours = self.logits(self.hidden(small, {}))
        with torch.inference_mode():
            own = self.model(**small, use_cache=False).logits
        if not torch.allclose(own, ours, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
            raise UsageError(
                f"Models of type {self.layout.family!r} change their logits after the head, which "
                "direction ablation does not support; leave --ablate out."
            )

    def _in_order(self, sites: set[str], inputs: Mapping[str, Tensor]) -> list[str]:
        if not sites <= self._order.keys():
            self._record_order(sites | self._order.keys(), inputs)
        return sorted(sites, key=self._order.__getitem__)

    def _record_order(self, sites: set[str], inputs: Mapping[str, Tensor]) -> None:
        """Runs one token through plain hooks and notes when each site comes by."""
        seen: list[str] = []
        handles = []
        for site in sites:
            tap: Tap = self.layout.taps[site]
            module = self.backbone.get_submodule(tap.module)

            def note(*_: Any, site: str = site) -> None:
                seen.append(site)

            if tap.side == "input":
                handles.append(module.register_forward_pre_hook(note))
            else:
                handles.append(module.register_forward_hook(note))
        try:
            with torch.inference_mode():
                self.backbone(**{k: v[:1, :1] for k, v in inputs.items()}, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        self._order = {site: i for i, site in enumerate(dict.fromkeys(seen))}
