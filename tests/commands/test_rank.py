"""`geoprobe rank` as a person and a script would use it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import geoprobe
from tests.conftest import DEPTH, tiny_text, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(60)))
    return file


def test_json_is_one_document_on_stdout(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    code, out, err = cli("rank", tiny_series, "--text", text, "--out", tmp_path / "r", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == "geoprobe.run/1"
    assert document["command"] == "rank"
    assert [c["step"] for c in document["series"]["checkpoints"]] == [0, 1, 10, 100]
    assert set(document["readings"][0]) == {
        *("checkpoint", "probe", "measure", "site", "keys"),
        *("value", "stderr", "n", "convention", "reason"),
    }
    sites = {r["site"] for r in document["readings"]}
    assert sites == {"embed", "final", *(f"block.{i}" for i in range(DEPTH))}
    assert "Report:" in err
    assert (tmp_path / "r" / "report.html").is_file()


def test_the_table_names_every_site_and_says_where_the_report_is(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    code, out, err = cli("rank", tiny_series, "--text", text, "--out", tmp_path / "r")
    assert code == 0, err
    for word in ("embed", "block.0", "final", "RankMe", str(tmp_path / "r" / "report.html")):
        assert word in out.replace("\n", ""), word
    assert max(len(line) for line in out.splitlines() if "/" not in line) <= 80


def test_options_reach_the_readings(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    code, out, _ = cli(
        *("rank", tiny_series / "step-1", "--tokenizer", tiny_series, "--text", text),
        *("--tokens", "last,mean,all", "--convention", "exact,garrido2023", "--drop-sinks"),
        *("--ablate", "2,5", "--layers", "-1", "--sites", "embed", "--sequences", "40"),
        *("--skip", "intrinsic_dim,intrinsic_dim_ml", "--out", tmp_path / "r", "--json"),
    )
    assert code == 0
    readings = json.loads(out)["readings"]
    spectrum = [r for r in readings if r["probe"] == "spectrum"]
    assert {r["site"] for r in spectrum} == {"embed", f"block.{DEPTH - 1}"}
    assert {(r["keys"]["tokens"], r["keys"]["sinks"]) for r in spectrum} == {
        (t, s) for t in ("last", "mean", "all") for s in ("in", "out")
    }
    assert {r["convention"] for r in spectrum if r["measure"] == "rankme"} == {
        "exact",
        "garrido2023",
    }
    assert {r["n"] for r in spectrum if r["keys"] == {"tokens": "last", "sinks": "in"}} == {40}
    assert not any(r["measure"].startswith("intrinsic") for r in readings)
    ablated = [r["keys"] for r in readings if r["measure"] == "ablation_loss"]
    assert [(k["mode"], k["k"]) for k in ablated] == [
        *(("none", 0), ("removed", 2), ("kept", 2), ("removed", 5), ("kept", 5))
    ]


def test_other_options_on_the_same_folder_are_an_error_that_says_what_differs(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("rank", tiny_series, "--text", text, "--out", tmp_path / "r", "--quiet")
    assert cli(*command)[0] == 0
    code, _, err = cli(*command, "--tokens", "all")
    assert code == 2
    assert "tokens" in err
    assert "--fresh" in err
    assert geoprobe.open(tmp_path / "r").readings["tokens"].unique().to_list() == ["last"]
    assert cli(*command, "--tokens", "all", "--fresh")[0] == 0
    assert geoprobe.open(tmp_path / "r").readings["tokens"].unique().to_list() == ["all"]


@pytest.mark.parametrize("name", ["x.npy", "X.NPY", "x.safetensors"])
def test_a_file_of_activations_given_as_a_series_is_told_the_option(
    tiny_series: Path, tmp_path: Path, cli: Cli, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    code, _, err = cli("rank", tiny_series, tmp_path / name, "--out", tmp_path / "r")
    assert code == 2
    assert f"give --features {tmp_path / name}" in " ".join(err.split())
    # What is no file keeps its own sentence.
    code, _, err = cli("rank", f"none-{name}", "--out", tmp_path / "r")
    assert code == 2
    assert "no such file" in err
    assert "--features" not in err


def test_out_that_is_a_file_is_told_so_before_anything_is_measured(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "r").write_text("mine")
    np.save(tmp_path / "x.npy", np.ones((4, 2)))
    for what in ((tiny_series, "--text", text), ("--features", tmp_path / "x.npy")):
        code, _, err = cli("rank", *what, "--out", tmp_path / "r", "--fresh")
        assert code == 2
        assert "that is a file; give a folder" in " ".join(err.split())
    assert (tmp_path / "r").read_text() == "mine"


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_features_that_someone_has(tmp_path: Path, cli: Cli, form: str) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    file = tmp_path / f"features.{form}"
    if form == "npy":
        np.save(file, rows)
    else:
        save_file({"layer.3": rows}, file)
    code, out, _ = cli("rank", "--features", file, "--out", tmp_path / "r", "--json")
    assert code == 0
    found = {
        r["measure"]: r["value"] for r in json.loads(out)["readings"] if r["convention"] == "exact"
    }
    lam = np.linalg.svd(rows.astype(float) - rows.mean(0, dtype=float), compute_uv=False) ** 2
    p = lam / lam.sum()
    assert found["rankme"] == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert found["participation_ratio"] == pytest.approx(1 / (p**2).sum(), rel=1e-9)


MISTAKES = [
    ((), "No series was given"),
    (("nowhere-at-all",), "nowhere-at-all"),
    (("SERIES", "--tokens", "middle"), "--tokens middle"),
    (("SERIES", "--convention", "mine"), "--convention mine"),
    (("SERIES", "--skip", "nothing"), "--skip nothing"),
    (("SERIES", "--ablate", "ten"), "--ablate ten"),
    (("SERIES", "--ablate", "0"), "--ablate 0"),
    (("SERIES", "--ablate", "9999"), "32 dimensions"),
    (("SERIES", "--sequences", "1"), "--sequences 1"),
    (("SERIES", "--length", "1"), "--length 1"),
    (("SERIES", "--batch-size", "0"), "--batch-size 0"),
    (("SERIES", "--layers", "99"), "--layers 99"),
    (("SERIES", "--sites", "blok"), "--sites blok"),
    (("SERIES", "--dtype", "int4"), "--dtype int4"),
    (("SERIES", "--device", "abacus"), "--device abacus"),
    (("SERIES", "--every", "0"), "--every 0"),
    (("SERIES", "--seed", "-1"), "--seed -1"),
    (("--features", "no-such.npy", "--drop-sinks"), "--drop-sinks"),
    (("SERIES", "--text", "no-such.jsonl"), "no-such.jsonl"),
    (("SERIES", "--field", "body"), "body"),
    (("SERIES", "--features", "x.npy"), "either SERIES or --features"),
    (("--features", "no-such.npy"), "no-such.npy"),
    (("SERIES", "--bogus"), "; see `geoprobe rank --help`"),
    (("SERIES", "--every", "often"), "--every"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_mistakes_are_one_sentence_and_exit_code_2(
    tiny_series: Path,
    text: Path,
    tmp_path: Path,
    cli: Cli,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    given = [tiny_series if a == "SERIES" else a for a in arguments]
    if "SERIES" in arguments and "--text" not in arguments:
        given += ["--text", text]
    code, out, err = cli("rank", *given, "--out", tmp_path / "r")
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("geoprobe: ")
    assert err.strip().endswith(".")


@pytest.mark.parametrize(
    "mistake", [("--layers", "99"), ("--sites", "blok"), ("--ablate", "32"), ("--field", "body")]
)
def test_a_mistake_with_fresh_costs_nothing_that_was_measured(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli, mistake: tuple[str, str]
) -> None:
    command = ("rank", tiny_series, "--text", text, "--out", tmp_path / "r", "--quiet")
    assert cli(*command)[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
    assert cli(*command, "--fresh", *mistake)[0] == 2
    after = {p.name: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
    assert after == before


def test_a_tokenizer_given_is_used_and_a_wrong_one_is_a_mistake(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    bare = tmp_path / "bare" / "step-1"
    shutil.copytree(tiny_series / "step-1", bare)
    command = ("rank", bare, "--text", text, "--quiet")
    assert cli(*command, "--out", tmp_path / "a")[0] == 2
    assert cli(*command, "--out", tmp_path / "a", "--tokenizer", tiny_series)[0] == 0
    code, _, err = cli(
        *("rank", tiny_series, "--text", text, "--out", tmp_path / "b", "--tokenizer", "nowhere")
    )
    assert code == 2
    assert "nowhere" in err


def test_sequences_longer_than_the_positions_are_a_sentence(
    text: Path, tmp_path: Path, cli: Cli
) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "short")
    tiny_tokenizer().save_pretrained(tmp_path / "short")
    command = ("rank", tmp_path / "short", "--text", text, "--quiet")
    code, _, err = cli(*command, "--out", tmp_path / "r")
    assert code == 2
    assert "give --length 8 or less" in err
    assert cli(*command, "--out", tmp_path / "r", "--length", "8")[0] == 0


def test_a_mistake_leaves_no_run_that_stands_in_the_way(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("rank", tiny_series, "--text", text, "--out", tmp_path / "r", "--quiet")
    assert cli(*command, "--layers", "99")[0] == 2
    assert cli(*command)[0] == 0


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path) -> None:
    from geoprobe.cli import main
    from geoprobe.errors import UsageError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["geoprobe", "--debug", "rank", str(tmp_path / "nowhere")])
        with pytest.raises(UsageError):
            main()
