"""Tiny models of real families saved as a series, and what transformers makes of them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geoprobe.models.families import FAMILIES
from geoprobe.models.loading import Loader
from geoprobe.models.pretrained import quiet_transformers
from geoprobe.models.series import Checkpoint
from tests.tiny_families import VISION, tiny_inputs, tiny_model

IDS = torch.tensor([[5, 3, 60, 2, 9, 9, 1]])


def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(path.name, path, "folder")


def reference(path: Path, dtype: torch.dtype = torch.float32, auto: str | None = None) -> Any:
    import transformers

    row = FAMILIES[json.loads((path / "config.json").read_text())["model_type"]]
    options = {"add_pooling_layer": False} if row.pooler else {}
    with quiet_transformers():
        kind = getattr(transformers, auto or row.loads_as)
        model = kind.from_pretrained(path, dtype=dtype, **options)
    model.requires_grad_(False)  # some kernels round otherwise for weights that are trained
    return model


def assert_same(model: nn.Module, other: nn.Module) -> None:
    """Bit for bit: all parameters and buffers, and what the model computes."""
    for kind in ("state_dict", "named_buffers"):
        ours, theirs = dict(getattr(model, kind)()), dict(getattr(other, kind)())
        ours, theirs = (dict(x.items() if isinstance(x, dict) else x) for x in (ours, theirs))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype
            assert torch.equal(ours[name], tensor), name
    family = model.config.model_type
    inputs = tiny_inputs(family) if family in VISION else {"input_ids": IDS}
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], other(**inputs)[0])


_SAVED: dict[Any, Path] = {}
_ROOT = tempfile.TemporaryDirectory(prefix="geoprobe-tests-")


def save(
    root: Path,
    family: str = "llama",
    *,
    steps: tuple[int, ...] = (0, 1, 2),
    dtype: torch.dtype = torch.float32,
    change: Callable[[Any], Any] | None = None,
    **options: Any,
) -> list[Path]:
    """A series of a tiny random model; each step has other weights.

    A model is saved once in a process, and copied for each test that asks for the same.
    """
    folders = []
    for step in steps:
        key = (family, step, dtype, change, *options.items())
        if key not in _SAVED:
            _SAVED[key] = Path(_ROOT.name) / str(len(_SAVED))
            model = tiny_model(family, seed=step)
            with quiet_transformers():
                (change(model) if change else model).to(dtype).save_pretrained(
                    _SAVED[key], **options
                )
        folders.append(Path(shutil.copytree(_SAVED[key], root / f"step{step}")))
    return folders


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> None:
    """Rewrites the tensors of a checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(change(tensors) or tensors, file, metadata={"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def load_all(folders: list[Path], loader: Loader | None = None) -> list[bool]:
    """Loads one after another, compares each with a fresh load; says which were in place."""
    loader = loader or Loader()
    found = []
    for folder in folders:
        loaded = loader.load(checkpoint(folder))
        assert not loaded.model.training
        assert_same(loaded.model, reference(folder, loader.dtype))
        found.append(loaded.in_place)
    return found
