"""Grokking of (a + b) mod 53: F of the hidden layer falls as the network generalises.

The setting of Bereska et al. 2025, section 6.3: each summand has an embedding and a linear map of
its own, their sum goes through GELU into one linear map to the answers. Several networks are
trained side by side, each with its own split of the 2,809 sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from benchmarks.machine import Line
from benchmarks.reproductions.measuring import by_recipe, by_tied, rank_correlation, show
from geoprobe.autoencoders.recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

MODULUS, EMBEDDED, HIDDEN = 53, 12, 48
EXPANSION, L1 = 4, 0.1
GENERALISES = 0.5
"""Accuracy on sums never trained on at which the transition is put."""
TITLE = "grokking (a + b) mod 53"


@dataclass(frozen=True)
class Setting:
    """How networks are trained.

    Attributes:
        steps: Steps.
        rate: Adam's learning rate.
        decay: Its L2 penalty.
        share: Share of sums that are trained on.
        batch: Sums a step.
    """

    steps: int
    rate: float
    decay: float
    share: float
    batch: int = 128


PUBLISHED = Setting(25_000, 0.005, 0.0002, 0.4)
"""The authors': some seeds generalise within these steps, and some do not."""
SOONER = Setting(6_000, 0.01, 0.0005, 0.5)
"""Ours: four of four seeds generalise, at step 1,500 to 5,000."""


@dataclass(frozen=True)
class Course:
    """One network over its training.

    Attributes:
        steps: Of every checkpoint.
        train: Accuracy on the sums it is trained on.
        test: On the others.
        features: F at every checkpoint.
        explained: Explained variance of the autoencoder, the lowest of all checkpoints.
    """

    steps: Array
    train: Array
    test: Array
    features: Array
    explained: float

    def passes(self, accuracy: float) -> int | None:
        """The first checkpoint from which on the others' accuracy stays above this, if any."""
        below = np.flatnonzero(self.test < accuracy)
        first = int(below[-1]) + 1 if len(below) else 0
        return first if first < len(self.test) else None

    @property
    def memorised(self) -> int:
        """The first checkpoint at which what it is trained on is right, or the best there is."""
        known = np.flatnonzero(self.train > 0.99)
        return int(known[0]) if len(known) else int(self.train.argmax())

    @property
    def fall(self) -> float:
        """Share of F lost from memorisation to the end."""
        return float(1 - self.features[-1] / self.features[self.memorised])

    @property
    def window(self) -> tuple[int, int] | None:
        """Checkpoints around the transition: test accuracy still below 0.1, and above 0.9."""
        start, end = self.passes(0.1), self.passes(0.9)
        if start is None or end is None:
            return None
        return max(start - 1, 0), end

    @property
    def sharp(self) -> float:
        """How many times as fast F falls in the transition as otherwise since memorisation.

        Infinite where it falls only there.
        """
        if self.window is None:
            return 0.0
        start, end = self.window
        first = min(self.memorised, start)
        within = self.features[start] - self.features[end]
        outside = self.features[first] - self.features[-1] - within
        rest = (start - first) + (len(self.steps) - 1 - end)
        if within <= 0:
            return 0.0
        if outside <= 0 or not rest:
            return float("inf")
        return float(within / (end - start) / (outside / rest))


def train(
    setting: Setting, seeds: Sequence[int], checkpoints: int
) -> tuple[Array, Array, Array, Tensor]:
    """Trains one network a seed.

    Returns:
        Steps (c,), accuracies on sums trained on (seeds, c), on the others (seeds, c), and hidden
        activations on the former (seeds, c, samples, width).
    """
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    numbers = torch.arange(MODULUS)
    sums = torch.cartesian_prod(numbers, numbers)
    answers = sums.sum(1) % MODULUS
    orders = torch.stack([torch.randperm(len(sums), generator=g) for g in draws])
    cut = int(setting.share * len(sums))
    learnt, held = orders[:, :cut], orders[:, cut:]

    def uniform(rows: int, columns: int, inward: int) -> torch.nn.Parameter:
        drawn = [torch.rand(rows, columns, generator=g) for g in draws]
        return torch.nn.Parameter((torch.stack(drawn) * 2 - 1) * inward**-0.5)

    embedding = torch.nn.Parameter(
        torch.stack([torch.randn(MODULUS, EMBEDDED, generator=g) for g in draws])
    )
    left, right = (uniform(EMBEDDED, HIDDEN, EMBEDDED) for _ in range(2))
    bias = torch.nn.Parameter(
        uniform(1, HIDDEN, EMBEDDED).detach() + uniform(1, HIDDEN, EMBEDDED).detach()
    )
    out = uniform(HIDDEN, MODULUS, HIDDEN)
    adam = torch.optim.Adam(
        [embedding, left, right, bias, out],
        lr=setting.rate,
        weight_decay=setting.decay,
        fused=True,
    )
    own = torch.arange(len(seeds))[:, None]

    def hidden(index: Tensor) -> Tensor:
        a, b = (embedding[own, sums[index, side]] for side in (0, 1))
        return functional.gelu(torch.baddbmm(bias, a, left) + torch.bmm(b, right))

    def right_share(given: Tensor, index: Tensor) -> Tensor:
        return (torch.bmm(given, out).argmax(2) == answers[index]).double().mean(1)

    every = setting.steps // checkpoints
    known, unseen, kept = [], [], []
    for step in range(setting.steps + 1):
        if step % every == 0:
            with torch.no_grad():
                state = hidden(learnt)
                kept.append(state)
                known.append(right_share(state, learnt))
                unseen.append(right_share(hidden(held), held))
        index = torch.stack(
            [
                row[torch.randint(cut, (setting.batch,), generator=g)]
                for row, g in zip(learnt, draws, strict=True)
            ]
        )
        logits = torch.bmm(hidden(index), out).flatten(0, 1)
        loss = functional.cross_entropy(logits, answers[index].flatten(), reduction="sum")
        adam.zero_grad()
        (loss / setting.batch).backward()  # type: ignore[no-untyped-call]
        adam.step()
    steps = np.arange(len(kept), dtype=np.float64) * every
    return (
        steps,
        np.asarray(torch.stack(known, 1)),
        np.asarray(torch.stack(unseen, 1)),
        torch.stack(kept, 1),
    )


