"""`geoprobe relations` from the command line: the demo series, what it keeps, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geoprobe.data.demo_series import demo_facts_folder, demo_folder
from tests.conftest import tiny_model, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]
STEPS = [demo_folder() / f"step-{n:05d}" for n in (4, 1024, 2048)]
FACTS = ("--facts", demo_facts_folder())
QUICK = ("--random-draws", 2, "--perplexity-sequences", 4, "--cumulative", "10,77")
SERIES = ("relations", *STEPS, *FACTS, "--top-k", "5%", *QUICK)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last two checkpoints and one that knows nothing yet."""
    from click.testing import Result
    from typer.testing import CliRunner

    from geoprobe.cli import app

    out = tmp_path_factory.mktemp("demo") / "run"
    found: Result = CliRunner().invoke(app, [*map(str, SERIES), "--out", str(out)])
    assert found.exit_code == 0, found.output
    return out


def _document(folder: Path) -> dict[str, Any]:
    import geoprobe

    return geoprobe.open(folder).document()


def test_a_series_and_when_its_neurons_appear(demo: Path) -> None:
    document = _document(demo)
    labels = [c["label"] for c in document["series"]["checkpoints"]]
    assert len(labels) == 3
    by_label = {
        label: [f for f in document["findings"] if f.get("checkpoint") == label] for label in labels
    }
    early = [f for f in by_label[labels[0]] if f["kind"] == "relation"]
    assert len(early) == 11
    assert all("the model answers" in f["left_out"] for f in early)
    readings = document["readings"]
    assert {r["measure"] for r in readings if r["checkpoint"] == labels[0]} == {"known"}
    series = [f for f in document["findings"] if f["kind"] == "relation_series"]
    assert len(series) > 8
    for finding in series:
        rows = {row["checkpoint"]: row for row in finding["checkpoints"]}
        assert list(rows) == labels
        assert rows[labels[0]]["shared"] is None
        assert rows[labels[2]]["shared"] == 1.0
        assert rows[labels[1]]["jaccard"] > 3 * rows[labels[1]]["chance"]
    relations = {f["relation"] for f in by_label[labels[2]] if f["kind"] == "relation"}
    assert "language" in relations
    own = [
        r
        for r in readings
        if r["measure"] == "accuracy_drop"
        and r["checkpoint"] == labels[2]
        and r["keys"]["relation"] == r["keys"]["deactivated"]
        and (r["keys"]["module"], r["keys"]["k"]) == ("all", 77)
        and r["convention"] == "known"
    ]
    others = [
        r["value"]
        for r in readings
        if r["measure"] == "versatility" and r["checkpoint"] == labels[2]
    ]
    assert len(own) == len(others) == 11
    assert sum(r["value"] for r in own) > 2 * sum(others)


def test_the_same_command_measures_nothing_again(demo: Path, cli: Cli) -> None:
    code, out, err = cli(*SERIES, "--out", demo, "--json")
    assert code == 0, err
    assert "3 checkpoints were measured already" in err
    assert json.loads(out)["command"] == "relations"


def test_neurons_of_the_newest_are_given_to_an_older_one(
    demo: Path, tmp_path: Path, cli: Cli
) -> None:
    file = demo / "relations" / "step-02048" / "neurons.json"
    given = ("relations", STEPS[1], *FACTS, "--neurons", file, *QUICK)
    code, out, err = cli(*given, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["options"]["neurons"]["name"] == "neurons.json"
    assert not [r for r in document["readings"] if r["measure"] == "average_precision"]
    code, _, err = cli(*given, "--top-k", "3", "--out", tmp_path / "other")
    assert code == 2
    assert "--top-k" in err


def test_none_left_is_exit_3_with_the_counts_kept(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "run"
    code, shown, err = cli("relations", STEPS[0], *FACTS, "--out", out)
    assert code == 3
    assert "No relation is left" in err
    assert "left out" in shown
    assert {r["measure"] for r in _document(out)["readings"]} == {"known"}


@pytest.mark.parametrize(
    ("family", "words"),
    [("mixtral", "mixture of experts"), ("bert", "without a language-model head")],
)
def test_models_without_such_neurons_or_answers(
    family: str, words: str, tmp_path: Path, cli: Cli
) -> None:
    tiny_model(family).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    code, _, err = cli("relations", tmp_path / "model", "--length", 16, "--out", tmp_path / "run")
    assert code == 2
    assert words in err
    assert err.count("\n") < 6


def test_the_demo_has_facts_of_its_own() -> None:
    from geoprobe.job import make_job

    options = {"probes": ("relations",)}
    own = make_job(options, arguments=["demo"]).plans[-1].recorded["facts"]
    built_in = make_job(options).plans[-1].recorded["facts"]
    assert "language" in own["relations"]
    assert "country_language" in built_in["relations"]
    assert own["fingerprint"] != built_in["fingerprint"]
