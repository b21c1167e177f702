"""Loading in place is `from_pretrained`, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geoprobe.models import in_place, tensor_files
from geoprobe.models.loading import Loader
from tests.models.saved_models import (
    assert_same,
    checkpoint,
    configure,
    edit,
    load_all,
    reference,
    save,
)

MERGED = ("mixtral", "qwen3_moe", "dinov2_with_registers")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_is_from_pretrained_bit_for_bit(
    any_family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    # Experts are merged, or gates split, on the way in some families: loaded afresh, and the same.
    in_place = any_family not in MERGED
    assert load_all(save(tmp_path, any_family, dtype=dtype)) == [False, in_place, in_place]


@pytest.mark.parametrize("disk", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_on_disk_is_cast_as_transformers_casts_it(
    disk: torch.dtype, memory: torch.dtype, tmp_path: Path
) -> None:
    assert load_all(save(tmp_path, dtype=disk), Loader(dtype=memory)) == [False, True, True]


def test_the_precision_on_disk_may_change_on_the_way(tmp_path: Path) -> None:
    folders = save(tmp_path, steps=(0,)) + save(tmp_path, steps=(1,), dtype=torch.bfloat16)
    folders += save(tmp_path, steps=(2,), dtype=torch.float16)
    assert load_all(folders) == [False, True, True]


def test_shards_may_be_cut_anew_for_each_checkpoint(tmp_path: Path) -> None:
    folders = save(tmp_path, steps=(0,), max_shard_size="20KB")
    folders += save(tmp_path, steps=(1,), max_shard_size="50KB")
    folders += save(tmp_path, steps=(2,))
    assert len(list(folders[0].glob("*.safetensors"))) > len(list(folders[1].glob("*.safetensors")))
    assert load_all(folders) == [False, True, True]


@pytest.mark.parametrize("spelling", ["embed_out.weight", "lm_head.weight"])
def test_gpt_neox_with_either_name_of_its_head(spelling: str, tmp_path: Path) -> None:
    folders = save(tmp_path, "gpt_neox")
    for folder in folders:

        def rename(tensors: dict[str, Tensor]) -> None:
            (head,) = (n for n in tensors if n in ("embed_out.weight", "lm_head.weight"))
            tensors[spelling] = tensors.pop(head)

        edit(folder, rename)
        assert spelling in load_file(folder / "model.safetensors")
    assert load_all(folders) == [False, True, True]


def test_tensors_of_old_versions_are_passed_over(tmp_path: Path) -> None:
    folders = save(tmp_path, "gpt_neox")
    for folder in folders:
        edit(
            folder,
            lambda t: t.update(
                {
                    "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
                    "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
                    "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.full((4,), torch.nan),
                }
            ),
        )
    assert load_all(folders) == [False, True, True]


def test_a_file_without_the_prefix_of_the_base_model(tmp_path: Path) -> None:
    folders = save(tmp_path, "gpt2")  # its head is tied to its embedding
    for folder in folders:
        edit(folder, lambda t: {n.removeprefix("transformer."): v for n, v in t.items()})
        assert "wte.weight" in load_file(folder / "model.safetensors")
    assert load_all(folders) == [False, True, True]


def test_a_backbone_saved_without_its_head(family: str, tmp_path: Path) -> None:
    folders = save(tmp_path, family, change=lambda model: model.base_model)
    loader = Loader()
    tied = family == "gpt2"
    for i, folder in enumerate(folders):
        loaded = loader.load(checkpoint(folder))
        assert loaded.in_place == (i > 0)
        assert (loaded.layout.head is not None) == tied
        assert_same(loaded.model, reference(folder, auto=None if tied else "AutoModel"))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def tie(model: Any) -> Any:
        model.config.tie_word_embeddings = True
        model.tie_weights()
        return model

    folders = save(tmp_path, change=tie)
    assert "lm_head.weight" not in load_file(folders[0] / "model.safetensors")
    loader = Loader()
    for folder in folders:
        model: Any = loader.load(checkpoint(folder)).model
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert_same(model, reference(folder))


def _both_on_disk(folder: Path, difference: float) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + difference

    edit(folder, add)
    configure(folder, tie_word_embeddings=True)


def test_weights_that_are_tied_on_paper_only(tmp_path: Path) -> None:
    """transformers ties two copies of a weight if, and only if, they are equal."""
    folders = save(tmp_path, steps=(0, 1, 2, 3, 4))
    for folder, difference in zip(folders, (0, 0, 1, 1, 0), strict=True):
        _both_on_disk(folder, difference)
    assert load_all(folders) == [False, True, False, True, True]


def test_keys_of_the_config_that_change_nothing_do_not_cost_a_fresh_load(tmp_path: Path) -> None:
    folders = save(tmp_path)
    configure(folders[1], transformers_version="4.0.0", use_cache=False, _name_or_path="x")
    assert load_all(folders) == [False, True, True]


@pytest.mark.parametrize("values", [{"rope_theta": 7.0}, {"rms_norm_eps": 0.1}])
def test_a_config_that_changes_the_model_is_loaded_afresh(
    values: dict[str, Any], tmp_path: Path
) -> None:
    folders = save(tmp_path)
    if "rope_theta" in values:
        values = {"rope_parameters": {"rope_type": "default", **values}}
    configure(folders[1], **values)
    assert load_all(folders) == [False, False, False]


def test_architectures_may_alternate(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", "llama"), save(tmp_path / "b", "gpt2")
    assert load_all([a[0], a[1], b[0], b[1], a[2]]) == [False, True, False, True, False]


def test_a_rotary_embedding_with_a_memory_is_loaded_afresh(tmp_path: Path) -> None:
    folders = save(tmp_path)
    for folder in folders:
        rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
        configure(folder, rope_parameters=rope, max_position_embeddings=4)
    assert load_all(folders) == [False, False, False]


def test_a_map_that_does_not_hold_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the rules by name ever differ from what was loaded, the values tell."""
    true_names = in_place._names_in_memory

    def swapped(model: nn.Module, names: dict[str, Any]) -> dict[str, str] | None:
        found = true_names(model, names)
        assert found is not None
        a, b = "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"
        found[a], found[b] = found[b], found[a]
        return found

    monkeypatch.setattr(in_place, "_names_in_memory", swapped)
    assert load_all(save(tmp_path)) == [False, False, False]


