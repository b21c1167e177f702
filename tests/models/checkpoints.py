"""Checkpoints that nobody can run, but whose files are whole; and ways to damage them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from geoprobe.models.series import Series


def write(folder: Path, *, value: float = 0.0, shards: int = 0) -> Path:
    """A checkpoint folder; `value` tells its weights from others'."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    tensors = {f"w{i}": np.full((8, 8), value + i, np.float32) for i in range(max(shards, 1))}
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for i, name in enumerate(names):
        save_file({f"w{i}": tensors[f"w{i}"]}, folder / name)
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def age(folder: Path, seconds: float = 3600.0) -> None:
    """Makes a folder and what is in it look untouched for so long."""
    then = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def labels(series: Series) -> list[str]:
    return [c.label for c in series.checkpoints]
