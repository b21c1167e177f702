"""F of autoencoders, and correlations."""

import math

import numpy as np
import pytest
import torch

from benchmarks.reproductions.measuring import correlation, read
from geoprobe.autoencoders.autoencoder import Autoencoder


def test_f_of_two_equal_features_is_two():
    x = torch.eye(2).repeat(5, 1)
    autoencoder = Autoencoder(
        "standard", torch.eye(2), torch.eye(2), torch.zeros(2), torch.zeros(2), centred=False
    )
    found = read([autoencoder], [x])
    assert found.features[0] == pytest.approx(2)
    assert found.l0[0] == 1
    assert found.explained[0] == pytest.approx(1)


def test_interval_of_a_correlation():
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    found = correlation(a, np.array([1.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0]))
    assert found.r == pytest.approx(1 - 3 / 28 + 0.0, abs=0.01)
    assert math.atanh(found.high) - math.atanh(found.r) == pytest.approx(1.96 / 2)
    assert correlation(a, np.ones(7)).r == 0
