"""Toy models of superposition: F from an autoencoder against features counted in the weights.

The setting of Bereska et al. 2025, section 5.1, which is that of Elhage et al. 2022: features f are
0 with probability S, else uniform on [0, 1]; h = W f has fewer dimensions; ReLU(W^T h + b) is
trained to give f back, feature i at weight 0.7^i. All models are trained side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.machine import Line
from benchmarks.reproductions.measuring import (
    Correlation,
    Measured,
    by_recipe,
    by_tied,
    correlation,
    show,
)
from geoprobe.autoencoders.recipe import Recipe
from geoprobe.measures import (
    dimensionality,
    dimensions_per_feature,
    effective_features,
    frobenius_psi,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

FEATURES, DIMENSIONS, DECAY = 20, 5, 0.7
EXPANSION, L1 = 8, 0.1
SAMPLES = 10_000
WITH_BIAS = "sum, with a decoder bias"
"""Without it, dense features are what they are; with it, each side of their mean is a feature."""
TITLE = "toy models of superposition"


@dataclass(frozen=True)
class ToyModels:
    """What was measured, one number a model.

    Attributes:
        sparsity: S.
        weights: The reference: exp of the entropy of |W_i|^2 / |W|_F^2 over features.
        norms: The same of |W_i| / sum |W_j|, which is what F would be if an autoencoder's features
            were the model's, since all are active equally often.
        frobenius: |W|_F^2 / N.
        star: D* = N / |W|_F^2.
        dimensionality: Mean dimensionality of a feature.
        measured: By the paper's autoencoders (tied), `sum` and `mean`; `sum, with a decoder bias`.
        recipes: By geoprobe's, by name.
    """

    sparsity: Array
    weights: Array
    norms: Array
    frobenius: Array
    star: Array
    dimensionality: Array
    measured: dict[str, Measured]
    recipes: dict[str, Measured]

    def against(self, found: Measured) -> Correlation:
        """Of F with the reference."""
        return correlation(found.features, self.weights)


def train(sparsity: Array, steps: int, batch: int = 256, seed: int = 0) -> Tensor:
    """Trains a model for each sparsity, to W (models, features, dimensions).

    The learning rate falls from 0.01 to 0 along a cosine: features of small weight take long to
    leave the weights otherwise, and count there until they do.
    """
    draw = torch.Generator().manual_seed(seed)
    models = len(sparsity)
    weights = torch.nn.Parameter(0.2 * torch.randn(models, FEATURES, DIMENSIONS, generator=draw))
    bias = torch.nn.Parameter(torch.zeros(models, 1, FEATURES))
    adam = torch.optim.Adam([weights, bias], lr=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    importance = DECAY ** torch.arange(FEATURES) * (2 / batch)
    for _ in range(steps):
        f = features(sparsity, batch, draw)
        with torch.no_grad():  # the gradient written out: a third of autograd's time
            hidden = torch.bmm(f, weights)
            out = torch.baddbmm(bias, hidden, weights.transpose(1, 2)).relu_()
            error = (out - f).mul_(importance).mul_(out > 0)
            upward = torch.bmm(error, weights)
            weights.grad = torch.bmm(error.transpose(1, 2), hidden)
            weights.grad.baddbmm_(f.transpose(1, 2), upward)
            bias.grad = error.sum(1, keepdim=True)
        adam.step()
        schedule.step()
    return weights.detach()


def features(sparsity: Array, count: int, draw: torch.Generator) -> Tensor:
    """Features (models, count, features): uniform where they are below 1 - S, and scaled to 1."""
    density = torch.from_numpy(1 - sparsity).float()[:, None, None]
    uniform = torch.rand(len(sparsity), count, FEATURES, generator=draw).div_(density)
    return uniform.mul_(uniform < 1)


def reproduce(
    models: int = 100,
    steps: int = 3000,
    samples: int = 600_000,
    recipes: dict[str, Recipe] | None = None,
    reductions: tuple[str, ...] = ("sum", "mean", WITH_BIAS),
    seed: int = 0,
) -> ToyModels:
    """Trains models with sparsities from .001 to .999, and measures each both ways.

    Args:
        models: How many.
        steps: Steps of their training.
        samples: Samples that each autoencoder is trained on.
        recipes: geoprobe's own autoencoders to measure with as well.
        reductions: Of the loss of the paper's autoencoders.
        seed: Of everything.
    """
    sparsity = np.linspace(0.001, 0.999, models)
    found = train(sparsity, steps, seed=seed)
    draw = torch.Generator().manual_seed(seed + 1)
    sites = list(torch.bmm(features(sparsity, SAMPLES, draw), found))
    rows = [w.double().numpy() for w in found]
    norms = np.array([np.linalg.norm(w, axis=1) for w in rows])
    return ToyModels(
        sparsity,
        np.array([effective_features(n**2) for n in norms]),
        np.array([effective_features(n) for n in norms]),
        np.array([frobenius_psi(w) for w in rows]),
        np.array([dimensions_per_feature(w) for w in rows]),
        np.array([dimensionality(w).mean() for w in rows]),
        {
            name: by_tied(
                sites,
                EXPANSION,
                L1,
                "mean" if name == "mean" else "sum",
                samples,
                seed,
                with_bias=name == WITH_BIAS,
            )
            for name in reductions
        },
        {name: by_recipe(sites, r, samples, seed) for name, r in (recipes or {}).items()},
    )


RECIPES = {
    "free decoder": Recipe("standard", EXPANSION, l1=L1, standardise=False),
    "decoder of norm 1": Recipe("standard", EXPANSION, l1=L1, standardise=False, unit_decoder=True),
    "tied, scaled (default)": Recipe(expansion=EXPANSION, l1=L1),
}


def lines(quick: bool) -> list[Line]:
    """Measured beside published."""
    models, samples = (50, 450_000) if quick else (100, 600_000)
    found = reproduce(models, 2000 if quick else 3000, samples, RECIPES)
    made = [
        Line("models", f"{models}", "100", f"sparsity .001 to .999, {samples:,} samples a SAE"),
        Line(
            "r, F from W with |W|_F^2 / N",
            str(correlation(found.weights, found.frobenius)),
            "0.99 +- 0.01",
            "F from W: entropy of the shares |W_i|^2 / |W|_F^2",
        ),
    ]
    for kind, measured in (
        *((f"tied, {name}", m) for name, m in found.measured.items()),
        *((f"geoprobe, {name}", m) for name, m in found.recipes.items()),
    ):
        first = kind == "tied, sum"
        off = np.median(measured.features / found.weights)
        made.append(
            Line(
                f"r, F from SAE with F from W: {kind}",
                str(found.against(measured)),
                "0.94 +- 0.02 (0.9 required)" if first else "",
                f"F / F from W {off:.2f} (median); explained {np.median(measured.explained):.2f}; "
                f"r with |W|_F^2 / N {correlation(measured.features, found.frobenius).r:.3f}",
            )
        )
    ends = [int(np.abs(found.sparsity - s).argmin()) for s in (0.001, 0.5, 0.9, 0.999)]
    for what, values in (
        ("F from W", found.weights),
        ("F from SAE (tied, sum)", found.measured["sum"].features),
        ("|W|_F^2 / N", found.frobenius),
        ("D* = N / |W|_F^2", found.star),
        ("mean dimensionality", found.dimensionality),
    ):
        made.append(
            Line(f"{what} at S = 0, .5, .9, .999", ", ".join(f"{values[i]:.2f}" for i in ends))
        )
    return made


if __name__ == "__main__":
    show(TITLE, lines)
