"""What a run records of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geoprobe.errors import CheckpointError
from geoprobe.models.series import fingerprint

if TYPE_CHECKING:
    from geoprobe.models.layout import Layout
    from geoprobe.models.series import Checkpoint


def describe_model(layout: Layout) -> dict[str, Any]:
    """What makes the readings of two checkpoints comparable."""
    return {"family": layout.family, "depth": layout.depth, "width": layout.width}


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entry of a checkpoint in a run, fingerprint included.

    Raises:
        CheckpointError: The checkpoint vanished or cannot be read.
    """
    if checkpoint.incomplete:
        raise CheckpointError(f"{checkpoint.label}: {checkpoint.incomplete}.")
    try:
        return checkpoint_entry(checkpoint, fingerprint(checkpoint))
    except OSError as error:
        raise CheckpointError(f"{checkpoint.label}: cannot be read ({error}).") from error


def checkpoint_entry(checkpoint: Checkpoint, digest: str) -> dict[str, Any]:
    """The entry of a checkpoint in a run."""
    return {
        "label": checkpoint.label,
        "step": checkpoint.step,
        "tokens": checkpoint.tokens,
        "stage": checkpoint.stage,
        "epoch": checkpoint.epoch,
        "fingerprint": digest,
    } | (
        {}
        if (remote := checkpoint.remote) is None
        else {"repo": remote.repo, "revision": remote.revision, "commit": remote.commit}
    )
