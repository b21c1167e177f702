"""Greedy answers of a language model, many prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.models.capture import module_by_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.models.capture import Capture


def greedy(
    capture: Capture,
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    batch_size: int,
    told: Callable[[int], None] = lambda _: None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token after token.

    A batch holds prompts of one length, so that nothing is padded: what padding does to positions,
    biases and caches differs from family to family. It goes on after an end of text, as prompts are
    asked for a number of tokens.

    Args:
        capture: The model.
        prompts: Token ids of each, at least one.
        counts: Number of tokens to generate for each.
        batch_size: Prompts a batch at most.
        told: Told the number of prompts answered so far.

    Returns:
        The token ids of each answer, in the order of the prompts.
    """
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    for length in np.unique(lengths):
        # Prompts with long answers together, so that the others need not wait for them.
        alike = sorted(np.flatnonzero(lengths == length).tolist(), key=lambda i: counts[i])
        for start in range(0, len(alike), batch_size):
            some = alike[start : start + batch_size]
            ids = np.array([prompts[i] for i in some], dtype=np.int64)
            found = _continued(capture, ids, max(counts[i] for i in some))
            for i, row in zip(some, found, strict=True):
                answers[i] = row[: counts[i]]
            done += len(some)
            told(done)
    return answers


def _continued(capture: Capture, ids: NDArray[np.int64], count: int) -> list[list[int]]:
    """The next tokens of prompts of one length (batch, time)."""
    fed = torch.from_numpy(ids).to(capture.device)
    cache: dict[str, Any] = {}
    found = []
    with module_by_module(), torch.inference_mode():
        for step in range(count):
            output = capture.backbone(fed, use_cache=step + 1 < count or bool(cache), **cache)
            fed = capture.head(output[0][:, -1:]).argmax(-1).to(capture.device)
            cache = {"past_key_values": getattr(output, "past_key_values", None)}
            found.append(fed)
    return [[int(token) for token in row] for row in torch.cat(found, dim=1).tolist()]
