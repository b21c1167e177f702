"""Loads checkpoints: the first through transformers, the next of the same architecture in place.

In-place loading copies each tensor of the next checkpoint into the parameter that it belongs to, so
a series costs one model's memory and no module construction. The result is bit for bit that of
`from_pretrained`; wherever that is not certain, `from_pretrained` does the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.in_place import Plan, has_adapter, learn, require_finite
from geoprobe.models.layout import Layout, find_layout, row_of
from geoprobe.models.series import Checkpoint
from geoprobe.models.tensor_files import names_in
from geoprobe.models.weights import (
    TOKENIZER_FILES,
    DamagedError,
    examine,
    shown,
    weight_files,
)

_IRRELEVANT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Keys of config.json that do not change the model; the precision is set by the user."""

_CONSTANTS = (".inv_freq", ".masked_bias", ".position_ids", ".cos_cached", ".sin_cached")
"""Tensors that old versions of transformers stored and newer ones compute."""

_GENERATING = ("ForCausalLM", "LMHeadModel")


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
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self._shell: _Shell | None = None
        self._given: weakref.ref[nn.Module] | None = None

    def load(self, checkpoint: Checkpoint) -> Loaded:
        """Loads a checkpoint and makes sure that it can be measured.

        After a failure the model given out last may be half written; it must not be used again. The
        next load overwrites all of it.

        Raises:
            CheckpointError: The checkpoint is incomplete or truncated, does not fit its config, or
                has weights that are not finite.
            UsageError: The layout table does not have this family.
        """
        if checkpoint.incomplete:
            raise CheckpointError(f"{checkpoint.label}: {checkpoint.incomplete}.")
        try:
            shell = self._copy(checkpoint) or self._build(checkpoint)
        except DamagedError as error:
            raise CheckpointError(f"{checkpoint.label}: {error}.") from error
        except OSError as error:
            raise CheckpointError(
                f"{checkpoint.label}: it cannot be read ({_one_line(error)})."
            ) from error
        in_place = self._given is not None and self._given() is shell.model
        self._given = weakref.ref(shell.model)
        return Loaded(shell.model, shell.layout, in_place, shell.unused)

    def forget(self) -> None:
        """Drops the model, so that the next load builds anew."""
        self._shell = self._given = None

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
        if checkpoint.kind == "folder":
            raw = (checkpoint.path / "config.json").read_bytes()
            config = _parse_config(raw)
            files = weight_files(checkpoint.path)
            names_in(files)  # what is wrong with one of them is said in its own words
        try:
            model, info = _from_pretrained(checkpoint, config, self.dtype, self.trust_remote_code)
        except UsageError:
            raise
        except Exception as error:  # a broken file or config can make transformers raise anything
            raise DamagedError(_transformers_failed(checkpoint, error)) from error
        _require_fit(model, info)
        model = model.to(self.device).eval()
        model.requires_grad_(False)
        if self.device.type == "cpu":
            _leave_files(model)
        layout = find_layout(model)
        plan = learn(model, checkpoint.path, config, files) if files else None
        unused = tuple(sorted(info["unexpected_keys"]))
        # Kept even if its weights turn out not to be finite: the next load overwrites them.
        self._shell = _Shell(model, layout, unused, config, raw, plan)
        require_finite(dict(model.state_dict(keep_vars=True)))
        return self._shell


def empty_model(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> nn.Module:
    """A checkpoint's model without weights (on the meta device), from its config alone.

    Raises:
        UsageError: The config cannot be read, or the layout table does not have this family.
    """
    transformers: Any = import_module("transformers")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    folder = checkpoint.path
    if checkpoint.kind == "gguf":
        folder, options["gguf_file"] = checkpoint.path.parent, checkpoint.path.name
    with quiet_transformers(), torch.device("meta"):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            kind = getattr(transformers, row_of(config.model_type).loads_as)
            model: nn.Module = (
                kind.from_config(config, trust_remote_code=trust_remote_code)
                if hasattr(kind, "from_config")
                else kind(config)
            )
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"{checkpoint.label}: no model can be made of its config ({_one_line(error)})."
            ) from error
    return model


