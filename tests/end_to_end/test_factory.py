"""Networks that are in no table: built by a function, measured by module path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

import geoprobe
from geoprobe.errors import UsageError
from tests import networks_for_tests as networks
from tests.conftest import tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]
HERE = "tests.networks_for_tests"
N = 40


def _array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, *shape)).astype(np.float32)


def _series(folder: Path, build: Callable[[], nn.Module], steps: tuple[int, ...] = (0, 10)) -> Path:
    folder.mkdir(parents=True)
    for step in steps:
        torch.manual_seed(step)
        save_model(build(), str(folder / f"step-{step}.safetensors"))
    return folder


def _hooked(model: nn.Module, path: str, x: Any) -> Tensor:
    """What a module gives, by a plain hook; copied at once, before anything changes it."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
    )
    with torch.no_grad():
        model.eval()(torch.as_tensor(x))
    handle.remove()
    return seen[0]


def _rankme(rows: np.ndarray) -> float:
    rows = rows.astype(np.float64)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    shares = values[values > 1e-12 * values.max()] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _readings(run: Any, label: str, tokens: str) -> dict[str, float]:
    table = run.readings.filter(checkpoint=label, measure="rankme", tokens=tokens)
    return dict(zip(table["site"], table["value"], strict=True))


def test_every_site_equals_what_a_plain_hook_sees(tmp_path: Path) -> None:
    folder = _series(tmp_path / "cnn", networks.Convolutions)
    x = _array(1, 5, 4)
    np.save(tmp_path / "x.npy", x)
    run = geoprobe.measure(
        folder,
        factory=f"{HERE}:Convolutions",
        data=str(tmp_path / "x.npy"),
        tokens=("mean", "all"),
        batch_size=7,
    )
    assert run.labels == ["step-0", "step-10"]
    torch.manual_seed(10)
    model = networks.Convolutions()
    maps = ("stem", "blocks.0", "blocks.1", "pool")
    means, all_tokens = (_readings(run, "step-10", t) for t in ("mean", "all"))
    assert list(means) == list(all_tokens) == [*maps, "head"]
    for site in maps:
        out = _hooked(model, site, x).numpy()
        assert means[site] == pytest.approx(_rankme(out.mean((2, 3))), rel=1e-5)
        rows = np.concatenate([image.reshape(len(image), -1).T for image in out])
        assert all_tokens[site] == pytest.approx(_rankme(rows), rel=1e-5)
    head = _rankme(_hooked(model, "head", x).numpy())
    assert means["head"] == pytest.approx(head, rel=1e-5)
    assert all_tokens["head"] == pytest.approx(head, rel=1e-5)


@pytest.mark.parametrize("wrapped", ["plain", "lightning", "data parallel", "folders"])
def test_weights_in_the_forms_that_training_loops_write(wrapped: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=_array(9), y=np.zeros(N))
    (tmp_path / "series").mkdir()
    for step in (1, 2):
        torch.manual_seed(step)
        state: dict[str, Any] = dict(networks.perceptron().state_dict())
        path = tmp_path / "series" / f"epoch_{step}.pt"
        if wrapped == "lightning":
            state = {"epoch": 1, "state_dict": {f"model.{n}": t for n, t in state.items()}}
        elif wrapped == "data parallel":
            state = {f"module.{n}": t for n, t in state.items()}
        elif wrapped == "folders":
            path = tmp_path / "series" / f"checkpoint-{step}" / "last.ckpt"
            path.parent.mkdir()
        torch.save(state, path)
    run = geoprobe.measure(
        tmp_path / "series", factory=f"{HERE}:perceptron", data=str(tmp_path / "d.npz")
    )
    assert len(run.labels) == 2
    for step, label in zip((1, 2), run.labels, strict=True):
        torch.manual_seed(step)
        model = networks.perceptron()
        expected = {s: _rankme(_hooked(model, s, _array(9)).numpy()) for s in ("0", "1", "3")}
        assert _readings(run, label, "mean") == pytest.approx(expected, rel=1e-5)


