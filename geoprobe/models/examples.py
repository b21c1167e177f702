"""Input of the kind that a model takes, for checks and for trials of its speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from geoprobe.models.families import row_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geoprobe.models.layout import Layout


def example(
    model: nn.Module,
    layout: Layout,
    items: int,
    time: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    image: tuple[int, ...] | None = None,
) -> dict[str, Tensor]:
    """Input of a backbone, the same at each call.

    Args:
        model: The model; on the meta device is enough.
        layout: Its layout.
        items: Number of sequences or images.
        time: Tokens of a sequence. Images have about as many patches where the model takes any
            size, and the size of its config where it does not.
        device: Where the model runs.
        dtype: Precision of the model.
        image: Channels, height and width of images, where they are known.
    """
    draw = torch.Generator().manual_seed(0)
    reads = layout.reads
    if layout.item is not None:  # a network that is not in the table: what it is fed
        values = layout.item.repeat(items, *[1] * (layout.item.ndim - 1))
        values = values.to(dtype) if values.is_floating_point() else values
    elif layout.vocabulary:
        values = torch.randint(0, layout.vocabulary, (items, time), generator=draw)
    else:
        shape = _image_shape(model.config, time) if image is None else image
        values = torch.randn(items, *shape, generator=draw).to(dtype)
    found = {reads.name: values.to(device)}
    if reads.mask is not None:
        found[reads.mask] = torch.ones(values.shape[:2], dtype=torch.long, device=device)
    return found


def _image_shape(config: Any, time: int) -> tuple[int, ...]:
    """Channels, height and width."""
    size, patch = (
        (v, v) if isinstance(v, int) else v for v in (config.image_size, config.patch_size)
    )
    if row_of(config.model_type).any_image_size:
        side = int(time**0.5) + 1
        size = [side * p for p in patch]
    return int(config.num_channels), int(size[0]), int(size[1])
