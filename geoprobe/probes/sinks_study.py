"""The study of sinks: with what the pass found, it drives the model again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoprobe.errors import UsageError
from geoprobe.models.attention import Attention
from geoprobe.probes.base import Outcome, Subject
from geoprobe.probes.sink_scores import scores
from geoprobe.probes.sinks import NAME, SinksOptions, SinksProbe
from geoprobe.probes.sinks_causal import causal
from geoprobe.probes.sinks_formation import formation

if TYPE_CHECKING:
    from geoprobe.models.capture import Capture


class SinksStudy:
    """What attention pays to the probe's sinks, how they form, and what it does to prevent that.

    Args:
        options: What to measure.

    Attributes:
        probe: The probe of the pass that was just made.
    """

    name = NAME

    def __init__(self, options: SinksOptions) -> None:
        self.options = options
        self.probe: SinksProbe | None = None

    def run(self, subject: Subject) -> Outcome:
        """Measures one checkpoint."""
        assert self.probe is not None
        found, stream = self.probe.found, self.probe.stream
        assert found is not None
        outcome = Outcome()
        attends = None if self.options.levels_only else _attention(subject.capture, outcome)
        outcome.add(scores(attends, subject, self.options, found, stream))
        if self.options.levels_only:
            return outcome
        formed = formation(subject, found, stream)
        outcome.add(formed.outcome())
        if self.options.causal:
            outcome.add(causal(attends, subject, formed, found, stream))
        return outcome


def _attention(capture: Capture, outcome: Outcome) -> Attention | None:
    """The model's attention; None, and a warning, where it cannot be asked."""
    try:
        return Attention(capture)
    except UsageError as error:
        outcome.findings.append(
            {"kind": "warning", "code": "no_sink_scores", "message": str(error)}
        )
        return None
