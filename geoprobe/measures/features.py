"""Effective features: how many a layer carries, by the entropy of a sparse autoencoder's codes.

Section 3 of the method. A feature's mass is the sum of its codes' magnitudes over all samples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

CONVENTIONS = {
    "codes": "p_i from the codes' magnitudes, sum_s |z_si|: the paper's definition",
    "decoder_norm": "p_i from sum_s |z_si| |d_i|, with the norm of the feature's direction: "
    "unchanged when a direction is scaled and its codes by the inverse",
}
"""What a feature's mass is."""

_BESIDE = (
    "Look at L0, explained variance and dead features beside it: a bad autoencoder gives a number, "
    "too.",
    "It depends on the autoencoder: its size, its sparsity penalty, its seed. Compare models by "
    "autoencoders made the same way, and with the two nulls: the same on a randomly initialised "
    "model, and on Gaussian data of equal covariance.",
    "Of an autoencoder trained here it is of all the text, nine tenths of which it was trained on: "
    "look at `explained_variance_held_out`.",
    "It grows with the number of samples until it saturates: look at `saturation`.",
)


def _magnitudes(mass: ArrayLike) -> Array:
    """Mass of each feature.

    Raises:
        Undefined: No feature is active, or a number is not finite.
    """
    values = np.abs(np.asarray(mass, dtype=np.float64))
    if not np.isfinite(values).all():
        raise Undefined("codes are not finite")
    if values.size == 0 or not values.any():
        raise Undefined("no feature is ever active")
    scaled: Array = values / values.max()
    return scaled


@measure(
    name="effective_features",
    title="Effective features",
    symbol="F",
    formula="F = exp(H), H = -sum_i p_i ln p_i over the features of a sparse autoencoder, with "
    "p_i = sum_s |z_si| / sum_j sum_s |z_sj| over all samples s, and 0 ln 0 = 0.",
    unit="features",
    direction="either",
    conventions=CONVENTIONS,
    source="Bereska et al. 2025 (arXiv 2512.13568)",
    bibtex=sources.BERESKA_2025,
    pitfalls=(
        *_BESIDE,
        "The paper's autoencoder is tied and has no decoder bias (`--architecture tied`). With a "
        "bias, as other packages train them, either side of the mean becomes a feature: on toy "
        "models, where the paper's F follows superposition, theirs says nothing of it.",
        "The paper's code averages both terms of the loss over their entries, which weighs the "
        "sparsity penalty lambda as N lambda / D: say which (`--reduction`).",
        "Of several seeds it is the mean; its standard error has the seeds' and the jackknife's "
        "over groups of sequences in quadrature, and each seed's own has the latter alone.",
    ),
    section="features",
)
def effective_features(mass: ArrayLike) -> float:
    """The exponential of the entropy of features' shares of all activity (Bereska et al. 2025).

    Args:
        mass: Sum of each feature's magnitudes over all samples (D,).

    Returns:
        Number of features, from 1 to D; unchanged when all masses are scaled.

    Raises:
        Undefined: No feature is active.
    """
    values = _magnitudes(mass)
    shares = values[values > 0] / values.sum()
    return math.exp(-float(shares @ np.log(shares)))


@measure(
    name="psi",
    title="Superposition ratio",
    symbol="psi",
    formula="psi = F / N: effective features per neuron, N the width of the probed layer.",
    unit="features per dimension",
    direction="either",
    conventions=CONVENTIONS,
    source="Bereska et al. 2025 (arXiv 2512.13568)",
    bibtex=sources.BERESKA_2025,
    pitfalls=(
        *_BESIDE,
        "At most D / N, the size of the autoencoder: a psi near it says that the autoencoder is "
        "too small.",
    ),
    section="features",
)
def psi(mass: ArrayLike, width: int) -> float:
    """Effective features per dimension of the layer (Bereska et al. 2025).

    Args:
        mass: Sum of each feature's magnitudes over all samples (D,).
        width: Number of the layer's neurons or dimensions, N.

    Raises:
        Undefined: No feature is active.
    """
    return effective_features(mass) / width


@measure(
    name="l0",
    title="Active features a sample",
    symbol="L0",
    formula="Mean number of features whose code exceeds 0, over all samples.",
    unit="features",
    direction="either",
    conventions=ONLY_EXACT,
    source="standard in the evaluation of sparse autoencoders",
    pitfalls=(
        "A TopK autoencoder run as a ReLU one shows here: L0 must be near its k, and is then "
        "hundreds.",
    ),
    section="features",
)
def l0(active: float, n: int) -> float:
    """Mean number of active features of a sample.

    Args:
        active: Number of codes above 0, over all samples and features.
        n: Number of samples.

    Raises:
        Undefined: There are no samples.
    """
    if n < 1:
        raise Undefined("there are no samples")
    return active / n