def test_a_large_tensor_is_sampled_closely_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place, "_SAMPLED_BYTES", 1024)
    monkeypatch.setattr(in_place, "_SAMPLE_ROWS", 20)
    folders = save(tmp_path)
    assert load_all(folders) == [False, True, True]
    for tensor in load_file(folders[0] / "model.safetensors").values():
        assert in_place._agrees(tensor, tensor.clone())
        if tensor.ndim > 1 and tensor.shape[0] == tensor.shape[1]:
            assert not in_place._agrees(tensor, tensor.T.contiguous())


def test_tensors_that_changed_places_in_a_file_of_the_same_size(tmp_path: Path) -> None:
    """A small file is read into the memory of the one before, whose tensors may lie elsewhere."""
    folders = save(tmp_path)
    a, b = (f"model.layers.{i}.self_attn.k_proj.weight" for i in (0, 1))

    def swap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {{a: b, b: a}.get(name, name): tensor for name, tensor in tensors.items()}

    edit(folders[2], swap)
    assert load_all([*folders, folders[1]]) == [False, True, True, True]


@pytest.mark.parametrize("portion", [1, 5000, 40_000])
def test_large_files_are_mapped_a_portion_at_a_time(
    portion: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (in_place, tensor_files):
        monkeypatch.setattr(module, "PORTION_BYTES", portion)
    folders = save(tmp_path, steps=(0,)) + save(tmp_path, steps=(1,), dtype=torch.bfloat16)
    folders += save(tmp_path, steps=(2,), max_shard_size="50KB")
    _both_on_disk(folders[0], 0)
    assert load_all(folders[1:]) == [False, True]
    more = save(tmp_path / "more", steps=(5, 6))
    for folder in more:
        _both_on_disk(folder, 0)
    assert load_all([folders[0], *more]) == [False, True, True]
