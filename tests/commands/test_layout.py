"""`geoprobe layout`: what a model has, from its config alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.tiny_families import DEPTH, HIDDEN, VOCABULARY, WIDTH, tiny_config

Cli = Callable[..., tuple[int, str, str]]


def _config_only(folder: Path, family: str) -> Path:
    tiny_config(family).save_pretrained(folder)
    return folder


def test_every_family_is_shown_from_its_config_alone(
    any_family: str, tmp_path: Path, cli: Cli
) -> None:
    code, out, _ = cli("layout", _config_only(tmp_path / "model", any_family), "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["family"], found["depth"], found["width"]) == (any_family, DEPTH, WIDTH)
    widths = {site["site"]: site["width"] for site in found["sites"]}
    assert widths["embed"] == widths[f"block.{DEPTH - 1}"] == WIDTH
    assert "final" in widths or found["missing"]["final"]
    assert "neurons.0" in widths or found["missing"]["neurons"]
    if any_family in ("llama", "phi3", "gpt_neox", "opt", "modernbert", "t5", "bert"):
        assert widths["neurons.0"] == widths["mlp.up.0"] == HIDDEN


def test_the_table_has_one_row_a_kind_of_site(tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("layout", _config_only(tmp_path / "model", "phi3"))
    assert code == 0
    assert f"phi3, {DEPTH} blocks, width {WIDTH}, {VOCABULARY} token ids" in out
    assert f"mlp.gate.0 to mlp.gate.{DEPTH - 1}" in out
    assert "output of model.layers.N.mlp.gate_up_proj, first half" in out
    assert "input of model.layers.N.mlp.down_proj" in out
    assert len(out.splitlines()) < 16


def test_what_a_family_does_not_have_is_said(tmp_path: Path, cli: Cli) -> None:
    _, out, _ = cli("layout", _config_only(tmp_path / "moe", "mixtral"))
    assert "no neurons: its MLP is a mixture of experts" in out
    _, out, _ = cli("layout", _config_only(tmp_path / "bert", "bert"))
    assert "no final: this family has no final norm" in out


def test_an_unknown_family_is_a_sentence(tmp_path: Path, cli: Cli) -> None:
    folder = _config_only(tmp_path / "model", "llama")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "biogpt"}))
    code, out, err = cli("layout", folder)
    assert (code, out) == (2, "")
    assert "'biogpt' are not in the layout table" in err
    file.write_text('{"model_type": "llama", "num_attention_heads": 0}')
    code, _, err = cli("layout", folder)
    assert code == 2
    assert "no model can be made of its config" in err
