"""Copies a checkpoint's weights into a model that is already built.

`from_pretrained` builds modules, names tensors and allocates memory anew for every checkpoint. For
the next checkpoint of the same architecture all of that is known: which tensor on disk goes into
which parameter. A plan holds just that. It is drawn up once, by transformers' own renaming rules,
after a load through `from_pretrained`, and checked there against the weights that this load gave.
It is used only for files with the very same names and shapes; whatever else comes along is left to
`from_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoprobe.models.tensor_files import PORTION_BYTES, Buffer, names_in, tensors_in
from geoprobe.models.weights import DamagedError, shown
from geoprobe.statistics.threads import one_thread

_SAMPLED_BYTES, _SAMPLES, _SAMPLE_ROWS = 4 * 2**20, 16, 4096


class Plan:
    """Which tensor of a checkpoint's files goes where in a model.

    Args:
        targets: Name on disk to parameter (or persistent buffer).
        echoes: Name on disk to the parameter that another name on disk already fills.
        ignored: Names on disk that the model has no use for.
    """

    def __init__(
        self, targets: dict[str, Tensor], echoes: dict[str, Tensor], ignored: Collection[str]
    ) -> None:
        self._targets = targets
        self._echoes = echoes
        self._names = {*targets, *echoes, *ignored}
        self._buffers: dict[str, Buffer] = {}

    def copy(self, files: Sequence[Path]) -> bool:
        """Copies a checkpoint into the model.

        Args:
            files: Its weight files.

        Returns:
            False when the plan is not for this checkpoint; the model may then be half written.

        Raises:
            DamagedError: A file is damaged, or weights are NaN or infinite; the model may then be
                half written.
            OSError: A file cannot be read.
        """
        small = sum(path.stat().st_size for path in files) <= PORTION_BYTES and all(
            path.suffix == ".safetensors" for path in files
        )
        left = set(self._names)
        sums: list[Tensor] = []
        with torch.no_grad(), one_thread() if small else nullcontext():
            for name, tensor in self._buffered(files) if small else tensors_in(files):
                if name not in left:
                    return False
                left.remove(name)
                if (target := self._targets.get(name)) is not None:
                    if not _fits(tensor, target):
                        return False
                    target.copy_(tensor)
                    if target.is_floating_point():
                        sums.append(_sum(target))
            if left:
                return False
            if not _all_finite(sums):
                require_finite(self._targets)
            return not self._echoes or self._echoes_agree(files)

    def _buffered(self, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of small safetensors files."""
        for path in files:
            buffer = self._buffers.get(path.name)
            if buffer is None or not buffer.read(path):
                buffer = self._buffers[path.name] = Buffer(path)
            yield from buffer.tensors.items()

    def _echoes_agree(self, files: Sequence[Path]) -> bool:
        """Whether second copies of tied weights are equal: else they would not have been tied."""
        for name, tensor in tensors_in(files):
            if (target := self._echoes.get(name)) is not None:
                if tensor.shape != target.shape:
                    return False
                if not torch.equal(target, tensor.to(target.device, target.dtype)):
                    return False
        return True


def learn(
    model: nn.Module, folder: Path, config: dict[str, Any], files: Sequence[Path]
) -> Plan | None:
    """Draws up the plan of a model that was just loaded from a folder.

    Args:
        model: What `from_pretrained` gave.
        folder: The checkpoint's folder.
        config: Its config.json.
        files: Its weight files.

    Returns:
        None where in-place loading would not be the same as `from_pretrained`: the weights are
        transformed on the way (merged experts, quantisation, adapters), the model's own code is
        not transformers', its rotary embedding remembers earlier input, or some of its weights
        wait elsewhere for their turn.
    """
    if has_adapter(folder) or not _only_copies(config):
        return None
    on_disk = names_in(files)
    state = model.state_dict(keep_vars=True)
    if any(tensor.is_meta for tensor in state.values()):
        return None
    names = _names_in_memory(model, on_disk)
    if names is None or len(set(on_disk)) < len(on_disk) or len(set(names.values())) < len(names):
        return None
    targets: dict[str, Tensor] = {}
    echoes: dict[str, Tensor] = {}
    filled: set[int] = set()
    for disk, name in names.items():
        tensor = state[name]
        (echoes if id(tensor) in filled else targets)[disk] = tensor
        filled.add(id(tensor))
    if any(id(tensor) not in filled for tensor in state.values()):
        return None
    for disk, tensor in tensors_in(files):
        held = targets.get(disk, echoes.get(disk))
        if held is not None and not (_fits(tensor, held) and _agrees(tensor, held)):
            return None
    return Plan(targets, echoes, on_disk)


