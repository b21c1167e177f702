"""F has a plateau as the dictionary grows if the penalty suffices, and else it has none."""

import pytest
import torch

from benchmarks.reproductions import parity, sparse_parity


def test_inputs_are_all_there_and_labelled_by_the_task_asked_for():
    x, y = parity.inputs()
    assert x.shape == (3 * 2**12, 15)
    assert len(torch.unique(x, dim=0)) == len(x)
    for row in (0, 5000, 12287):
        task = int(x[row, :3].argmax())
        assert y[row] == x[row, 3 + 4 * task : 7 + 4 * task].sum() % 2
    assert y.mean() == 0.5


@pytest.fixture(scope="module")
def found():
    return sparse_parity.reproduce(
        32, (0.01, 0.1, 1.0), (4, 8), 1, 60, 256, 0.005, kinds=("tied, mean",)
    )


def test_the_network_has_learnt_the_task(found):
    assert found.accuracy.min() > 0.95


def test_f_has_a_plateau_with_enough_of_a_penalty(found):
    assert found.growth("tied, mean", 1.0) < 0.2
    assert found.growth("tied, mean", 0.1) < 0.5


def test_f_grows_with_the_dictionary_where_the_penalty_is_weak(found):
    weak, enough = found.features["tied, mean"][:2, -1]
    assert found.growth("tied, mean", 0.01) > 0.6
    assert weak > 3 * enough
