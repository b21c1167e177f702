"""What a model can be fed, and batches that fit: fewer items whenever memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.errors import CheckpointError, GeoprobeError, UsageError
from geoprobe.feeds import feed
from geoprobe.models.footprint import pass_bytes
from geoprobe.models.pretrained import one_line
from geoprobe.placement import batch_size_for, free_memory
from geoprobe.statistics.memory import out_of_memory

if TYPE_CHECKING:
    from geoprobe.data.inputs import Inputs
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import Layout
    from geoprobe.probes.base import Outcome, Progress


def check_length(layout: Layout, longest: int) -> dict[str, Any] | None:
    """A warning where sequences are longer than the model was made for.

    Raises:
        UsageError: It has no positions so far out.
    """
    if layout.positions is None or longest <= layout.positions:
        return None
    if layout.learned_positions:
        raise UsageError(
            f"--length: the longest sequence has {longest} tokens, and this {layout.family} model "
            f"has {layout.positions} positions; give --length {layout.positions} or less."
        )
    return {
        "kind": "warning",
        "code": "beyond_positions",
        "message": f"The longest sequence has {longest} tokens, and this {layout.family} model was "
        f"made for {layout.positions}: what it does beyond is not what it was trained to do.",
    }


def check_input(layout: Layout, corpus: Inputs) -> dict[str, Any] | None:
    """A warning, if any, on what a model will be fed.

    Raises:
        UsageError: Sequences are too long for it, or the tokenizer, or the array of token ids, is
            another model's.
    """
    warning = check_length(layout, int(corpus.lengths.max()))
    ids = getattr(corpus, "ids", None)
    if ids is not None and 0 < layout.vocabulary <= (largest := int(ids.max())):
        raise UsageError(
            f"The text has token id {largest}, and this {layout.family} model knows ids up to "
            f"{layout.vocabulary - 1}; give the model's own tokenizer with --tokenizer, or its ids."
        )
    return warning


def choose_batch_size(capture: Capture, corpus: Inputs) -> int:
    """Items a batch, by the length of the longest one and what a pass of it takes.

    Raises:
        UsageError: The model cannot be fed this.
    """
    check_input(capture.layout, corpus)
    longest = np.array([int(np.argmax(corpus.lengths))])
    one = feed(corpus, longest, capture.device, capture.layout.reads, capture.dtype)
    times = capture.times(one.inputs, capture.layout.sites) if one.made_by_model else {}
    tokens = int(one.lengths.max()) * max(times.values(), default=1)
    taken = pass_bytes(capture.backbone, one.inputs)
    return batch_size_for(tokens, taken, free_memory(capture.device), capture.device)


def with_room(
    measure: Callable[[int], Outcome],
    capture: Capture,
    corpus: Inputs,
    batch_size: int | None,
    progress: Progress,
) -> tuple[Outcome, int]:
    """What is measured, in batches of half the size whenever memory runs out.

    Readings do not depend on the batch size but for rounding.

    Args:
        measure: Measures in batches of a size.
        capture: The model.
        corpus: What it is fed.
        batch_size: The size to begin with; None lets memory decide.
        progress: Told of smaller ones.

    Returns:
        The outcome, and the size that fitted.

    Raises:
        CheckpointError: Memory runs out on single sequences, too.
        UsageError: The model cannot be fed this, or a network of a factory fails on it.
    """
    while True:
        try:
            if batch_size is None:
                batch_size = choose_batch_size(capture, corpus)
            return measure(batch_size), batch_size
        except GeoprobeError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                if capture.layout.item is None:
                    raise
                raise UsageError(
                    "the network failed on what it was fed "
                    f"({type(error).__name__}: {one_line(error)}); look at --data, or at its code."
                ) from error
            if batch_size in (None, 1):
                raise CheckpointError(
                    "memory ran out on single sequences; give a smaller --length, fewer sites "
                    "(--layers, --sites), or --dtype bfloat16."
                ) from error
        batch_size = max(1, batch_size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        progress.note(f"Memory ran out; going on with {batch_size} sequences a batch.")
