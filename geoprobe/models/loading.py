"""Loads checkpoints: the first through transformers, the next of the same architecture in place.

In-place loading copies each tensor of the next checkpoint into the parameter that it belongs to, so
a series costs one model's memory and no module construction. The result is bit for bit that of
`from_pretrained`; wherever that is not certain, `from_pretrained` does the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geoprobe.data.inputs import Batch
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.in_place import Plan, has_adapter, learn, require_finite
from geoprobe.models.layout import Layout, find_layout
from geoprobe.models.pretrained import (
    How,
    from_pretrained,
    one_line,
    quiet_transformers,
    require_fit,
    transformers_failed,
)
from geoprobe.models.series import Checkpoint
from geoprobe.models.tensor_files import names_in, tensors_in
from geoprobe.models.weights import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    DamagedError,
    examine,
    files_of_module,
    shown,
    weight_files,
)

_IRRELEVANT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Keys of config.json that do not change the model; the precision is set by the user."""


@dataclass
class Loaded:
    """A model ready to measure.

    Attributes:
        model: The model with its head where it has one, in evaluation mode.
        layout: Where its sites are.
        in_place: Whether `model` is the module that the load before gave, with other weights.
        unused: Names of tensors on disk that the model has no use for.
    """

    model: nn.Module
    layout: Layout
    in_place: bool
    unused: tuple[str, ...] = ()


@dataclass
class _Shell:
    """A built model whose weights are about to be replaced, and how."""

    model: nn.Module
    layout: Layout
    unused: tuple[str, ...]
    config: dict[str, Any]
    raw_config: bytes
    plan: Plan | None


class Loader:
    """Loads one checkpoint after another, reusing the model while the architecture stays.

    A model that was given out holds other weights after the next load.

    Args:
        device: Where the model runs.
        dtype: Precision of the weights.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        factory: `package.module:function` that builds the network, for weights of such a one.
        device_map: accelerate's way to spread the model over all devices, instead of `device`.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        trust_remote_code: bool = False,
        factory: str | None = None,
        device_map: str | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self.factory = factory
        self.device_map = device_map
        self._network: tuple[nn.Module, Layout] | None = None
        self._shell: _Shell | None = None
        self._given: weakref.ref[nn.Module] | None = None

    def load(self, checkpoint: Checkpoint, first: Batch | None = None) -> Loaded:
        """Loads a checkpoint and makes sure that it can be measured.

        After a failure the model given out last may be half written; it must not be used again. The
        next load overwrites all of it.

        Args:
            checkpoint: The checkpoint.
            first: The first item of what a network of a factory is fed, to find its sites with.

        Raises:
            CheckpointError: The checkpoint is incomplete or truncated, does not fit its config, or
                has weights that are not finite.
            UsageError: The layout table does not have this family.
        """
        if checkpoint.incomplete:
            raise CheckpointError(f"{checkpoint.label}: {checkpoint.incomplete}.")
        try:
            if checkpoint.kind == "module":
                return self._into_network(checkpoint, first)
            shell = self._copy(checkpoint) or self._build(checkpoint)
        except DamagedError as error:
            raise CheckpointError(f"{checkpoint.label}: {error}.") from error
        except OSError as error:
            raise CheckpointError(
                f"{checkpoint.label}: it cannot be read ({one_line(error)})."
            ) from error
        in_place = self._given is not None and self._given() is shell.model
        self._given = weakref.ref(shell.model)
        return Loaded(shell.model, shell.layout, in_place, shell.unused)

    def forget(self) -> None:
        """Drops the model, so that the next load builds anew."""
        self._shell = self._given = self._network = None

    def _into_network(self, checkpoint: Checkpoint, first: Batch | None) -> Loaded:
        """The network of the factory with a checkpoint's weights."""
        from geoprobe.models import factory

        assert self.factory is not None
        assert first is not None
        in_place = self._network is not None
        if self._network is None:
            model = factory.build(self.factory).to(self.device, self.dtype)
            self._network = model, factory.describe(model, first, self.factory)
        model, layout = self._network
        factory.load_weights(model, files_of_module(checkpoint.path))
        require_finite(dict(model.state_dict(keep_vars=True)))
        return Loaded(model, layout, in_place)

    def _copy(self, checkpoint: Checkpoint) -> _Shell | None:
        """Copies the weights into the model there is; None when it is not of this architecture."""
        shell = self._shell
        if shell is None or shell.plan is None or checkpoint.kind != "folder":
            return None
        raw = (checkpoint.path / "config.json").read_bytes()
        if raw != shell.raw_config:
            if _parse_config(raw) != shell.config:
                return None
            shell.raw_config = raw
        if has_adapter(checkpoint.path):
            return None
        return shell if shell.plan.copy(weight_files(checkpoint.path)) else None

    def _build(self, checkpoint: Checkpoint) -> _Shell:
        """A fresh load through transformers."""
        self._shell = None  # frees the old model before the new one is built
        condition = examine(checkpoint.path, checkpoint.kind)
        if condition.damage is not None:
            raise DamagedError(condition.damage)
        raw, config, files = b"", {}, []
        if checkpoint.kind != "gguf":
            raw = (checkpoint.model_folder / "config.json").read_bytes()
            config = _parse_config(raw)
        if checkpoint.kind == "folder":
            files = weight_files(checkpoint.path)
            names_in(files)  # what is wrong with one of them is said in its own words
        try:
            how = self._how()
            model, info = from_pretrained(checkpoint, config, how)
        except (UsageError, DamagedError):
            raise
        except Exception as error:  # a broken file or config can make transformers raise anything
            raise DamagedError(transformers_failed(checkpoint, error)) from error
        require_fit(model, info)
        if how.folder is not None:
            weakref.finalize(model, how.folder.cleanup)
        if self.device_map is None:
            model = model.to(self.device)
        model.eval().requires_grad_(False)
        if self.device.type == "cpu":
            _leave_files(model)
        layout = find_layout(model)
        plan = learn(model, checkpoint.path, config, files) if files else None
        unused = tuple(sorted(info["unexpected_keys"]))
        # Kept even if its weights turn out not to be finite: the next load overwrites them.
        self._shell = _Shell(model, layout, unused, config, raw, plan)
        state = dict(model.state_dict(keep_vars=True))
        require_finite(state)
        if any(tensor.is_meta for tensor in state.values()):  # offloaded: looked at where they are
            for name, tensor in tensors_in(files):
                require_finite({name: tensor})
        return self._shell

    def _how(self) -> How:
        if self.device_map is None:
            return How(self.dtype, self.trust_remote_code)
        from geoprobe.placement import spread

        folder = tempfile.TemporaryDirectory(prefix="geoprobe-offloaded-")
        placed = {**spread(self.device_map), "offload_folder": folder.name}
        return How(self.dtype, self.trust_remote_code, placed, folder)


