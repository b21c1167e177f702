"""Checks a layout against the model it describes, once per architecture, with one small pass.

A batch of identical rows is run, one row edited at each site. If the table is right, the untouched
row equals the model's own output, `final` is the norm of the last block, every edited row ends
somewhere else, attention carries an edit from one token to others, and the neurons close with
their gate and with what it multiplies. Otherwise the sentence says which site is wrong and why.
What lies inside the blocks is checked in the first and the last of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from geoprobe.errors import CheckpointError
from geoprobe.models.capture import options_of, wrong
from geoprobe.models.examples import example
from geoprobe.models.layout import INSIDE

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.models.capture import Capture, Edit
    from geoprobe.models.layout import Layout, Tap

_TIME = 6
_CLOSED = -1e4
"""Every activation that gates use is zero or nearly so here."""


def self_check(capture: Capture) -> None:
    """Runs the check.

    Args:
        capture: The model to check.

    Raises:
        UsageError: A site is not where the layout table says.
        CheckpointError: Activations are not finite.
    """
    layout = capture.layout
    if layout.item is not None:
        _runs(capture)
        return
    ends = {f"{kind}.{i}" for kind in INSIDE for i in (0, layout.depth - 1)} & layout.taps.keys()
    residual = layout.sites
    sites = [site for site in layout.taps if site in residual or site in ends]
    last_site = residual[-1]
    row = example(capture.model, layout, 1, _TIME, device=capture.device, dtype=capture.dtype)
    # As it is, edited at each site, edited at one token, with closed `mlp.up`, with closed gates.
    rows = len(sites) + 4
    inputs = {name: value.repeat(rows, *[1] * (value.ndim - 1)) for name, value in row.items()}
    time: list[int] = []
    last_block = f"block.{layout.depth - 1}"
    kept: dict[str, Tensor] = {}
    _no_tap_twice(layout)

    def observe(site: str, activations: Tensor) -> None:
        time.append(activations.shape[1] if activations.ndim > 1 else 0)
        expected = (rows, time[0], layout.width_of(site))
        if tuple(activations.shape) != expected:
            raise wrong(
                layout.family, site, f"its shape is {tuple(activations.shape)}, not {expected}"
            )
        _finite(site, activations)
        if site in (last_site, last_block):
            kept[site] = activations.to(capture.device, copy=True)
        if site == "attention.0" and torch.equal(activations[-3, 1:], activations[0, 1:]):
            raise wrong(layout.family, site, "a token's value does not depend on the others")
        largest = activations.abs().amax((1, 2))
        for kind, position in (("mlp.gate", -1), ("mlp.up", -2)):
            other = site.replace("neurons", kind)
            if other in ends and other != site and largest[position] > 1e-3 * largest[0]:
                raise wrong(layout.family, other, "closing it does not close the neurons")

    def edit_of(position: int, site: str) -> Edit:
        def edit(activations: Tensor) -> Tensor:
            edited = activations.clone()
            scale = activations.float().std().clamp(min=1e-3)
            noise = torch.randn(edited.shape[1:], generator=torch.Generator().manual_seed(1))
            edited[position] += (noise.to(edited.device) * scale).to(edited.dtype)
            if site == "embed":
                edited[-3, :1] = edited[position, :1]
            elif site.startswith("mlp.up"):
                edited[-2] = 0.0
            elif site.startswith("mlp.gate"):
                edited[-1] = _CLOSED
            return edited

        return edit

    capture.run(inputs, sites, observe, {s: edit_of(i + 1, s) for i, s in enumerate(sites)})
    last = kept[last_site]
    with torch.inference_mode():
        backbone = capture.model.get_submodule(layout.backbone)
        plain = backbone(**row, **options_of(backbone)).last_hidden_state.to(capture.device)
        given = capture.after(last[:1]).to(capture.device)
        if given.shape != plain.shape or not _close(given, plain):
            raise wrong(layout.family, last_site, "it differs from the model's last hidden state")
        if "final" in layout.taps:
            norm = capture.backbone.get_submodule(layout.taps["final"].module)
            before = kept[last_block][:1]
            if torch.equal(before, last[:1]) or not _close(
                last[:1], norm(before).to(capture.device)
            ):
                raise wrong(layout.family, "final", "it is not the norm of the last block's output")
    for i, site in enumerate(sites):
        if torch.equal(last[i + 1], last[0]):
            raise wrong(layout.family, site, "editing it does not change the model's output")


def _runs(capture: Capture) -> None:
    """All that can be checked where no table says what a site is: it is reached, and finite."""
    layout = capture.layout
    row = example(capture.model, layout, 1, _TIME, device=capture.device, dtype=capture.dtype)
    capture.run(row, layout.sites, lambda site, x: _finite(site, x))


def _finite(site: str, activations: Tensor) -> None:
    if not bool(torch.isfinite(activations).all()):
        raise CheckpointError(
            f"The activations at {site} are NaN or infinite, so nothing was measured; "
            "where the weights are meant to be so large, a wider --dtype may help."
        )


def _no_tap_twice(layout: Layout) -> None:
    """A row copied from another family may name the same place for two sites."""
    known: dict[Tap, str] = {}
    for site, tap in layout.taps.items():
        if (other := known.setdefault(tap, site)) != site:
            raise wrong(layout.family, site, f"it is the same place as {other!r}")


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