def test_token_ids_as_an_array_and_as_text(tmp_path: Path) -> None:
    """Text with a tokenizer is masked; sites that are no vector a token are left out."""
    folder = _series(tmp_path / "words", networks.Words, steps=(3,)).joinpath("step-3.safetensors")
    ids = np.random.default_rng(1).integers(0, 64, (N, 6))
    torch.manual_seed(3)
    model = networks.Words().eval()
    found = geoprobe.measure(
        folder, factory=f"{HERE}:Words", data=ids, tokens="all", skip="matrix_entropy"
    )
    sites = ["embed", "encoder.layers.0", "encoder.layers.1", "encoder", "out"]
    readings = _readings(found, "step-3", "all")
    assert list(readings) == sites
    for site in sites:
        rows = _hooked(model, site, ids).flatten(0, 1).numpy()
        assert readings[site] == pytest.approx(_rankme(rows), rel=1e-4), site
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    documents = ("w3 w4 w5", "w9 w1", "w2", "w8 w8 w1 w30")
    run = geoprobe.measure(
        folder,
        factory=f"{HERE}:Words",
        tokenizer=tmp_path / "tokenizer",
        text=documents,
        sites="encoder.layers.*",
        tokens="last",
    )
    tokenizer = tiny_tokenizer()
    rows = np.stack(
        [
            _hooked(model, "encoder.layers.1", [tokenizer(d)["input_ids"]])[0, -1].numpy()
            for d in documents
        ]
    )
    assert set(run.readings["site"]) >= {"encoder.layers.0", "encoder.layers.1"}
    got = _readings(run, "step-3", "last")["encoder.layers.1"]
    assert got == pytest.approx(_rankme(rows), rel=1e-4)
    pooled = _series(tmp_path / "pooled", networks.pooled_words, steps=(3,))
    run = geoprobe.measure(
        pooled, factory=f"{HERE}:pooled_words", tokenizer=tmp_path / "tokenizer", text=documents
    )
    assert "out" not in set(run.readings["site"]), "one vector a text is not one a token"


def test_a_live_module_keeps_its_mode_and_its_buffers() -> None:
    model = networks.Convolutions().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = geoprobe.measure(model=model, data=_array(1, 5, 4))
    assert set(run.readings["tokens"]) == {"mean"}
    assert model.training
    assert model.blocks[0].norm.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_layout_shows_sites_shapes_and_what_is_missing(tmp_path: Path, cli: Cli) -> None:
    folder = _series(tmp_path / "cnn", networks.Convolutions)
    np.save(tmp_path / "x.npy", _array(1, 5, 4))
    shown = ("layout", folder, "--factory", f"{HERE}:Convolutions")
    code, out, _ = cli(*shown, "--data", tmp_path / "x.npy", "--json")
    assert code == 0
    found = json.loads(out)
    widths = {site["site"]: site["width"] for site in found["sites"]}
    assert (widths["stem"], widths["blocks.1.conv"], widths["head"]) == (6, 6, 4)
    assert "runs 3 times" in found["missing"]["relu"]
    assert found["reads"] == "pixels"
    code, out, _ = cli(*shown, "--data", tmp_path / "x.npy")
    assert code == 0
    assert "blocks.0" in out
    assert "measured by default" in out
    assert cli(*shown)[0] == 2


