"""Adapters, bare state dicts, and formats that must be converted: measured, or told how."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.loading import Loader, load_tokenizer
from geoprobe.models.series import find_series, fingerprint
from geoprobe.models.states import fit
from geoprobe.models.weights import DamagedError
from tests.conftest import tiny_tokenizer
from tests.models.saved_models import assert_same, reference, save
from tests.tiny_families import tiny_model


def _load(path: Path, **options: Any) -> nn.Module:
    (only,) = find_series([path], **options).checkpoints
    return Loader().load(only).model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tmp_path, steps=(0,))[0]


WAYS = {
    "plain": lambda s: s,
    "lightning": lambda s: {
        "state_dict": {f"model.{n}": t for n, t in s.items()} | {"loss.weight": torch.ones(3)},
        "optimizer_states": [{"state": {0: torch.zeros(2)}}],
        "epoch": 3,
    },
    "compiled": lambda s: {f"module._orig_mod.{n}": t for n, t in s.items()},
    "compiled inside": lambda s: {
        n.replace("layers.0", "layers.0._orig_mod"): t for n, t in s.items()
    },
    "nested": lambda s: {"model": {"net.lm." + n: t for n, t in s.items()}, "step": 7},
    "distributed": lambda s: {"module": s, "ds_config": {"a": 1}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
def test_a_state_dict_is_the_model_it_was_taken_from(way: str, family: str, tmp_path: Path) -> None:
    (folder,) = save(tmp_path / "saved", family, steps=(0,))
    expected = reference(folder)
    file = tmp_path / "lightning_logs" / "checkpoints" / "epoch=3-step=500.ckpt"
    file.parent.mkdir(parents=True)
    shutil.copy(folder / "config.json", tmp_path / "lightning_logs")
    torch.save(WAYS[way](load_file(folder / "model.safetensors")), file)
    (only,) = find_series([file]).checkpoints
    assert (only.label, only.step, only.epoch) == ("epoch=3-step=500", 500, 3)
    assert_same(Loader().load(only).model, expected)


def test_a_folder_of_state_dicts_is_a_series(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (20, 100, 3):
        torch.save(tiny_model("llama", seed=step).state_dict(), folder / f"step{step}.pt")
    torch.save({}, folder / "optimizer.pt")
    found = find_series([folder], base=base).checkpoints
    assert [c.step for c in found] == [3, 20, 100]
    loader = Loader()
    for checkpoint in found:
        expected = tiny_model("llama", seed=checkpoint.step or 0)
        got = loader.load(checkpoint).model.state_dict()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(got[name], tensor)
    assert len({fingerprint(c) for c in found}) == 3


def test_the_prefix_with_most_of_the_models_names_is_taken() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    state = {"a.w": one, "a.b.w": two, "other": one}
    assert fit(state, {"w", "b.w"}).keys() == {"w", "b.w"}
    assert fit(state, {"nothing"}) == state
    for twice in (state, {"ema.w": one, "model.w": two}):
        with pytest.raises(DamagedError, match="the same names twice"):
            fit(twice, {"w"})


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_merged_into_its_base(dora: bool, base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], use_dora=dora
    )
    adapted = peft.get_peft_model(reference(base), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    folder = tmp_path / "run" / "checkpoint-10"
    adapted.save_pretrained(folder)
    merged = _load(folder)
    ids = torch.tensor([[5, 3, 60, 2, 9]])
    with torch.no_grad():
        whole, expected = merged(ids).logits, adapted.eval()(ids).logits
        plain = reference(base)(ids).logits
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole, plain, atol=1e-2)
    if dora:
        return
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    a, b = tensors[name.format("A")], tensors[name.format("B")]
    before = load_file(base / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    after = merged.get_parameter("model.layers.1.mlp.down_proj.weight")
    torch.testing.assert_close(after.detach(), before + 12 / 4 * b @ a)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(reference(base), peft.LoraConfig(target_modules=["q_proj"]))
    for step in (10, 20):
        adapted.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    return Path(tmp_path / "run" / "checkpoint-10")


def test_adapters_of_a_trainer_are_a_series_with_the_bases_tokenizer(
    adapter: Path, base: Path
) -> None:
    tiny_tokenizer().save_pretrained(base)
    found = find_series([adapter.parent]).checkpoints
    assert [(c.kind, c.step) for c in found] == [("adapter", 10), ("adapter", 20)]
    assert load_tokenizer(found[0]).vocab_size == tiny_tokenizer().vocab_size
    loader = Loader()
    models = [loader.load(c).model for c in found]
    assert_same(models[0], models[1])


def test_an_adapter_is_another_when_its_base_is_another(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    other = save(tmp_path / "other", steps=(1,))[0]
    (mine,) = find_series([adapter]).checkpoints
    (theirs,) = find_series([adapter], base=other).checkpoints
    assert mine.base is not None
    assert theirs.base is not None
    assert (mine.base.path, theirs.base.path) == (base, other)
    assert fingerprint(mine) != fingerprint(theirs)
    assert_same(Loader().load(theirs).model, reference(other))


def test_what_an_adapter_lacks_is_said(adapter: Path, base: Path) -> None:
    shutil.move(base, base.with_name("moved"))
    (only,) = find_series([adapter]).checkpoints
    assert "its base model is not there" in str(only.incomplete)
    assert "--base FOLDER" in str(only.incomplete)
    config = adapter / "adapter_config.json"
    config.write_text("{")
    assert "adapter_config.json is not valid JSON" in str(
        find_series([adapter], base=base.with_name("moved")).checkpoints[0].incomplete
    )


def test_an_adapter_of_another_shape_is_damage(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = ["k_proj"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not fit its config"):
        _load(adapter)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (["base"], {"base": "base"}, "--base base is for adapters and bare state dicts"),
        (["w.pt"], {"base": "nowhere"}, "nowhere: there is no such"),
        (["w.pt"], {"base": "empty"}, "empty has no checkpoint"),
    ],
)
def test_a_base_that_makes_no_sense_is_a_mistake(
    arguments: list[str],
    options: dict[str, str],
    sentence: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    base.rename("base")
    Path("empty").mkdir()
    torch.save({"w": torch.zeros(2)}, "w.pt")
    with pytest.raises(UsageError, match=sentence):
        find_series(arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"w": torch.zeros(2)}, "do not fit config.json: missing"),
        ({"epoch": 3}, "holds no state dict"),
        ([torch.zeros(2)], "holds no state dict"),
    ],
)
def test_a_state_dict_of_something_else_is_damage(
    content: Any, sentence: str, base: Path, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=sentence):
        _load(tmp_path / "w.pt", base=base)
    alone = tmp_path / "a" / "b" / "c" / "d"
    alone.mkdir(parents=True)
    torch.save(content, alone / "w.pt")
    with pytest.raises(CheckpointError, match=r"no config.json beside it.*--base FOLDER"):
        _load(alone / "w.pt")


def _command(sentence: str) -> list[str]:
    """The command between the backticks, with this Python's programs."""
    words = sentence.split("`")[1].split()
    program = Path(sys.executable).parent / words[0]
    return [str(program if words[0] != "python" else sys.executable), *words[1:]]


