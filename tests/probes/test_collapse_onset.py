"""When collapse begins: planted courses of the class-distance normalised variance."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoprobe.probes.collapse_onset import onset_findings
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading


def _run(folder: Path, values: dict[str, list[float]], stderr: float | None = 0.01) -> Run:
    number = len(next(iter(values.values())))
    entries = [
        {"label": f"step-{2**i}", "step": 2**i, "tokens": None, "stage": None, "fingerprint": "x"}
        for i in range(number)
    ]
    header = {
        "command": "collapse",
        "options": {},
        "corpus": {"fingerprint": "c"},
        "environment": {},
        "series": {"arguments": ["made"], "checkpoints": entries},
    }
    with Run.create(folder, header) as run:
        for i, entry in enumerate(entries):
            label = str(entry["label"])
            readings = [
                Reading(
                    label,
                    "collapse",
                    "cdnv",
                    site,
                    {"classes": "labels", "data": name, "tokens": "head", "labels": labels},
                    value,
                    stderr,
                    100,
                    reason="" if stderr is not None else "no standard error: of a test",
                )
                for name, course in values.items()
                for site, labels, value in (
                    ("block.0", "given", 5.0),
                    ("penultimate", "given", course[i]),
                    ("penultimate", "permuted", 100.0 / (i + 1)),
                )
            ]
            run.write_checkpoint({**entry, "corpus": "c", "model": {}}, readings, [], {})
    return run


def test_it_begins_where_it_stays_at_half_of_its_peak(tmp_path: Path) -> None:
    run = _run(tmp_path, {"train": [4.0, 8.0, 3.0, 6.0, 2.0, 1.0], "heldout": [4.0] * 6})
    (found,) = onset_findings(run)
    assert (found["data"], found["site"]) == ("train", "penultimate")
    # At step 4 it was under half of the peak, and came back.
    assert (found["start"], found["end"]) == ("step-8", "step-16")
    assert (found["peak"], found["peak_at"], found["newest"]) == (8.0, "step-2", 1.0)
    assert "between step-8 and step-16" in found["message"]


@pytest.mark.parametrize(
    ("course", "stderr"),
    [
        ([1.0, 2.0, 4.0], 0.01),  # rises
        ([4.0, 3.0, 2.5], 0.01),  # falls by less than half
        ([4.0, 3.0, 1.9], 1.0),  # within the errors
        ([4.0], 0.01),
    ],
)
def test_nothing_is_said_otherwise(tmp_path: Path, course: list[float], stderr: float) -> None:
    assert onset_findings(_run(tmp_path, {"train": course}, stderr)) == []


def test_without_standard_errors_the_fall_alone_decides(tmp_path: Path) -> None:
    assert len(onset_findings(_run(tmp_path, {"train": [4.0, 1.0]}, None))) == 1
