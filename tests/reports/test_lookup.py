"""What is found of one checkpoint is what a search through the whole run would find."""

from __future__ import annotations

import gc
from pathlib import Path
from weakref import ref

import polars as pl

from benchmarks.report import make_scan_run
from geoprobe.reports.lookup import findings_at, readings_at
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading
from tests.reports.factory import make_run


def _found(run: Run, label: str, kind: str) -> list[dict[str, object]]:
    return [f for f in run.findings if f["kind"] == kind and f.get("checkpoint") == label]


def test_readings_and_findings_of_each_checkpoint_are_all_that_there_are(tmp_path: Path) -> None:
    run = make_scan_run(tmp_path / "run", 4, 2, 2)
    kinds = {f["kind"] for f in run.findings}
    assert len(kinds) > 5
    for label in run.labels:
        assert readings_at(run, label).equals(run.readings.filter(pl.col("checkpoint") == label))
        for kind in kinds:
            assert findings_at(run, label, kind) == _found(run, label, kind)
        assert findings_at(run, label, "no such kind") == []
    assert findings_at(run, "no such checkpoint", "primary") == []


def test_a_run_that_is_written_to_is_looked_at_anew(tmp_path: Path) -> None:
    entries = [{"label": x, "step": i, "fingerprint": x} for i, x in enumerate("ab")]
    header = {
        "command": "rank",
        "options": {},
        "corpus": {},
        "environment": {},
        "series": {"arguments": ["net"], "checkpoints": entries},
    }
    with Run.create(tmp_path / "run", header) as run:
        for place, entry in enumerate(entries):
            finding = {"kind": "level", "checkpoint": entry["label"], "message": str(place)}
            reading = Reading("", "p", "rankme", "final", {}, value=float(place))
            run.write_checkpoint(entry, [reading], [finding], {})
            label = str(entry["label"])
            assert findings_at(run, label, "level") == [finding]
            assert readings_at(run, label)["value"].to_list() == [place]
        changed = {"kind": "level", "checkpoint": "a", "message": "changed"}
        run.write_checkpoint(entries[0], [], [changed], {})
        assert findings_at(run, "a", "level") == [changed]
        assert not readings_at(run, "a").height
        assert readings_at(run, "b").height == 1


def test_a_finding_of_no_checkpoint_or_of_no_text_is_of_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(0, 1), blocks=1)
    run.__dict__["findings"] = [
        {"kind": "phase"},
        {"kind": "phase", "checkpoint": ["step1"]},
        {"kind": "phase", "checkpoint": "step1"},
    ]
    assert findings_at(run, "step1", "phase") == [{"kind": "phase", "checkpoint": "step1"}]


def test_no_run_is_kept_for_its_findings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(0,), blocks=1)
    findings_at(run, "step0", "phase")
    gone = ref(run)
    del run
    gc.collect()
    assert gone() is None
