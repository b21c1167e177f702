"""What an argument stands for: checkpoints in a folder, a file, revisions of a model on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geoprobe.errors import UsageError
from geoprobe.models import hub
from geoprobe.models.naming import Numbers, is_conventional, numbers_in
from geoprobe.models.weights import (
    STATE_SUFFIXES,
    Kind,
    foreign_format,
    has_weights,
    is_state,
    is_weights_of_module,
    kind_of_folder,
    shown,
)
from geoprobe.paths import is_file, is_folder, typed

_LABEL_BYTES = 160


@dataclass(frozen=True)
class Found:
    """A checkpoint before it is put in order."""

    path: Path
    kind: Kind
    listed: bool  # named by the user itself, not found in a folder
    numbers: Numbers = field(default_factory=Numbers)
    remote: hub.Remote | None = None

    @property
    def name(self) -> str:
        """What its numbers are read from, and its label is made of."""
        if self.remote is not None:
            asked = self.remote.revision
            return asked if asked != "main" else self.remote.repo.split("/")[1]
        is_file = self.kind in ("gguf", "state") or (self.kind == "module" and self.path.is_file())
        return self.path.stem if is_file else self.path.name

    @property
    def above(self) -> list[str]:
        """Names of the folders it is in, from the inside out."""
        if self.remote is not None:
            return self.remote.repo.split("/")[::-1]
        return [p.name for p in self.path.absolute().parents]


def expand(
    argument: str,
    skipped: list[tuple[str, str]],
    revisions: str | None,
    *,
    factory: bool = False,
) -> list[Found]:
    """The checkpoints that one argument stands for.

    Args:
        argument: What the user named.
        skipped: Gets what is left out, and why.
        revisions: A glob over the revisions of a model of the hub.
        factory: Whether the weights are those of a network that a function builds.
    """
    if factory:
        return _of_module(argument)
    if argument == "demo":
        from geoprobe.data.demo_series import demo_folder

        return _in_folder(Path(demo_folder()), skipped)
    path = typed(argument)
    if is_file(path):
        if path.suffix.lower() == ".gguf":
            return [Found(path, "gguf", listed=True)]
        if is_state(path):
            return [Found(path, "state", listed=True)]
        raise UsageError(
            f"{shown(argument)} is a file; give a checkpoint's folder, a .gguf file, or a state "
            f"dict ({', '.join(STATE_SUFFIXES)})."
        )
    if not is_folder(path):
        if (named := hub.parse(argument)) is not None:
            return _on_hub(*named, revisions, skipped)
        raise UsageError(
            f"{shown(argument)}: there is no such file or folder, and models of the hub are named "
            "org/name or org/name@revision."
        )
    # "." and ".." have no name of their own, and a folder's name is half of what we know of it.
    return _in_folder(path if path.name not in ("", "..") else path.resolve(), skipped)


def _of_module(argument: str) -> list[Found]:
    """Weights of a network that a function builds: a file, a folder of files or of folders."""
    path = typed(argument)
    if is_file(path):
        if not is_weights_of_module(path):
            raise UsageError(
                f"{shown(argument)}: for --factory, give weights in a .safetensors file or a "
                f"state dict ({', '.join(STATE_SUFFIXES)})."
            )
        return [Found(path, "module", listed=True)]
    if not is_folder(path):
        raise UsageError(f"{shown(argument)}: there is no such file or folder.")
    children = sorted(c for c in path.iterdir() if not c.name.startswith("."))
    files = [c for c in children if c.is_file() and is_weights_of_module(c)]
    folders = [c for c in children if c.is_dir() and any(map(is_weights_of_module, c.iterdir()))]
    if has_weights(path) and not folders:
        return [Found(path, "module", listed=True)]
    if found := folders or files:
        return [Found(c, "module", listed=len(found) == 1) for c in found]
    raise UsageError(
        f"{shown(argument)}: it has no weights (.safetensors, {', '.join(STATE_SUFFIXES)})."
    )


def _on_hub(
    repo: str, revision: str | None, pattern: str | None, skipped: list[tuple[str, str]]
) -> list[Found]:
    """The revisions of a model on the hub that were asked for."""
    several = revision is None and pattern is not None
    found = [
        Found(remote.folder, "folder", listed=not several, remote=remote)
        for remote in hub.find(repo, revision, pattern)
    ]
    numbered = [f for f in found if numbers_in(f.name)]
    if several and numbered and len(numbered) < len(found):
        # `main` is as a rule the last of the others.
        others = [f for f in found if f not in numbered]
        why = "no step, tokens or epoch in the name"
        skipped += [(safe_name(f.remote.revision), why) for f in others if f.remote is not None]
        return numbered
    return found


def _in_folder(folder: Path, skipped: list[tuple[str, str]]) -> list[Found]:
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
            skipped.append((safe_name(folder.name), why))
        return [Found(c, kind_of_folder(c), listed=False) for c in inside]
    if weights or (is_checkpoint and not _states(children)):
        return [Found(folder, kind_of_folder(folder), listed=True)]
    files = [c for c in children if c.suffix.lower() == ".gguf" and c.is_file()]
    if files:
        return [Found(c, "gguf", listed=len(files) == 1) for c in files]
    if (foreign := foreign_format(folder)) is not None:
        raise UsageError(f"{shown(folder)} cannot be measured as it is: {foreign}.")
    if files := _states(children):
        return [Found(c, "state", listed=len(files) == 1) for c in files]
    deeper = [
        c.name for c in children if c.is_dir() and any(_looks_like_checkpoint(d) for d in _dirs(c))
    ]
    if is_conventional(folder.name) and not deeper:
        return [Found(folder, "folder", listed=True)]
    hint = f"; there are some in {several(deeper)}, give that" if deeper else ""
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
        notes.append((safe_name(folder.name), "it has config.json, but no weights"))
    return False


def without_links(found: list[Found], skipped: list[tuple[str, str]]) -> list[Found]:
    """Drops a checkpoint that is there twice: named twice, or `latest` linked to another."""
    kept: dict[Path, Found] = {}
    for f in sorted(found, key=lambda f: f.path.is_symlink()):
        real = f.path.resolve()
        first = kept.setdefault(real, f)
        if first is not f and (first.path, first.remote) != (f.path, f.remote):
            what = "folder" if f.remote is None else "commit"
            name = first.path if first.remote is None else first.name
            skipped.append((safe_name(f.name), f"it is the same {what} as {shown(name)}"))
    return [f for f in found if kept.get(f.path.resolve()) is f]


def several(names: Sequence[str], limit: int = 6) -> str:
    """Names for a sentence, the first of them if they are many."""
    few = [shown(n) for n in names[:limit]]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(few) + rest


def safe_name(name: str) -> str:
    """A name as a label: fit for a file name on every system, and without markup."""
    safe = re.sub(r"[^\w.+=@-]", "_", name).rstrip(".")
    if len(raw := safe.encode()) > _LABEL_BYTES:
        half = _LABEL_BYTES // 2
        safe = f"{raw[:half].decode(errors='ignore')}_{raw[-half:].decode(errors='ignore')}"
    return f"_{safe}" if not safe or safe.startswith((".", "-")) else safe
