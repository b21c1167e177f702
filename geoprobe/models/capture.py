"""Reads and edits a model's sites while it runs. The only file that knows nnsight.

A trace body calls one function and assigns nothing: names rebound inside it would be lost. Each
module's input or output is asked for once, in the order of execution recorded on a first pass, and
is handed to every observer there and then, so no layer's activations outlive their turn.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from nnsight import NNsight

from geoprobe.errors import UsageError
from geoprobe.models.layout import Layout, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

_At = tuple[str, str]
"""Path of a module, and the side that is read."""
Observer = Callable[[str, "Tensor"], None]
Edit = Callable[["Tensor"], "Tensor"]


def _first(value: Any) -> Tensor:
    """Blocks return a tensor in some families and a tuple that begins with it in others."""
    tensor: Tensor = value[0] if isinstance(value, tuple | list) else value
    return tensor


def _part(whole: Tensor, tap: Tap, batch: int) -> Tensor:
    """A site's activations (batch, time, d): some families flatten tokens, some fuse two maps."""
    if tap.features == "first":
        return whole.flatten(2).transpose(1, 2)
    if whole.ndim != 3:
        whole = whole.reshape(batch, -1, whole.shape[-1])
    return whole if tap.half is None else whole.chunk(2, dim=-1)[tap.half]


def _with_part(whole: Tensor, tap: Tap, part: Tensor) -> Tensor:
    """What a module gives when a site's activations are replaced."""
    if tap.features == "first":
        return part.transpose(1, 2).reshape(whole.shape)
    if tap.half is not None:
        halves = list(whole.chunk(2, dim=-1))
        halves[tap.half] = part.view_as(halves[tap.half])
        return torch.cat(halves, dim=-1)
    return part.reshape(whole.shape)


def options_of(backbone: nn.Module) -> dict[str, bool]:
    """What a measuring pass tells a backbone besides its input: to keep no cache."""
    # Of the class: a module that has been traced before has another in its place.
    takes = inspect.signature(type(backbone).forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}


