"""A series of checkpoints on disk: which there are, in what order, and which of them to measure.

Imports no torch and no transformers, and loads nothing: `geoprobe series` must be quick on a
terabyte of checkpoints.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from geoprobe.errors import UsageError
from geoprobe.models import hub
from geoprobe.models.bases import with_bases
from geoprobe.models.naming import Numbers, Pattern, is_conventional, is_temporary, numbers_in
from geoprobe.models.selection import selection
from geoprobe.models.weights import (
    STATE_SUFFIXES,
    Condition,
    DamagedError,
    Kind,
    digest,
    examine,
    foreign_format,
    has_weights,
    is_state,
    kind_of_folder,
    shown,
)

BEING_WRITTEN_SECONDS = 600.0
"""A newest checkpoint that is incomplete and changed less than this ago is being written."""

_LABEL_BYTES = 160


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series.

    Attributes:
        label: Its name in readings and file names: unique in the series, fit for a file name.
        path: The folder, or the file.
        kind: What it is.
        stage: Training stage; in a series with stages, 1 where the name gives none.
        step: Optimiser step.
        tokens: Tokens seen.
        epoch: Epochs done.
        size_bytes: Bytes of the weights.
        incomplete: Why it cannot be measured, as a fragment of a sentence; None when it can.
        remote: Where on the hub it comes from; None where it does not.
        base: The model that an adapter is for, or whose config.json a bare state dict follows.
    """

    label: str
    path: Path
    kind: Kind
    stage: int | None = None
    step: int | None = None
    tokens: int | None = None
    epoch: int | float | None = None
    size_bytes: int = 0
    incomplete: str | None = None
    remote: hub.Remote | None = None
    base: Checkpoint | None = None

    @property
    def model_folder(self) -> Path:
        """Where its config.json is."""
        return self.path if self.base is None else self.base.path


@dataclass(frozen=True)
class Series:
    """Checkpoints in the order of training.

    Attributes:
        arguments: What the user named.
        checkpoints: What is to be measured, in order.
        skipped: Label and reason of what was left out on purpose.
    """

    arguments: tuple[str, ...]
    checkpoints: list[Checkpoint]
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """A checkpoint before it is put in order."""

    path: Path
    kind: Kind
    listed: bool  # named by the user itself, not found in a folder
    numbers: Numbers = field(default_factory=Numbers)
    remote: hub.Remote | None = None

    @property
    def name(self) -> str:
        if self.remote is not None:
            asked = self.remote.revision
            return asked if asked != "main" else self.remote.repo.split("/")[1]
        return self.path.stem if self.kind in ("gguf", "state") else self.path.name

    @property
    def above(self) -> list[str]:
        """Names of the folders it is in, from the inside out."""
        if self.remote is not None:
            return self.remote.repo.split("/")[::-1]
        return [p.name for p in self.path.absolute().parents]


