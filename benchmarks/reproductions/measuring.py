"""What every reproduction needs: autoencoders of many sites at once, F of each, correlations."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from benchmarks.machine import Line, table
from geoprobe.autoencoders.recipe import Recipe
from geoprobe.autoencoders.training import Length, Rows, Training
from geoprobe.measures import Undefined, effective_features, explained_variance

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.autoencoders.autoencoder import Autoencoder

    Array = NDArray[np.float64]

HELD_OUT = 0.1
"""Share of samples that decides which weights are best."""


@dataclass(frozen=True)
class Measured:
    """One number a site of each.

    Attributes:
        features: F; 0 where no feature is ever active.
        l0: Active features of a sample.
        explained: Explained variance.
    """

    features: Array
    l0: Array
    explained: Array


def read(autoencoders: Sequence[Autoencoder], sites: Sequence[Tensor]) -> Measured:
    """F and what stands beside it, of every site by its own autoencoder, over all its samples."""
    found = []
    for autoencoder, x in zip(autoencoders, sites, strict=True):
        codes, again = autoencoder.apply(x)
        exact = x.double()
        found.append(
            (
                _features(codes.double().sum(0).numpy()),
                float((codes > 0).sum()) / len(x),
                explained_variance(
                    float((exact - again).square().sum()),
                    float((exact - exact.mean(0)).square().sum()),
                ),
            )
        )
    features, l0, explained = np.array(found).T
    return Measured(features, l0, explained)


def _features(mass: Array) -> float:
    try:
        return effective_features(mass)
    except Undefined:  # a penalty so large that it silences all of them
        return 0.0


def by_recipe(sites: Sequence[Tensor], recipe: Recipe, samples: int, seed: int = 0) -> Measured:
    """Measures with geoprobe's autoencoders, trained on so many samples without an early stop."""
    held = max(1, int(HELD_OUT * len(sites[0])))
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sites[0]), generator=draw)
    source = Rows([x[order[held:]] for x in sites], [x[order[:held]] for x in sites])
    length = Length(samples, 0, max(1, samples // 5))
    names = [str(number) for number in range(len(sites))]
    trained = Training(
        source, recipe, length, sites=names, width=sites[0].shape[1], seeds=(seed,)
    ).run()
    return read([member.autoencoder for member in trained], sites)


def by_tied(
    sites: Sequence[Tensor],
    expansion: int,
    l1: float,
    reduction: str,
    samples: int,
    seed: int = 0,
    *,
    with_bias: bool = False,
) -> Measured:
    """Measures with the autoencoders that the paper describes, whose decoder is the encoder."""
    recipe = Recipe(
        "tied", expansion, l1, _reduction(reduction), standardise=False, decoder_bias=with_bias
    )
    return by_recipe(sites, recipe, samples, seed)


def _reduction(name: str) -> Literal["sum", "mean"]:
    return "mean" if name == "mean" else "sum"


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its 95% interval by Fisher's transformation.

    Attributes:
        r: The correlation.
        low: Lower end.
        high: Upper end.
    """

    r: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.r:.3f} ({self.low:.3f} to {self.high:.3f})"


def correlation(a: Array, b: Array) -> Correlation:
    """Of two measures over the same models; 0 where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(0.0, -1.0, 1.0)
    r = float(np.corrcoef(a, b)[0, 1])
    z, wide = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r))), 1.96 / math.sqrt(len(a) - 3)
    return Correlation(r, math.tanh(z - wide), math.tanh(z + wide))


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def show(what: str, lines: Callable[[bool], list[Line]]) -> None:
    """Runs one reproduction as a script.

    Args:
        what: Its title.
        lines: Gives its lines; whether it is to be quick.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, less exact")
    print_table(what, lines, quick=parser.parse_args().quick)


def print_table(what: str, lines: Callable[[bool], list[Line]], *, quick: bool) -> None:
    """Runs it on one thread, and prints its figures and the seconds it took."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = lines(quick)
    title = f"{what}{', quick' if quick else ''} ({time.perf_counter() - start:.0f} s)"
    print(table(title, found), flush=True)
