"""Dropout lowers F."""

import numpy as np

from benchmarks.reproductions import dropout


def test_dropout_lowers_f():
    found = dropout.reproduce(64, (0.0, 0.3, 0.6), 2, 60, 256, 0.005, 50_000, ("tied, mean",))
    assert found.accuracy[0].min() > 0.95
    for name in ("tied, mean",):
        values = found.features[name]
        assert found.spearman(name) == -1
        assert 0.2 < found.fall(name) < 0.7
        # Every network with dropout of 0.6 has less than every one without.
        assert values[2].max() < 0.9 * values[0].min()
        assert np.ptp(values, axis=1).max() < 0.5 * (values[0].mean() - values[2].mean())