def find_series(
    arguments: Sequence[str | Path],
    *,
    pattern: str | None = None,
    every: int = 1,
    log_spaced: int | None = None,
    last: int | None = None,
    revisions: str | None = None,
    base: str | Path | None = None,
) -> Series:
    """Finds the checkpoints of a series and puts them in the order of training.

    The order is by stage, then by the numbers that all checkpoints of a stage have, of step, tokens
    and epoch. Names without a stage are stage 1 where others have one (OLMo's `step150-tokens1B`
    beside `stage1-step1000-tokens3B`). Checkpoints that are listed one by one and have no numbers
    at all keep the order given.

    Args:
        arguments: `demo`, checkpoint folders, folders of them, .gguf files, `org/name` or
            `org/name@revision` on the hub.
        pattern: A regular expression with groups stage, step, tokens or epoch that replaces the
            naming conventions. Checkpoints in a folder that do not match it are left out.
        every: Keep every K-th checkpoint from the first on, and the last.
        log_spaced: Keep N checkpoints, evenly spaced in ln(1 + step), first and last among them.
        last: Keep the last N.
        revisions: A glob over branches and tags: those of each model on the hub.
        base: The model that adapters are for, or whose config.json bare state dicts follow.

    Raises:
        UsageError: Nothing is found, the checkpoints cannot be ordered, or an option is wrong.
    """
    select = selection(every, log_spaced, last)
    rule = Pattern(pattern) if pattern is not None else None
    if not arguments:
        raise UsageError("No series was given; name a checkpoint folder, or `demo`.")
    skipped: list[tuple[str, str]] = []
    found = _without_links(
        [f for a in arguments for f in _expand(str(a), skipped, revisions)], skipped
    )
    if revisions is not None and not any(f.remote for f in found):
        raise UsageError(
            f"--revisions {revisions!r} is for models of the hub (org/name), and none was given."
        )
    found = _without_leftovers(_numbered(found, rule, skipped), skipped)
    found = _in_order(found)
    checkpoints = [
        Checkpoint(
            label=label,
            path=f.path,
            kind=f.kind,
            stage=f.numbers.stage,
            step=f.numbers.step,
            tokens=f.numbers.tokens,
            epoch=f.numbers.epoch,
            remote=f.remote,
        )
        for label, f in zip(_labels(found), found, strict=True)
    ]
    if (
        len(checkpoints) > 1
        and checkpoints[-1].remote is None
        and _is_being_written(newest := _examine(checkpoints[-1]))
    ):
        skipped.append((checkpoints.pop().label, f"it is being written ({newest.damage})"))
    chosen = []
    for checkpoint in with_bases(_with_files(select(checkpoints)), base):
        condition = _examine(checkpoint)
        chosen.append(
            replace(
                checkpoint,
                size_bytes=condition.size_bytes,
                incomplete=condition.damage or checkpoint.incomplete,
            )
        )
    return Series(tuple(map(str, arguments)), chosen, skipped)


def to_download(checkpoints: Sequence[Checkpoint]) -> str | None:
    """A sentence on what must be downloaded; None when everything is here."""
    absent = [c.remote.absent for c in checkpoints if c.remote is not None and c.remote.absent]
    if not absent:
        return None
    # Revisions often share files, so this is an upper bound.
    total = sum(size for files in absent for _, size in files)
    revisions = f"{len(absent)} revision{'s' if len(absent) > 1 else ''}"
    return f"{revisions} to download from the hub: {total / 1e6:,.1f} MB."


