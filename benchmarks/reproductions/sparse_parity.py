"""How F depends on the autoencoder: dictionary size and L1 penalty, on multi-task sparse parity.

Bereska et al. 2025, section 5.2: with a penalty of 0.1 or more F has a plateau as the dictionary
grows from the width of the layer to 16 times that; with 0.01 it goes on growing. It takes training
to the end: after 100,000 samples F still grows with the dictionary at 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.machine import Line
from benchmarks.reproductions import parity
from benchmarks.reproductions.measuring import by_recipe, by_tied, show
from geoprobe.autoencoders.recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PENALTIES = (0.01, 0.1, 1.0, 10.0)
EXPANSIONS = (1, 2, 4, 8, 16)
KINDS = ("tied, mean", "tied, sum", "free, mean", "default")
"""Autoencoders: the paper's (tied), the authors' code's (free, mean), and geoprobe's default."""
TITLE = "sparse parity: dictionary size and L1"


@dataclass(frozen=True)
class Plateau:
    """What was measured.

    Attributes:
        penalties: L1 weights (l,).
        expansions: Features per hidden unit (e,).
        features: F by kind of autoencoder, means over networks (l, e).
        accuracy: Of the networks, on inputs they were not trained on.
    """

    penalties: Array
    expansions: Array
    features: dict[str, Array]
    accuracy: Array

    def growth(self, kind: str, penalty: float) -> float:
        """Exponent of F against dictionary size from 4 times on: 0 a plateau, 1 in proportion.

        NaN where no feature is active.
        """
        row = self.features[kind][int(np.abs(self.penalties - penalty).argmin())]
        from_four = self.expansions >= 4
        if not row[from_four].all():
            return math.nan
        return float(np.polyfit(np.log(self.expansions[from_four]), np.log(row[from_four]), 1)[0])


def reproduce(
    width: int = 64,
    penalties: Sequence[float] = PENALTIES,
    expansions: Sequence[int] = EXPANSIONS,
    networks: int = 1,
    epochs: int = 300,
    batch: int = parity.BATCH,
    rate: float = parity.RATE,
    samples: int = 400_000,
    kinds: Sequence[str] = KINDS,
) -> Plateau:
    """Trains networks, and autoencoders of every size and penalty on each.

    Args:
        width: Hidden units of the networks.
        penalties: L1 weights.
        expansions: Features per hidden unit.
        networks: How many, of different seeds.
        epochs: Of their training.
        batch: Inputs a step.
        rate: Adam's learning rate.
        samples: Samples each autoencoder is trained on.
        kinds: Of autoencoders.
    """
    found = parity.train(
        width, [0.0] * networks, list(range(networks)), epochs, batch=batch, rate=rate
    )

    def measured(kind: str, l1: float, expansion: int) -> float:
        if kind.startswith("tied"):
            read = by_tied(found.sites, expansion, l1, kind.split()[-1], samples)
        else:
            reduction: Literal["sum", "mean"] = "mean" if kind.endswith("mean") else "sum"
            recipe = (
                Recipe(expansion=expansion, l1=l1)
                if kind == "default"
                else Recipe("standard", expansion, l1, reduction, standardise=False)
            )
            read = by_recipe(found.sites, recipe, samples)
        return float(read.features.mean())

    features = {
        kind: np.array([[measured(kind, l1, e) for e in expansions] for l1 in penalties])
        for kind in kinds
    }
    return Plateau(
        np.array(penalties), np.array(expansions, float), features, np.array(found.accuracy)
    )


def lines(quick: bool) -> list[Line]:
    """Measured beside published."""
    small: dict[str, Any] = {
        "width": 32,
        "expansions": (1, 4, 16),
        "epochs": 60,
        "batch": 256,
        "rate": 0.005,
    }
    found = reproduce(**small if quick else {})
    made = [
        Line(
            "networks' accuracy on other inputs",
            ", ".join(f"{a:.2f}" for a in found.accuracy),
        )
    ]
    for kind, rows in found.features.items():
        for l1, row in zip(found.penalties, rows, strict=True):
            claim = "grows on" if l1 < 0.1 else "plateau" if l1 < 10 else "few features"
            made.append(
                Line(
                    f"{kind}, L1 {l1:g}: F at " + ", ".join(f"{e:.0f}x" for e in found.expansions),
                    " ".join(f"{f:.0f}" for f in row),
                    claim if kind.startswith("tied") else "",  # the paper's autoencoder
                    f"exponent from 4x on {found.growth(kind, l1):.2f}",
                )
            )
    return made


if __name__ == "__main__":
    show(TITLE, lines)
