"""`geoprobe features` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.formats import write_saelens
from tests.conftest import WIDTH, tiny_text

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40, longest=30)))
    return file


def coder(folder: Path, site: str, width: int = WIDTH) -> Path:
    decoder = torch.randn(20, width)
    made = Autoencoder(
        "standard", decoder.T.contiguous(), decoder, torch.zeros(20), torch.zeros(width), site=site
    )
    return write_saelens(made, folder)


def test_trained_over_a_series_and_resumed(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    command = (
        *("features", tiny_series, "--train", "--text", text, "--out", tmp_path / "run"),
        *("--train-samples", 600, "--sites", "final", "--last", 2, "--loss-sequences", 4),
    )
    code, out, err = cli(*command)
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").is_file()
    assert "final" in out
    code, out, err = cli(*command, "--json", "--quiet")
    assert code == 0, err
    assert "2 checkpoints were measured already." in err
    document = json.loads(out)
    found = {(r["measure"], r["keys"]["activations"]) for r in document["readings"]}
    assert {
        ("psi", "given"),
        ("psi", "random_model"),
        ("psi", "gaussian"),
        ("loss_recovered", "given"),
        ("saturation", "given"),
    } <= found
    assert {r["checkpoint"] for r in document["readings"]} == {"step-10", "step-100"}


def test_a_folder_of_loaded_ones(tiny_series: Path, text: Path, tmp_path: Path, cli: Cli) -> None:
    for site in ("block.0", "block.2"):
        coder(tmp_path / "saes" / site, site)
    code, out, err = cli(
        *("features", tiny_series, "--sae", tmp_path / "saes", "--text", text, "--last", 1),
        *("--out", tmp_path / "run", "--json", "--quiet", "--nulls", "none"),
    )
    assert code == 0, err
    readings = json.loads(out)["readings"]
    assert {r["site"] for r in readings} == {"block.0", "block.2"}
    assert {r["keys"]["activations"] for r in readings} == {"given"}
    code, out, err = cli(
        *("features", tiny_series, "--sae", tmp_path / "saes", "--text", text, "--last", 1),
        *("--out", tmp_path / "one", "--json", "--quiet", "--nulls", "none", "--layers", "2"),
    )
    assert code == 0, err
    assert {r["site"] for r in json.loads(out)["readings"]} == {"block.2"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Give --sae PATH"),
        (("--train", "--sae", "x"), "one of the two"),
        (("--sae", "nowhere"), "there is no such file or folder"),
        (("--sae", "block.1="), "there is no path behind the site"),
        (("--train", "--architecture", "relu"), "--architecture relu"),
        (("--train", "--nulls", "permuted"), "--nulls permuted"),
        (("--train", "--architecture", "topk", "--k", "999"), "--k 999"),
        (("--train", "--sites", "block.7"), "no such site"),
    ],
)
def test_mistakes_are_one_sentence(
    options: tuple[str, ...], said: str, tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    code, out, err = cli(
        *("features", tiny_series, "--text", text, "--out", tmp_path / "run", *options)
    )
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_one_that_does_not_fit_is_refused(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    path = coder(tmp_path / "wide", "block.1", 2 * WIDTH)
    code, _, err = cli("features", tiny_series, "--sae", path, "--text", text)
    assert code == 2
    assert "wide reads 64 dimensions, and block.1 of this llama model has 32" in err
