"""Batches that fit: how many items memory has room for, and fewer whenever it runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.errors import CheckpointError, GeoprobeError, UsageError
from geoprobe.feeds import feed
from geoprobe.models.footprint import pass_bytes
from geoprobe.models.pretrained import one_line
from geoprobe.placement import batch_size_for, free_memory

if TYPE_CHECKING:
    from geoprobe.data.inputs import Inputs
    from geoprobe.models.capture import Capture
    from geoprobe.probes.base import Outcome, Progress


def choose_batch_size(capture: Capture, corpus: Inputs) -> int:
    """Items a batch, by the length of the longest one and what a pass of it takes."""
    longest = np.array([int(np.argmax(corpus.lengths))])
    one = feed(corpus, longest, capture.device, capture.layout.reads, capture.dtype)
    times = capture.times(one.inputs, capture.layout.sites) if one.made_by_model else {}
    tokens = int(one.lengths.max()) * max(times.values(), default=1)
    taken = pass_bytes(capture.backbone, one.inputs)
    return batch_size_for(tokens, taken, free_memory(capture.device), capture.device)


def with_room(
    measure: Callable[[int], Outcome],
    choose: Callable[[], int],
    batch_size: int | None,
    progress: Progress,
    *,
    of_factory: bool,
) -> tuple[Outcome, int]:
    """What is measured, in batches of half the size whenever memory runs out.

    Readings do not depend on the batch size but for rounding.

    Args:
        measure: Measures in batches of a size.
        choose: Gives a size where none is given.
        batch_size: The size to begin with.
        progress: Told of smaller ones.
        of_factory: Whether the network is one that geoprobe does not know: that it fails on what it
            is fed is then the user's to mend.

    Returns:
        The outcome, and the size that fitted.

    Raises:
        CheckpointError: Memory runs out on single sequences, too.
        UsageError: A network of a factory fails on some of the data.
    """
    while True:
        try:
            if batch_size is None:
                batch_size = choose()
            return measure(batch_size), batch_size
        except GeoprobeError:
            raise
        except Exception as error:
            if not _out_of_memory(error):
                if not of_factory:
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


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of no memory: each backend has its own."""
    seen = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(
        words in seen for words in ("out of memory", "outofmemory", "can't allocate memory")
    )
