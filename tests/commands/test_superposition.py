"""`geoprobe superposition` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import geoprobe
from tests.conftest import DEPTH, tiny_text

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(20)))
    return file


def test_a_series_its_document_and_its_run(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("superposition", tiny_series, "--text", text, "--out", tmp_path / "run")
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["command"] == "superposition"
    readings = document["readings"]
    labels = {f"step-{n}" for n in (0, 1, 10, 100)}
    for measure, site, keys in (
        ("dimensionality", "embedding", {"of": "weights", "rows": "given"}),
        ("interference", "mlp.gate.0", {"of": "weights", "rows": "gaussian"}),
        ("welch_bound", "unembedding", {"of": "weights", "rows": "given"}),
        ("in_out_cosine", "mlp.up.2", {"of": "weights", "rows": "given"}),
        ("kurtosis", "neurons.1", {"of": "activations", "tokens": "all", "basis": "given"}),
        ("privileged_basis", "final", {"of": "activations", "tokens": "all", "basis": "rotated"}),
    ):
        found = [
            r for r in readings if (r["measure"], r["site"], r["keys"]) == (measure, site, keys)
        ]
        assert {r["checkpoint"] for r in found} == labels
        assert len({r["value"] for r in found}) == (
            1 if "gaussian" in keys.values() or measure == "welch_bound" else 4
        )
    assert {r["probe"] for r in readings} == {"superposition"}
    closest = [
        f for f in document["findings"] if f["kind"] == "closest" and f["site"] == "embedding"
    ]
    assert len(closest) == 4
    assert all(len(f["tokens_text"]) == 2 for f in closest)
    code, again, _ = cli(*command, "--json")
    assert code == 0
    assert json.loads(again)["readings"] == readings
    assert (tmp_path / "run" / "report.html").is_file()


def test_named_weights_of_the_newest(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    code, _, err = cli(
        *("superposition", tiny_series, "--text", text, "--last", "1", "--quiet"),
        *("--weights", "mlp.out,model.layers.0.self_attn.q_proj.weight.T", "--skip-coherence"),
        *("--layers", "0,-1", "--out", tmp_path / "run"),
    )
    assert code == 0, err
    run = geoprobe.open(tmp_path / "run")
    assert set(run.readings.filter(of="weights")["site"]) == {
        "mlp.out.0",
        f"mlp.out.{DEPTH - 1}",
        "model.layers.0.self_attn.q_proj.weight.T",
    }
    assert set(run.readings.filter(of="activations")["site"]) == {
        f"{kind}.{i}" for kind in ("block", "neurons") for i in (0, DEPTH - 1)
    }
    assert "coherence" not in set(run.readings["measure"])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("embeding", "--weights embeding: this llama model has no weights of that name"),
        ("mlp.out.7", "--weights mlp.out.7: this llama model has no weights"),
        ("model.layers.9.mlp.up_proj.weight", "Did you mean"),
        ("<b>\x1b[31m", "no weights of that name"),
    ],
)
def test_mistakes_are_sentences(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli, weights: str, said: str
) -> None:
    code, out, err = cli(
        *("superposition", tiny_series, "--text", text, "--out", tmp_path / "run"),
        *("--weights", weights, "--quiet"),
    )
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert "\x1b" not in err


def test_a_plan_counts_the_weights_and_loads_none(tiny_series: Path, text: Path, cli: Cli) -> None:
    found = {}
    for option in ((), ("--layers", "0")):
        code, out, err = cli(
            *("plan", tiny_series, "--probes", "superposition", "--text", text, "--json", *option)
        )
        assert code == 0, err
        found[option] = json.loads(out)
    whole, one = found.values()
    sites = {cost["site"] for cost in whole["costs"]}
    assert {"embed", "block.1", "neurons.2", "final", ""} <= sites
    assert 0 < one["reading"] < whole["reading"]
    assert 0 < one["watching"] < whole["watching"]
    assert whole["here"]["readings"] > 0
