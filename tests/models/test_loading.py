"""No damaged weights are given out, and what goes with loading: memory, threads, tokenizers."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.loading import (
    Loader,
    companion_folder,
    load_tokenizer,
    prefetch,
)
from geoprobe.models.series import Checkpoint
from tests.models.saved_models import (
    assert_same,
    checkpoint,
    configure,
    edit,
    load_all,
    reference,
    save,
)


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 10)


def _set(value: float, which: int = -1) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        def change(tensors: dict[str, Tensor]) -> None:
            list(tensors.values())[which].view(-1)[0] = value

        edit(folder, change)

    return damage


def _missing(folder: Path) -> None:
    edit(folder, lambda t: {n: v for n, v in t.items() if "layers.1.mlp.up" not in n})


def _no_head(folder: Path) -> None:
    edit(folder, lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"})


def _of_another_shape(folder: Path) -> None:
    edit(folder, lambda t: t.update({"model.norm.weight": torch.ones(31)}))


def _one_block_too_many(folder: Path) -> None:
    configure(folder, num_hidden_layers=2)


def _one_block_too_few(folder: Path) -> None:
    configure(folder, num_hidden_layers=4)


def _bias_without_a_place(folder: Path) -> None:
    edit(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}))


def _impossible_config(folder: Path) -> None:
    configure(folder, num_attention_heads=0)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config_cut_off(folder: Path) -> None:
    (folder / "config.json").write_text('{"model')


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("truncated", _truncated, r"model.safetensors is truncated or not a safetensors file"),
    ("nan", _set(torch.nan), r"\S+weight has NaN or infinite weights"),
    ("nan in the middle", _set(torch.nan, 9), r"\S+weight has NaN or infinite weights"),
    ("infinity", _set(-torch.inf, 0), r"lm_head.weight has NaN or infinite weights"),
    ("missing", _missing, r"do not fit config.json: missing model.layers.1.mlp.up_proj.weight"),
    ("no head", _no_head, r"do not fit config.json: missing lm_head.weight"),
    ("shape", _of_another_shape, r"do not fit config.json: of another shape model.norm.weight"),
    ("too many", _one_block_too_many, r"without a place in the model model.layers.2.*and 6 more"),
    ("too few", _one_block_too_few, r"do not fit config.json: missing model.layers.3.*and 6 more"),
    ("bias", _bias_without_a_place, r"without a place in the model model.layers.0.self_attn.q_pr"),
    ("config", _impossible_config, r"transformers could not load it \("),
    ("no config", _no_config, r"config.json"),
    ("config cut off", _config_cut_off, r"config.json is not valid JSON"),
    ("no weights", _no_weights, r"it has no weights"),
]


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize(
    ("damage", "sentence"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE]
)
def test_a_damaged_checkpoint_is_one_sentence_and_the_next_one_loads(
    damage: Callable[[Path], None], sentence: str, first: bool, tmp_path: Path
) -> None:
    good, bad, after, last = save(tmp_path, steps=(0, 1, 2, 3))
    damage(bad)
    loader = Loader()
    if not first:
        loader.load(checkpoint(good))
    with pytest.raises(CheckpointError, match=sentence) as caught:
        loader.load(checkpoint(bad))
    text = str(caught.value)
    assert text.startswith("step1: ")
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 400
    loaded = loader.load(checkpoint(after))
    assert_same(loaded.model, reference(after))
    assert loader.load(checkpoint(last)).in_place
    assert_same(loaded.model, reference(last))


def test_a_truncated_shard_is_found(tmp_path: Path) -> None:
    good, bad = save(tmp_path, steps=(0, 1), max_shard_size="50KB")
    shard = sorted(bad.glob("*.safetensors"))[-1]
    os.truncate(shard, shard.stat().st_size - 4)
    loader = Loader()
    loader.load(checkpoint(good))
    with pytest.raises(CheckpointError, match=shard.name):
        loader.load(checkpoint(bad))


def test_an_incomplete_checkpoint_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^x: config.json is missing\.$"):
        Loader().load(
            Checkpoint("x", tmp_path / "x", "folder", incomplete="config.json is missing")
        )


def test_weights_that_overflow_in_the_precision_asked_for_are_not_finite(tmp_path: Path) -> None:
    good, bad = save(tmp_path, steps=(0, 1))
    _set(1e6)(bad)
    loader = Loader(dtype=torch.float16)
    loader.load(checkpoint(good))
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        loader.load(checkpoint(bad))
    assert load_all([good, bad]) == [False, True]


def test_weights_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    folders = save(tmp_path, steps=(0, 1))
    for folder in folders:
        edit(folder, lambda t: t.update({"model.norm.weight": torch.full((32,), 3e38)}))
    loader = Loader()
    for folder in folders:
        model: Any = loader.load(checkpoint(folder)).model
        assert torch.equal(model.model.norm.weight, torch.full((32,), 3e38))


def test_in_place_means_the_module_that_was_given_out_before(tmp_path: Path) -> None:
    """Whoever wrapped the last module must not keep it when a failure replaced it."""
    llama, gpt2 = save(tmp_path / "a"), save(tmp_path / "b", "gpt2")
    _set(torch.nan)(gpt2[0])
    loader = Loader()
    before = loader.load(checkpoint(llama[0]))
    with pytest.raises(CheckpointError):
        loader.load(checkpoint(gpt2[0]))
    after = loader.load(checkpoint(gpt2[1]))
    assert after.model is not before.model
    assert not after.in_place
    assert loader.load(checkpoint(gpt2[2])).in_place


def test_a_family_that_the_layout_table_lacks_is_a_usage_error(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    configure(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.Config"})
    with pytest.raises(UsageError, match="'theirs' are not in the layout table"):
        Loader().load(checkpoint(folder))


# -- around it ------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_overwriting_a_file_does_not_change_the_model_loaded_from_it(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    expected = reference(shutil.copytree(folder, tmp_path / "copy"))
    loaded = Loader().load(checkpoint(folder))
    assert str(folder) not in Path("/proc/self/maps").read_text()
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.write(b"\xff" * file.stat().st_size)
    assert_same(loaded.model, expected)


def test_loading_draws_no_random_numbers_and_leaves_the_threads_alone(tmp_path: Path) -> None:
    folders = save(tmp_path)
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    loader = Loader()
    for folder in folders:
        loader.load(checkpoint(folder))
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folders = save(tmp_path)
    _bias_without_a_place(folders[1])
    (folders[2] / "generation_config.json").write_text('{"temperature": 0.1}')
    capfd.readouterr()
    loader = Loader()
    loader.load(checkpoint(folders[0]))
    with pytest.raises(CheckpointError):
        loader.load(checkpoint(folders[1]))
    loader.load(checkpoint(folders[2]))
    assert capfd.readouterr() == ("", "")


def test_a_further_checkpoint_costs_a_fraction_of_a_fresh_load(tmp_path: Path) -> None:
    """The bar is 5%, kept by the benchmark; a busy machine gets some room here."""
    folders = save(tmp_path, dtype=torch.bfloat16)
    loader = Loader()
    loader.load(checkpoint(folders[0]))
    ratios = []
    for i in range(7):
        folder = folders[1 + i % 2]
        start = time.perf_counter()
        reference(folder)
        middle = time.perf_counter()
        assert loader.load(checkpoint(folder)).in_place
        ratios.append((time.perf_counter() - middle) / (middle - start))
    assert sorted(ratios)[1] < 0.2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_prefetch_advises_each_weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = save(tmp_path, steps=(0,), max_shard_size="50KB")
    advised: list[str] = []

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, 3)
        advised.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

    monkeypatch.setattr(os, "posix_fadvise", note, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    prefetch(checkpoint(folder))
    assert advised == sorted(map(str, folder.glob("*.safetensors")))


def test_prefetch_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    prefetch(checkpoint(folder))
    prefetch(checkpoint(tmp_path / "gone"))
    prefetch(Checkpoint("x", folder, "folder", incomplete="it is cut off"))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    prefetch(checkpoint(folder))


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)


def test_the_tokenizer_is_the_checkpoints_own_else_the_one_above(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    with pytest.raises(UsageError, match=r"step0: no tokenizer in .*--tokenizer FOLDER"):
        load_tokenizer(checkpoint(folder))
    _tokenizer(tmp_path)
    assert companion_folder(checkpoint(folder)) == tmp_path
    assert load_tokenizer(checkpoint(folder))("a b c")["input_ids"] == [1, 2, 0]
    _tokenizer(folder)
    assert companion_folder(checkpoint(folder)) == folder
    assert companion_folder(checkpoint(folder), str(tmp_path)) == tmp_path


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "WordLev', "\x00"])
def test_a_tokenizer_that_cannot_be_read_is_a_sentence(content: str, tmp_path: Path) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    _tokenizer(folder)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=r"could not be loaded .*--tokenizer FOLDER"):
        load_tokenizer(checkpoint(folder))
