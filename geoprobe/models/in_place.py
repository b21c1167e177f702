"""Copies a checkpoint's weights into a model that is already built.

`from_pretrained` builds modules, names tensors and allocates memory anew for every checkpoint. For
the next checkpoint of the same architecture all of that is known: which bytes of which file go into
which parameter. A plan holds just that. It is drawn up once, by transformers' own renaming rules,
after a load through `from_pretrained`, and checked there against the weights that this load gave.
It is used only for files with the very same tensor names, shapes and kinds of numbers; whatever
else comes along is left to `from_pretrained`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from geoprobe.models.weights import DamagedError, Entry, Header, read_header, shown
from geoprobe.statistics.threads import one_thread

PIECE_BYTES = 2**20
"""Read, cast and checked at once: small enough to stay in the processor's cache."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_WORKERS, _ALONE_BYTES = 4, 64 * 2**20
"""Threads that copy a model of more than so many bytes; a smaller one is done before they start."""

_SAMPLED_BYTES, _SAMPLES, _SAMPLE_ROWS = 4 * 2**20, 16, 4096


@dataclass(slots=True)
class _Step:
    """One read from a file and what becomes of it.

    Attributes:
        file: Which of the checkpoint's files.
        offset: Where in it.
        memory: Where the bytes go.
        direct: The part of a parameter whose memory that is, or None.
        scratch: Else the part of the scratch memory.
        copies: Parts of parameters and the parts of the scratch memory that belong there.
        echoes: The same for a second copy of a tied weight, which must be equal.
        checks: What is summed up to find NaN and infinity.
    """

    file: int
    offset: int
    memory: memoryview
    direct: Tensor | None = None
    scratch: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    echoes: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    checks: list[Tensor] = field(default_factory=list)


