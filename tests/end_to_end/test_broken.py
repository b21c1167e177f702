"""Checkpoints that cannot be measured are reported, the others go on, exit code 4."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import geoprobe
from tests.conftest import tiny_text

Cli = Callable[..., tuple[int, str, str]]


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-400])


def poison(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def misfit(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(7, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def garble_the_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", ')


def lose_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


BREAKAGES = [truncate, poison, misfit, lose_a_tensor, garble_the_config, lose_the_weights]


@pytest.mark.parametrize("step", [0, 10])
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda f: f.__name__)
def test_the_others_are_measured_as_if_alone(
    tiny_series: Path, tmp_path: Path, cli: Cli, breakage: Callable[[Path], None], step: int
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_series, folder)
    breakage(folder / f"step-{step}")
    for path in (folder / f"step-{step}").iterdir():
        os.utime(path, (1e9, 1e9))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "{t}"}}\n' for t in tiny_text(40)))
    code, out, err = cli("rank", folder, "--text", text, "--out", tmp_path / "run", "--json")
    assert code == 4
    assert f"step-{step}" in err
    assert "Traceback" not in err
    document = json.loads(out)
    labels = [f"step-{s}" for s in (0, 1, 10, 100) if s != step]
    assert [c["label"] for c in document["series"]["checkpoints"]] == labels
    failures = [f for f in document["findings"] if f["kind"] == "failure"]
    assert [f["checkpoint"] for f in failures] == [f"step-{step}"]
    assert len(failures[0]["message"]) > 30
    for label in labels:  # equal to the readings of a fresh load, bit for bit
        alone = geoprobe.measure(folder / label, text=[str(text)], tokenizer=str(folder))
        whole = [r for r in document["readings"] if r["checkpoint"] == label]
        assert [r["value"] for r in whole] == alone.readings["value"].to_list()


def test_a_mended_checkpoint_is_measured_by_the_same_command(
    tiny_series: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_series, folder)
    truncate(folder / "step-10")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "{t}"}}\n' for t in tiny_text(40)))
    command = ("rank", folder, "--text", text, "--out", tmp_path / "run", "--quiet")
    assert cli(*command)[0] == 4
    shutil.copy(tiny_series / "step-10" / "model.safetensors", folder / "step-10")
    assert cli(*command)[0] == 0
    assert geoprobe.open(tmp_path / "run").labels == ["step-0", "step-1", "step-10", "step-100"]


def test_when_none_can_be_measured_the_sentence_says_why(
    tiny_series: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_series, folder)
    for step in (0, 1, 10, 100):
        truncate(folder / f"step-{step}")
        for path in (folder / f"step-{step}").iterdir():
            os.utime(path, (1e9, 1e9))
    code, out, err = cli("rank", folder, "--out", tmp_path / "run")
    assert code == 4
    assert out == ""
    assert "step-0" in err


def test_a_checkpoint_that_the_options_do_not_fit_does_not_stop_the_others(
    tmp_path: Path, cli: Cli
) -> None:
    """Another architecture, an unsupported family, a missing tokenizer: each has its sentence."""
    from transformers import AutoModelForCausalLM, BioGptConfig

    from tests.conftest import tiny_model, tiny_tokenizer, write_series

    folder = write_series(tmp_path / "mixed", (1, 4))
    config = BioGptConfig(
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=4,
        vocab_size=64,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "step-2")
    tiny_model("gpt2").save_pretrained(folder / "step-3")
    tiny_tokenizer().save_pretrained(folder / "step-3")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40)))
    assert cli("rank", folder, "--text", text, "--out", tmp_path / "run", "--quiet")[0] == 4
    run = geoprobe.open(tmp_path / "run")
    assert run.labels == ["step-1", "step-3", "step-4"]
    assert "'biogpt'" in run.failed["step-2"]
    assert run.failed["step-2"].startswith("step-2: ")
    codes = {f.get("code") for f in run.findings}
    assert "models_differ" in codes
    assert not [f for f in run.findings if f["kind"] == "phase"]
