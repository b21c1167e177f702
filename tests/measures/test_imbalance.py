"""The general orthogonal frame: closed forms, a search by brute force, networks trained for it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoprobe import measures
from geoprobe.errors import UsageError
from geoprobe.measures.imbalance import general_orthogonal_frame

COUNTS = [20, 10, 5, 5]


def test_one_layer_has_the_published_lengths() -> None:
    frame = general_orthogonal_frame(COUNTS, 5e-3, 5e-3)
    np.testing.assert_allclose(frame.rows, [4.27214, 2.96228, 2.03607, 2.03607], atol=5e-6)
    assert not frame.collapsed.any()
    assert frame.threshold == pytest.approx(40**2 * 5e-3 * 5e-3)


@given(
    sizes=st.lists(st.integers(1, 500), min_size=2, max_size=6),
    w=st.floats(1e-5, 1e-1),
    h=st.floats(1e-5, 1e-1),
)
def test_one_layer_is_its_closed_form(sizes: list[int], w: float, h: float) -> None:
    frame, total = general_orthogonal_frame(sizes, w, h), sum(sizes)
    closed = [max(0.0, math.sqrt(n * h / w) - total * h) for n in sizes]
    np.testing.assert_allclose(frame.rows, closed, rtol=1e-9, atol=1e-9)
    small = [n for n in sizes if n <= total**2 * w * h]
    assert frame.collapsed.sum() == len(small)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    w=st.floats(1e-4, 5e-2),
    h=st.floats(1e-4, 5e-2),
    depth=st.integers(1, 4),
)
def test_no_point_of_a_fine_grid_is_lower(sizes: list[int], w: float, h: float, depth: int) -> None:
    frame, total = general_orthogonal_frame(sizes, w, h, depth), sum(sizes)
    b = depth * total * (total * w**depth * h) ** (1 / depth)
    grid = np.concatenate([[0], np.geomspace(1e-4, 1e6, 4001)])
    for size, row, gone in zip(sizes, frame.rows, frame.collapsed, strict=True):
        x = (row / (total * h)) ** (1 / depth)

        def height(at: np.ndarray, slope: float = b / size) -> np.ndarray:
            return 1 / (at**depth + 1) + slope * at

        assert height(np.array(x)) <= height(grid).min() + 1e-9
        assert gone == (x == 0)
        assert gone == (size <= frame.threshold) or size == pytest.approx(frame.threshold)


def train(
    depth: int, decay: float, counts: list[int], loss_of: str = "mse", bias: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Classifier (C, d) and class means (d, C) of a linear net on free features, at convergence."""
    torch.manual_seed(0)
    classes, width, total = len(counts), 8, sum(counts)
    labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
    targets = torch.nn.functional.one_hot(labels, classes).T.double()
    sizes = [width] * depth + [classes]
    layers = [
        torch.randn(b, a, dtype=torch.float64).mul(0.6).requires_grad_() for a, b in pairwise(sizes)
    ]
    features = torch.randn(width, total, dtype=torch.float64).mul(0.6).requires_grad_()
    shift = torch.zeros(classes, 1, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [*layers, features, *([shift] if bias else [])],
        max_iter=5000,
        history_size=40,
        tolerance_grad=1e-8,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        out = features
        for layer in layers:
            out = layer @ out
        out = out + shift
        if loss_of == "mse":
            value = ((out - targets) ** 2).sum() / (2 * total)
        else:
            value = torch.nn.functional.cross_entropy(out.T, labels)
        value = value + decay / 2 * (sum((x**2).sum() for x in layers) + (features**2).sum())
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        whole = layers[0]
        for layer in layers[1:]:
            whole = layer @ whole
        means = torch.stack([features[:, labels == c].mean(1) for c in range(classes)], dim=1)
    return whole.detach().numpy(), means.numpy()


@pytest.mark.parametrize(
    ("depth", "decay", "counts"),
    [
        (1, 5e-3, COUNTS),
        (1, 5e-3, [8, 8, 8]),
        (1, 2e-2, [40, 20, 3]),  # the smallest class collapses
        (2, 5e-4, COUNTS),
        (3, 2e-4, COUNTS),
    ],
)
def test_a_trained_linear_net_has_the_predicted_frame(
    depth: int, decay: float, counts: list[int]
) -> None:
    classifier, means = train(depth, decay, counts)
    frame = general_orthogonal_frame(counts, decay, decay, depth)
    for gram, predicted in (
        (classifier @ classifier.T, frame.rows),
        (means.T @ means, frame.means),
    ):
        target = np.diag(predicted) / np.linalg.norm(predicted)
        np.testing.assert_allclose(gram / np.linalg.norm(gram), target, atol=1e-4)
    logits = classifier @ means
    target = np.diag(frame.logits) / np.linalg.norm(frame.logits)
    np.testing.assert_allclose(logits / np.linalg.norm(logits), target, atol=1e-4)
    if depth == 1:
        np.testing.assert_allclose((classifier**2).sum(1), frame.rows, atol=1e-4)
    small = np.linalg.norm(means, axis=0) < 1e-4 * np.linalg.norm(means)
    assert (small == frame.collapsed).all()


@pytest.mark.parametrize(
    ("loss_of", "bias", "depth", "decay"),
    [
        ("mse", True, 1, 5e-3),
        ("mse", True, 2, 5e-4),
        ("mse", True, 3, 2e-4),
        ("cross-entropy", False, 1, 5e-3),
        ("cross-entropy", True, 1, 5e-3),
        ("cross-entropy", True, 2, 5e-4),
    ],
)
def test_balanced_nets_with_a_bias_or_cross_entropy_end_in_a_simplex_frame(
    loss_of: str, bias: bool, depth: int, decay: float
) -> None:
    classifier, means = train(depth, decay, [6] * 4, loss_of, bias)
    assert measures.nc2_etf(means.T) < 1e-4
    assert measures.nc2_equiangular(means.T) < 1e-4
    assert measures.nc3_duality(classifier, means.T) < 1e-6
    # And not in the orthogonal one, where the squared error ends without a bias.
    assert measures.gof_distance(means.T @ means, np.ones(4)) > 0.4


def test_what_cannot_be_predicted_is_a_sentence() -> None:
    for arguments, said in (
        (([3, 0], 1e-3, 1e-3), "at least one sample"),
        (([3, 4], 0.0, 1e-3), "both must be positive"),
        (([3, 4], 1e-3, 1e-3, 0), "A depth of 0"),
    ):
        with pytest.raises(UsageError, match=said):
            general_orthogonal_frame(*arguments)
