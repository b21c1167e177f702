"""Phases of a measured series, as findings of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from geoprobe.probes.spectral_phases import phase_findings
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading

RANKS = [60.0, 22.0, 18.0, 70.0, 90.0, 40.0]
ALPHAS = [0.5, 1.2, 1.4, 0.8, 0.6, 1.1]


def a_run(
    path: Path,
    steps: list[int | None],
    *,
    sites: tuple[str, ...] = ("embed", "final"),
    tokens: tuple[str, ...] = ("last", "all"),
    conventions: tuple[str, ...] = ("exact",),
    training_tokens: list[int] | None = None,
) -> Run:
    """A run whose phases are on the last site, the first choice and convention; others are flat."""
    entries = [
        {
            "label": f"c{i}",
            "step": step,
            "tokens": training_tokens[i] if training_tokens else None,
            "stage": None,
            "fingerprint": "x",
        }
        for i, step in enumerate(steps)
    ]
    header: dict[str, Any] = {name: {} for name in ("options", "corpus", "environment")}
    run = Run.create(path, {"command": "rank", **header, "series": {"checkpoints": entries}})
    for i, entry in enumerate(entries):
        readings = []
        for site in sites:
            for choice in tokens:
                for convention in conventions:
                    main = (site, choice, convention) == (sites[-1], tokens[0], conventions[0])
                    for measure, value in (("rankme", RANKS[i]), ("alpha", ALPHAS[i])):
                        readings.append(
                            Reading(
                                str(entry["label"]),
                                "spectrum",
                                measure,
                                site,
                                {"tokens": choice, "sinks": "in"},
                                value if main else 50.0,
                                0.02 * value,
                                convention=convention,
                            )
                        )
        run.write_checkpoint(entry, readings, [], {})
    run.close()
    return run


def test_the_three_phases_are_found_where_they_were_planted(tmp_path: Path) -> None:
    found = phase_findings(a_run(tmp_path, [0, 1, 10, 100, 1000, 10000]))
    assert [(f["name"], f["start"], f["end"]) for f in found] == [
        ("warmup", "c0", "c2"),
        ("entropy-seeking", "c2", "c4"),
        ("compression-seeking", "c4", "c5"),
    ]
    assert all(f["kind"] == "phase" and f["significant"] and f["alpha_opposes"] for f in found)
    assert {(f["site"], f["tokens"], f["convention"], f["x"]) for f in found} == {
        ("final", "last", "exact", "step")
    }
    warmup = found[0]
    assert (warmup["start_step"], warmup["end_step"]) == (0, 10)
    assert warmup["change"] == pytest.approx(math.log(18 / 60))
    assert warmup["stderr"] == pytest.approx(0.02 * math.sqrt(2))
    assert warmup["end_x"] == pytest.approx(math.log(11))
    assert (warmup["start_alpha"], warmup["end_alpha"]) == (0.5, 1.4)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": ("mean",)},
        {"sites": ("embed", "block.0")},
        {"conventions": ("li2025", "exact")},
    ],
)
def test_what_stands_in_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    found = phase_findings(a_run(tmp_path, [0, 1, 10, 100, 1000, 10000], **change))
    assert len(found) == 3
    assert found[0]["tokens"] == change.get("tokens", ("last",))[0]
    assert found[0]["site"] == change.get("sites", ("final",))[-1]
    assert found[0]["convention"] == change.get("conventions", ("exact",))[0]


def test_tokens_of_training_are_preferred_and_order_serves_where_steps_restart(
    tmp_path: Path,
) -> None:
    counted = phase_findings(
        a_run(tmp_path / "a", [0, 1, 2, 3, 4, 5], training_tokens=[0, 9, 90, 900, 9000, 90000])
    )
    assert counted[0]["x"] == "tokens"
    assert counted[0]["end_x"] == pytest.approx(math.log(91))
    restarted = phase_findings(a_run(tmp_path / "b", [0, 1, 2, 0, 1, 2]))
    assert restarted[0]["x"] == "order"
    assert [(f["start"], f["end"]) for f in restarted] == [("c0", "c2"), ("c2", "c4"), ("c4", "c5")]


def test_two_checkpoints_have_no_phases(tmp_path: Path) -> None:
    assert phase_findings(a_run(tmp_path, [0, 1])) == []