def test_a_distributed_checkpoint_is_measured_after_the_command_that_is_told(
    base: Path, tmp_path: Path
) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "step10"
    dcp.save({"model": load_file(base / "model.safetensors")}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(UsageError, match="index is a pickle that may run code") as told:
        find_series([folder])
    subprocess.run(_command(str(told.value)), check=True, capture_output=True)
    assert_same(_load(tmp_path / "step10.pt", base=base), reference(base))


def test_the_parts_of_fsdp_are_measured_after_the_command_that_is_told(
    base: Path, tmp_path: Path
) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "run" / "checkpoint-10"
    parts = folder / "pytorch_model_fsdp_0"
    dcp.save({"model": load_file(base / "model.safetensors")}, checkpoint_id=parts, no_dist=True)
    shutil.copy(base / "config.json", folder)
    (only,) = find_series([folder]).checkpoints
    subprocess.run(_command(str(only.incomplete)), check=True, capture_output=True)
    assert_same(_load(folder), reference(base))


def test_a_pickle_of_objects_is_measured_after_the_command_that_is_told(
    base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "it's $HOME `a`"
    folder.mkdir()
    file = folder / "epoch=1-step=10.ckpt"
    state = load_file(base / "model.safetensors")
    torch.save({"state_dict": state, "hyper_parameters": Path("a")}, file)
    with pytest.raises(CheckpointError, match="only running code could make") as told:
        _load(file, base=base)
    command = str(told.value).split("alone: `", 1)[1].rpartition("`")[0]
    command = command.replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    converted = folder.with_name(folder.name + "-weights")
    assert_same(_load(converted / file.name, base=base), reference(base))


def test_a_folder_with_a_model_and_an_adapter_is_refused(adapter: Path, base: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", base)
    (only,) = find_series([base]).checkpoints
    assert "both a model and an adapter" in str(only.incomplete)


def test_the_parts_of_deepspeed_get_their_own_script(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint-10"
    (folder / "global_step10").mkdir(parents=True)
    (folder / "global_step10" / "mp_rank_00_model_states.pt").write_bytes(b"")
    (folder / "zero_to_fp32.py").write_text("")
    shutil.copy(base / "config.json", folder)
    (only,) = find_series([folder]).checkpoints
    assert _command(str(only.incomplete))[1:] == [
        *(str(folder / "zero_to_fp32.py"), str(folder), str(folder), "--safe_serialization")
    ]
