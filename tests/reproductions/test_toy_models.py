"""F counts the features of toy models, whose weights say how many there are."""

import numpy as np
import pytest

from benchmarks.reproductions import toy_models
from benchmarks.reproductions.measuring import correlation


@pytest.fixture(scope="module")
def found():
    return toy_models.reproduce(50, 1500, 400_000, reductions=("sum",), seed=1)


def test_f_of_autoencoders_follows_f_of_weights(found):
    assert found.against(found.measured["sum"]).r >= 0.9


def test_f_has_the_scale_of_the_weights(found):
    off = found.measured["sum"].features / found.weights
    assert 0.9 < np.median(off) < 1.3
    assert np.median(found.measured["sum"].explained) > 0.8


def test_measures_of_weights_agree(found):
    assert correlation(found.weights, found.frobenius).r >= 0.98
    assert correlation(found.norms, found.frobenius).r >= 0.95
    np.testing.assert_allclose(found.star * found.frobenius, 1.0)


def test_dense_features_are_not_in_superposition_and_sparse_ones_are(found):
    dense, sparse = found.sparsity < 0.3, found.sparsity > 0.9
    np.testing.assert_allclose(found.weights[dense], toy_models.DIMENSIONS, rtol=0.1)
    assert found.weights[sparse].min() > 1.5 * toy_models.DIMENSIONS
    assert found.measured["sum"].features[sparse].min() > 1.5 * toy_models.DIMENSIONS
    # Each represented feature has a dimension to itself, and the others have none.
    np.testing.assert_allclose(found.dimensionality[dense], 5 / 20, rtol=0.02)


def test_an_untrained_autoencoder_counts_nothing():
    found = toy_models.reproduce(50, 200, 128, reductions=("sum",), seed=1)
    assert found.against(found.measured["sum"]).r < 0.9
    assert np.median(found.measured["sum"].features / found.weights) > 2