def test_the_plan_of_a_network(tmp_path: Path, cli: Cli) -> None:
    folder = _series(tmp_path / "cnn", networks.Convolutions)
    np.save(tmp_path / "x.npy", _array(1, 5, 4))
    code, out, err = cli(
        *("plan", folder, "--factory", f"{HERE}:Convolutions"),
        *("--data", tmp_path / "x.npy", "--tokens", "all", "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    positions, c = 5 * 4, networks.CHANNELS
    convolutions = 2 * N * positions * 9 * c * (1 + 2 * c)
    assert found["forward"] == pytest.approx(convolutions + 2 * N * c * 4)
    assert found["tokens"] == N * positions


def test_bad_weights_and_bad_networks_are_sentences(tmp_path: Path, cli: Cli) -> None:
    folder = _series(tmp_path / "mlp", networks.perceptron)
    np.save(tmp_path / "x.npy", _array(9))
    np.save(tmp_path / "ten.npy", _array(10))
    torch.save([1, 2], tmp_path / "list.pt")
    for arguments, said in (
        (("--factory", f"{HERE}:perceptron"), "--data FILE"),
        (("--factory", f"{HERE}:perceptron", "--data", tmp_path / "ten.npy"), "shape (10,)"),
        (("--factory", HERE, "--data", tmp_path / "x.npy"), "give package.module:function"),
        (("--factory", f"{HERE}:nothing", "--data", tmp_path / "x.npy"), "no attribute"),
        (("--factory", "no.such:module", "--data", tmp_path / "x.npy"), "No module named"),
        (("--factory", f"{HERE}:fails", "--data", tmp_path / "x.npy"), "RuntimeError: no way"),
        (("--factory", f"{HERE}:no_module", "--data", tmp_path / "x.npy"), "gives a int"),
        (("--factory", f"{HERE}:nameless", "--data", tmp_path / "x.npy"), "no input by name"),
        (("--factory", f"{HERE}:perceptron", "--images", tmp_path), "0 images"),
    ):
        code, _, err = cli("rank", folder, *arguments, "--out", tmp_path / "run", "--fresh")
        assert code == 2, said
        assert said in err
        assert "Traceback" not in err
    good = ("--factory", f"{HERE}:perceptron", "--data", tmp_path / "x.npy", "--out")
    code, _, err = cli("rank", tmp_path / "list.pt", *good, tmp_path / "a")
    assert code == 4
    assert "missing 0.bias" in err
    with pytest.raises(UsageError, match="--sites 9"):
        geoprobe.measure(folder, factory=f"{HERE}:perceptron", data=_array(9), sites="9")
    with pytest.raises(UsageError, match="--layers 0"):
        geoprobe.measure(folder, factory=f"{HERE}:perceptron", data=_array(9), layers="0")
    with pytest.raises(UsageError, match="--drop-sinks"):
        geoprobe.measure(folder, factory=f"{HERE}:perceptron", data=_array(9), drop_sinks=True)


def test_ids_that_a_network_does_not_know_are_a_sentence(tmp_path: Path, cli: Cli) -> None:
    folder = _series(tmp_path / "words", networks.Words, steps=(0,))
    ids = np.zeros((9, 6), dtype=np.int64)
    ids[-1, -1] = 10**6
    np.save(tmp_path / "ids.npy", ids)
    code, _, err = cli(
        *("rank", folder, "--factory", f"{HERE}:Words", "--data", tmp_path / "ids.npy"),
        *("--out", tmp_path / "run"),
    )
    assert code == 2
    assert "the network failed on what it was fed (IndexError:" in err


def test_modules_whose_items_do_not_come_first_are_left_out(tmp_path: Path) -> None:
    folder = _series(tmp_path / "net", networks.time_first, steps=(0,))
    run = geoprobe.measure(folder, factory=f"{HERE}:time_first", data=_array(4, 9), tokens="all")
    assert set(run.readings["site"]) == {"last"}
    with pytest.raises(UsageError, match="does not have the items first"):
        geoprobe.measure(folder, factory=f"{HERE}:time_first", data=_array(4, 9), sites="inner")


def test_weights_that_are_not_finite_are_one_failure(tmp_path: Path) -> None:
    folder = _series(tmp_path / "mlp", networks.perceptron, steps=(0, 1, 2))
    broken = dict(networks.perceptron().state_dict())
    broken["0.weight"][0, 0] = float("nan")
    save_file(broken, folder / "step-1.safetensors")
    run = geoprobe.measure(folder, factory=f"{HERE}:perceptron", data=_array(9))
    assert run.labels == ["step-0", "step-2"]
    assert "0.weight has NaN" in run.failed["step-1"]
