"""How much of the next-token loss a reconstruction keeps, through the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.data.inputs import Part
from geoprobe.errors import UsageError
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.features import loss_recovered
from geoprobe.probes.base import Outcome, Subject
from geoprobe.probes.features_evaluation import Member, Sinks, by_site
from geoprobe.probes.features_readings import GIVEN, NAME
from geoprobe.probes.next_tokens import losses
from geoprobe.probes.readings import evaluate, jackknifed
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.probes.base import Feed
    from geoprobe.runs.reading import Reading

ABLATIONS = ("zero", "mean")


def recovered(
    subject: Subject,
    members: Sequence[Member],
    sinks: Sinks | None,
    sequences: NDArray[np.int64],
) -> Outcome:
    """Loss recovered by each autoencoder, against zero and mean ablation of its site.

    Args:
        subject: What is driven.
        members: The autoencoders.
        sinks: The rule for tokens that they are not for, which are left as they are.
        sequences: Which sequences of the corpus (n,).
    """
    layout, survey = subject.capture.layout, subject.survey
    assert survey.inputs is not None
    why = ""
    if layout.head is None or layout.bidirectional or not layout.vocabulary:
        why = layout.missing.get("logits", "it predicts no next tokens")
    part = Part(survey.inputs, sequences)
    if not why and int(part.lengths.max()) < 2:
        why = "no sequence has two tokens"
    if not why:
        try:
            subject.capture.check_head(next(iter(subject.feeds(part, told=False))).inputs)
        except UsageError as error:
            why = str(error)
    if why:
        message = f"There is no loss recovered: {why.rstrip('.')}."
        return Outcome(
            findings=[{"kind": "warning", "code": "no_loss_recovered", "message": message}]
        )
    run = _Runs(subject, part, sinks)
    clean = run.losses("", None)
    outcome = Outcome()
    places = by_site(members)
    total = sum(len(here) + len(ABLATIONS) for here in places.values())
    done = 0
    for site, here in places.items():
        mean = run.mean(site)
        ablated = {}
        for name, value in (("zero", torch.zeros_like(mean)), ("mean", mean)):
            done += 1
            subject.progress.status(f"loss recovered at {site}", done, total)
            ablated[name] = run.losses(site, lambda x, v=value: v.to(x).expand_as(x))  # type: ignore[misc]
        for member in here:
            done += 1
            subject.progress.status(f"loss recovered at {site}", done, total)
            coder = member.autoencoder
            coded = run.losses(site, lambda x, c=coder: c.apply(x.float())[1].to(x))  # type: ignore[misc]
            for name, cost in ablated.items():
                outcome.readings.append(_reading(member, name, sinks, clean, coded, cost))
    return outcome


class _Runs:
    """Passes over the same sequences with one site replaced."""

    def __init__(self, subject: Subject, part: Part, sinks: Sinks | None) -> None:
        self._subject, self._part, self._sinks = subject, part, sinks

    def _replaced(self, feed: Feed) -> Tensor:
        """Real tokens that the autoencoder is for (batch, time)."""
        mask = feed.mask.bool()
        return mask if self._sinks is None else mask & ~self._sinks(feed)

    def losses(self, site: str, change: Callable[[Tensor], Tensor] | None) -> NDArray[np.float64]:
        """Summed loss and predicted tokens of each group (2, GROUPS); `change` takes (m, d)."""
        found = np.zeros((2, GROUPS))
        capture = self._subject.capture
        for feed in self._subject.feeds(self._part, told=False):
            where = self._replaced(feed)

            def edit(x: Tensor, where: Tensor = where) -> Tensor:
                assert change is not None
                where = where.to(x.device)
                changed = x.clone()
                changed[where] = change(x[where])
                return changed

            hidden = capture.hidden(feed.inputs, {} if change is None else {site: edit})
            each = losses(capture, hidden, feed)
            np.add.at(found[0], feed.index % GROUPS, each)
            np.add.at(found[1], feed.index % GROUPS, feed.lengths - 1)
        return found

    def mean(self, site: str) -> Tensor:
        """Mean of the tokens that are replaced (d,)."""
        total: Tensor | None = None
        count = 0
        for feed in self._subject.feeds(self._part, told=False):
            where = self._replaced(feed)

            def observe(_: str, x: Any, where: Tensor = where) -> None:
                nonlocal total, count
                rows = x[where.to(x.device)]
                part = rows.float().sum(0).cpu().double()
                total = part if total is None else total + part
                count += len(rows)

            self._subject.capture.run(feed.inputs, [site], observe)
        assert total is not None
        return (total / max(1, count)).float()


def _reading(
    member: Member,
    ablation: str,
    sinks: Sinks | None,
    clean: NDArray[np.float64],
    coded: NDArray[np.float64],
    ablated: NDArray[np.float64],
) -> Reading:
    def value(without: int | None = None) -> float:
        kept = np.arange(GROUPS) != without
        tokens = clean[1, kept].sum()
        if not tokens:
            raise Undefined("nothing is left to predict")
        return loss_recovered(
            *(float(sums[0, kept].sum() / tokens) for sums in (clean, coded, ablated))
        )

    keys: dict[str, Any] = {
        "sae": member.name,
        "sinks": "in" if sinks is None else "out",
        "activations": GIVEN,
        "ablation": ablation,
    }
    if member.seed is not None:
        keys["seed"] = str(member.seed)
    parts = [evaluate(value, int(group)) for group in np.flatnonzero(clean[1])]
    n = int(clean[1].sum())
    return jackknifed(NAME, "loss_recovered", member.site, keys, evaluate(value), parts, n)