def has_adapter(folder: Path) -> bool:
    """Whether transformers would add an adapter to the weights of a folder."""
    return (folder / "adapter_config.json").exists()


def _only_copies(config: dict[str, Any]) -> bool:
    """Whether `from_pretrained` does no more for such a config than copy tensors."""
    return (
        not {"auto_map", "quantization_config", "transformers_weights"} & config.keys()
        and '"dynamic"' not in json.dumps(config)  # a rotary embedding that grows with its input
    )


def _fits(tensor: Tensor, target: Tensor) -> bool:
    """Whether a tensor on disk can be copied into a parameter as it is."""
    return tensor.shape == target.shape and tensor.is_floating_point() == target.is_floating_point()


def _agrees(disk: Tensor, held: Tensor) -> bool:
    """Whether a parameter is bit for bit its tensor on disk; large ones are sampled.

    The names come from the rules by which transformers loaded the model, so this is a safeguard
    against a rule that also changes values, such as a transposition.
    """
    ours, theirs = held.detach().reshape(-1), disk.reshape(-1)
    if theirs.nbytes <= _SAMPLED_BYTES:
        parts = [(0, theirs.numel())]
    else:
        last = theirs.numel() - _SAMPLE_ROWS
        parts = [(last * i // (_SAMPLES - 1), _SAMPLE_ROWS) for i in range(_SAMPLES)]
    return all(
        torch.equal(
            _bits(ours[first : first + count].cpu()),
            _bits(theirs[first : first + count].to(held.dtype)),
        )
        for first, count in parts
    )


def _names_in_memory(model: nn.Module, names: Sequence[str]) -> dict[str, str] | None:
    """Name on disk -> name in memory, by transformers' rules; None when these do more than rename.

    Names that end up nowhere are left out.
    """
    state = model.state_dict()
    renamings: list[Any] = []
    converters: list[Any] = []
    prefix = getattr(model, "base_model_prefix", "")
    try:
        core: Any = import_module("transformers.core_model_loading")
        mapping: Any = import_module("transformers.conversion_mapping")
        for entry in mapping.get_model_conversion_mapping(model):
            (renamings if isinstance(entry, core.WeightRenaming) else converters).append(entry)
        found: dict[str, str] = {}
        for disk in names:
            name, pattern = core.rename_source_key(disk, renamings, converters, prefix, state)
            if name not in state and disk in state:
                name, pattern = disk, None
            if pattern is not None:
                return None
            if name in state:
                found[disk] = name
    except (ImportError, AttributeError, TypeError):  # another version of transformers
        return {disk: disk for disk in names if disk in state}
    return found


def require_finite(tensors: dict[str, Tensor]) -> None:
    """Makes sure that no weight that is here is NaN or infinite.

    Raises:
        DamagedError: One is; it is named.
    """
    with torch.no_grad(), one_thread():
        floats = {
            name: tensor
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
        }
        if _all_finite([_sum(tensor) for tensor in floats.values()]):
            return
        for name, tensor in floats.items():
            if not bool(torch.isfinite(tensor).all()):
                raise DamagedError(f"{shown(name)} has NaN or infinite weights", unfinished=False)


def _sum(part: Tensor) -> Tensor:
    """NaN and infinity survive in a sum: one cheap pass, and no temporary is made."""
    return part.sum(dtype=torch.float32) if part.dtype == torch.float16 else part.sum().float()


def _all_finite(sums: Sequence[Tensor]) -> bool:
    """False also when a sum of finite weights overflows: then each weight must be looked at."""
    return not sums or bool(torch.stack([s.cpu() for s in sums]).isfinite().all())


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)
