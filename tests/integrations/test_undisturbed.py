"""What happens inside leaves no trace outside, also where it ends in an error."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from geoprobe.integrations.undisturbed import undisturbed


def _module() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    module[0].register_forward_hook(_hook)
    module[0].eval()
    return module


def _hook(*_: object) -> None:
    pass


def _draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_modules_and_random_numbers_are_put_back(fails: bool) -> None:
    module = _module()
    mean = module[1].running_mean
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    expected = _draws()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    try:
        with undisturbed(module):
            assert not torch.is_grad_enabled()
            _draws()
            module.train()
            module[0].forward = lambda x: x
            module[0].mark = 1
            module[0].register_forward_hook(lambda *_: None)
            module[0].register_forward_pre_hook(lambda *_: None)
            module[1].running_mean = torch.ones(3)
            module[1].register_buffer("more", torch.ones(3))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert torch.is_grad_enabled()
    assert _draws() == expected
    assert [m.training for m in module] == [False, True, True]
    assert not {"forward", "mark"} & vars(module[0]).keys()
    assert list(module[0]._forward_hooks.values()) == [_hook]
    assert not module[0]._forward_pre_hooks
    assert module[1].running_mean is mean
    assert "more" not in dict(module.named_buffers(recurse=True))
    assert set(module[1]._buffers) == {"running_mean", "running_var", "num_batches_tracked"}


def test_the_forward_inside_is_not_that_of_mixed_precision() -> None:
    module = nn.Linear(2, 2)
    module._original_forward = module.forward
    around = torch.autocast("cpu", torch.bfloat16)(module.forward)
    module.forward = around
    x = torch.ones(1, 2)
    assert module(x).dtype == torch.bfloat16
    with undisturbed(module):
        assert module(x).dtype == torch.float32
    assert module.forward is around
