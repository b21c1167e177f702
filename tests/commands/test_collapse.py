"""`geoprobe collapse` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from tests.conftest import tiny_text
from tests.probes.test_collapse import _items, _perceptron

Cli = Callable[..., tuple[int, str, str]]
FACTORY = "tests.probes.test_collapse:_perceptron"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    folder = tmp_path / "net"
    folder.mkdir()
    for step in (0, 8):
        torch.manual_seed(step)
        save_model(_perceptron(), str(folder / f"step-{step}.safetensors"))
    (tmp_path / "some.txt").write_text("Some text.")
    for name, seed in (("train", 0), ("heldout", 1)):
        x, y = _items(60, seed=seed)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    return folder


def test_a_classifier_with_two_sets(cli: Cli, network: Path, tmp_path: Path) -> None:
    sets = [f"--data={name}={tmp_path / name}.npz" for name in ("train", "heldout")]
    arguments = ["collapse", network, "--factory", FACTORY, *sets, "--out", tmp_path / "run"]
    code, out, err = cli(*arguments, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["command"] == "collapse"
    assert {r["keys"]["data"] for r in document["readings"]} == {"train", "heldout"}
    assert {r["site"] for r in document["readings"]} >= {"1", "penultimate", "model"}
    assert document["corpus"]["classes"] == 5
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()
    code, out, err = cli(*arguments)
    assert code == 0
    assert "measured already" in err + out
    assert "nc1" in out


def test_next_tokens_of_a_series(cli: Cli, tiny_series: Path, tmp_path: Path) -> None:
    text = tmp_path / "some.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(60)))
    code, out, err = cli(
        *("collapse", tiny_series, "--last", 2, "--text", text, "--min-count", 5),
        *("--layers", "-1", "--out", tmp_path / "run"),
    )
    assert code == 0, err
    assert "final" in out
    assert "permuted" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere.npz"], "no such file"),
        (["--data", "{tmp}/train.npz", "--data", "{tmp}/train.npz"], "2 sets are called"),
        (["--data", "{tmp}/train.npz", "--text", "{tmp}/some.txt"], "--text and --data"),
        (["--data", "{tmp}/train.npz", "--classes", "tokens"], "text"),
        (["--data", "{tmp}/train.npz", "--weight-decay-h", "0.1"], "give both"),
        (["--data", "{tmp}/train.npz", "--weight-decay-h=-1", "--weight-decay-w=1"], "positive"),
        (["--data", "{tmp}/train.npz", "--min-count", "500"], "500 or more items"),
        (["--data", "{tmp}/train.npz", "--pool", "middle"], "--pool middle"),
        (["--data", "{tmp}/train.npz", "--sequences", "1"], "--sequences 1"),
        ([], "What is the network fed"),
    ],
)
def test_bad_input_is_one_sentence(
    cli: Cli, network: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    given = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    code, out, err = cli(
        "collapse", network, "--factory", FACTORY, *given, "--out", tmp_path / "run"
    )
    assert code == 2
    assert not out
    assert words in err
    assert "Traceback" not in err
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_help_teaches(cli: Cli) -> None:
    code, out, _ = cli("collapse", "--help")
    assert code == 0
    for word in ("--data", "--min-count", "--weight-decay-w", "next", "permuted"):
        assert word in out
