"""Measures: pure functions of finished statistics, each with its card. Arrays in, numbers out."""

from geoprobe.measures import ablation  # noqa: F401  registers its cards
from geoprobe.measures.estimate import StandardError, Undefined, bias_corrected, jackknife
from geoprobe.measures.intrinsic import TwoNN, intrinsic_dim, intrinsic_dim_ml, two_nn
from geoprobe.measures.phases import Phase, phases
from geoprobe.measures.registry import Card, card, cards, measure, register
from geoprobe.measures.spectra import (
    AlphaFit,
    alpha,
    alpha_r2,
    alpha_r2_13_100,
    eigenvalues,
    isoscore,
    matrix_entropy,
    nesum,
    numerical_rank,
    participation_ratio,
    participation_ratio_corrected,
    rankme,
    rankme_corrected,
    rankme_headless,
    spectrum,
    stable_rank,
    top1_share,
    top_eigenvalue,
)

__all__ = [
    "AlphaFit",
    "Card",
    "Phase",
    "StandardError",
    "TwoNN",
    "Undefined",
    "alpha",
    "alpha_r2",
    "alpha_r2_13_100",
    "bias_corrected",
    "card",
    "cards",
    "eigenvalues",
    "intrinsic_dim",
    "intrinsic_dim_ml",
    "isoscore",
    "jackknife",
    "matrix_entropy",
    "measure",
    "nesum",
    "numerical_rank",
    "participation_ratio",
    "participation_ratio_corrected",
    "phases",
    "rankme",
    "rankme_corrected",
    "rankme_headless",
    "register",
    "spectrum",
    "stable_rank",
    "top1_share",
    "top_eigenvalue",
    "two_nn",
]
