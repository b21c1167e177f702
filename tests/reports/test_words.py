"""The summary says what the readings and findings say."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from geoprobe.reports import words
from geoprobe.reports.subject import Subject, thinned
from tests.reports.factory import STEPS, make_run


def _summary(run) -> str:
    subject = Subject.of([run])
    return words.summary(subject, next(iter(subject.runs)))


def test_a_series_with_phases_is_told_with_the_values_at_their_boundaries(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    text = _summary(run)
    final = run.readings.filter((pl.col("measure") == "rankme") & (pl.col("site") == "final")).sort(
        "index"
    )
    value = dict(zip(final["checkpoint"], final["value"], strict=True))
    phases = [f for f in run.findings if f["kind"] == "phase"]
    assert [p["name"] for p in phases] == ["warmup", "entropy-seeking", "compression-seeking"]
    assert text.startswith("13 checkpoints, step 0 to 2,048. RankMe of final (last tokens) fell ")
    assert f"from {words.number(value[phases[0]['start']])} to" in text
    for phase in phases:
        assert f"to {words.number(value[phase['end']])} " in text
        assert f"({phase['name']})" in text
    assert text.endswith("alpha moved the other way each time.")


@pytest.mark.parametrize(("peak", "told"), [(1.05, False), (1.3, True)])
def test_a_rise_inside_the_warmup_is_told_where_it_is_large(
    tmp_path: Path, peak: float, told: bool
) -> None:
    run = make_run(tmp_path / "run")
    warmup = next(f for f in run.findings if f["kind"] == "phase")
    assert warmup["name"] == "warmup"
    assert warmup["end"] not in ("step0", "step1", "step2")
    subject = Subject.of([run])
    is_rank = (pl.col("measure") == "rankme") & (pl.col("site") == "final")
    first = subject.readings.filter(is_rank & (pl.col("index") == 0))["value"][0]
    subject.__dict__["readings"] = subject.readings.with_columns(
        value=pl.when(is_rank & (pl.col("checkpoint") == "step2"))
        .then(peak * first)
        .otherwise(pl.col("value"))
    )
    text = words.summary(subject, "pebble")
    said = f"(warmup; rose to {words.number(peak * first)} at step 2 first)"
    assert (said in text) == told
    assert ("(warmup)" in text) != told


def test_alpha_that_goes_along_is_not_said_to_oppose(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    found = [
        {**f, "alpha_opposes": f["name"] == "warmup"} for f in run.findings if f["kind"] == "phase"
    ]
    run.write_findings(found)
    assert "alpha moved the other way in warmup only." in _summary(run)
    run.write_findings([{**f, "alpha_opposes": False} for f in found])
    assert "alpha did not move the other way." in _summary(run)


def test_a_series_without_phases_says_where_it_went_and_that_there_are_none(
    tmp_path: Path,
) -> None:
    text = _summary(make_run(tmp_path / "run", phases=False))
    assert "went from 34.8 to 17.6, beyond two standard errors; no phase" in text


def test_one_checkpoint_is_told_by_its_layers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(None,), blocks=4)
    rank = run.readings.filter(pl.col("measure") == "rankme").sort("value")
    text = _summary(run)
    assert text.startswith("One checkpoint. RankMe of final (last tokens) is ")
    assert f"lowest at {rank['site'][0]} ({words.number(rank['value'][0])})" in text
    assert f"highest at {rank['site'][-1]} ({words.number(rank['value'][-1])})" in text
    assert "from 1,024 rows" in text


def test_a_run_in_which_everything_failed_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(), failed={"a": "a: truncated.", "b": "b: NaN."})
    assert _summary(run) == "No checkpoint could be measured; 2 checkpoints failed."


def test_an_empty_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=())
    assert _summary(run) == "This run is empty: no checkpoint has been measured yet."


def test_warnings_are_told_once_with_their_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(0, 1, 2), warn="too few rows")
    (warned,) = words.warnings(Subject.of([run]))
    assert warned.message == "too few rows"
    assert warned.checkpoints == ["step0", "step1", "step2"]


def test_warnings_of_too_few_rows_are_one_line_whatever_the_number_of_rows(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run", steps=(0, 1, 2, 4), phases=False)
    sentence = "{} tokens: {} rows for {} dimensions (n/d = {}, below 5): biased low."
    given = [
        ("step0", ("last", 512, 128, "4")),
        ("step1", ("last", 9, 128, "0.07")),
        ("step2", ("last", 510, 128, "3.98")),
        ("step0", ("mean", 512, 128, "4")),
        ("step1", ("last", 512, 256, "2")),
    ]
    run.write_findings(
        [
            {"kind": "warning", "checkpoint": label, "message": sentence.format(*what)}
            for label, what in given
        ]
    )
    found = words.warnings(Subject.of([run]))
    assert [(w.message, w.checkpoints) for w in found] == [
        (
            sentence.format("last", "9 to 512", 128, "0.07 to 4"),
            ["step0", "step1", "step2"],
        ),
        (sentence.format("mean", 512, 128, "4"), ["step0"]),
        (sentence.format("last", 512, 256, "2"), ["step1"]),
    ]


def test_what_the_probe_warns_of_is_what_is_taken_together() -> None:
    from geoprobe.probes.spectrum import finite_sample_warnings
    from geoprobe.runs.reading import Reading

    def said(n: int) -> str:
        keys = {"tokens": "last", "sinks": "out"}
        reading = Reading("a", "spectrum", "rankme", "final", keys, 1.0, 0.1, n, "exact", "")
        (warning,) = finite_sample_warnings([reading], {"final": 4096})
        return str(warning["message"])

    assert words._together([said(1000), said(3)]).startswith(
        "last tokens: 3 to 1000 rows for 4096 dimensions (n/d = 0.00073 to 0.24, below 5)"
    )


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (17.6489, 0.1923, "17.65 ± 0.19"),
        (299.61, 6.84, "299.6 ± 6.8"),
        (1234567.0, 89.0, "1,234,567 ± 89"),
        (0.00001234, 0.0000002, "1.234e-05 ± 2.0e-07"),
        (5.0, None, "5.00"),
        (0.0, 0.0, "0"),
        (None, None, "undefined"),
        (0.9999, 0.0995, "1.000 ± 0.100"),
    ],
)
def test_a_value_is_shown_to_the_second_digit_of_its_error(value, stderr, text) -> None:
    assert words.with_error(value, stderr) == text


def test_the_axis_is_tokens_if_all_have_them_else_steps_else_places(tmp_path: Path) -> None:
    tokens = Subject.of([make_run(tmp_path / "a", training_tokens=1000)])
    assert (tokens.axis.field, tokens.axis.kind) == ("training_tokens", "symlog")
    assert tokens.axis.constant == 1000
    assert "ln(1 + tokens/1000)" in tokens.axis.title
    steps = Subject.of([make_run(tmp_path / "b")])
    assert (steps.axis.field, steps.axis.constant) == ("step", 1)
    assert set(steps.axis.ticks) == {0, 1, 10, 100, 1000}
    late = Subject.of([make_run(tmp_path / "c", steps=(100, 200, 4000))])
    assert late.axis.kind == "log"
    assert len(late.axis.ticks) >= 3
    unknown = Subject.of([make_run(tmp_path / "d", steps=(None, None), labels=["x", "y"])])
    assert (unknown.axis.field, unknown.axis.names) == ("index", ("x", "y"))
    # A second stage that counts steps anew has no axis of steps.
    again = Subject.of(
        [make_run(tmp_path / "e", steps=(0, 10, 5), labels=["a", "b", "c"], phases=False)]
    )
    assert again.axis.field == "index"
    mixed = Subject.of([steps.runs["pebble"], unknown.runs["pebble"]])
    assert mixed.axis.field == "index"


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, steps=(0, 1)) for name in "ab"]
    subject = Subject.of(runs)
    assert list(subject.runs) == ["pebble", "pebble (2)"]
    assert set(subject.readings["run"]) == {"pebble", "pebble (2)"}


def test_places_align_runs_by_their_share_of_training(tmp_path: Path) -> None:
    long, short = make_run(tmp_path / "a", name="long"), make_run(tmp_path / "b", steps=(0, 1))
    places = Subject.of([long, short]).places(5)
    assert [p.at["long"] for p in places] == [0, 3, 6, 9, len(STEPS) - 1]
    assert [p.at["pebble"] for p in places] == [0, 0, 0, 1, 1]
    assert places[-1].label == "step2048 / step1"


def test_thinning_keeps_the_first_and_the_last() -> None:
    for count in range(1, 60):
        for most in range(2, 20):
            kept = thinned(count, most)
            assert len(kept) <= most
            assert kept[0] == 0
            assert kept[-1] == count - 1
            assert kept == sorted(set(kept))
