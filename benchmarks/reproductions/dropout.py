"""Dropout lowers F: networks on multi-task sparse parity with more and more of it.

Bereska et al. 2025, section 6.1, with the networks and the autoencoders of the authors' code: a
decoder of its own, whose directions are free, and both terms of the loss averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import Line
from benchmarks.reproductions import parity
from benchmarks.reproductions.measuring import by_recipe, by_tied, rank_correlation, show
from geoprobe.autoencoders.recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RATES = tuple(round(0.1 * i, 1) for i in range(10))
EXPANSION, L1 = 4, 0.1
RECIPES = {
    "mean": Recipe("standard", EXPANSION, l1=L1, reduction="mean", standardise=False),
    "sum": Recipe("standard", EXPANSION, l1=L1, standardise=False),
    "default": Recipe(expansion=EXPANSION, l1=L1),
}
TITLE = "dropout"


@dataclass(frozen=True)
class Dropout:
    """What was measured.

    Attributes:
        rates: Of dropout (r,).
        features: F by name of the autoencoder (r, seeds).
        accuracy: On inputs that networks were not trained on (r, seeds).
    """

    rates: Array
    features: dict[str, Array]
    accuracy: Array

    def spearman(self, name: str) -> float:
        """Of the mean F of a rate with the rate."""
        return rank_correlation(self.features[name].mean(1), self.rates)

    def fall(self, name: str) -> float:
        """Largest share of F that any rate takes away, of the mean over seeds."""
        means = self.features[name].mean(1)
        return float(1 - means.min() / means[0])


def reproduce(
    width: int = 64,
    rates: Sequence[float] = RATES,
    seeds: int = 3,
    epochs: int = 300,
    batch: int = parity.BATCH,
    rate: float = parity.RATE,
    samples: int = 300_000,
    names: Sequence[str] = ("mean", "sum", "default", "tied, mean"),
) -> Dropout:
    """Trains networks with each rate of dropout, and measures F of their hidden layer.

    Args:
        width: Hidden units.
        rates: Rates of dropout.
        seeds: Networks a rate.
        epochs: Of their training.
        batch: Inputs a step.
        rate: Adam's learning rate.
        samples: Samples each autoencoder is trained on.
        names: Autoencoders to measure with: of `RECIPES`, or `tied, ` and a reduction.
    """
    dropouts = [r for r in rates for _ in range(seeds)]
    found = parity.train(
        width, dropouts, list(range(seeds)) * len(rates), epochs, batch=batch, rate=rate
    )
    shape = (len(rates), seeds)
    features = {}
    for name in names:
        if name.startswith("tied"):
            measured = by_tied(found.sites, EXPANSION, L1, name.split()[-1], samples)
        else:
            measured = by_recipe(found.sites, RECIPES[name], samples)
        features[name] = measured.features.reshape(shape)
    return Dropout(np.array(rates), features, np.array(found.accuracy).reshape(shape))


def lines(quick: bool) -> list[Line]:
    """Measured beside published."""
    made = []
    for width in (64,) if quick else (16, 32, 64, 128):
        found = (
            reproduce(width, (0.0, 0.2, 0.5, 0.8), 2, 60, 256, 0.005, 100_000)
            if quick
            else reproduce(
                width,
                seeds=3 if width == 64 else 2,
                samples=150_000,
                names=("mean", "sum", "default", "tied, mean") if width == 64 else ("mean",),
            )
        )
        for name, values in found.features.items():
            made.append(
                Line(
                    f"h = {width}, {'geoprobe, ' if 'tied' not in name else ''}{name}: F at rates "
                    f"{found.rates[0]:g} to {found.rates[-1]:g}",
                    " ".join(f"{v:.0f}" for v in values.mean(1)),
                    "falls monotonically, up to 50%" if name == "mean" else "",
                    f"falls {found.fall(name):.0%}, Spearman {found.spearman(name):.2f}",
                )
            )
        made.append(
            Line(
                "  accuracy on other inputs",
                " ".join(f"{v:.2f}" for v in found.accuracy.mean(1)),
                "falls, too",
            )
        )
    return made


if __name__ == "__main__":
    show(TITLE, lines)
