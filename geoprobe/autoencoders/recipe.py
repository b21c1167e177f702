"""How a sparse autoencoder is trained: what is minimised, how long, from which start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geoprobe.errors import UsageError

ARCHITECTURES = ("tied", "standard", "topk", "batchtopk")
REDUCTIONS = ("sum", "mean")


@dataclass(frozen=True)
class Recipe:
    """What is minimised, and by which steps.

    The loss of a `tied` or a `standard` autoencoder is |x - x^|^2 + l1 |z|_1, with sums over
    dimensions and features and the mean over samples (`sum`: Bereska et al. 2025, whose defaults
    these are); or both terms are means over their entries (`mean`: the authors' code), which weighs
    the penalty as `sum` does with l1 d / D. The others minimise |x - x^|^2, and a part of it that
    dead features alone make up for (Gao et al. 2024).

    The paper's autoencoder is `tied`: the decoder is the encoder transposed, without a bias, so
    that F counts what activations are made of around 0. With a decoder of its own, a bias or
    activations around their mean, as `standard` has them, either side of the mean becomes a feature
    and dense layers look superposed: on toy models F then says nothing of superposition.

    Attributes:
        architecture: How codes follow from pre-activations; `tied` and `standard` are ReLU ones.
        expansion: Features per dimension, D / d.
        l1: Weight of the sparsity penalty of a `tied` or a `standard` one.
        reduction: `sum` or `mean`.
        k: Active features a sample of the others.
        lr: Learning rate of Adam; None is 1e-3, and 2e-4 / sqrt(D / 2^14) of the others.
        batch: Samples a step.
        standardise: Weigh the penalty as if samples had a mean squared norm of 1, so that it means
            the same at every site and width; where there is a decoder's bias, around each site's
            mean. The weights that come out are for activations as they are.
        unit_decoder: Keep each feature's direction at norm 1; None does so with a `k`. Not if tied.
        centre: Take the decoder's bias from what is encoded; None does so with a `k`.
        decoder_bias: Whether the decoder has a bias; None is all but `tied`.
        dead_after: Samples without activity after which a feature counts as dead.
    """

    architecture: Literal["tied", "standard", "topk", "batchtopk"] = "tied"
    expansion: int = 4
    l1: float = 0.1
    reduction: Literal["sum", "mean"] = "sum"
    k: int = 32
    lr: float | None = None
    batch: int = 128
    standardise: bool = True
    unit_decoder: bool | None = None
    centre: bool | None = None
    decoder_bias: bool | None = None
    dead_after: int = 50_000

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--architecture", self.architecture, ARCHITECTURES),
            ("--reduction", self.reduction, REDUCTIONS),
        ):
            if value not in known:
                raise UsageError(f"{option} {value}: not one of {', '.join(known)}.")
        for option, number, least in (
            ("--expansion", self.expansion, 1),
            ("--k", self.k, 1),
            ("--sae-batch", self.batch, 1),
        ):
            if number < least:
                raise UsageError(f"{option} {number}: give {least} or more.")
        if not self.l1 >= 0 or self.l1 == float("inf"):
            raise UsageError(f"--l1 {self.l1:g}: give a weight of 0 or more.")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UsageError(f"--lr {self.lr:g}: give a learning rate above 0.")

    @property
    def name(self) -> str:
        """What readings call autoencoders made by it, such as `tied-l1-0.1-4x`."""
        if self.by_k:
            return f"{self.architecture}-k-{self.k}-{self.expansion}x"
        mean = "" if self.reduction == "sum" else "-mean"
        return f"{self.architecture}-l1-{self.l1:g}{mean}-{self.expansion}x"

    @property
    def by_k(self) -> bool:
        """Whether sparsity is a number of active features, and no penalty."""
        return self.architecture in ("topk", "batchtopk")

    @property
    def centred(self) -> bool:
        """Whether the decoder's bias is taken from what is encoded."""
        return self.by_k if self.centre is None else self.centre

    @property
    def norm_one(self) -> bool:
        """Whether directions are kept at norm 1."""
        if self.tied:
            return False
        return self.by_k if self.unit_decoder is None else self.unit_decoder

    @property
    def tied(self) -> bool:
        """Whether the decoder is the encoder transposed."""
        return self.architecture == "tied"

    @property
    def biased(self) -> bool:
        """Whether the decoder has a bias."""
        return not self.tied if self.decoder_bias is None else self.decoder_bias

    def penalty(self, width: int) -> float:
        """Weight of the penalty on activations as they are trained on.

        Standardised ones have variance 1 a dimension, which suits Adam's steps: d times the squared
        norm for which l1 is meant, whose root the penalty grows with.
        """
        return self.l1 * width**0.5 if self.standardise else self.l1

    def features(self, width: int) -> int:
        """Number of features D for a width d.

        Raises:
            UsageError: There are fewer than k.
        """
        features = self.expansion * width
        if self.by_k and self.k > features:
            raise UsageError(
                f"--k {self.k}: an autoencoder of {features} features ({self.expansion} x {width}) "
                "has no so many; give a smaller --k or a larger --expansion."
            )
        return features

    def rate(self, features: int) -> float:
        """Learning rate for a number of features."""
        if self.lr is not None:
            return self.lr
        return 1e-3 if not self.by_k else float(2e-4 / (features / 2**14) ** 0.5)
