"""The Python face: a series, a live module, plain arrays."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import geoprobe
from geoprobe.errors import CheckpointError, UsageError
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer
from tests.probes import plain


def test_a_live_module_is_measured_and_left_as_it_was() -> None:
    model = tiny_model("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = geoprobe.measure(
        model=model, tokenizer=tiny_tokenizer(), text=tiny_text(50), tokens="all"
    )
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    tokenizer = tiny_tokenizer()
    states = plain.hidden_states(model.eval(), [tokenizer(t)["input_ids"] for t in tiny_text(50)])
    rows, _ = plain.choose(states["final"], "all")
    got = run.readings.filter(site="final", measure="rankme")["value"][0]
    assert got == pytest.approx(plain.spectral(rows)[("rankme", "exact")], rel=2e-4)


def test_frozen_parts_of_a_live_module_stay_as_they_were() -> None:
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    geoprobe.measure(model=model, tokenizer=tiny_tokenizer(), text=tiny_text(20))
    assert modes == {name: module.training for name, module in model.named_modules()}


def test_readings_of_a_live_module_are_not_overwritten_by_those_of_other_weights(
    tmp_path: Path,
) -> None:
    model = tiny_model("llama")
    given = {"tokenizer": tiny_tokenizer(), "text": tiny_text(20), "out": tmp_path / "run"}
    first = geoprobe.measure(model=model, **given).readings
    assert geoprobe.measure(model=model, **given).readings.equals(first)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.1)
    with pytest.raises(UsageError, match="other weights"):
        geoprobe.measure(model=model, **given)
    assert geoprobe.open(tmp_path / "run").readings.equals(first)
    assert not geoprobe.measure(model=model, **given, fresh=True).readings.equals(first)


def test_a_live_module_is_measured_in_its_own_precision() -> None:
    with pytest.raises(UsageError, match="measured as it is, in float32"):
        geoprobe.measure(model=tiny_model("llama"), tokenizer=tiny_tokenizer(), dtype="bfloat16")


def test_weights_that_are_gone_leave_their_readings(tiny_series: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_series, tmp_path / "series")
    options = {"text": tuple(tiny_text(20)), "out": tmp_path / "run"}
    geoprobe.measure(folder, **options)
    for weights in folder.glob("*/model.safetensors"):
        weights.unlink()
    with pytest.raises(CheckpointError, match=r"kept: `geoprobe report .*run` shows it"):
        geoprobe.measure(folder, **options)
    assert len(geoprobe.open(tmp_path / "run").labels) == 4
    with pytest.raises(CheckpointError, match=r"No checkpoint can be measured: [^`]*$"):
        geoprobe.measure(folder, **options | {"out": tmp_path / "other"})


def test_a_series_and_its_report(tiny_series: Path, tmp_path: Path) -> None:
    run = geoprobe.measure(tiny_series, text=tiny_text(50), probes=["spectrum"], ablate=3)
    assert run.labels == ["step-0", "step-1", "step-10", "step-100"]
    assert set(run.readings["probe"]) == {"spectrum", "ablation"}
    report = run.report(tmp_path / "report.html")
    assert report.read_text("utf-8").lower().startswith("<!doctype html>")
    arrays = run.arrays("step-10")
    values = arrays["spectrum/final/last/in/eigenvalues"]
    reading = run.readings.filter(checkpoint="step-10", site="final", measure="rankme")
    assert reading["value"][0] == pytest.approx(geoprobe.measures.rankme(values))


def test_arrays_go_through_the_same_measures() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 20))
    run = geoprobe.measure_features(rows)
    found = run.readings.filter(measure="rankme")["value"][0]
    assert found == pytest.approx(geoprobe.measures.rankme(geoprobe.spectrum(rows)), rel=1e-12)
    both = geoprobe.measure_features({"a": rows, "b": torch.from_numpy(rows * 3)})
    ranks = both.readings.filter(measure="rankme")
    assert ranks["site"].to_list() == ["a", "b"]
    assert ranks["value"][0] == pytest.approx(ranks["value"][1], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either a series or model"),
        ({"series": "demo", "model": object()}, "either a series or model"),
        ({"series": "demo", "tokenz": "last"}, "no option 'tokenz'"),
        ({"series": "demo", "probes": ["rank"]}, "no probe named 'rank'"),
    ],
)
def test_mistakes_are_sentences(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        geoprobe.measure(**arguments)  # type: ignore[arg-type]


def test_a_live_module_needs_a_tokenizer() -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        geoprobe.measure(model=tiny_model("llama"))


@pytest.mark.parametrize(
    "code",
    [
        "import geoprobe; dir(geoprobe)",
        "import sys; sys.argv = ['geoprobe', '--help']; import geoprobe.cli as c; c.main()",
        "import sys; sys.argv = ['geoprobe', 'rank', '--help']; import geoprobe.cli as c; c.main()",
        "import sys; sys.argv = ['geoprobe', 'explain']; import geoprobe.cli as c; c.main()",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    heavy = {"torch", "transformers", "nnsight", "polars", "altair", "scipy"}
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('@', sorted({heavy!r} & set(sys.modules))))\n{code}"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "@ []", out.stderr