def prefetch(checkpoint: Checkpoint) -> None:
    """Asks the system to read a checkpoint's weights ahead while another one is measured.

    Only advice: it starts no thread, takes none of this process's memory, and does nothing where
    the system knows no such advice or the files are not there.
    """
    if not hasattr(os, "posix_fadvise") or checkpoint.incomplete:
        return
    with suppress(OSError, DamagedError):
        is_folder = checkpoint.kind == "folder"
        files = weight_files(checkpoint.path) if is_folder else [checkpoint.path]
        for path in files:
            with path.open("rb", buffering=0) as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def load_tokenizer(
    checkpoint: Checkpoint, override: str | None = None, *, trust_remote_code: bool = False
) -> Any:
    """The tokenizer of a checkpoint: its own folder's, else the one in the folder above.

    Args:
        checkpoint: The checkpoint.
        override: A folder with a tokenizer to use instead (`--tokenizer`).
        trust_remote_code: Whether code that comes with the tokenizer may run.

    Raises:
        UsageError: There is none in either place, or it cannot be read.
    """
    from transformers import AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    if checkpoint.kind == "gguf" and override is None:
        folder, options["gguf_file"] = checkpoint.path.parent, checkpoint.path.name
    else:
        folder = companion_folder(checkpoint, override)
    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(folder, **options)
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise UsageError(
                f"The tokenizer in {shown(folder)} could not be loaded ({one_line(error)}); "
                "give another with --tokenizer FOLDER."
            ) from error


def load_processor(
    checkpoint: Checkpoint, override: str | None = None, *, trust_remote_code: bool = False
) -> Any:
    """The image processor of a checkpoint: its own folder's, else the one in the folder above.

    Args:
        checkpoint: The checkpoint.
        override: A folder with an image processor to use instead (`--tokenizer`).
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        UsageError: There is none in either place, or it cannot be read.
    """
    from transformers import AutoImageProcessor

    folder = companion_folder(checkpoint, override, PROCESSOR_FILES)
    with quiet_transformers():
        try:
            # Pillow alone: the same pixels on every machine, with or without torchvision.
            return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, backend="pil", trust_remote_code=trust_remote_code, local_files_only=True
            )
        except Exception as error:  # a broken file can make transformers raise anything
            raise UsageError(
                f"The image processor in {shown(folder)} could not be loaded ({one_line(error)}); "
                "give another with --tokenizer FOLDER."
            ) from error


def companion_folder(
    checkpoint: Checkpoint,
    override: str | None = None,
    files: Sequence[str] = TOKENIZER_FILES,
) -> Path:
    """Where the tokenizer, or what else comes with a checkpoint in such files, is.

    Raises:
        UsageError: It is nowhere.
    """
    if override is not None:
        folders = [Path(override)]
    else:
        folders = [checkpoint.path, checkpoint.path.parent]
        if checkpoint.base is not None:
            folders += [checkpoint.base.path, checkpoint.base.path.parent]
    for folder in folders:
        if any((folder / name).is_file() for name in files):
            return folder
    what = "tokenizer" if files is TOKENIZER_FILES else f"image processor ({files[0]})"
    raise UsageError(
        f"{checkpoint.label}: no {what} in {' or '.join(map(str, dict.fromkeys(folders)))}; "
        "give its folder with --tokenizer FOLDER."
    )


def _parse_config(raw: bytes) -> dict[str, Any]:
    """config.json without what does not change the model.

    Raises:
        DamagedError: It is not JSON.
    """
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise DamagedError("config.json is not valid JSON")
    return {name: value for name, value in config.items() if name not in _IRRELEVANT}


def _leave_files(model: nn.Module) -> None:
    """Gives the model memory of its own where its parameters are a mapping of a file.

    transformers maps weights that need no cast. Such a model changes, or the process dies, when
    training overwrites the file.
    """
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if (
                not tensor.is_meta and not tensor.untyped_storage().resizable()
            ):  # memory of one's own is
                tensor.data = tensor.data.clone()


def module_fingerprint(model: nn.Module) -> str:
    """What identifies the weights of a live module: a sha256 over its state.

    Of each tensor count its name, kind, shape, sum, and up to 4,096 evenly spaced values.
    """
    found = hashlib.sha256()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            flat = tensor.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 4096)].cpu()
            total = flat.cpu().double().sum().reshape(1)
            for part in (some.double(), total):
                found.update(part.numpy().tobytes())
    return found.hexdigest()
