"""Checks a layout against the model it describes, once per architecture, with one small pass.

A batch of identical rows is run, one row edited at each site. If the table is right, the untouched
row equals the model's own output, `final` is the norm of the last block, and every edited row ends
somewhere else. Otherwise the sentence says which site is wrong and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from geoprobe.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.models.capture import Capture

_TIME = 6


def self_check(capture: Capture) -> None:
    """Runs the check.

    Args:
        capture: The model to check.

    Raises:
        UsageError: A site is not where the layout table says.
        CheckpointError: Activations are not finite.
    """
    layout = capture.layout
    sites = layout.sites
    device = next(capture.model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    row = torch.randint(0, layout.vocabulary, (1, _TIME), generator=draw).to(device)
    ids = row.repeat(len(sites) + 1, 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seen: dict[str, Tensor] = {}

    def observe(site: str, activations: Tensor) -> None:
        expected = (len(sites) + 1, _TIME, layout.width)
        if tuple(activations.shape) != expected:
            raise _wrong(
                layout.family, site, f"its shape is {tuple(activations.shape)}, not {expected}"
            )
        seen[site] = activations.clone()

    def edit_of(position: int) -> Callable[[Tensor], Tensor]:
        def edit(activations: Tensor) -> Tensor:
            edited = activations.clone()
            scale = activations.float().std().clamp(min=1e-3)
            noise = torch.randn(edited.shape[1:], generator=torch.Generator().manual_seed(1))
            edited[position] += (noise.to(device) * scale).to(edited.dtype)
            return edited

        return edit

    capture.run(inputs, sites, observe, {s: edit_of(i + 1) for i, s in enumerate(sites)})
    for site, activations in seen.items():
        if not bool(torch.isfinite(activations).all()):
            raise CheckpointError(
                f"The activations at {site} are NaN or infinite, so nothing was measured; "
                "where the weights are meant to be so large, a wider --dtype may help."
            )
    for site in sites:
        if site not in seen:
            raise _wrong(layout.family, site, "it was not reached during a pass")
    with torch.inference_mode():
        plain = capture.backbone(
            input_ids=row, attention_mask=torch.ones_like(row), use_cache=False
        ).last_hidden_state
        last = seen[sites[-1]]
        if not torch.allclose(last[:1], plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max())):
            raise _wrong(layout.family, sites[-1], "it differs from the model's last hidden state")
        if "final" in layout.taps:
            norm = capture.backbone.get_submodule(layout.taps["final"].module)
            before = seen[f"block.{layout.depth - 1}"][:1]
            after = norm(before)
            if torch.equal(before, last[:1]) or not torch.allclose(
                after, last[:1], rtol=1e-3, atol=1e-3 * float(after.abs().max())
            ):
                raise _wrong(
                    layout.family, "final", "it is not the norm of the last block's output"
                )
    for i, site in enumerate(sites):
        if torch.equal(last[i + 1], last[0]):
            raise _wrong(layout.family, site, "editing it does not change the model's output")


def _wrong(family: str, site: str, why: str) -> UsageError:
    return UsageError(
        f"The layout table's row for {family!r} does not fit this model: site {site!r} is wrong, "
        f"{why}; measuring it would give numbers of something else."
    )
