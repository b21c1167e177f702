"""What fits where: items a batch, statistics' device, models spread over memory and disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import geoprobe
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.job import device_named
from geoprobe.models.capture import Capture
from geoprobe.models.examples import example
from geoprobe.models.footprint import pass_bytes
from geoprobe.models.loading import Loader
from geoprobe.models.selfcheck import self_check
from geoprobe.placement import (
    TOKENS_PER_BATCH,
    TOKENS_PER_BATCH_THERE,
    batch_size_for,
    free_memory,
    statistics_device,
    statistics_memory,
)
from tests.conftest import tiny_text, tiny_tokenizer
from tests.models.saved_models import checkpoint, save

Cli = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One checkpoint with its tokenizer."""
    only = save(tmp_path / "series")[0]
    tiny_tokenizer().save_pretrained(only)
    return only


def little_memory(monkeypatch: pytest.MonkeyPatch, room: float = 2**16) -> None:
    """A machine on which a part of a tiny model's weights must wait on disk."""

    def spread(device_map: str) -> dict[str, Any]:
        return {"device_map": device_map, "max_memory": {"cpu": int(room)}}

    monkeypatch.setattr("geoprobe.placement.spread", spread)


def values(run: geoprobe.Run) -> list[dict[str, Any]]:
    return list(run.document()["readings"])


def test_a_batch_is_as_large_as_speed_asks_and_memory_allows() -> None:
    cpu, there = torch.device("cpu"), torch.device("cuda")
    assert batch_size_for(128, 2**20, 2**40, cpu) == TOKENS_PER_BATCH // 128
    assert batch_size_for(128, 2**20, 2**40, there) == TOKENS_PER_BATCH_THERE // 128
    assert batch_size_for(2 * TOKENS_PER_BATCH, 2**20, 2**40, cpu) == 1
    assert batch_size_for(128, 2**40, 2**20, there) == 1
    for item in (2**20, 3 * 2**20, 2**24):
        few = batch_size_for(1, item, 2**30, cpu)
        assert few * item <= 2**28 < 2 * few * item  # a quarter of what is free, to a factor of two


def test_the_bytes_of_a_pass_are_those_of_its_largest_neighbours() -> None:
    chain = nn.Sequential(*(nn.Linear(64, 64) for _ in range(5)))
    assert pass_bytes(chain, {"input": torch.zeros(10, 64)}) == 2 * 10 * 64 * 4
    bulge = nn.Sequential(nn.Linear(64, 1000), nn.Linear(1000, 8), nn.Linear(8, 8))
    assert pass_bytes(bulge, {"input": torch.zeros(10, 64)}) == 10 * (1000 + 8) * 4


def test_statistics_stay_where_they_fit_and_where_float64_is() -> None:
    assert statistics_device(CPU, 1) == CPU
    assert statistics_device(torch.device("mps"), 1) == CPU
    assert statistics_memory(CPU) * 2 <= free_memory(CPU) < statistics_memory(CPU) * 8


def test_statistics_leave_a_device_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    memory = {"cuda": 2**30, "cpu": 2**34}
    monkeypatch.setattr("geoprobe.placement.free_memory", lambda d: memory[d.type])
    assert statistics_device(gpu, 2**29) == gpu
    assert statistics_device(gpu, 2**29 + 1) == CPU
    assert statistics_memory(gpu) == 2**33  # so that as many groups are kept as fit anywhere


