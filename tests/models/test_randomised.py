"""The same model with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from geoprobe.data.inputs import Batch
from geoprobe.errors import UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.factory import describe
from geoprobe.models.layout import find_layout
from geoprobe.models.randomised import randomised
from tests.conftest import tiny_model


def test_weights_are_drawn_anew_as_the_family_does(any_family: str) -> None:
    model = tiny_model(any_family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(5)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    capture = Capture(model, find_layout(model))
    made = randomised(capture, 3)
    assert made.layout == capture.layout
    assert made.dtype == capture.dtype
    states = made.model.state_dict()
    assert {n: w.shape for n, w in states.items()} == {n: w.shape for n, w in before.items()}
    drawn = torch.cat([w.flatten() for n, w in states.items() if w.ndim == 2])
    assert drawn.std() < 0.5, "initialised, not what the model has"
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), "the model itself is as it was"


def test_the_seed_decides_and_others_draw_what_they_would_have() -> None:
    model = tiny_model("llama")
    capture = Capture(model, find_layout(model))
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, same, other = (randomised(capture, seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def captured(model: nn.Module) -> Capture:
    fed = Batch(np.zeros((1, 4), dtype=np.float32), np.arange(1), None)
    return Capture(model, describe(model, fed, "net"))


def test_networks_of_a_factory_initialise_their_modules() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        net[0].weight.fill_(7)  # type: ignore[union-attr,operator]
    made = randomised(captured(net), 0).model
    assert float(made[0].weight.abs().max()) <= 0.5  # type: ignore[index,union-attr,arg-type]
    assert float(net[0].weight.detach().min()) == 7  # type: ignore[union-attr,operator]


def test_a_module_that_cannot_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * self.scale  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match=r"the module Scaled has weights, and no method"):
        randomised(captured(Scaled().eval()), 0)
