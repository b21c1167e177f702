"""Neural collapse in plain NumPy, two passes, pair by pair. Shares no code with ours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def layer(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Measures of features x (n, d), float64, of classes y (n,)."""
    classes = np.unique(y)
    _, sizes, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    x = x @ axes[sizes > 1e-5 * sizes[0]].T  # without what a LayerNorm leaves of one direction
    means = np.array([x[y == c].mean(0) for c in classes])
    count, width = means.shape
    middle = means.mean(0)
    within = np.zeros((width, width))
    spread = []
    for c, mean in zip(classes, means, strict=True):
        apart = x[y == c] - mean
        within += apart.T @ apart / len(x)
        spread.append((apart**2).sum(1).mean())
    centred = means - middle
    between = centred.T @ centred / count
    sizes = np.array([(y == c).mean() for c in classes])
    around = means - sizes @ means
    weighted = (around * sizes[:, None]).T @ around
    rank = min(count - 1, width)
    norms = np.linalg.norm(centred, axis=1)
    unit = centred / norms[:, None]
    pairs = list(itertools.combinations(range(count), 2))
    cosines = np.array([unit[i] @ unit[j] for i, j in pairs])
    energies = np.array([-np.log(np.linalg.norm(unit[i] - unit[j])) for i, j in pairs])
    gram = centred @ centred.T
    frame = (np.eye(count) - 1 / count) / np.sqrt(count - 1)
    return {
        "nc1": float(np.trace(within @ _pseudo_inverse(between, rank)) / count),
        "nc1_quotient": float(np.trace(within) / np.trace(between)),
        "separation": float(np.trace(within @ _pseudo_inverse(weighted, rank))),
        "cdnv": float(
            np.mean(
                [(spread[i] + spread[j]) / 2 / ((means[i] - means[j]) ** 2).sum() for i, j in pairs]
            )
        ),
        "nc2_equinorm": float(norms.std() / norms.mean()),
        "nc2_equiangular": float(np.abs(cosines + 1 / (count - 1)).mean()),
        "nc2_etf": float(np.linalg.norm(gram / np.linalg.norm(gram) - frame)),
        "nc2_uniformity": float(energies.std() / abs(energies.mean())),
    }


def head(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0
) -> dict[str, float]:
    """Measures of a classifier's rows (C, d), in the order of the classes in y."""
    classes = np.unique(y)
    means = np.array([x[y == c].mean(0) for c in classes])
    centred = means - means.mean(0)
    a, b = weight / np.linalg.norm(weight), centred / np.linalg.norm(centred)
    cosines = [w @ m / np.linalg.norm(w) / np.linalg.norm(m) for w, m in zip(a, b, strict=True)]
    nearest = np.array([((means - row) ** 2).sum(1).argmin() for row in x])
    chosen = (x @ weight.T + bias).argmax(1)
    return {
        "nc3_duality": float(((a - b) ** 2).sum()),
        "nc3_cosine": float(np.mean(cosines)),
        "nc4_mismatch": float((nearest != chosen).mean()),
    }


def next_tokens(
    states: Sequence[np.ndarray], documents: Sequence[Sequence[int]], least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States that predict a token seen `least` times or more, that token, and the document."""
    rows, following, number = [], [], []
    for i, (state, ids) in enumerate(zip(states, documents, strict=True)):
        for t in range(len(ids) - 1):
            rows.append(state[t])
            following.append(ids[t + 1])
            number.append(i)
    y = np.array(following)
    seen = {token: int((y == token).sum()) for token in set(following)}
    kept = np.array([seen[token] >= least for token in following])
    return np.array(rows)[kept], y[kept], np.array(number)[kept]


def jackknife(values: Sequence[float]) -> float:
    """Delete-one-group standard error."""
    v = np.array(values)
    return float(np.sqrt((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum()))


def _pseudo_inverse(matrix: np.ndarray, rank: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors[:, -rank:] / values[-rank:]) @ vectors[:, -rank:].T
