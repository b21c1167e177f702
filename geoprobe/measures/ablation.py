"""Cards of direction ablation. The numbers come from running the model, not from a function."""

from __future__ import annotations

from geoprobe.measures import sources
from geoprobe.measures.registry import ONLY_EXACT, Card, register

_FORMULA = (
    "{what} with `final` h as it is (mode none), or replaced by h - V V^T (h - mu) (removed) or "
    "mu + V V^T (h - mu) (kept), where V holds the k leading eigenvectors of its centred "
    "covariance and mu is its mean, both from a first pass."
)
_PITFALLS = (
    "Centred: projecting h itself also removes the mean, and gave 5.72 where this gives 4.60 on "
    "SmolLM2-135M (4.60 removed, 3.61 untouched).",
    "The directions come from the same text that is scored.",
)

register(
    Card(
        name="ablation_loss",
        title="Next-token loss under direction ablation",
        symbol="L",
        formula=_FORMULA.format(what="Mean next-token cross-entropy"),
        unit="nats per token",
        direction="down",
        conventions=ONLY_EXACT,
        source="Li et al. 2025 (arXiv 2509.23024), Table 1, with next-token loss in place of tasks",
        bibtex=sources.LI_2025,
        pitfalls=_PITFALLS,
        section="ablation",
    )
)
register(
    Card(
        name="ablation_accuracy",
        title="Next-token accuracy under direction ablation",
        symbol="acc",
        formula=_FORMULA.format(what="Share of next tokens that get the highest logit"),
        unit="1",
        direction="up",
        conventions=ONLY_EXACT,
        source="Li et al. 2025 (arXiv 2509.23024), Table 1, with next tokens in place of tasks",
        bibtex=sources.LI_2025,
        pitfalls=_PITFALLS,
        section="ablation",
    )
)