def reproduce(
    setting: Setting = SOONER,
    seeds: Sequence[int] = (0, 1, 2, 3),
    checkpoints: int = 40,
    samples: int = 112_000,
    reductions: tuple[str, ...] = ("sum",),
    recipe: Recipe | None = None,
) -> dict[str, list[Course]]:
    """Trains networks, and measures F of their hidden layer at every checkpoint.

    Args:
        setting: How networks are trained.
        seeds: One network each.
        checkpoints: How often F is measured.
        samples: Samples each autoencoder is trained on (112,000: the authors' 100 epochs).
        reductions: Of the loss of the paper's autoencoders.
        recipe: One of geoprobe's own to measure with as well, under `geoprobe`.
    """
    steps, known, unseen, states = train(setting, seeds, checkpoints)
    courses: dict[str, list[Course]] = {}
    for name in (*reductions, *(("geoprobe",) if recipe else ())):
        courses[name] = []
        for member in range(len(seeds)):
            sites = list(states[member])
            if name == "geoprobe" and recipe is not None:
                measured = by_recipe(sites, recipe, samples)
            else:
                measured = by_tied(sites, EXPANSION, L1, name, samples)
            courses[name].append(
                Course(
                    steps,
                    known[member],
                    unseen[member],
                    measured.features,
                    float(measured.explained.min()),
                )
            )
    return courses


def _course(name: str, course: Course) -> Line:
    at = course.passes(GENERALISES)
    first, last = course.features[course.memorised], course.features[-1]
    figure = f"F {first:.0f} to {last:.0f}, {last / first - 1:+.0%}"
    memorised = f"memorised at {course.steps[course.memorised]:.0f}"
    if at is None or course.window is None:
        begun = at is not None or course.test[-1] > 0.1
        return Line(
            f"{name}: {'has begun to' if begun else 'does not'} generalise",
            figure,
            "" if begun else "no drop",
            f"{memorised}, test accuracy {course.test[-1]:.2f} at the end",
        )
    start, end = course.window
    follows = rank_correlation(course.features[course.memorised :], course.test[course.memorised :])
    return Line(
        f"{name}: test > {GENERALISES:g} at {course.steps[at]:.0f}",
        figure,
        "a sharp drop then",
        f"{memorised}; F {course.features[start]:.0f} to {course.features[end]:.0f} at steps "
        f"{course.steps[start]:.0f} to {course.steps[end]:.0f} (test < .1 to > .9), "
        f"{course.sharp:.1f} times as fast as otherwise; Spearman with test accuracy {follows:.2f}",
    )


def lines(quick: bool) -> list[Line]:
    """Measured beside published."""
    made = []
    free = Recipe("standard", EXPANSION, l1=L1, standardise=False)
    cases = [("ours", SOONER, 20 if quick else 40)]
    if not quick:
        cases.append(("the authors'", PUBLISHED, 50))
    for name, setting, checkpoints in cases:
        seeds = (0, 1) if quick else (0, 1, 2, 3)
        found = reproduce(
            setting, seeds, checkpoints, 60_000 if quick else 112_000, ("sum", "mean"), free
        )
        made.append(
            Line(
                f"setting: {name}",
                f"{setting.steps} steps",
                "",
                f"Adam {setting.rate:g}, L2 {setting.decay:g}, {setting.share:.0%} of sums, batch "
                f"{setting.batch}",
            )
        )
        for kind, courses in found.items():
            shown = "geoprobe, free decoder" if kind == "geoprobe" else f"tied, {kind}"
            made += [
                _course(f"  {shown}, seed {s}", c) for s, c in zip(seeds, courses, strict=True)
            ]
    return made


if __name__ == "__main__":
    show(TITLE, lines)