def prefetch(checkpoint: Checkpoint) -> None:
    """Asks the system to read a checkpoint's weights ahead while another one is measured.

    Only advice: it starts no thread, takes none of this process's memory, and does nothing where
    the system knows no such advice or the files are not there.
    """
    if not hasattr(os, "posix_fadvise") or checkpoint.incomplete:
        return
    with suppress(OSError, DamagedError):
        files = [checkpoint.path] if checkpoint.kind == "gguf" else weight_files(checkpoint.path)
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
        folder = tokenizer_folder(checkpoint, override)
    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(folder, **options)
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise UsageError(
                f"The tokenizer in {shown(folder)} could not be loaded ({_one_line(error)}); "
                "give another with --tokenizer FOLDER."
            ) from error


def tokenizer_folder(checkpoint: Checkpoint, override: str | None = None) -> Path:
    """Where the tokenizer of a checkpoint folder is."""
    if override is not None:
        folders = [Path(override)]
    else:
        folders = [checkpoint.path, checkpoint.path.parent]
    for folder in folders:
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            return folder
    raise UsageError(
        f"{checkpoint.label}: no tokenizer in {' or '.join(map(str, folders))}; "
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


def _from_pretrained(
    checkpoint: Checkpoint, config: dict[str, Any], dtype: torch.dtype, trust_remote_code: bool
) -> tuple[Any, dict[str, Any]]:
    """The model and what transformers says about the load.

    A checkpoint of a bare backbone, saved without a head, is loaded as such.
    """
    transformers: Any = import_module("transformers")
    path: Path = checkpoint.path
    options: dict[str, Any] = {
        "dtype": dtype,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # so that they are named
        "trust_remote_code": trust_remote_code,
        "weights_only": True,
        "local_files_only": True,
    }
    name = "AutoModelForCausalLM"
    if checkpoint.kind == "gguf":
        path, options["gguf_file"] = checkpoint.path.parent, checkpoint.path.name
    else:
        row = row_of(config.get("model_type"))
        name = row.loads_as
        if row.pooler:
            options["add_pooling_layer"] = False
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model, info = getattr(transformers, name).from_pretrained(path, **options)
        architectures = config.get("architectures") or []
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        if (
            name == "AutoModelForCausalLM"
            and info["missing_keys"]
            and not any(key.startswith(prefix) for key in info["missing_keys"])
            and architectures
            and not any(str(name).endswith(_GENERATING) for name in architectures)
        ):
            return transformers.AutoModel.from_pretrained(path, **options)  # type: ignore[no-any-return]
    return model, info


def _require_fit(model: nn.Module, info: dict[str, Any]) -> None:
    """Makes sure that all weights were on disk, and all of the backbone's on disk were used.

    Raises:
        DamagedError: The weights do not fit config.json.
    """
    prefix = str(getattr(model, "base_model_prefix", ""))
    backbone: nn.Module = getattr(model, prefix, model)
    inside = {prefix, *(name for name, _ in backbone.named_children())}
    strangers = [
        key
        for key in info["unexpected_keys"]
        if key.split(".")[0] in inside and not key.endswith(_CONSTANTS)
    ]
    mismatched = [str(k[0] if isinstance(k, tuple) else k) for k in info["mismatched_keys"]]
    problems = [
        f"{what} {', '.join(map(shown, sorted(names)[:3]))}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (
            ("missing", list(info["missing_keys"])),
            ("of another shape", mismatched),
            ("without a place in the model", strangers),
        )
        if names
    ]
    if problems:
        raise DamagedError("the weights do not fit config.json: " + "; ".join(problems))


def _transformers_failed(checkpoint: Checkpoint, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code that comes with it; if you trust that, give --trust-remote-code"
    why = f"transformers could not load it ({type(error).__name__}: {_one_line(error)})"
    if checkpoint.kind == "gguf":
        return f"{why}; the file may be damaged"
    return f"{why}; its files may be damaged or not fit its config.json"


def _leave_files(model: nn.Module) -> None:
    """Gives the model memory of its own where its parameters are a mapping of a file.

    transformers maps weights that need no cast. Such a model changes, or the process dies, when
    training overwrites the file.
    """
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if not tensor.untyped_storage().resizable():  # memory of one's own is
                tensor.data = tensor.data.clone()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' own bars and warnings off the user's screen for a while."""
    log: Any = import_module("transformers.utils.logging")
    gguf: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    level, bars, gguf_bar = log.get_verbosity(), log.is_progress_bar_enabled(), gguf.tqdm
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    gguf.tqdm = lambda items, **_: items  # this bar knows no switch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gguf.tqdm = gguf_bar
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _one_line(error: BaseException) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= 200 else text[:197] + "..."


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