class Plan:
    """Which bytes of a checkpoint's files go where in a model.

    Args:
        targets: Name on disk to parameter (or persistent buffer).
        echoes: Name on disk to the parameter that another name on disk already fills.
        ignored: Names on disk that the model has no use for.
    """

    def __init__(
        self, targets: dict[str, Tensor], echoes: dict[str, Tensor], ignored: frozenset[str]
    ) -> None:
        self._targets = targets
        self._echoes = echoes
        self._names = frozenset(targets) | frozenset(echoes) | ignored
        held = sum(tensor.nbytes for tensor in targets.values())
        workers = min(_WORKERS, os.cpu_count() or 1) if held > _ALONE_BYTES else 1
        self._scratch = [torch.empty(PIECE_BYTES, dtype=torch.uint8) for _ in range(workers)]
        self._headers: list[Header] = []
        self._steps: list[_Step] = []

    def copy(self, files: Sequence[Path]) -> bool:
        """Copies a checkpoint into the model.

        Args:
            files: Its safetensors files.

        Returns:
            False when the plan is not for this checkpoint; the model may then be half written.

        Raises:
            DamagedError: A file is damaged, or weights are NaN or infinite; the model may then be
                half written.
            OSError: A file cannot be read.
        """
        with ExitStack() as stack:
            streams = [stack.enter_context(path.open("rb", buffering=0)) for path in files]
            if not self._prepare(files, streams):
                return False
            with torch.no_grad(), one_thread():
                if len(self._scratch) == 1:
                    sums = self._work(streams, self._steps)
                else:
                    sums = self._share_out(files)
                if not _all_finite(sums):
                    require_finite(self._targets)
                return self._echoes_agree(streams)

    def _prepare(self, files: Sequence[Path], streams: Sequence[BinaryIO]) -> bool:
        """Reads the headers; draws up the steps anew if these are not the ones known already."""
        known = self._headers if len(self._headers) == len(files) else [None] * len(files)
        headers = [
            read_header(stream, shown(path.name), os.fstat(stream.fileno()).st_size, header)
            for path, stream, header in zip(files, streams, known, strict=True)
        ]
        if all(a is b for a, b in zip(headers, known, strict=True)):
            return True
        names = [name for header in headers for name in header.entries]
        if len(names) != len(self._names) or set(names) != self._names:
            return False
        for header in headers:
            for name, entry in header.entries.items():
                target = self._targets.get(name, self._echoes.get(name))
                if target is not None and not _fits(entry, target):
                    return False
        self._headers, self._steps = headers, []
        for file, header in enumerate(headers):
            self._add_steps(file, header)
        for step in self._steps:
            step.checks = _checks(step)
        return True

    def _add_steps(self, file: int, header: Header) -> None:
        """Adds the steps through a file from its beginning; small tensors are read together."""
        open_step: _Step | None = None
        for name, entry in sorted(header.entries.items(), key=lambda item: item[1].begin):
            target = self._targets.get(name, self._echoes.get(name))
            if target is None:
                continue
            dtype = _DTYPES[entry.dtype]
            flat = target.view(-1)
            whole = PIECE_BYTES // dtype.itemsize
            for first in range(0, flat.numel(), whole):
                part = flat[first : first + whole]
                offset = header.start + entry.begin + first * dtype.itemsize
                size = part.numel() * dtype.itemsize
                as_it_is = part.dtype == dtype and part.device.type == "cpu"
                if as_it_is and size == PIECE_BYTES and name in self._targets:
                    self._steps.append(_Step(file, offset, _bytes_of(part), direct=part))
                    open_step = None
                    continue
                used = offset - open_step.offset if open_step is not None else 0
                if open_step is None or used % dtype.itemsize or used + size > PIECE_BYTES:
                    open_step, used = _Step(file, offset, memoryview(b"")), 0
                    self._steps.append(open_step)
                scratch = self._scratch[(len(self._steps) - 1) % len(self._scratch)]
                open_step.scratch = scratch[: used + size]
                open_step.memory = _bytes_of(open_step.scratch)
                source = scratch[used : used + size].view(dtype)
                kept = open_step.copies if name in self._targets else open_step.echoes
                kept.append((part, source))

    def _work(self, streams: Sequence[BinaryIO], steps: Sequence[_Step]) -> list[Tensor]:
        """Carries out some steps; gives the sums of what was copied."""
        sums: list[Tensor] = []
        for step in steps:
            _read(streams[step.file], step.offset, step.memory)
            for target, source in step.copies:
                target.copy_(source)
            sums += [_sum(part) for part in step.checks]
        return sums

    def _share_out(self, files: Sequence[Path]) -> list[Tensor]:
        """Carries out all steps in threads, each with its own scratch memory."""

        def work(worker: int) -> list[Tensor]:
            with ExitStack() as stack, torch.no_grad():
                streams = [stack.enter_context(path.open("rb", buffering=0)) for path in files]
                return self._work(streams, self._steps[worker :: len(self._scratch)])

        with ThreadPoolExecutor(len(self._scratch)) as pool:
            return [s for sums in pool.map(work, range(len(self._scratch))) for s in sums]

    def _echoes_agree(self, streams: Sequence[BinaryIO]) -> bool:
        """Whether second copies of tied weights are equal: else they would not have been tied."""
        for step in self._steps:
            if step.echoes:
                _read(streams[step.file], step.offset, step.memory)
                for target, source in step.echoes:
                    if not torch.equal(target, source.to(target.device, target.dtype)):
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
        files: Its safetensors files.

    Returns:
        None where in-place loading would not be the same as `from_pretrained`: the weights are
        transformed on the way (merged experts, quantisation, adapters), the model's own code is
        not transformers', or its rotary embedding remembers earlier input.
    """
    if has_adapter(folder) or not _only_copies(config):
        return None
    entries: dict[str, tuple[Path, Header]] = {}
    for path in files:
        with path.open("rb") as stream:
            header = read_header(stream, shown(path.name), path.stat().st_size)
        if entries.keys() & header.entries.keys():
            return None
        entries |= dict.fromkeys(header.entries, (path, header))
    state = model.state_dict(keep_vars=True)
    names = _names_in_memory(model, entries)
    if names is None or len(set(names.values())) < len(names):
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
    for disk, tensor in (targets | echoes).items():
        path, header = entries[disk]
        if not _fits(header.entries[disk], tensor) or not _agrees(path, header, disk, tensor):
            return None
    return Plan(targets, echoes, frozenset(entries) - frozenset(names))


def has_adapter(folder: Path) -> bool:
    """Whether transformers would add an adapter to the weights of a folder."""
    return (folder / "adapter_config.json").exists()


def _only_copies(config: dict[str, Any]) -> bool:
    """Whether `from_pretrained` does no more for such a config than copy tensors."""
    return (
        not {"auto_map", "quantization_config", "transformers_weights"} & config.keys()
        and '"dynamic"' not in json.dumps(config)  # a rotary embedding that grows with its input
    )


def _fits(entry: Entry, target: Tensor) -> bool:
    """Whether a tensor on disk can be copied into a parameter as it is."""
    dtype = _DTYPES.get(entry.dtype)
    return (
        dtype is not None
        and entry.shape == tuple(target.shape)
        and entry.end - entry.begin == math.prod(entry.shape) * dtype.itemsize
        and dtype.is_floating_point == target.dtype.is_floating_point
        and target.is_contiguous()
    )


def _names_in_memory(model: nn.Module, names: dict[str, Any]) -> dict[str, str] | None:
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


def _agrees(path: Path, header: Header, disk: str, tensor: Tensor) -> bool:
    """Whether a parameter is bit for bit its tensor on disk; large ones are sampled.

    The names come from the rules by which transformers loaded the model, so this is a safeguard
    against a rule that also changes values, such as a transposition.
    """
    entry = header.entries[disk]
    dtype = _DTYPES[entry.dtype]
    flat = tensor.detach().view(-1)
    if entry.end - entry.begin <= _SAMPLED_BYTES:
        parts = [(0, flat.numel())]
    else:
        last = flat.numel() - _SAMPLE_ROWS
        parts = [(last * i // (_SAMPLES - 1), _SAMPLE_ROWS) for i in range(_SAMPLES)]
    with path.open("rb", buffering=0) as stream:
        for first, count in parts:
            read = torch.empty(count, dtype=dtype)
            if count:
                offset = header.start + entry.begin + first * dtype.itemsize
                _read(stream, offset, _bytes_of(read))
            here = flat[first : first + count].cpu()
            if not torch.equal(_bits(here), _bits(read.to(tensor.dtype))):
                return False
    return True


def require_finite(tensors: dict[str, Tensor]) -> None:
    """Makes sure that no weight is NaN or infinite.

    Raises:
        DamagedError: One is; it is named.
    """
    with torch.no_grad(), one_thread():
        floats = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
        if _all_finite([_sum(tensor) for tensor in floats.values()]):
            return
        for name, tensor in floats.items():
            if not bool(torch.isfinite(tensor).all()):
                raise DamagedError(f"{shown(name)} has NaN or infinite weights", unfinished=False)


def _checks(step: _Step) -> list[Tensor]:
    """What to sum up to find NaN and infinity in a step: the fewest tensors that will do."""
    if step.direct is not None:
        return [step.direct] if step.direct.is_floating_point() else []
    dtypes = {source.dtype for _, source in step.copies}
    # The largest float16 is small: a cast to it can give infinities where there were none.
    narrow = any(target.dtype == torch.float16 for target, _ in step.copies)
    whole = sum(source.nbytes for _, source in step.copies) == step.scratch.nbytes
    if whole and len(dtypes) == 1 and not narrow and (dtype := dtypes.pop()).is_floating_point:
        return [step.scratch.view(dtype)]
    return [target for target, _ in step.copies if target.is_floating_point()]


def _sum(part: Tensor) -> Tensor:
    """NaN and infinity survive in a sum: one cheap pass, and no temporary is made."""
    return part.sum(dtype=torch.float32) if part.dtype == torch.float16 else part.sum().float()


def _all_finite(sums: Sequence[Tensor]) -> bool:
    """False also when a sum of finite weights overflows: then each weight must be looked at."""
    return not sums or bool(torch.stack(list(sums)).isfinite().all())


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().view(torch.uint8).numpy().data


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _read(stream: BinaryIO, offset: int, memory: memoryview) -> None:
    stream.seek(offset)
    done = 0
    while done < len(memory):
        count = stream.readinto(memory[done:])  # type: ignore[attr-defined]
        if not count:
            raise DamagedError(f"{shown(Path(stream.name).name)} is truncated")
        done += count