def _with_files(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The same, those on the hub with their files."""
    listed = iter(hub.with_files([c.remote for c in checkpoints if c.remote is not None]))
    return [c if c.remote is None else replace(c, remote=next(listed)) for c in checkpoints]


def fingerprint(checkpoint: Checkpoint) -> str:
    """What identifies a checkpoint's content: a sha256 over its config.json and weights.

    Files above 16 MiB count by name, size, header and 256 evenly spaced blocks; see
    `geoprobe.models.weights.digest`. A revision of the hub is identified by its commit.

    Raises:
        OSError: A file cannot be read.
    """
    if checkpoint.remote is not None:
        return checkpoint.remote.commit
    try:
        found = digest(checkpoint.path, checkpoint.kind)
        if checkpoint.base is not None:
            config = checkpoint.base.path / "config.json"
            whole = checkpoint.kind == "adapter"
            its = fingerprint(checkpoint.base).encode() if whole else config.read_bytes()
            found = hashlib.sha256(found.encode() + its).hexdigest()
        return found
    except DamagedError as error:
        raise OSError(str(error)) from error


def _examine(checkpoint: Checkpoint) -> Condition:
    path, remote = checkpoint.path, checkpoint.remote
    if remote is None:
        return examine(path, checkpoint.kind, temporary=is_temporary(path.name))
    if remote.absent:
        damage = None if remote.size_bytes else "it has no weights in safetensors or PyTorch files"
        return Condition(remote.size_bytes, damage, unfinished=False, modified=0.0)
    found = examine(path, checkpoint.kind)
    if remote.files or found.damage is None:
        return found
    return replace(
        found, damage=f"the hub cannot be reached, and the cache has too little: {found.damage}"
    )


def _is_being_written(condition: Condition) -> bool:
    return (
        condition.damage is not None
        and condition.unfinished
        and time.time() - condition.modified < BEING_WRITTEN_SECONDS
    )


def _expand(argument: str, skipped: list[tuple[str, str]], revisions: str | None) -> list[_Found]:
    """The checkpoints that one argument stands for."""
    if argument == "demo":
        from geoprobe.data.demo_series import demo_folder

        return _in_folder(Path(demo_folder()), skipped)
    path = Path(argument).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):
        is_folder = is_file = False
    if is_file:
        if path.suffix.lower() == ".gguf":
            return [_Found(path, "gguf", listed=True)]
        if is_state(path):
            return [_Found(path, "state", listed=True)]
        raise UsageError(
            f"{shown(argument)} is a file; give a checkpoint's folder, a .gguf file, or a state "
            f"dict ({', '.join(STATE_SUFFIXES)})."
        )
    if not is_folder:
        if (named := hub.parse(argument)) is not None:
            return _on_hub(*named, revisions, skipped)
        raise UsageError(
            f"{shown(argument)}: there is no such file or folder, and models of the hub are named "
            "org/name or org/name@revision."
        )
    # "." and ".." have no name of their own, and a folder's name is half of what we know of it.
    return _in_folder(path if path.name not in ("", "..") else path.resolve(), skipped)


def _on_hub(
    repo: str, revision: str | None, pattern: str | None, skipped: list[tuple[str, str]]
) -> list[_Found]:
    """The revisions of a model on the hub that were asked for."""
    several = revision is None and pattern is not None
    found = [
        _Found(remote.folder, "folder", listed=not several, remote=remote)
        for remote in hub.find(repo, revision, pattern)
    ]
    numbered = [f for f in found if numbers_in(f.name)]
    if several and numbered and len(numbered) < len(found):
        # `main` is as a rule the last of the others.
        others = [f for f in found if f not in numbered]
        why = "no step, tokens or epoch in the name"
        skipped += [(_safe(f.remote.revision), why) for f in others if f.remote is not None]
        return numbered
    return found


def _in_folder(folder: Path, skipped: list[tuple[str, str]]) -> list[_Found]:
    """The checkpoints in a folder, or the folder itself if it is one."""
    notes: list[tuple[str, str]] = []
    try:
        children = sorted(c for c in folder.iterdir() if not c.name.startswith("."))
        inside = [c for c in children if c.is_dir() and _looks_like_checkpoint(c, notes)]
        weights = has_weights(folder)
    except OSError as error:
        raise UsageError(f"{shown(folder)} cannot be read ({error.strerror or error}).") from error
    if weights:
        # Folders beside the weights of a model may be its parts (`2_Dense`, `onnx`).
        inside = [c for c in inside if numbers_in(c.name)]
    is_checkpoint = weights or _has_config(folder)
    if is_checkpoint and not any(has_weights(c) or _has_config(c) for c in inside):
        inside = []  # the optimiser's folders, such as `global_step500`
    if inside:
        skipped += notes
        if weights:
            why = "it has weights of its own beside its checkpoints; only the checkpoints count"
            skipped.append((_safe(folder.name), why))
        return [_Found(c, kind_of_folder(c), listed=False) for c in inside]
    if weights or (is_checkpoint and not _states(children)):
        return [_Found(folder, kind_of_folder(folder), listed=True)]
    files = [c for c in children if c.suffix.lower() == ".gguf" and c.is_file()]
    if files:
        return [_Found(c, "gguf", listed=len(files) == 1) for c in files]
    if (foreign := foreign_format(folder)) is not None:
        raise UsageError(f"{shown(folder)} cannot be measured as it is: {foreign}.")
    if files := _states(children):
        return [_Found(c, "state", listed=len(files) == 1) for c in files]
    deeper = [
        c.name for c in children if c.is_dir() and any(_looks_like_checkpoint(d) for d in _dirs(c))
    ]
    if is_conventional(folder.name) and not deeper:
        return [_Found(folder, "folder", listed=True)]
    hint = f"; there are some in {_several(deeper)}, give that" if deeper else ""
    raise UsageError(
        f"{shown(folder)} has no checkpoint: neither config.json and weights, nor folders with "
        f"these, nor .gguf files{hint}."
    )


def _states(children: Sequence[Path]) -> list[Path]:
    return [c for c in children if is_state(c) and c.is_file()]


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _dirs(folder: Path) -> Iterator[Path]:
    try:
        yield from (c for c in folder.iterdir() if c.is_dir() and not c.name.startswith("."))
    except OSError:
        return


def _looks_like_checkpoint(folder: Path, notes: list[tuple[str, str]] | None = None) -> bool:
    """Weights make a checkpoint, or a name that is nothing but a checkpoint's numbers.

    Args:
        folder: A folder in a folder of checkpoints.
        notes: Gets a word on a folder that is only nearly one.
    """
    if has_weights(folder):
        return True
    config, numbers = _has_config(folder), numbers_in(folder.name)
    if is_conventional(folder.name):
        # `stage1` may hold the checkpoints of that stage.
        return config or not any(has_weights(c) for c in _dirs(folder))
    if config and numbers:
        return True
    if notes is not None and config:
        notes.append((_safe(folder.name), "it has config.json, but no weights"))
    return False


def _without_links(found: list[_Found], skipped: list[tuple[str, str]]) -> list[_Found]:
    """Drops a checkpoint that is there twice: named twice, or `latest` linked to another."""
    kept: dict[Path, _Found] = {}
    for f in sorted(found, key=lambda f: f.path.is_symlink()):
        real = f.path.resolve()
        first = kept.setdefault(real, f)
        if first is not f and (first.path, first.remote) != (f.path, f.remote):
            what = "folder" if f.remote is None else "commit"
            name = first.path if first.remote is None else first.name
            skipped.append((_safe(f.name), f"it is the same {what} as {shown(name)}"))
    return [f for f in found if kept.get(f.path.resolve()) is f]


def _numbered(
    found: list[_Found], rule: Pattern | None, skipped: list[tuple[str, str]]
) -> list[_Found]:
    """Reads the numbers out of the names."""
    if rule is None:
        return [replace(f, numbers=numbers_in(f.name)) for f in found]
    numbered, strangers = [], []
    for f in found:
        numbers = rule.numbers_in(f.name, f.path.absolute().parent.name)
        if numbers is not None:
            numbered.append(replace(f, numbers=numbers))
        else:
            strangers.append(f)
    if not numbered:
        raise UsageError(f"--pattern {rule.text!r} matches none of {_names(strangers)}.")
    listed = [f for f in strangers if f.listed]
    if listed:
        raise UsageError(
            f"--pattern {rule.text!r} does not match {_names(listed)}; change the pattern, or "
            "leave that out."
        )
    skipped += [(_safe(f.name), "its name does not match --pattern") for f in strangers]
    return numbered


def _without_leftovers(found: list[_Found], skipped: list[tuple[str, str]]) -> list[_Found]:
    """Drops what an interrupted save left beside the checkpoint that it saved in the end."""
    done = {(f.path.parent, f.numbers) for f in found if not is_temporary(f.path.name)}
    kept = []
    for f in found:
        if not is_temporary(f.path.name) or len(found) == 1:
            kept.append(f)
        elif not f.numbers:
            skipped.append((_safe(f.name), "it is a save under way, or left over from one"))
        elif (f.path.parent, f.numbers) in done:
            skipped.append((_safe(f.name), "it is left over from a save that was repeated"))
        else:
            kept.append(f)
    return kept


def _in_order(found: list[_Found]) -> list[_Found]:
    """Sorts by stage and number.

    Raises:
        UsageError: The numbers do not settle the order.
    """
    unnumbered = [f for f in found if not f.numbers]
    if len(found) < 2 or (len(unnumbered) == len(found) and all(f.listed for f in found)):
        return found
    if unnumbered:
        raise _unordered(f"{_names(unnumbered)}: no step, tokens or epoch in the name")
    if any(f.numbers.stage is not None for f in found):
        found = [
            f if f.numbers.stage is not None else replace(f, numbers=replace(f.numbers, stage=1))
            for f in found
        ]
    ordered: list[_Found] = []
    for stage in sorted({f.numbers.stage or 0 for f in found}):
        ordered += _in_order_within([f for f in found if (f.numbers.stage or 0) == stage])
    return ordered


def _in_order_within(stage: list[_Found]) -> list[_Found]:
    common = _common_fields(stage)
    if len(stage) > 1 and not common:
        parts = []
        for name in ("step", "tokens", "epoch"):
            those = [f for f in stage if _only(f.numbers) == name]
            if those:
                parts.append(f"{_names(those)} by {name}")
        without = [f for f in stage if _only(f.numbers) is None]
        if without:
            parts.append(f"{_names(without)} by none")
        raise _unordered("their names count differently: " + ", ".join(parts))

    def key(f: _Found) -> tuple[float, ...]:
        return tuple(getattr(f.numbers, name) for name in common)

    stage = sorted(stage, key=key)
    for a, b in pairwise(stage):
        if key(a) == key(b):
            same = [f for f in stage if key(f) == key(a)]
            numbers = ", ".join(f"{n} {getattr(a.numbers, n):,}" for n in common)
            raise _unordered(f"{_names(same, parents=True)} have the same numbers ({numbers})")
    return stage


def _common_fields(found: Sequence[_Found]) -> list[str]:
    return [
        name
        for name in ("step", "tokens", "epoch")
        if all(getattr(f.numbers, name) is not None for f in found)
    ]


def _only(numbers: Numbers) -> str | None:
    return next((n for n in ("step", "tokens", "epoch") if getattr(numbers, n) is not None), None)


def _unordered(why: str) -> UsageError:
    return UsageError(
        f"The checkpoints cannot be put in order: {why}; leave some out, or say how to read the "
        r"names with --pattern, as in --pattern 'step(?P<step>\d+)'."
    )


def _names(found: Sequence[_Found], *, parents: bool = False) -> str:
    clash = parents and len({f.name for f in found}) < len(found)
    return _several([str(f.path) if clash else f.path.name for f in found])


def _several(names: Sequence[str], limit: int = 6) -> str:
    few = [shown(n) for n in names[:limit]]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(few) + rest


def _safe(name: str) -> str:
    """A name as a label: fit for a file name on every system, and without markup."""
    safe = re.sub(r"[^\w.+=@-]", "_", name).rstrip(".")
    if len(raw := safe.encode()) > _LABEL_BYTES:
        half = _LABEL_BYTES // 2
        safe = f"{raw[:half].decode(errors='ignore')}_{raw[-half:].decode(errors='ignore')}"
    return f"_{safe}" if not safe or safe.startswith((".", "-")) else safe


def _labels(found: Sequence[_Found]) -> list[str]:
    """Unique labels: the names, with folders above in front where names clash."""
    labels = [_safe(f.name) for f in found]
    above = [f.above for f in found]
    for depth in range(max(map(len, above))):
        counts = Counter(label.casefold() for label in labels)
        if max(counts.values()) == 1:
            break
        labels = [
            _safe(f"{a[depth]}-{label}")
            if counts[label.casefold()] > 1 and depth < len(a)
            else label
            for label, a in zip(labels, above, strict=True)
        ]
    if len({label.casefold() for label in labels}) < len(labels):
        return [f"{i}-{label}" for i, label in enumerate(labels)]
    return labels