def test_little_memory_makes_small_batches_and_the_same_readings(
    tiny_series: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"text": tiny_text(40), "tokens": ("last", "all"), "length": 16}
    whole = geoprobe.measure(tiny_series, **options)
    assert whole.header["chosen"]["batch_size"] > 8
    one = 2**16
    monkeypatch.setattr("geoprobe.room.pass_bytes", lambda *_: one)
    monkeypatch.setattr("geoprobe.room.free_memory", lambda _: 16 * one)
    small = geoprobe.measure(tiny_series, out=tmp_path / "run", **options)
    assert small.header["chosen"]["batch_size"] == 4
    for a, b in zip(values(whole), values(small), strict=True):
        if a["value"] is None:
            assert b["value"] is None
            continue
        if not a["measure"].startswith("intrinsic"):  # neighbours feel rounding most
            assert a["value"] == pytest.approx(b["value"], rel=1e-4)
    # Resumed where there is more memory, it goes on in the same batches.
    monkeypatch.undo()
    again = geoprobe.measure(tiny_series, out=tmp_path / "run", **options)
    assert again.header["chosen"]["batch_size"] == 4


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", torch.float32),
        ("llama", torch.bfloat16),
        ("gpt2", torch.float32),
        ("mixtral", torch.float32),  # its experts are merged on the way
        ("dinov2_with_registers", torch.float32),
    ],
)
def test_weights_that_wait_on_disk_give_the_same_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, dtype: torch.dtype
) -> None:
    folder = save(tmp_path, family, steps=(0,))[0]
    plain = Loader(dtype=dtype).load(checkpoint(folder))
    weights = sum(p.nbytes for p in plain.model.parameters())
    little_memory(monkeypatch, 0.6 * weights)
    spread = Loader(dtype=dtype, device_map="auto").load(checkpoint(folder))
    assert "disk" in spread.model.hf_device_map.values()
    assert any(p.is_meta for p in spread.model.parameters())
    seen: list[dict[str, torch.Tensor]] = []
    for each in (spread, plain):
        kept: dict[str, torch.Tensor] = {}
        capture = Capture(each.model, each.layout)
        self_check(capture)
        row = example(each.model, each.layout, 2, 6, device=capture.device, dtype=dtype)
        capture.run(row, each.layout.taps, lambda s, x, k=kept: k.update({s: x.clone()}))
        seen.append(kept)
    assert seen[0].keys() == seen[1].keys()
    for site, activations in seen[0].items():
        assert torch.equal(activations, seen[1][site]), site


@pytest.mark.parametrize("room", [2**16, 2**30])
def test_a_spread_model_gives_the_same_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    folders = save(tmp_path / "series", steps=(0, 1))
    for each in folders:
        tiny_tokenizer().save_pretrained(each)
    options: dict[str, Any] = {
        "text": tiny_text(40),
        "tokens": ("last", "mean", "all"),
        "drop_sinks": True,
        "ablate": (1,),
    }
    series = str(tmp_path / "series")
    plain = geoprobe.measure(series, **options)
    little_memory(monkeypatch, room)
    spread = geoprobe.measure(series, device_map="auto", **options)
    assert not spread.failed
    assert values(plain) == values(spread)


def test_device_map_from_the_command_line(folder: Path, cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40)))
    code, out, err = cli(
        *("rank", folder, "--device-map", "auto", "--text", text, "--out", tmp_path / "run"),
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["readings"]


def test_weights_on_disk_that_are_not_finite_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = load_file(folder / "model.safetensors")
    name = next(n for n in state if "layers.1" in n and "mlp" in n)
    state[name][0, 0] = torch.nan
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    little_memory(monkeypatch)
    with pytest.raises(CheckpointError, match=rf"{name}.* has NaN or infinite weights"):
        Loader(device_map="auto").load(checkpoint(folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device-map", "everywhere"), "--device-map everywhere: not one of auto,"),
        (("--device-map", "auto", "--device", "cpu"), "--device-map auto and --device cpu: give"),
        (("--device-map", "auto", "--factory", "a:b"), "--device-map auto and --factory a:b: give"),
    ],
)
def test_device_maps_that_cannot_be(
    folder: Path, cli: Cli, options: tuple[str, ...], words: str
) -> None:
    code, _, err = cli("rank", folder, *options)
    assert code == 2
    assert words in " ".join(err.split())


def test_a_live_module_must_hold_its_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch)
    model = Loader(device_map="auto").load(checkpoint(folder)).model
    with pytest.raises(UsageError, match="must hold its weights"):
        geoprobe.measure(model=model, tokenizer=tiny_tokenizer(), text=tiny_text(40))


def test_a_full_accelerator_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*size: int, device: torch.device) -> None:
        raise RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(UsageError, match=r"--device cuda: its memory is full"):
        device_named("cuda")
