"""`geoprobe scan`: all one-pass probes in one forward pass, the same numbers as verb by verb."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import geoprobe
from geoprobe.probes.registry import ONE_PASS, scan_options
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]
VERBS = ("rank", "sinks", "collapse", "superposition")


def _saved(folder: Path, family: str) -> Path:
    tiny_model(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40)))
    return file


def _by_name(document: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {
        (r["probe"], r["measure"], r["site"], r["convention"], str(sorted(r["keys"].items()))): r
        for r in document["readings"]
    }


def test_the_readings_are_those_of_the_verbs_one_by_one(
    text: Path, tmp_path: Path, cli: Cli
) -> None:
    model = _saved(tmp_path / "model", "llama")
    given = (model, "--text", text, "--batch-size", 8, "--json")
    code, out, err = cli("scan", *given, "--attention", "--out", tmp_path / "scan")
    assert code == 0, err
    whole = json.loads(out)
    assert whole["command"] == "scan"
    alone: dict[tuple[Any, ...], dict[str, Any]] = {}
    for verb in VERBS:
        code, out, err = cli(verb, *given, "--out", tmp_path / verb)
        assert code == 0, err
        alone |= _by_name(json.loads(out))
    found = _by_name(whole)
    assert found.keys() == alone.keys()
    assert {name[0] for name in found} == {"spectrum", "sinks", "collapse", "superposition"}
    for name, reading in found.items():
        for part in ("value", "stderr"):
            expected = alone[name][part]
            if expected is not None:
                expected = pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert reading[part] == expected, name
    assert (tmp_path / "scan" / "report.html").is_file()


def test_the_text_is_passed_once_for_all_probes(text: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    seen: Counter[tuple[int, ...]] = Counter()

    def count(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        for row in given[0].tolist():
            seen[tuple(row[: row.index(1)] if 1 in row else row)] += 1  # 1 pads

    model.model.embed_tokens.register_forward_pre_hook(count)
    run = geoprobe.measure(
        model=model, tokenizer=tokenizer, text=str(text), batch_size=8, **scan_options()
    )
    assert set(run.readings["probe"]) == set(ONE_PASS)
    rows = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    ids = [tuple(tokenizer(row)["input_ids"]) for row in rows]
    # By the first the order of sites is learnt, by the longest the memory that a batch takes.
    others = [row for row in ids[1:] if row != max(ids, key=len)]
    assert [seen[row] for row in others] == [1] * len(others)


def test_what_a_model_has_not_is_left_out_with_a_word(text: Path, tmp_path: Path, cli: Cli) -> None:
    model = _saved(tmp_path / "model", "bert")
    given = (model, "--text", text, "--length", 16, "--json", "--out", tmp_path / "run")
    code, out, err = cli("scan", *given)
    assert code == 0, err
    document = json.loads(out)
    assert {r["probe"] for r in document["readings"]} == {"spectrum", "sinks", "superposition"}
    warned = [f for f in document["findings"] if f.get("code") == "probe_left_out"]
    assert len(warned) == 1
    assert "bert model sees the next token" in warned[0]["message"]
    # Asked for by name, it is an error.
    code, _, err = cli("scan", *given[:-1], tmp_path / "b", "--probes", "collapse,spectrum")
    assert code == 2
    assert "bert model sees the next token" in err


def test_studies_on_request(text: Path, tmp_path: Path, cli: Cli) -> None:
    model = _saved(tmp_path / "model", "llama")
    given = (model, "--text", text, "--probes", "spectrum,features", "--json")
    code, out, err = cli("scan", *given, "--train", "--sites", "final", "--out", tmp_path / "run")
    assert code == 0, err
    assert {r["probe"] for r in json.loads(out)["readings"]} == {"spectrum", "features"}
    code, _, err = cli("scan", model, "--probes", "spectrun", "--out", tmp_path / "other")
    assert code == 2
    assert "spectrun" in err


def test_a_null_byte_and_emoji_are_text(tmp_path: Path, cli: Cli) -> None:
    model = _saved(tmp_path / "model", "llama")
    file = tmp_path / "odd.jsonl"
    odd = ["w1 \x00 w2 \U0001f9ea w3", "w4 w5 w6 w7", "\x00", "w2 " * 100_000, "w9 w8 w7"]
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in odd))
    code, out, err = cli("scan", model, "--text", file, "--json", "--out", tmp_path / "run")
    assert code == 0, err
    document = json.loads(out)
    assert document["corpus"]["sequences"] == 5
    for reading in document["readings"]:
        assert reading["value"] is not None or reading["reason"]
    assert torch.isfinite(
        torch.tensor([r["value"] for r in document["readings"] if r["value"] is not None])
    ).all()
