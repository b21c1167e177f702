"""The table of readings, and its export."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest

from geoprobe.errors import UsageError
from geoprobe.runs.export import export
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import COLUMNS, Reading
from geoprobe.runs.table import readings_frame
from tests.runs.example import entry, header, make_run, readings

SCHEMA = json.loads(Path(__file__).with_name("schema.json").read_text())


def frame(*keys: dict[str, Any]) -> pl.DataFrame:
    rows = [Reading("c", "p", "rankme", "final", k, value=1.0).to_json() for k in keys]
    return readings_frame([({"label": "c"}, rows)])


def test_the_table_has_a_row_a_reading_and_a_column_a_key(tmp_path: Path) -> None:
    run = make_run(tmp_path, "step-0", "step-10")
    table = run.readings
    assert dict(table.schema) == {
        "checkpoint": pl.String,
        "index": pl.Int64,
        "stage": pl.Int64,
        "step": pl.Int64,
        "training_tokens": pl.Float64,
        "epoch": pl.Float64,
        "probe": pl.String,
        "measure": pl.String,
        "site": pl.String,
        "tokens": pl.String,
        "sinks": pl.String,
        "k": pl.Int64,
        "mode": pl.String,
        "value": pl.Float64,
        "stderr": pl.Float64,
        "n": pl.Int64,
        "convention": pl.String,
        "reason": pl.String,
    }
    wanted = [(i, r) for i, label in enumerate(run.labels) for r in readings(label)]
    assert len(table) == len(wanted)
    for row, (index, reading) in zip(table.iter_rows(named=True), wanted, strict=True):
        given = reading.to_json()
        keys = given.pop("keys")
        place = {"index": index, "step": index, "training_tokens": index * 1000}
        place |= {"stage": None, "epoch": None}
        absent = dict.fromkeys({"tokens", "sinks", "k", "mode"} - keys.keys())
        assert row == {**given, **keys, **absent, **place}


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        ([1, 2, None], pl.Int64, [1, 2, None]),
        ([1, 2.5, None], pl.Float64, [1.0, 2.5, None]),
        (["a", 1, 2.5], pl.String, ["a", "1", "2.5"]),
        ([0, "first"], pl.String, ["0", "first"]),
        ([np.int64(3), np.float32(0.5)], pl.Float64, [3.0, 0.5]),
    ],
)
def test_a_column_is_as_narrow_as_its_keys_allow(
    values: list[Any], dtype: Any, shown: list[Any]
) -> None:
    table = frame(*({} if v is None else {"position": v} for v in values))
    assert table.schema["position"] == dtype
    assert table["position"].to_list() == shown


def test_tables_of_different_runs_fit_together() -> None:
    tables = [frame(), frame({}), frame({"k": 10, "tokens": "last"}), frame({"sinks": "in"})]
    assert len(pl.concat(tables, how="diagonal")) == 3
    assert {t.schema["k"] for t in tables} == {pl.Int64()}
    assert tables[0].columns == tables[2].columns


def test_steps_may_be_missing_and_epochs_fractional() -> None:
    row = Reading("c", "p", "rankme", "final", {}, value=1).to_json()
    places = [{"step": None, "tokens": 3e15}, {"epoch": 0.5, "stage": 2}, {}, {"step": 10}]
    table = readings_frame([({"label": "c", **place}, [row]) for place in places])
    assert table["step"].to_list() == [None, None, None, 10]
    assert table["epoch"].to_list() == [None, 0.5, None, None]
    assert table["stage"].to_list() == [None, 2, None, None]
    assert table["training_tokens"].to_list() == [3e15, None, None, None]
    assert table["value"].to_list() == [1.0] * 4


def test_a_key_cannot_take_the_place_of_a_column() -> None:
    fixed = set(frame({}).columns) - {"tokens", "sinks", "k"}
    assert fixed == set(COLUMNS)
    for name in COLUMNS:
        with pytest.raises(ValueError, match=name):
            Reading("c", "p", "rankme", "final", {name: 1}, value=1.0)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_a_reading_is_finite_or_says_why_not(number: float) -> None:
    for name in ("value", "stderr"):
        with pytest.raises(ValueError, match=name):
            Reading("c", "p", "rankme", "final", {}, **{"value": 1.0, name: number})
    with pytest.raises(ValueError, match="needs a reason"):
        Reading("c", "p", "rankme", "final", {})


def test_readings_survive_json_also_with_numbers_of_numpy() -> None:
    given = Reading(
        "c", "p", "rankme", "final", {"k": np.int32(3), "eps": np.float32(0.5), "class": "x"},
        value=np.float32(0.1), stderr=np.float64(1 / 3), n=np.int64(7),  # type: ignore[arg-type]
    )  # fmt: skip
    data = json.loads(json.dumps(given.to_json(), allow_nan=False))
    assert list(data["keys"]) == ["class", "eps", "k"]
    back = Reading.from_json(data)
    assert back.value == float(np.float32(0.1))
    assert (back.stderr, back.n, back.keys) == (1 / 3, 7, {"class": "x", "eps": 0.5, "k": 3})
    assert Reading.from_json(back.to_json()) == back


# The document


def test_the_document_keeps_its_contract(tmp_path: Path) -> None:
    with Run.create(tmp_path, header("a", "b", "c")) as run:
        run.write_checkpoint(entry("a"), readings("a"), [{"kind": "stage", "site": "x"}], {})
        run.write_failure(entry("b", fingerprint=""), "b: truncated.")
        run.write_checkpoint({**entry("c"), "step": None, "tokens": None}, [], [], {})
        run.write_findings([{"kind": "phase", "name": "warmup"}])
    document = json.loads(json.dumps(run.document(), allow_nan=False))
    jsonschema.validate(document, SCHEMA)
    assert [c["label"] for c in document["series"]["checkpoints"]] == ["a", "c"]
    assert [f["kind"] for f in document["findings"]] == ["phase", "stage", "failure"]
    for name, wrong in (("value", "1"), ("n", 1.5), ("keys", None), ("reason", None)):
        changed = json.loads(json.dumps(document))
        changed["readings"][0][name] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, SCHEMA)


# Export


def test_an_export_read_back_is_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0", '=1+1,"x"\n</td>')
    for name in ("a.parquet", "a.csv", "a.json", "B.CSV"):
        export(run, tmp_path / name)
    table = run.readings
    assert pl.read_parquet(tmp_path / "a.parquet").equals(table)
    for name in ("a.csv", "B.CSV"):
        read = pl.read_csv(tmp_path / name, schema=table.schema)
        assert read.columns == table.columns
        assert read.drop("reason").equals(table.drop("reason"))
        assert read["reason"].fill_null("").equals(table["reason"])
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert document == json.loads(json.dumps(run.document()))
    jsonschema.validate(document, SCHEMA)


def test_an_export_may_have_any_name_and_is_whole_or_not_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0")
    for ending in ("parquet", "csv", "json"):
        file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/no-utf8-\xff." + ending.encode()))
        export(run, file)
        assert file.stat().st_size
        file.with_name(file.name + ".part").mkdir()
        before = file.read_bytes()
        with pytest.raises(UsageError, match="cannot be written"):
            export(run, file)
        assert file.read_bytes() == before


def test_an_export_of_a_run_without_readings_has_the_columns(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", header("a")) as run:
        pass
    export(run, tmp_path / "a.parquet")
    export(run, tmp_path / "a.csv")
    assert pl.read_parquet(tmp_path / "a.parquet").columns == run.readings.columns
    assert (tmp_path / "a.csv").read_text().strip().split(",") == run.readings.columns


@pytest.mark.parametrize("name", ["a.xlsx", "a", "none/a.csv", "none/a.parquet", "none/a.json"])
def test_an_export_that_cannot_be_is_a_sentence(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0")
    with pytest.raises(UsageError, match=r"use one of \.parquet|cannot be written"):
        export(run, tmp_path / name)
