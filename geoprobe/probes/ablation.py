"""Direction ablation: next-token loss with the top directions of `final` removed, or alone kept.

Table 1 of Li et al. 2025 (2509.23024): in trained models the few directions that carry most of the
variance are not enough to predict the next token, and the loss hardly needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.errors import UsageError
from geoprobe.measures.estimate import jackknife
from geoprobe.probes.base import Cost, Feed, Outcome, Plan, Subject, Survey
from geoprobe.probes.next_tokens import predictions, score
from geoprobe.runs.reading import Reading
from geoprobe.statistics import GROUPS
from geoprobe.statistics.moments import GroupedMoments

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.models.layout import Layout

NAME = "ablation"


@dataclass(frozen=True)
class AblationOptions:
    """Options of direction ablation.

    Attributes:
        ablate: Numbers of directions; empty leaves the study out.
    """

    ablate: tuple[int, ...] = ()


Options = AblationOptions


def plan(options: AblationOptions) -> Plan | None:
    """The study, if it was asked for."""
    if not options.ablate:
        return None
    study = AblationStudy(options.ablate)
    return Plan(study=study, check=study.check, cost=study.cost)


class AblationStudy:
    """Removes, or keeps alone, the k leading centred eigenvectors of `final`.

    With mean μ and eigenvectors V (d, k) over all tokens of a first pass: removed is
    h - V Vᵀ(h - μ), kept is μ + V Vᵀ(h - μ). Centring matters: projecting raw states removes their
    mean as well.

    Args:
        ks: Numbers of directions, each at least 1.
    """

    name = NAME

    def __init__(self, ks: Sequence[int]) -> None:
        if not ks or min(ks) < 1:
            raise UsageError(
                f"--ablate {','.join(map(str, ks))}: give numbers from 1, as in 10,50."
            )
        self.ks = tuple(sorted(set(ks)))

    def check(self, layout: Layout) -> None:
        """Makes sure that a model has so many directions, and a head to score them by.

        Raises:
            UsageError: It has not.
        """
        if max(self.ks) >= layout.width:
            raise UsageError(
                f"--ablate {max(self.ks)}: {layout.sites[-1]} has {layout.width} dimensions; give "
                "fewer."
            )
        if layout.head is None:
            raise UsageError(
                f"--ablate scores next tokens, but {layout.missing['logits']}; leave it out."
            )

    def cost(self, survey: Survey) -> list[Cost]:
        """Two passes, the moments of `final`, and the head for every variant."""
        d, tokens = survey.layout.width, int(survey.lengths.sum())
        variants = 1 + 2 * len(self.ks)
        return [
            Cost(
                memory=8 * d * d,
                reading=4 / 3 * tokens * d * d + 9.0 * d**3,  # moments and eigenvectors
                passes=2,
                heads=variants,
            )
        ]

    def run(self, subject: Subject) -> Outcome:
        """Measures one checkpoint in two passes over the corpus."""
        final = subject.capture.layout.sites[-1]
        mean, vectors = _directions(subject, max(self.ks))
        variants = [("none", 0), *((mode, k) for k in self.ks for mode in ("removed", "kept"))]
        losses = np.zeros((len(variants), GROUPS))
        hits = np.zeros((len(variants), GROUPS))
        counts = np.zeros(GROUPS)
        for feed, hidden in _hidden(subject):
            for group in np.unique(feed.index % GROUPS):
                members = np.flatnonzero(feed.index % GROUPS == group)
                for states, targets in predictions(hidden, feed, members):
                    counts[group] += len(targets)
                    for i, (mode, k) in enumerate(variants):
                        edited = _edited(states, mean, vectors[:, :k], mode)
                        loss, hit = score(subject.capture, edited, targets)
                        losses[i, group] += loss
                        hits[i, group] += hit
        if not counts.sum():
            raise UsageError(
                "--ablate needs sequences of at least two tokens; the corpus has none."
            )
        outcome = Outcome()
        for i, (mode, k) in enumerate(variants):
            for measure, sums in (("ablation_loss", losses[i]), ("ablation_accuracy", hits[i])):
                outcome.readings.append(_reading(measure, final, mode, k, sums, counts))
        return outcome


def _hidden(subject: Subject) -> Iterator[tuple[Feed, Tensor]]:
    """Each batch with its last hidden states (batch, time, d)."""
    checked = False
    for feed in subject.feeds():
        if not checked:
            try:
                subject.capture.check_head(feed.inputs)
            except UsageError as error:
                raise UsageError(f"{error} Leave --ablate out.") from None
            checked = True
        yield feed, subject.capture.hidden(feed.inputs, {})


def _directions(subject: Subject, k: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) and the k leading covariance eigenvectors (d, k) of `final` over all tokens."""
    moments: GroupedMoments | None = None
    for feed, hidden in _hidden(subject):
        if moments is None:
            moments = GroupedMoments(hidden.shape[-1], 1)
        moments.update(hidden[feed.mask.bool()], 0)
    assert moments is not None
    _, vectors = np.linalg.eigh(moments.second_moments()[0])
    top = np.ascontiguousarray(vectors[:, ::-1][:, :k])
    device = subject.capture.device
    mean = torch.from_numpy(moments.mean()).float()
    return mean.to(device), torch.from_numpy(top).float().to(device)


def _edited(states: Tensor, mean: Tensor, vectors: Tensor, mode: str) -> Tensor:
    if mode == "none":
        return states
    exact = states.float()  # half precision would move the directions
    along = ((exact - mean) @ vectors) @ vectors.T
    return exact - along if mode == "removed" else mean + along


def _reading(
    measure: str, site: str, mode: str, k: int, sums: np.ndarray, counts: np.ndarray
) -> Reading:
    value = float(sums.sum() / counts.sum())
    left_out = [
        float((sums.sum() - sums[g]) / (counts.sum() - counts[g]))
        for g in np.flatnonzero(counts)
        if counts.sum() > counts[g]
    ]
    error = jackknife(value, left_out)
    return Reading(
        checkpoint="",
        probe=NAME,
        measure=measure,
        site=site,
        keys={"k": k, "mode": mode, "tokens": "all"},
        value=value,
        stderr=error.value,
        n=int(counts.sum()),
        reason="" if error.value is not None else f"no standard error: {error.reason}",
        replicates=tuple(left_out),
    )
