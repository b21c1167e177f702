"""The `reptrix0.1` convention against reptrix 0.1.0 itself."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from geoprobe.measures import Undefined, alpha, rankme, spectrum


@pytest.fixture(scope="module")
def reptrix() -> Iterator[SimpleNamespace]:
    """Its two measures. It imports matplotlib only to draw, so a stand-in serves."""
    pytest.importorskip("reptrix", reason="reptrix 0.1.0 is not installed")
    stood_in = []
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError:
        for name in ("matplotlib", "matplotlib.pyplot"):
            sys.modules[name] = ModuleType(name)
            stood_in.append(name)
    try:
        from reptrix import alpha as alpha_module
        from reptrix import rankme as rankme_module

        yield SimpleNamespace(alpha=alpha_module.get_alpha, rankme=rankme_module.get_rankme)
    finally:
        for name in stood_in:
            del sys.modules[name]


def features(n: int, d: int, decay: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + d)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return rows * torch.arange(1, d + 1, dtype=torch.float64) ** (-decay / 2) + 0.5


SHAPES = [(600, 150, 0.0), (600, 150, 1.0), (130, 400, 0.7), (300, 300, 2.0), (60, 20, 1.0)]


@pytest.mark.parametrize(("n", "d", "decay"), SHAPES)
def test_rankme_is_theirs(reptrix: SimpleNamespace, n: int, d: int, decay: float) -> None:
    given = features(n, d, decay)
    assert rankme(spectrum(given), "reptrix0.1") == pytest.approx(reptrix.rankme(given), rel=1e-9)


@pytest.mark.parametrize(("n", "d", "decay"), SHAPES[:-1])
def test_alpha_is_theirs(reptrix: SimpleNamespace, n: int, d: int, decay: float) -> None:
    given = features(n, d, decay)
    theirs, *_ = reptrix.alpha(given)
    fit = alpha(spectrum(given), "reptrix0.1")
    assert fit.alpha == pytest.approx(theirs, rel=1e-6, abs=1e-8)  # its weights are float32


def test_its_r2_is_on_other_ranks_as_the_card_says(reptrix: SimpleNamespace) -> None:
    """fit_R2_100 is on ranks 12..100, where the array of ranks that it moved by one begins."""
    given = features(600, 150, 1.0)
    _, line, _, theirs = reptrix.alpha(given)
    values = spectrum(given)
    y = np.log(values / values.sum())[11:100]
    residual = y - np.log(line)[11:100]
    on_12_100 = 1 - (residual @ residual) / ((y - y.mean()) ** 2).sum()
    assert theirs == pytest.approx(on_12_100, rel=1e-9)
    fit = alpha(values, "reptrix0.1")
    assert fit.r2 != pytest.approx(theirs, rel=1e-6)
    assert fit.r2_13_100 != pytest.approx(theirs, rel=1e-6)


def test_where_it_fails_or_fits_rounding_there_is_a_reason(reptrix: SimpleNamespace) -> None:
    with pytest.raises(IndexError):
        reptrix.alpha(features(60, 400, 1.0))
    with pytest.raises(Undefined, match="59 eigenvalues above rounding"):
        alpha(spectrum(features(60, 400, 1.0)), "reptrix0.1")
    # 100 centred samples have rank 99: its hundredth eigenvalue is rounding, and it fits that.
    theirs, *_ = reptrix.alpha(features(100, 400, 1.0))
    assert theirs > 1.5
    with pytest.raises(Undefined, match="99 eigenvalues above rounding"):
        alpha(spectrum(features(100, 400, 1.0)), "reptrix0.1")
