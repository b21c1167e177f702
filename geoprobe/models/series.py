"""A series of checkpoints on disk: which there are, in what order, and which of them to measure.

Imports no torch and no transformers, and loads nothing: `geoprobe series` must be quick on a
terabyte of checkpoints.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from geoprobe.errors import UsageError
from geoprobe.models import hub
from geoprobe.models.bases import with_bases
from geoprobe.models.finding import Found, expand, safe_name, several, without_links
from geoprobe.models.naming import Numbers, Pattern, is_temporary, numbers_in
from geoprobe.models.selection import selection
from geoprobe.models.weights import (
    ADAPTER,
    Condition,
    DamagedError,
    Kind,
    digest,
    examine,
    kind_of_folder,
)

BEING_WRITTEN_SECONDS = 600.0
"""A newest checkpoint that is incomplete and changed less than this ago is being written."""


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


def find_series(
    arguments: Sequence[str | Path],
    *,
    pattern: str | None = None,
    every: int = 1,
    log_spaced: int | None = None,
    last: int | None = None,
    revisions: str | None = None,
    base: str | Path | None = None,
    factory: bool = False,
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
        factory: Whether the checkpoints are weights of a network that a function builds.

    Raises:
        UsageError: Nothing is found, the checkpoints cannot be ordered, or an option is wrong.
    """
    select = selection(every, log_spaced, last)
    rule = Pattern(pattern) if pattern is not None else None
    if not arguments:
        raise UsageError("No series was given; name a checkpoint folder, or `demo`.")
    skipped: list[tuple[str, str]] = []
    found = without_links(
        [f for a in arguments for f in expand(str(a), skipped, revisions, factory=factory)], skipped
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
    absent = hub.absent_of(checkpoints)
    if not absent:
        return None
    count = len({(repo, commit) for repo, commit, _ in absent})
    # Revisions often share files, so this is an upper bound.
    total = sum(absent.values()) / 1e6
    return f"{count} revision{'s' * (count > 1)} to download from the hub: {total:,.1f} MB."


def _with_files(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The same, those on the hub with their files."""
    listed = iter(hub.with_files([c.remote for c in checkpoints if c.remote is not None]))
    found = [c if c.remote is None else replace(c, remote=next(listed)) for c in checkpoints]
    return [_as_adapter(c) if _is_adapter(c.remote) else c for c in found]


def _is_adapter(remote: hub.Remote | None) -> bool:
    if remote is None:
        return False
    if not remote.files:  # the hub was not asked; the cache may have it
        return kind_of_folder(remote.folder) == "adapter"
    names = {name for name, _ in remote.files}
    return ADAPTER in names and "config.json" not in names


def _as_adapter(checkpoint: Checkpoint) -> Checkpoint:
    """An adapter on the hub, with the small file that says which model it is for."""
    found = replace(checkpoint, kind="adapter")
    hub.Fetcher().small(found)
    return found


def fingerprint(checkpoint: Checkpoint) -> str:
    """What identifies a checkpoint's content: a sha256 over its config.json and weights.

    Files above 16 MiB count by name, size, header and 256 evenly spaced blocks; see
    `geoprobe.models.weights.digest`. A revision of the hub is identified by its commit.

    Raises:
        OSError: A file cannot be read.
    """
    try:
        found = (
            digest(checkpoint.path, checkpoint.kind)
            if checkpoint.remote is None
            else checkpoint.remote.commit
        )
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
        found = examine(path, checkpoint.kind, temporary=is_temporary(path.name))
        if found.damage is None and not _is_text(path):
            why = "its path is not UTF-8, which neither safetensors nor PyTorch opens; rename it"
            found = replace(found, damage=why)
        return found
    if remote.absent:
        damage = None if remote.size_bytes else "it has no weights in safetensors or PyTorch files"
        return Condition(remote.size_bytes, damage, unfinished=False, modified=0.0)
    found = examine(path, checkpoint.kind)
    if remote.files or found.damage is None:
        return found
    return replace(
        found, damage=f"the hub cannot be reached, and the cache has too little: {found.damage}"
    )


def _is_text(path: Path) -> bool:
    """Whether a path can be written as text; names of files are bytes of any kind."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_being_written(condition: Condition) -> bool:
    return (
        condition.damage is not None
        and condition.unfinished
        and time.time() - condition.modified < BEING_WRITTEN_SECONDS
    )


def _numbered(
    found: list[Found], rule: Pattern | None, skipped: list[tuple[str, str]]
) -> list[Found]:
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
    skipped += [(safe_name(f.name), "its name does not match --pattern") for f in strangers]
    return numbered


def _without_leftovers(found: list[Found], skipped: list[tuple[str, str]]) -> list[Found]:
    """Drops what an interrupted save left beside the checkpoint that it saved in the end.

    Raises:
        UsageError: Nothing remains.
    """
    done = {(f.path.parent, f.numbers) for f in found if not is_temporary(f.path.name)}
    kept = []
    for f in found:
        if not is_temporary(f.path.name) or len(found) == 1:
            kept.append(f)
        elif not f.numbers:
            skipped.append((safe_name(f.name), "it is a save under way, or left over from one"))
        elif (f.path.parent, f.numbers) in done:
            skipped.append((safe_name(f.name), "it is left over from a save that was repeated"))
        else:
            kept.append(f)
    if found and not kept:
        raise UsageError(
            f"There is no checkpoint but {_names(found)}: saves under way, or left over from some."
        )
    return kept


def _in_order(found: list[Found]) -> list[Found]:
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
    ordered: list[Found] = []
    for stage in sorted({f.numbers.stage or 0 for f in found}):
        ordered += _in_order_within([f for f in found if (f.numbers.stage or 0) == stage])
    return ordered


def _in_order_within(stage: list[Found]) -> list[Found]:
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

    def key(f: Found) -> tuple[float, ...]:
        return tuple(getattr(f.numbers, name) for name in common)

    stage = sorted(stage, key=key)
    for a, b in pairwise(stage):
        if key(a) == key(b):
            same = [f for f in stage if key(f) == key(a)]
            numbers = ", ".join(f"{n} {getattr(a.numbers, n):,}" for n in common)
            raise _unordered(f"{_names(same, parents=True)} have the same numbers ({numbers})")
    return stage


def _common_fields(found: Sequence[Found]) -> list[str]:
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


def _names(found: Sequence[Found], *, parents: bool = False) -> str:
    clash = parents and len({f.name for f in found}) < len(found)
    names = [f.path.name if f.remote is None else f.name for f in found]
    return several([str(f.path) if clash else n for f, n in zip(found, names, strict=True)])


def _labels(found: Sequence[Found]) -> list[str]:
    """Unique labels: the names, with folders above in front where names clash.

    Names that clash in one folder, which differ in what a label leaves out, get a digest behind.
    """
    labels = [safe_name(f.name) for f in found]
    above = [f.above for f in found]
    for depth in range(max(map(len, above))):
        alike: dict[str, set[str]] = {}
        for label, a in zip(labels, above, strict=True):
            alike.setdefault(label.casefold(), set()).add("".join(a[depth : depth + 1]))
        # A folder that all of them are in tells none of them apart.
        labels = [
            safe_name(f"{a[depth]}-{label}")
            if len(alike[label.casefold()]) > 1 and depth < len(a)
            else label
            for label, a in zip(labels, above, strict=True)
        ]
    counts = Counter(label.casefold() for label in labels)
    labels = [
        f"{label}-{_digest(f.name)}" if counts[label.casefold()] > 1 else label
        for label, f in zip(labels, found, strict=True)
    ]
    if len({label.casefold() for label in labels}) < len(labels):
        return [f"{i}-{label}" for i, label in enumerate(labels)]
    return labels


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
