"""Weights in PyTorch's own files: measured as their safetensors are, and never run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from geoprobe.errors import CheckpointError
from geoprobe.models.loading import Loader
from geoprobe.models.series import find_series
from tests.models.saved_models import assert_same, checkpoint, load_all, save


def pickle(folder: Path, *, zipped: bool = True, shards: int = 1) -> Path:
    """Puts a checkpoint's weights into pytorch_model.bin, or into several."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = list(tensors)
    parts = [{n: tensors[n] for n in names[i::shards]} for i in range(shards)]
    for i, part in enumerate(parts):
        name = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(part, folder / name, _use_new_zipfile_serialization=zipped)
        for tensor in part:
            names[names.index(tensor)] = f'"{tensor}": "{name}"'
    if shards > 1:
        index = '{"metadata": {}, "weight_map": {' + ", ".join(names) + "}}"
        (folder / "pytorch_model.bin.index.json").write_text(index)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_loaded_in_place_as_from_pretrained_loads_them(
    zipped: bool, shards: int, tmp_path: Path
) -> None:
    folders = [pickle(f, zipped=zipped, shards=shards) for f in save(tmp_path)]
    assert load_all(folders) == [False, True, True]


def test_a_series_may_change_from_pickles_to_safetensors(tmp_path: Path) -> None:
    first, second, third = save(tmp_path)
    assert load_all([pickle(first), second, pickle(third)]) == [False, True, True]


def test_the_weights_stay_when_the_file_changes(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    (other,) = save(tmp_path / "same", steps=(0,))
    loaded = Loader().load(checkpoint(pickle(folder)))
    size = (folder / "pytorch_model.bin").stat().st_size
    with (folder / "pytorch_model.bin").open("r+b") as stream:
        stream.write(os.urandom(size))
    assert_same(loaded.model, Loader().load(checkpoint(other)).model)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: os.truncate(f, f.stat().st_size - 200), "pytorch_model.bin is truncated"),
        (lambda f: f.write_bytes(b""), "pytorch_model.bin is empty"),
        (lambda f: f.write_bytes(b"PK no zip"), "truncated"),
        (lambda f: f.write_bytes(b"not a pickle" * 50), "pytorch_model.bin is"),
        (lambda f: torch.save([1, 2], f), "is not a state dict"),
        (lambda f: torch.save({"w": _Bomb(f.parent / "ran")}, f), "only running code could make"),
    ],
)
def test_a_bad_file_gets_its_sentence_and_runs_nothing(
    spoil: Any, sentence: str, tmp_path: Path
) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    spoil(pickle(folder) / "pytorch_model.bin")
    series = find_series([folder])
    with pytest.raises(CheckpointError, match=sentence):
        Loader().load(series.checkpoints[0])
    assert not (folder / "ran").exists()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, steps=(0,))
    pickle(folder, shards=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    assert "pytorch_model-00002-of-00003.bin is missing" in str(
        find_series([folder]).checkpoints[0].incomplete
    )