@measure(
    name="explained_variance",
    title="Explained variance",
    symbol="EV",
    formula="1 - sum |x - x^|^2 / sum |x - mean|^2 over the whole set, with its global mean: "
    "predicting the mean gives 0, and worse than that is negative.",
    unit="1",
    direction="up",
    conventions=ONLY_EXACT,
    source="standard in the evaluation of sparse autoencoders; two well-known packages take other "
    "means, by which predicting the mean does not give 0",
    pitfalls=(
        "A few massive activations are most of the variance: look at the value without sinks.",
    ),
    section="features",
)
def explained_variance(residual: float, total: float) -> float:
    """Share of the variance that a reconstruction explains.

    Args:
        residual: Sum of squared errors over all samples and dimensions.
        total: Sum of squared deviations from the mean of all samples.

    Raises:
        Undefined: The activations do not vary, or a number is not finite.
    """
    if not (math.isfinite(residual) and math.isfinite(total)):
        raise Undefined("the reconstruction is not finite")
    if total <= 0:
        raise Undefined("the activations do not vary")
    return 1.0 - residual / total


@measure(
    name="explained_variance_held_out",
    title="Explained variance of held-out text",
    symbol="EV_out",
    formula="Explained variance on the sequences that an autoencoder was not trained on (a tenth "
    "of the text, by which the best weights are told).",
    unit="1",
    direction="up",
    conventions=ONLY_EXACT,
    source="standard in the evaluation of sparse autoencoders",
    pitfalls=(
        "Well below `explained_variance`, of all the text: the autoencoder has learnt its text by "
        "heart, and so are effective features of that text. Give more text.",
    ),
    section="features",
)
def explained_variance_held_out(residual: float, total: float) -> float:
    """Share of the variance of held-out samples that a reconstruction explains.

    Args:
        residual: Sum of squared errors over these samples and all dimensions.
        total: Sum of squared deviations from their mean.

    Raises:
        Undefined: The activations do not vary, or a number is not finite.
    """
    return explained_variance(residual, total)


@measure(
    name="dead_share",
    title="Dead features",
    symbol="dead",
    formula="Share of the autoencoder's features that are active on no sample.",
    unit="1",
    direction="down",
    conventions=ONLY_EXACT,
    source="standard in the evaluation of sparse autoencoders",
    pitfalls=(
        "Rare features are dead on a small corpus: it falls with the number of samples.",
        "It has no standard error: without a group of sequences a feature can only die.",
    ),
    section="features",
)
def dead_share(counts: ArrayLike) -> float:
    """Share of features that are never active.

    Args:
        counts: Number of samples on which each feature is active (D,).
    """
    return float(np.mean(np.asarray(counts) == 0))


@measure(
    name="loss_recovered",
    title="Loss recovered",
    symbol="LR",
    formula="(CE_ablated - CE_sae) / (CE_ablated - CE_clean): next-token losses of the model as it "
    "is, with the site's activations replaced by their reconstruction, and with them replaced by "
    "0 (`zero`) or by their mean (`mean`).",
    unit="1",
    direction="up",
    conventions=ONLY_EXACT,
    source="standard in the evaluation of sparse autoencoders",
    pitfalls=(
        "Zero ablation is a weak opponent: it destroys the model, and anything recovers most of "
        "it. Mean ablation asks for more.",
        "Measured on some sequences (`--loss-sequences`): the first of the corpus, or of those "
        "that an autoencoder trained here has not seen.",
    ),
    section="features",
)
def loss_recovered(clean: float, reconstructed: float, ablated: float) -> float:
    """Share of the loss by an ablation that a reconstruction avoids.

    Args:
        clean: Next-token loss of the model, in nats.
        reconstructed: The same with reconstructed activations.
        ablated: The same with ablated activations.

    Raises:
        Undefined: The ablation does not cost any loss, or a loss is not finite.
    """
    if not math.isfinite(reconstructed):
        raise Undefined("the loss with reconstructed activations is not finite")
    if not ablated > clean:
        raise Undefined("ablating this site costs no loss, so that there is none to recover")
    return (ablated - reconstructed) / (ablated - clean)


@measure(
    name="saturation",
    title="Saturation of effective features",
    symbol="F_half/F",
    formula="F on half of the sequences over F on all of them, the half being the mean over the "
    "even and the odd jackknife groups: 1 when more text would not change F.",
    unit="1",
    direction="either",
    conventions=CONVENTIONS,
    source="the sample-size curve of Bereska et al. 2025 (arXiv 2512.13568), who find F of "
    "Pythia-70M saturated after 20,000 samples",
    bibtex=sources.BERESKA_2025,
    pitfalls=("Below 0.98 or so F is a lower bound; measure on more sequences.",),
    section="features",
)
def saturation(halves: Sequence[ArrayLike], mass: ArrayLike) -> float:
    """Effective features on half of the samples over those on all.

    Args:
        halves: Mass of each feature on either half of the samples (D,).
        mass: On all of them (D,).

    Raises:
        Undefined: No feature is active.
    """
    parts = [effective_features(half) for half in halves]
    return math.fsum(parts) / len(parts) / effective_features(mass)


def seeds_error(values: ArrayLike) -> float:
    """Standard error of the mean of values by several seeds.

    Args:
        values: One value a seed (seeds,), two at least.
    """
    found = np.asarray(values, dtype=np.float64)
    return float(found.std(ddof=1) / math.sqrt(len(found)))
