"""Relation-specific neurons, found and switched off in a network that has them by construction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import geoprobe
from geoprobe.errors import UsageError
from tests.probes import planted_relations as network

TEXT = ("near sax please say", "above sbw please", "please scy near")
SETTINGS: dict[str, Any] = {
    "probes": ("relations",),
    "text": TEXT,
    "random_draws": 3,
    "perplexity_sequences": 0,
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    for relation in network.facts():
        (folder / f"{relation['name']}.json").write_text(json.dumps(relation))
    return folder


def _measure(facts: Path, out: Path, **options: Any) -> Any:
    return geoprobe.measure(
        model=network.model(),
        tokenizer=network.tokenizer(),
        facts=str(facts),
        out=out,
        **{**SETTINGS, **options},
    )


def _matrix(run: Any, convention: str = "known") -> dict[tuple[str, str], float]:
    k = {f["relation"]: f["k"] for f in run.findings if f["kind"] == "relation"}
    rows = run.readings.filter(
        (pl.col("measure") == "accuracy_drop")
        & (pl.col("convention") == convention)
        & (pl.col("module") == "all")
    )
    return {
        (row["deactivated"], row["relation"]): row["value"]
        for row in rows.iter_rows(named=True)
        if row["k"] == k[row["deactivated"]]
    }


def _found(run: Any, label: str = "model") -> dict[str, set[tuple[str, int]]]:
    file = json.loads((run.path / "relations" / label / "neurons.json").read_text())
    return {name: {(row[0], row[1]) for row in rows} for name, rows in file["relations"].items()}


@pytest.fixture(scope="module")
def run(facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _measure(facts, tmp_path_factory.mktemp("run") / "r", top_k="4", cumulative=(1, 2, 4))


def test_planted_neurons_are_found_exactly(run: Any) -> None:
    found = _found(run)
    assert found.keys() == set(network.RELATIONS)
    for r, name in enumerate(network.RELATIONS):
        assert found[name] == set(network.planted(r)), name


def test_without_them_their_relation_breaks_and_no_other(run: Any) -> None:
    matrix = _matrix(run)
    assert len(matrix) == 9
    for (off, relation), drop in matrix.items():
        assert drop == (1.0 if off == relation else 0.0), (off, relation)
    assert _matrix(run, "all") == matrix  # nothing was unknown


def test_all_facts_are_known_and_divided_by_subject(run: Any) -> None:
    for finding in (f for f in run.findings if f["kind"] == "relation"):
        assert finding["known_prompts"] == finding["prompts"] == 48
        assert finding["evaluation"] == finding["detection"] == 24
        assert finding["left_out"] == ""
    known = run.readings.filter(pl.col("measure") == "known")
    assert known["value"].to_list() == [1.0] * 3
    assert known["stderr"].to_list() == [None] * 3  # all right: no spread to be seen
    assert all(reason.startswith("no standard error") for reason in known["reason"])


def test_what_broke_is_told_with_what_is_said_instead(run: Any) -> None:
    broken = [f for f in run.findings if f["kind"] == "broken_facts"]
    assert [f["broken"] for f in broken] == [24] * 3
    fact = broken[0]["facts"][0]
    assert fact["after"].startswith("nothing")
    assert fact["before"].startswith(fact["object"])


def test_the_curve_breaks_with_the_last_of_what_writes(run: Any) -> None:
    """Three neurons write one coordinate, and two of them are enough."""
    rows = run.readings.filter(
        (pl.col("measure") == "accuracy_drop") & (pl.col("convention") == "known")
    ).filter((pl.col("deactivated") == pl.col("relation")) & (pl.col("module") == "all"))
    for name in network.RELATIONS:
        curve = dict(rows.filter(pl.col("relation") == name).select("k", "value").iter_rows())
        assert sorted(curve) == [1, 2, 4]
        assert curve[4] == 1.0
        assert curve[1] <= curve[2] <= curve[4]


def test_random_neurons_break_what_they_hit(run: Any) -> None:
    rows = run.readings.filter(pl.col("measure") == "accuracy_drop_random")
    draws = rows.filter(pl.col("draw").is_not_null())
    assert len(draws) == 9
    for name in network.RELATIONS:
        mine = draws.filter(pl.col("relation") == name)["value"]
        mean = rows.filter(pl.col("draw").is_null() & (pl.col("relation") == name))["value"]
        assert mean[0] == pytest.approx(mine.mean())


def test_modules_alone(run: Any) -> None:
    """The coordinate that is written is as necessary as the three neurons that write it."""
    rows = run.readings.filter(pl.col("module").is_in(["gate", "up", "down"]))
    assert set(rows["module"]) == {"up", "down"}
    assert rows.filter(pl.col("module") == "up")["value"].to_list() == [1.0] * 3


def test_sets_do_not_overlap_and_precision_is_perfect(run: Any) -> None:
    overlap = run.readings.filter(pl.col("measure") == "overlap")
    assert overlap["value"].to_list() == [0.0] * 3
    precision = run.readings.filter(pl.col("measure") == "average_precision")
    true = precision.filter(pl.col("labels") == "true")["value"]
    shuffled = precision.filter(pl.col("labels") == "shuffled")["value"]
    assert true.to_list() == [1.0] * 3
    assert shuffled.max() < 0.7


def test_lape_finds_the_neurons_that_fire_on_one_relation(facts: Path, tmp_path: Path) -> None:
    total = network.EACH * len(network.RELATIONS)
    run = _measure(facts, tmp_path / "r", selector="lape", top_k=str(total))
    for r, name in enumerate(network.RELATIONS):
        ups = {unit for unit in network.planted(r) if unit[0] == "mlp.up.0"}
        assert _found(run)[name] == ups
    assert all(drop == float(off == name) for (off, name), drop in _matrix(run).items())


def test_neurons_of_a_run_are_given_to_another(facts: Path, run: Any, tmp_path: Path) -> None:
    file = run.path / "relations" / "model" / "neurons.json"
    given = _measure(facts, tmp_path / "r", neurons=str(file), cumulative=(1, 2, 4))
    assert _matrix(given) == _matrix(run)
    used = json.loads(file.read_text())["subjects"]
    for finding in (f for f in given.findings if f["kind"] == "relation"):
        assert len(used[finding["relation"]]) == 12
        assert finding["evaluation"] == 24
    assert not (given.path / "relations" / "model" / "neurons.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": "x"}, "--top-k x"),
        ({"top_k": "0%"}, "--top-k 0%"),
        ({"top_k": "100%"}, "--top-k 100%"),
        ({"top_k": "130"}, "has 130 neurons"),
        ({"selector": "other"}, "--select other"),
        ({"min_known": 1}, "--min-known 1"),
        ({"neurons": "nowhere.json"}, "--neurons nowhere.json"),
        ({"facts": "nowhere"}, "--facts nowhere"),
    ],
)
def test_wrong_options_are_sentences(
    facts: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        geoprobe.measure(
            model=network.model(),
            tokenizer=network.tokenizer(),
            out=tmp_path / "r",
            **{**SETTINGS, "facts": str(facts), **options},
        )


def test_one_relation_cannot_be_told_from_others(tmp_path: Path) -> None:
    file = tmp_path / "near.json"
    file.write_text(json.dumps(network.facts()[0]))
    with pytest.raises(UsageError, match="give at least two"):
        _measure(file, tmp_path / "r")


def test_a_relation_that_is_not_known_is_left_out_with_its_counts(
    facts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "facts"
    folder.mkdir()
    relations = network.facts()
    for sample in relations[2]["samples"][5:]:
        sample["object"] = "please"
    for relation in relations:
        (folder / f"{relation['name']}.json").write_text(json.dumps(relation))
    run = _measure(folder, tmp_path / "r", top_k="4")
    found = {f["relation"]: f for f in run.findings if f["kind"] == "relation"}
    assert "10 of 48 prompts, of 5 of 24 subjects" in found["behind"]["left_out"]
    assert _found(run).keys() == {"near", "above"}
    assert set(_matrix(run)) == {(a, b) for a in ("near", "above") for b in ("near", "above")}


class _StopError(Exception):
    pass


def test_a_killed_study_goes_on_where_it_was(
    facts: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoprobe.probes import relations_answers

    real, seen = relations_answers.greedy, []

    def counted(*arguments: Any) -> Any:
        seen.append(len(arguments[1]))
        if len(seen) == stop_at:
            raise _StopError
        return real(*arguments)

    monkeypatch.setattr(relations_answers, "greedy", counted)
    stop_at, options = 6, {"top_k": "4", "cumulative": (1, 2, 4)}
    with pytest.raises(_StopError):
        _measure(facts, tmp_path / "r", **options)
    state = tmp_path / "r" / "relations" / "model" / "answers.jsonl"
    with state.open("a") as stream:
        stream.write('{"key": "half a li')
    stop_at, before = 0, len(seen) - 1
    again = _measure(facts, tmp_path / "r", **options)
    done = len(seen) - 1 - before
    seen.clear()
    whole = _measure(facts, tmp_path / "whole", **options)
    assert before + done == len(seen)  # nothing was asked twice
    assert not state.exists()
    for name in ("checkpoints/model.json", "checkpoints/model.safetensors"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert again.readings.equals(run.readings)
