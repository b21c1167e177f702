"""`geoprobe check` from the command line: baselines, exit codes, and everything it writes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import tiny_model, tiny_text, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]


def _saved(folder: Path, change: Callable[[Any], None] = lambda _: None) -> Path:
    model = tiny_model("llama")
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _shaken(model: Any) -> None:
    draw = torch.Generator().manual_seed(7)
    for weight in model.parameters():
        weight.mul_(1 + 0.05 * torch.randn(weight.shape, generator=draw))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    _saved(folder / "model")
    _saved(folder / "shaken", _shaken)
    text = "".join(json.dumps({"text": t}) + "\n" for t in tiny_text(60))
    (folder / "text.jsonl").write_text(text)
    (folder / "other.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in tiny_text(60, seed=5))
    )
    return folder


@pytest.fixture(scope="module")
def baseline(place: Path) -> Path:
    from typer.testing import CliRunner

    from geoprobe.cli import app

    file = place / "geometry.json"
    given = ["check", place / "model", "--baseline", file, "--update", "--text"]
    more = [place / "text.jsonl", "--probes", "spectrum,superposition", "--out", place / "made"]
    found = CliRunner().invoke(app, [str(word) for word in [*given, *more]])
    assert found.exit_code == 0, found.output
    return file


def _check(cli: Cli, place: Path, name: str, baseline: Path, *more: Any) -> tuple[int, str, str]:
    text = () if "--text" in more else ("--text", place / "text.jsonl")
    out = () if "--out" in more else ("--out", place / f"run-{name}")
    return cli("check", place / name, "--baseline", baseline, *text, *out, *more)


def test_the_same_model_passes_in_other_batches(place: Path, baseline: Path, cli: Cli) -> None:
    before = baseline.read_bytes()
    code, out, err = _check(cli, place, "model", baseline, "--batch-size", 3, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["exit_code"] == 0
    assert {c["status"] for c in document["changes"]} == {"same"}
    assert {c["probe"] for c in document["changes"]} == {"spectrum", "superposition"}
    assert baseline.read_bytes() == before  # nothing but --update writes it


def test_half_precision_passes_by_its_own_floor(place: Path, baseline: Path, cli: Cli) -> None:
    code, out, err = _check(cli, place, "model", baseline, "--dtype", "bfloat16", "--json")
    assert code == 0, err
    assert "bfloat16 now" in json.loads(out)["notes"][0]


def test_a_model_that_moved_fails_and_is_told_everywhere(
    place: Path, baseline: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = place / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = place / "out.xml", place / "out.md"
    code, out, err = _check(
        cli, place, "shaken", baseline, "--junit", files[0], "--markdown", files[1]
    )
    assert code == 1
    assert "FAILED" in out
    assert "Traceback" not in err
    suite = ET.parse(files[0]).getroot()
    failures = list(suite.iter("failure"))
    assert failures
    assert len(list(suite.iter("testcase"))) > len(failures)
    assert "rankme" in files[1].read_text().lower()
    assert summary.read_text().strip()
    assert (place / "run-shaken" / "report.html").is_file()


def test_expectations_let_it_pass(place: Path, baseline: Path, cli: Cli) -> None:
    config = place / "loose.toml"
    config.write_text("[check]\nrel = 1e6\nabs = 1e6\n")
    code, _, err = _check(cli, place, "shaken", baseline, "--config", config)
    assert code == 0, err
    config.write_text('[[check.expect]]\nmeasure = "rankmi"\n')
    code, _, err = _check(cli, place, "model", baseline, "--config", config)
    assert code == 2
    assert "rankme" in err


def test_what_cannot_be_compared_is_exit_3(place: Path, baseline: Path, cli: Cli) -> None:
    other = ("--text", place / "other.jsonl")
    code, out, _ = _check(cli, place, "model", baseline, *other)
    assert code == 3
    assert "text is another one" in " ".join(out.split())
    code, _, err = _check(cli, place, "model", baseline, *other, "--unpaired")
    assert code == 0, err
    elsewhere = ("--out", place / "sites")
    code, out, _ = _check(cli, place, "model", baseline, "--sites", "final", *elsewhere)
    assert code == 3
    assert "sites" in out


def test_a_run_is_checked_without_the_model(place: Path, baseline: Path, cli: Cli) -> None:
    for name, expected in (("model", 0), ("shaken", 1)):
        kept = place / f"kept-{name}"
        _check(cli, place, name, baseline, "--out", kept)
        code, _, err = cli("check", kept, "--baseline", baseline)
        assert code == expected, err
    code, _, err = cli("check", kept, "--baseline", baseline, "--update")
    assert code == 2
    assert "give the model" in err


def test_against_another_model(place: Path, cli: Cli) -> None:
    given = ("--text", place / "text.jsonl", "--probes", "spectrum", "--json", "--out")
    for name, expected in (("model", 0), ("shaken", 1)):
        code, out, err = cli(
            "check", place / name, "--against", place / "model", *given, place / f"against-{name}"
        )
        assert code == expected, err
        assert json.loads(out)["exit_code"] == expected


def test_update_shows_the_difference_and_then_writes(place: Path, cli: Cli) -> None:
    file = place / "updated.json"
    given = ("--text", place / "text.jsonl", "--probes", "spectrum", "--update")
    code, _, err = _check(cli, place, "model", file, *given)
    assert code == 0, err
    first = file.read_bytes()
    code, out, err = _check(cli, place, "shaken", file, *given)
    assert code == 0, err
    assert "FAILED" in out
    assert file.read_bytes() != first
    code, _, err = _check(cli, place, "shaken", file, "--probes", "spectrum")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --baseline FILE, or --against MODEL"),
        (("--baseline", "nowhere.json"), "--update"),
        (("--baseline", "a.json", "--against", "b"), "one of the two"),
        (("--against", "b", "--update"), "leave it out"),
    ],
)
def test_mistakes_are_sentences(words: tuple[str, ...], said: str, place: Path, cli: Cli) -> None:
    code, _, err = cli("check", place / "model", "--out", place / "mistakes", *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_text_of_the_baseline_must_be_given(place: Path, baseline: Path, cli: Cli) -> None:
    code, _, err = cli("check", place / "model", "--baseline", baseline, "--out", place / "no")
    assert code == 2
    assert "--text text.jsonl; give the same" in err
