"""Greedy answers and deactivated units, against the plainest way to have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from geoprobe.models.capture import Capture
from geoprobe.models.families import FAMILIES, Mlp
from geoprobe.models.generation import greedy
from geoprobe.models.layout import find_layout
from tests.tiny_families import CONFIGS, VOCABULARY, tiny_inputs, tiny_model

ANSWERING = sorted(
    family
    for family in CONFIGS
    if isinstance(FAMILIES[family].mlp, Mlp) and FAMILIES[family].head is not None
)
SITES = ("mlp.gate", "mlp.up", "mlp.out")


def _prompts() -> tuple[list[list[int]], list[int]]:
    draw = torch.Generator().manual_seed(5)
    lengths, counts = [3, 5, 5, 7, 9, 5], [2, 4, 3, 5, 2, 6]
    ids = [torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in lengths]
    return ids, counts


def _without_cache(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def _zero_rows(model: Any, capture: Capture, units: dict[str, torch.Tensor]) -> None:
    """Makes units 0 by their weights: the same network, by other means."""
    for site, index in units.items():
        tap = capture.layout.taps[site]
        module: Any = capture.backbone.get_submodule(tap.module)
        rows = index + (tap.half or 0) * capture.layout.width_of(site)
        with torch.no_grad():
            across = type(module).__name__ == "Conv1D"
            (module.weight.T if across else module.weight)[rows] = 0.0
            if module.bias is not None:
                module.bias[rows] = 0.0


def _some_units(capture: Capture) -> dict[str, torch.Tensor]:
    sites = [s for s in capture.layout.taps if s.rsplit(".", 1)[0] in SITES]
    assert sites
    return {site: torch.tensor([1, 7 + i, 20]) for i, site in enumerate(sites)}


@pytest.mark.parametrize("family", ANSWERING)
def test_answers_are_those_of_the_model_itself(family: str) -> None:
    model = tiny_model(family)
    capture = Capture(model, find_layout(model))
    prompts, counts = _prompts()
    wanted = [_without_cache(model, p, c) for p, c in zip(prompts, counts, strict=True)]
    assert len({tuple(answer) for answer in wanted}) > 3
    told: list[int] = []
    assert greedy(capture, prompts, counts, 2, told.append) == wanted
    assert told[-1] == len(prompts)
    alone = [greedy(capture, [p], [c], 1)[0] for p, c in zip(prompts, counts, strict=True)]
    assert alone == wanted


@pytest.mark.parametrize("family", ANSWERING)
def test_deactivated_units_are_those_without_weights(family: str) -> None:
    model, other = tiny_model(family), tiny_model(family)
    capture = Capture(model, find_layout(model))
    bare = Capture(other, find_layout(other))
    units = _some_units(capture)
    inputs, (prompts, counts) = tiny_inputs(family), _prompts()
    with torch.inference_mode():
        before = model(**inputs).logits
        with capture.deactivated(units):
            without = model(**inputs).logits
            answers = greedy(capture, prompts, counts, 4)
            hidden = capture.hidden(inputs, {})
        after = model(**inputs).logits
        _zero_rows(other, bare, units)
        wanted = other(**inputs).logits
    assert torch.equal(before, after)
    assert not torch.allclose(before, without, atol=1e-3)
    assert torch.allclose(without, wanted, atol=1e-5 * float(wanted.abs().max()))
    assert answers == [_without_cache(other, p, c) for p, c in zip(prompts, counts, strict=True)]
    expected = bare.hidden(inputs, {})
    assert torch.allclose(hidden, expected, atol=1e-5 * float(expected.abs().max()))


def test_units_come_back_when_something_fails() -> None:
    model = tiny_model("llama")
    capture = Capture(model, find_layout(model))
    inputs = tiny_inputs("llama")
    with torch.inference_mode():
        before = model(**inputs).logits
        with (
            pytest.raises(RuntimeError, match="in the middle"),
            capture.deactivated(_some_units(capture)),
        ):
            raise RuntimeError("in the middle")
        assert torch.equal(model(**inputs).logits, before)
