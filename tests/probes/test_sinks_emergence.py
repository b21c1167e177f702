"""When sinks emerge: planted courses of the sink rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoprobe.probes.sinks_emergence import emergence_findings
from geoprobe.reports.sinks import sink_tables, summary
from geoprobe.reports.subject import Subject
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading


def run_of(
    folder: Path,
    rates: list[float],
    rankmes: list[float] | None = None,
    stderr: float = 0.01,
    other: float = 0.1,
) -> Run:
    """A run whose checkpoints have these sink rates of position 2, and RankMe values."""
    entries = [
        {"label": f"step-{10**i}", "step": 10**i, "tokens": None, "stage": None, "fingerprint": "x"}
        for i in range(len(rates))
    ]
    header = {
        "command": "sinks",
        "options": {"eps": 0.3},
        "corpus": {"fingerprint": "c"},
        "environment": {},
        "series": {"arguments": ["made"], "checkpoints": entries},
    }
    with Run.create(folder, header) as run:
        for i, (entry, rate) in enumerate(zip(entries, rates, strict=True)):
            label = str(entry["label"])
            readings = [
                Reading(label, "sinks", "sink_rate", "model", keys, rate, stderr, 100)
                for keys in (
                    {"text": "natural", "position": 2},
                    {"text": "repeat", "position": 2},
                )
            ]
            # The first position is none in this model.
            keys = {"text": "natural", "position": 0}
            readings.append(Reading(label, "sinks", "sink_rate", "model", keys, other, stderr, 100))
            if rankmes is not None:
                keys = {"tokens": "last", "sinks": "in"}
                readings.append(
                    Reading(label, "spectrum", "rankme", "final", keys, rankmes[i], 0.1, 100)
                )
            found = [{"kind": "primary", "position": 2, "token_ids": [5], "shares": [1.0]}]
            findings = [{**finding, "checkpoint": label} for finding in found]
            run.write_checkpoint(entry, readings, findings, {"x": np.zeros(1)})
    return run


def test_the_first_of_the_checkpoints_that_stay_high(tmp_path: Path) -> None:
    run = run_of(tmp_path, [0.0, 0.3, 0.02, 0.25, 0.4])
    (found,) = emergence_findings(run)
    assert (found["start"], found["end"]) == ("step-100", "step-1000")
    assert (found["start_rate"], found["end_rate"], found["newest_rate"]) == (0.02, 0.25, 0.4)
    assert found["position"] == 2
    assert found["phase"] is None
    assert "emerge between step-100 and step-1000: the sink rate of position 2" in found["message"]
    run.write_findings([found])
    assert "emerge between" in summary(Subject.of([run]), "made")
    assert sink_tables(run)


def test_the_position_with_the_largest_newest_rate_is_followed(tmp_path: Path) -> None:
    rates = [0.0, 0.0, 0.3, 0.4]
    (found,) = emergence_findings(run_of(tmp_path / "a", rates, other=0.39))
    assert (found["position"], found["start"], found["end"]) == (2, "step-10", "step-100")
    # Position 0 has been high from the start.
    assert not emergence_findings(run_of(tmp_path / "b", rates, other=0.41))


def test_it_stands_beside_the_phases(tmp_path: Path) -> None:
    rankmes = [50.0, 20.0, 30.0, 60.0, 40.0]
    run = run_of(tmp_path, [0.0, 0.01, 0.02, 0.25, 0.4], rankmes)
    (found,) = emergence_findings(run)
    assert found["phase"] == "entropy-seeking"
    assert "during the entropy-seeking phase" in found["message"]


@pytest.mark.parametrize(
    ("rates", "stderr"),
    [
        ([0.0, 0.01, 0.04], 0.001),  # no sinks to speak of
        ([0.4, 0.39, 0.41], 0.001),  # there from the first
        ([0.1, 0.1, 0.3], 0.1),  # within the errors
        ([0.5], 0.01),
    ],
)
def test_nothing_is_said_of_what_is_not_there(
    tmp_path: Path, rates: list[float], stderr: float
) -> None:
    assert emergence_findings(run_of(tmp_path, rates, stderr=stderr)) == []
