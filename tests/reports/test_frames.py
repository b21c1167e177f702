"""What charts draw, against the same gathered a reading at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import make_scan_run
from geoprobe.reports import superposition_frames
from geoprobe.reports.sinks import sink_frames
from geoprobe.reports.subject import Subject
from geoprobe.reports.superposition import ACTIVATIONS, WEIGHTS, kind_and_place
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading
from tests.reports.test_superposition import make_superposition_run

TITLES = {"weights": WEIGHTS, "activations": ACTIVATIONS}
BOUNDS = {"dimensionality_sum": "matrix_rank", "interference": "welch_bound"}
BOUNDS["coherence"] = "welch_bound"


def _marks(subject: Subject, name: str) -> Iterator[dict[str, Any]]:
    run = subject.runs[name]
    for index, label in enumerate(run.labels):
        known: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in run.readings.to_dicts():
            if row["checkpoint"] == label and row["probe"] == "superposition":
                line = row.get("rows") or row.get("basis") or "given"
                at = (row["of"], row["site"], row["measure"], line, row["convention"])
                known.setdefault(at, row)
        for (of, site, measure, line, _), row in known.items():
            if measure not in TITLES[of] or row["value"] is None:
                continue
            kind, place = kind_and_place(site)
            mark = {"run": name, "checkpoint": label, "index": index, "of": of, "site": site}
            mark |= {"kind": kind, "place": place, "measure": TITLES[of][measure], "n": row["n"]}
            mark["x"] = subject.x_of(run, index)
            shown = "given" if line == "given" else "null"
            yield {**mark, "line": shown, "value": row["value"], "stderr": row["stderr"]}
            bound = known.get((of, site, BOUNDS.get(measure, ""), "given", "exact"))
            if line == "given" and bound is not None and bound["value"] is not None:
                least = math.sqrt(bound["value"]) if measure == "coherence" else bound["value"]
                yield {**mark, "line": "bound", "value": least, "stderr": None}


def _with_oddities(path: Path) -> Run:
    """Readings that are there twice, under two conventions, or with a bound that has no value."""
    entry = {"label": "a", "step": 1, "tokens": None, "stage": None, "fingerprint": ""}
    header = {"command": "superposition", "options": {}, "corpus": {}, "environment": {}}
    weights = {"of": "weights", "rows": "given"}
    rows: list[tuple[str, dict[str, str], float | None, str]] = [
        ("coherence", weights, 0.5, "exact"),
        ("coherence", weights, 0.25, "exact"),
        ("coherence", weights, 0.125, "other"),
        ("coherence", {**weights, "rows": "gaussian"}, 0.75, "exact"),
        ("welch_bound", weights, 0.04, "exact"),
        ("welch_bound", weights, 0.09, "exact"),
        ("dimensionality_sum", weights, 7.0, "exact"),
        ("matrix_rank", weights, None, "exact"),
        ("matrix_rank", weights, 8.0, "exact"),
        ("no_such_measure", weights, 8.0, "exact"),
        ("coherence", {"of": "activations", "basis": "given"}, 0.5, "exact"),
        ("kurtosis", {"of": "activations", "basis": ""}, 0.5, "exact"),
    ]
    readings = [
        Reading("a", "superposition", measure, "fc.weight", keys, value, None, 9, convention, "-")
        for measure, keys, value, convention in rows
    ]
    series = {"series": {"arguments": ["odd"], "checkpoints": [entry]}}
    with Run.create(path, {**header, **series}) as run:
        run.write_checkpoint(entry, readings, [], {})
    return run


def test_marks_of_superposition_are_those_of_each_reading(tmp_path: Path) -> None:
    runs = [
        make_scan_run(tmp_path / "scan", 3, 2, 2),
        make_superposition_run(tmp_path / "undefined", undefined=True),
        _with_oddities(tmp_path / "odd"),
    ]
    subject = Subject.of(runs)
    found = superposition_frames.superposition_frames(subject)["superposition_values"].to_dicts()
    wanted = [mark for name in subject.runs for mark in _marks(subject, name)]
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got == want
    assert {mark["line"] for mark in found if mark["run"] == "odd"} == {"given", "null", "bound"}


@pytest.mark.parametrize("most", [10**6, 600, 0])
def test_bars_are_of_all_checkpoints_or_of_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    runs = [make_scan_run(tmp_path / str(i), 3, 2, 2) for i in range(2)]
    subject = Subject.of(runs)
    monkeypatch.setattr(superposition_frames, "MOST_BARS", 10**9)
    every = superposition_frames.superposition_frames(subject)
    assert 600 < every["superposition_bars"].height < 10**6
    monkeypatch.setattr(superposition_frames, "MOST_BARS", most)
    found = superposition_frames.superposition_frames(subject)
    for table in ("superposition_bars", "superposition_means"):
        whole = every[table]
        assert found[table].equals(whole if most == 10**6 else whole.filter(index=2)), table
        assert set(whole["index"]) == {0, 1, 2}


def test_scores_of_heads_are_those_of_the_primary(tmp_path: Path) -> None:
    runs = [make_scan_run(tmp_path / str(i), 3, 2, 2) for i in range(2)]
    # The first checkpoint has no sink, and the last another one.
    found = [f for f in runs[0].findings if f.get("checkpoint") != runs[0].labels[0]]
    last = runs[0].labels[2]
    found = [{**f, "position": 3} if f.get("checkpoint") == last else f for f in found]
    runs[0].__dict__["findings"] = found
    subject = Subject.of(runs)
    scores = sink_frames(subject)["sink_scores"]
    wanted = [
        {
            "run": name,
            "checkpoint": row["checkpoint"],
            "index": row["index"],
            "layer": int(row["site"].removeprefix("attention.")),
            **{key: row[key] for key in ("text", "head", "position", "value", "stderr")},
        }
        for name, run in subject.runs.items()
        for row in run.readings.to_dicts()
        if row["measure"] == "sink_score" and (run is runs[1] or row["index"] == 1)
    ]
    assert scores.height == 16
    assert scores.to_dicts() == [{name: row[name] for name in scores.columns} for row in wanted]