@contextmanager
def module_by_module() -> Iterator[None]:
    """Keeps PyTorch's own encoder layers from running as one kernel, past their modules."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _main_device(model: nn.Module) -> torch.device | None:
    """Where a model that is spread over devices takes its input; None where it is on one."""
    placed: Mapping[str, Any] | None = getattr(model, "hf_device_map", None)
    if not placed:
        return None
    computing = [where for where in placed.values() if where not in ("cpu", "disk")]
    return torch.device(computing[0] if computing else "cpu")


class Capture:
    """Runs a model and shows its sites to observers.

    Args:
        model: The loaded model; the capture wraps the layout's root, so that a language model's
            head costs nothing.
        layout: Where the sites are.

    Attributes:
        device: Where inputs go; weights may be elsewhere, as they are needed.
        dtype: Precision of the weights.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self.layout = layout
        self.model = model
        self.backbone = model.get_submodule(layout.root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on modules that are called `output`, see `_module`
            self._wrapped = NNsight(self.backbone)
        self._order: dict[str, int] = {}
        self.options = options_of(self.backbone)
        weights = next(model.parameters())
        self.dtype = weights.dtype
        self.device = _main_device(model) or weights.device

    def run(
        self,
        inputs: Mapping[str, Tensor],
        sites: Iterable[str],
        observe: Observer,
        edits: Mapping[str, Edit] | None = None,
    ) -> None:
        """One forward pass; stops after the deepest site asked for.

        Args:
            inputs: Arguments of the backbone (`input_ids`, `attention_mask`), batch first.
            sites: Names of the sites to show.
            observe: Called with each site's name and its activations (batch, time, d) as they are
                produced. Observers must not keep the tensor without copying it.
            edits: Site name to a function giving the activations to go on with. Observers see the
                edited activations.
        """
        edits = edits or {}
        watched = set(sites)
        wanted = self._in_order({*watched, *edits}, inputs)
        with module_by_module(), torch.inference_mode():  # noqa: SIM117 (nnsight reads the body)
            with self._wrapped.trace(**inputs, **self.options) as tracer:
                batch = len(next(iter(inputs.values())))
                self._body(tracer, wanted, watched, observe, edits, batch)

    def _body(
        self,
        tracer: Any,
        wanted: list[tuple[_At, list[str]]],
        watched: set[str],
        observe: Observer,
        edits: Mapping[str, Edit],
        batch: int,
    ) -> None:
        for (path, side), sites in wanted:
            module = self._module(path)
            value = module.input if side == "input" else module.output
            whole = _first(value)
            for site in sites:
                tap = self.layout.taps[site]
                tensor = _part(whole, tap, batch)
                if site in edits:
                    tensor = edits[site](tensor)
                    whole = _with_part(whole, tap, tensor)
                    if side == "input":
                        module.input = whole
                    else:
                        module.output = (whole, *value[1:]) if isinstance(value, tuple) else whole
                if site in watched:
                    observe(site, tensor)
        tracer.stop()

    def _module(self, path: str) -> Any:
        """The wrapper of a module; one that is called `output` goes by another name there."""
        found: Any = self._wrapped
        for part in path.split("."):
            moved = f"{NNsight.OVERLOAD_PREFIX}{part}"
            found = getattr(found, moved if moved in vars(found) else part)
        return found

    def times(self, inputs: Mapping[str, Tensor], sites: Iterable[str]) -> dict[str, int]:
        """Number of tokens that the model makes of an item, site by site."""
        found: dict[str, int] = {}
        self.run(inputs, sites, lambda site, x: found.update({site: x.shape[1]}))
        return found

    def hidden(self, inputs: Mapping[str, Tensor], edits: Mapping[str, Edit]) -> Tensor:
        """The last hidden state (batch, time, d) of a pass with some sites edited."""
        found: list[Tensor] = []
        last = self.layout.sites[-1]
        self.run(inputs, [last], lambda _, x: found.append(x), edits)
        return found[0].to(self.device)

    @contextmanager
    def deactivated(self, units: Mapping[str, Tensor]) -> Iterator[None]:
        """Sets output units to 0 at every token, in whatever the model is run for meanwhile.

        By plain hooks: generating a text is many short passes, each of which a trace would double.
        An observer of such a site is shown it as it was before, and all that comes after without.

        Args:
            units: Site name to the units (k,); sites that are a module's output.
        """
        per_module: dict[str, list[Tensor]] = {}
        for site, index in units.items():
            tap = self.layout.taps[site]
            assert tap.side == "output"
            assert tap.features == "last"
            per_module.setdefault(tap.module, []).append(
                index + (tap.half or 0) * self.layout.width_of(site)
            )

        def zeroing(index: Tensor) -> Callable[..., Any]:
            def zero(_: nn.Module, __: Any, output: Any) -> Any:
                first = _first(output)
                first.index_fill_(-1, index.to(first.device), 0.0)  # a product, nobody else's
                return output

            return zero

        handles = [
            self.backbone.get_submodule(path).register_forward_hook(zeroing(torch.cat(index)))
            for path, index in per_module.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def expect(self, sites: Iterable[str], inputs: Mapping[str, Tensor]) -> None:
        """Learns when these sites come by and the last one, so that later passes are one pass."""
        self._in_order({*sites, self.layout.sites[-1]}, inputs)

    def after(self, last: Tensor) -> Tensor:
        """The model's last hidden state, made of the activations of the last site."""
        if self.layout.after is None:
            return last
        found: Tensor = self.backbone.get_submodule(self.layout.after)(last)
        return found

    def logits(self, final: Tensor) -> Tensor:
        """The head's answer (..., vocabulary) to the activations of the last site (..., d).

        Raises:
            UsageError: The model has no language-model head.
        """
        with torch.inference_mode():
            return self.head(self.after(final))

    def head(self, hidden: Tensor) -> Tensor:
        """The head's answer (..., vocabulary) to the backbone's last hidden states (..., d).

        Raises:
            UsageError: The model has no language-model head.
        """
        if self.layout.head is None:
            raise UsageError(f"The logits are needed, but {self.layout.missing['logits']}.")
        head = self.model.get_submodule(self.layout.head)
        found: Tensor = head(hidden.to(next(head.parameters()).dtype))
        return found.to(self.device)

    def rows(self, index: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Rows of the linear map to classes or tokens: weights (C, d), and bias (C,) if it has one.

        Args:
            index: Which rows; None is all.

        Raises:
            UsageError: There is no such map, it is not linear, or its weights are not in memory.
        """
        layout = self.layout
        path = layout.head if layout.classifier is None else layout.classifier.module
        if path is None:
            raise UsageError(layout.missing["logits"])
        head = self.model.get_submodule(path)
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if not isinstance(head, torch.nn.Linear) or weight is None or weight.is_meta:
            raise UsageError("the map to the classes is no linear one whose weights are in memory")
        if index is not None:
            index = index.to(weight.device)
            return weight[index], None if bias is None else bias[index]
        return weight, bias

    def check_head(self, inputs: Mapping[str, Tensor]) -> None:
        """Makes sure that the head alone turns `final` into the model's own logits.

        Raises:
            UsageError: It does not: the family scales, caps or otherwise changes its logits.
        """
        small = {name: value[:1] for name, value in inputs.items()}
        ours = self.logits(self.hidden(small, {}))
        with torch.inference_mode():
            own = self.model(**small, use_cache=False).logits
        near = 1e-3 if self.dtype == torch.float32 else 3e-2
        if not torch.allclose(
            own.to(ours.device), ours, rtol=near, atol=near * float(own.abs().max())
        ):
            raise UsageError(
                f"Models of type {self.layout.family!r} change their logits after the head, so "
                "that their losses cannot be had from edited hidden states."
            )

    def _in_order(
        self, sites: set[str], inputs: Mapping[str, Tensor]
    ) -> list[tuple[_At, list[str]]]:
        """The modules to stop at, in the order of execution, and the sites that each one shows."""
        if not sites <= self._order.keys():
            self._record_order(sites | self._order.keys(), inputs)
        found: dict[_At, list[str]] = {}
        for site in sorted(sites, key=self._order.__getitem__):
            tap = self.layout.taps[site]
            found.setdefault((tap.module, tap.side), []).append(site)
        return list(found.items())

    def _record_order(self, sites: set[str], inputs: Mapping[str, Tensor]) -> None:
        """Runs one sequence through plain hooks and notes when each site comes by."""
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
            with module_by_module(), torch.inference_mode():
                self.backbone(**{k: v[:1] for k, v in inputs.items()}, **self.options)
        finally:
            for handle in handles:
                handle.remove()
        for site in sites - set(seen):
            raise wrong(self.layout.family, site, "it was not reached during a pass")
        self._order = {site: i for i, site in enumerate(dict.fromkeys(seen))}


def wrong(family: str, site: str, why: str) -> UsageError:
    """The error for a site that is not where the layout table says."""
    return UsageError(
        f"The layout table's row for {family!r} does not fit this model: site {site!r} is wrong, "
        f"{why}; measuring it would give numbers of something else."
    )
