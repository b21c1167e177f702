"""Files of a checkpoint: damage is found without loading, content is fingerprinted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from geoprobe.models.series import find_series, fingerprint
from tests.models.checkpoints import age, labels, truncate, write


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _bad_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _nothing(folder: Path) -> None:
    _no_config(folder), _no_weights(folder)


def _empty(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 0)


def _half_a_header(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 20)


def _zeros(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(4096))


def _too_long(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")


def _garbled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((6).to_bytes(8, "little") + b'{"a":}')


def _overlapping(folder: Path) -> None:
    entry = {"dtype": "U8", "shape": [4]}
    table = {"a": entry | {"data_offsets": [0, 4]}, "b": entry | {"data_offsets": [2, 6]}}
    header = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(6)
    )


def _no_shard(folder: Path) -> None:
    _shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def _short_shard(folder: Path) -> None:
    _shard(folder)
    os.truncate(folder / "model-00003-of-00003.safetensors", 150)


def _no_index(folder: Path) -> None:
    _shard(folder)
    (folder / "model.safetensors.index.json").unlink()


def _bad_index(folder: Path) -> None:
    _shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w0": ')


def _shard(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    write(folder, shards=3)


UNFINISHED: list[tuple[Callable[[Path], None], str]] = [
    (truncate, r"model.safetensors is truncated or not .*file not fully covered"),
    (_no_config, "config.json is missing"),
    (_bad_config, "config.json is not valid JSON"),
    (_no_weights, "it has no weights: neither model.safetensors nor"),
    (_nothing, "it has neither config.json nor weights"),
    (_empty, "model.safetensors is empty"),
    (_half_a_header, "model.safetensors is truncated or not a safetensors file"),
    (_zeros, "model.safetensors is truncated or not a safetensors file"),
    (_too_long, r"model.safetensors is truncated or not .*file not fully covered"),
    (_garbled, "model.safetensors is truncated or not a safetensors file .*JSON"),
    (_overlapping, "model.safetensors is truncated or not a safetensors file"),
    (_no_shard, "model-00002-of-00003.safetensors is missing, which model.safetensors.index.json"),
    (_short_shard, "model-00003-of-00003.safetensors is truncated"),
    (_no_index, "model.safetensors.index.json is missing"),
    (_bad_index, "model.safetensors.index.json is not a valid index"),
]


@pytest.mark.parametrize(
    ("damage", "reason"), UNFINISHED, ids=[d.__name__.strip("_") for d, _ in UNFINISHED]
)
def test_an_incomplete_checkpoint_is_found_without_loading_it(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    for step in (5, 10, 15):
        write(tmp_path / f"checkpoint-{step}")
    damage(tmp_path / "checkpoint-10")
    middle = find_series([tmp_path])
    assert labels(middle) == ["checkpoint-5", "checkpoint-10", "checkpoint-15"]
    found = [c.incomplete for c in middle.checkpoints]
    assert found[0] is found[2] is None
    assert found[1] is not None
    assert re.search(reason, found[1]), found[1]

    # The same damage in the newest: being written if it is fresh, a failure if it is not.
    (tmp_path / "checkpoint-10").rename(tmp_path / "checkpoint-20")
    fresh = find_series([tmp_path])
    assert labels(fresh) == ["checkpoint-5", "checkpoint-15"]
    ((label, message),) = fresh.skipped
    assert label == "checkpoint-20"
    assert message == f"it is being written ({found[1]})"
    age(tmp_path / "checkpoint-20", 599)
    assert labels(find_series([tmp_path])) == ["checkpoint-5", "checkpoint-15"]
    age(tmp_path / "checkpoint-20", 601)
    stale = find_series([tmp_path])
    assert labels(stale) == ["checkpoint-5", "checkpoint-15", "checkpoint-20"]
    assert stale.checkpoints[-1].incomplete == found[1]
    assert not stale.skipped


def test_whole_shards_are_complete_and_their_sizes_add_up(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-5", shards=3)
    (only,) = find_series([folder]).checkpoints
    assert only.incomplete is None
    assert only.size_bytes == sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def test_a_format_that_cannot_be_read_is_never_taken_for_a_save_under_way(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-5")
    newest = write(tmp_path / "checkpoint-10")
    _no_weights(newest)
    (newest / "zero_to_fp32.py").write_text("")
    last = find_series([tmp_path]).checkpoints[-1]
    assert last.label == "checkpoint-10"
    assert "DeepSpeed" in str(last.incomplete)


def test_an_index_that_points_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-5", shards=2)
    secret = tmp_path / "x.safetensors"
    save_file({"w0": np.zeros(2)}, secret)
    index = {"weight_map": {"w0": "../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a .safetensors file of its folder" in str(
        find_series([folder]).checkpoints[0].incomplete
    )


def _digest(folder: Path) -> str:
    return fingerprint(find_series([folder]).checkpoints[0])


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    first = write(tmp_path / "step1", value=1.0)
    before = _digest(first)
    assert _digest(write(tmp_path / "other" / "step9", value=1.0)) == before
    age(first)
    assert _digest(first) == before
    assert _digest(write(tmp_path / "step2", value=2.0)) != before
    (first / "config.json").write_text('{"model_type": "gpt2"}')
    assert _digest(first) != before


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "step1", shards=2)
    file = folder / "model-00002-of-00002.safetensors"
    seen = {_digest(folder)}
    data = file.read_bytes()
    for position in range(len(data) - 256, len(data), 16):
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        seen.add(_digest(folder))
    assert len(seen) == 17


def test_a_large_file_is_sampled_from_end_to_end(tmp_path: Path) -> None:
    folder = write(tmp_path / "step1")
    file = folder / "model.safetensors"
    save_file({"w": np.zeros(10 * 2**20, np.float32)}, file)
    size = file.stat().st_size
    seen = {_digest(folder)}
    for block in (0, 100, 255):
        with file.open("r+b") as stream:
            stream.seek((size - 65536) * block // 255 + (200 if block == 0 else 5))
            stream.write(b"\x01")
        seen.add(_digest(folder))
    assert len(seen) == 4
    save_file({"v": np.zeros(10 * 2**20, np.float32)}, file)
    assert _digest(folder) not in seen


def test_a_checkpoint_that_vanished_is_an_os_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "step1")
    (only,) = find_series([folder]).checkpoints
    _no_weights(folder)
    with pytest.raises(OSError, match="no weights"):
        fingerprint(only)
