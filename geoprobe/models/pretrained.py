"""What transformers makes of a checkpoint: a folder, a .gguf file, a state dict, an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geoprobe.errors import UsageError
from geoprobe.models.families import row_of
from geoprobe.models.layout import classifies
from geoprobe.models.states import read_state
from geoprobe.models.weights import DamagedError, shown

if TYPE_CHECKING:
    from geoprobe.models.series import Checkpoint

_CONSTANTS = (".inv_freq", ".masked_bias", ".position_ids", ".cos_cached", ".sin_cached")
"""Tensors that old versions of transformers stored and newer ones compute."""

_GENERATING = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class How:
    """How transformers is to load.

    Attributes:
        dtype: Precision of the weights.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        placed: Options that place the weights; none leaves them to the processor's memory.
        folder: Holds weights that have no other place, as long as the model needs them.
    """

    dtype: torch.dtype
    trust_remote_code: bool = False
    placed: Mapping[str, Any] = field(default_factory=dict)
    folder: TemporaryDirectory[str] | None = None


def empty_model(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> nn.Module:
    """A checkpoint's model without weights (on the meta device), from its config alone.

    Raises:
        UsageError: The config cannot be read, or the layout table does not have this family.
    """
    transformers: Any = import_module("transformers")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    folder = checkpoint.model_folder
    if checkpoint.kind == "gguf":
        folder, options["gguf_file"] = checkpoint.path.parent, checkpoint.path.name
    with quiet_transformers(), torch.device("meta"):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            kind = getattr(transformers, _loads_as(config.model_type, config.architectures))
            model: nn.Module = (
                kind.from_config(config, trust_remote_code=trust_remote_code)
                if hasattr(kind, "from_config")
                else kind(config)
            )
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"{checkpoint.label}: no model can be made of its config ({one_line(error)})."
            ) from error
    return model


def from_pretrained(
    checkpoint: Checkpoint, config: dict[str, Any], how: How
) -> tuple[Any, dict[str, Any]]:
    """The model and what transformers says about the load.

    A checkpoint of a bare backbone, saved without a head, is loaded as such.

    Args:
        checkpoint: What to load.
        config: Its config.json, or that of the model it belongs to; empty for a .gguf file.
        how: Precision, trust and place.

    Raises:
        DamagedError: It is not what it should be.
        UsageError: The layout table does not have this family, or a library is missing.
    """
    if checkpoint.kind == "adapter":
        return _merged(checkpoint, config, how)
    if checkpoint.kind == "state":
        return _of_state(checkpoint, config, how)
    transformers: Any = import_module("transformers")
    path: Path = checkpoint.path
    options: dict[str, Any] = {
        **_loading(how, config),
        "trust_remote_code": how.trust_remote_code,
        "weights_only": True,
        "local_files_only": True,
    }
    name = "AutoModelForCausalLM"
    if checkpoint.kind == "gguf":
        path, options["gguf_file"] = checkpoint.path.parent, checkpoint.path.name
    else:
        name = _loads_as(config.get("model_type"), config.get("architectures"))
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


def _loading(how: How, config: dict[str, Any]) -> dict[str, Any]:
    """How transformers is to load; a .gguf file has no config, and no pooler."""
    options = {
        "dtype": how.dtype,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # so that they are named
        **how.placed,
    }
    if config:
        name = _loads_as(config.get("model_type"), config.get("architectures"))
        if name == "AutoModel" and row_of(config.get("model_type")).pooler:
            options["add_pooling_layer"] = False
    return options


def _loads_as(family: str | None, architectures: Sequence[str] | None) -> str:
    """The class of transformers' that loads a checkpoint: with its head, or its classifier."""
    row = row_of(family)
    found = classifies(architectures or ()) if row.classifier is not None else None
    return found or row.loads_as


def _of_state(
    checkpoint: Checkpoint, config: dict[str, Any], how: How
) -> tuple[Any, dict[str, Any]]:
    """A model of a bare state dict and the config that belongs to it."""
    empty: Any = empty_model(checkpoint, trust_remote_code=how.trust_remote_code)
    state = read_state(checkpoint.path, empty.state_dict().keys())
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        return type(empty).from_pretrained(  # type: ignore[no-any-return]
            None,
            config=empty.config,
            state_dict=state,
            **_loading(how, config),
        )


def _merged(checkpoint: Checkpoint, config: dict[str, Any], how: How) -> tuple[Any, dict[str, Any]]:
    """An adapter merged into its base model, by PEFT."""
    assert checkpoint.base is not None
    if how.placed:
        raise UsageError(
            f"{checkpoint.label} is an adapter, and it is merged into weights that are in memory: "
            "leave --device-map out, or save the merged model and measure that."
        )
    if find_spec("peft") is None:
        raise UsageError(
            f"{checkpoint.label} is an adapter, and merging it needs PEFT: "
            "pip install 'geoprobe[peft]'."
        )
    model, info = from_pretrained(checkpoint.base, config, how)
    require_fit(model, info)
    peft: Any = import_module("peft")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = peft.PeftModel.from_pretrained(model, str(checkpoint.path), local_files_only=True)
        lacking = [str(w.message) for w in said if "missing adapter keys" in str(w.message)]
        if lacking:
            raise DamagedError(f"the adapter's weights do not fit its config ({lacking[0][:120]})")
        if not hasattr(adapted, "merge_and_unload"):
            kind = getattr(adapted.active_peft_config, "peft_type", "unknown")
            raise DamagedError(
                f"adapters of type {kind} are not weights that can be merged into the model",
                unfinished=False,
            )
        return adapted.merge_and_unload(), info


def require_fit(model: nn.Module, info: dict[str, Any]) -> None:
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


def transformers_failed(checkpoint: Checkpoint, error: Exception) -> str:
    """Why a load failed, as a fragment of a sentence."""
    if "trust_remote_code" in str(error):
        return "it needs code that comes with it; if you trust that, give --trust-remote-code"
    why = f"transformers could not load it ({type(error).__name__}: {one_line(error)})"
    if checkpoint.kind == "gguf":
        return f"{why}; the file may be damaged"
    return f"{why}; its files may be damaged or not fit its config.json"


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


def one_line(error: BaseException) -> str:
    """What an error says, short and fit for a sentence."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= 200 else text[:197] + "..."
