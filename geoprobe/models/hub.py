"""Checkpoints on the Hugging Face hub: revisions, what must be downloaded, and fetching ahead.

A revision is resolved to its commit before anything else, and all of its files come from that
commit. They go where every library of that house looks for them, the hub's cache, whose snapshot
folders look like any checkpoint folder.
"""

from __future__ import annotations

import fnmatch
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.weights import (
    ADAPTER,
    INDEX,
    PROCESSOR_FILES,
    SINGLE,
    TOKENIZER_FILES,
    is_weights,
    shown,
)

if TYPE_CHECKING:
    from geoprobe.models.series import Checkpoint

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^\s@]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ALONGSIDE = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_CONNECTIONS = 8
_NOTING = threading.Lock()


class _UnreachableError(Exception):
    """The hub does not answer, or must not be asked."""


@dataclass(frozen=True)
class Remote:
    """One revision of a model on the hub.

    Attributes:
        repo: `org/name`.
        revision: Branch, tag or commit that was asked for.
        commit: What it stands for.
        files: Files that measuring it needs, and their bytes; empty where the hub was not asked.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[tuple[str, int], ...] = ()

    @property
    def folder(self) -> Path:
        """Where its files are, or will be."""
        return _cache(self.repo) / "snapshots" / self.commit

    @property
    def size_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(size for name, size in self.files if is_weights(name))

    @property
    def absent(self) -> list[tuple[str, int]]:
        """Files that are still to be downloaded, and their bytes."""
        return [(name, size) for name, size in self.files if not (self.folder / name).exists()]


def parse(argument: str) -> tuple[str, str | None] | None:
    """`org/name` and revision of a hub id; None where it is not one."""
    match = _ID.fullmatch(argument)
    return None if match is None else (match["repo"], match["revision"])


def find(repo: str, revision: str | None, pattern: str | None) -> list[Remote]:
    """The revisions that an argument stands for, resolved to commits.

    Args:
        repo: `org/name`.
        revision: Branch, tag or commit; None is `main`, or what `pattern` matches.
        pattern: A glob over branches and tags (`--revisions`).

    Raises:
        UsageError: There is no such model or revision, access is refused, or the hub cannot be
            reached and the cache does not know it.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return [Remote(repo, revision, revision)]
    with _explained(repo, revision):
        try:
            known = _refs(repo)
        except _UnreachableError as error:
            known = _cached_refs(repo)
            if not known:
                raise UsageError(
                    f"{repo}: there is no such folder; if it is a model of the hub, the hub cannot "
                    f"be reached ({error}), and the cache in {_cache(repo).parent} has not got it."
                ) from error
    if revision is None and pattern is not None:
        chosen = {n: c for n, c in known.items() if fnmatch.fnmatchcase(n, pattern)}
        if not chosen:
            raise UsageError(
                f"--revisions {pattern!r} matches no branch or tag of {repo}; it has "
                f"{_some(list(known))}."
            )
        return [Remote(repo, name, commit) for name, commit in chosen.items()]
    wanted = revision or "main"
    if wanted not in known:
        raise UsageError(f"{repo} has no revision {shown(wanted)!r}; it has {_some(list(known))}.")
    return [Remote(repo, wanted, known[wanted])]


def with_files(remotes: Sequence[Remote]) -> list[Remote]:
    """The same with the files that measuring each one needs, asked for side by side.

    A revision whose files cannot be listed because the hub is out of reach is given back as it is:
    what the cache has of it will do or not.
    """

    def one(remote: Remote) -> Remote:
        with _explained(remote.repo, remote.revision):
            try:
                return replace(remote, files=_needed(_listing(remote)))
            except _UnreachableError:
                return remote

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return list(pool.map(one, remotes))


def _needed(listing: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Config, code, tokenizer, and the first kind of weights that transformers would take."""
    weights = [name for name in listing if is_weights(name)]
    if SINGLE in listing:
        weights = [SINGLE]
    elif INDEX in listing:
        weights = [name for name in weights if name.endswith(".safetensors")]
    elif "pytorch_model.bin" in listing:
        weights = ["pytorch_model.bin"]
    small = {"config.json", ADAPTER, INDEX, "pytorch_model.bin.index.json"}
    small |= {*TOKENIZER_FILES, *PROCESSOR_FILES, *_ALONGSIDE}
    return tuple(
        (name, size)
        for name, size in listing.items()
        if name in small or name in weights or ("/" not in name and name.endswith(".py"))
    )


class Fetcher:
    """Downloads revisions when they are needed, one ahead, and deletes them when they are done.

    Args:
        evict: Delete the weights that were downloaded once they are measured.
    """

    def __init__(self, *, evict: bool = False) -> None:
        self._evict = evict
        self._ahead: tuple[Remote, threading.Thread] | None = None

    def small(self, checkpoint: Checkpoint) -> None:
        """Downloads everything but the weights: config and tokenizer."""
        for remote in _remotes(checkpoint):
            self._fetch(remote, [n for n, _ in remote.absent if not is_weights(n)])

    def whole(self, checkpoint: Checkpoint) -> None:
        """Downloads what is missing; waits where it is on its way.

        Raises:
            CheckpointError: It cannot be downloaded.
        """
        if self._ahead is not None and self._ahead[0] == checkpoint.remote:
            self._ahead[1].join()
            self._ahead = None
        self.small(checkpoint)
        for remote in _remotes(checkpoint):
            if checkpoint.kind != "state":
                self._fetch(remote, [name for name, _ in remote.absent])

    def ahead(self, checkpoint: Checkpoint) -> None:
        """Begins to download one in the background."""
        remote = checkpoint.remote
        if remote is None or not remote.absent:
            return

        def fetch() -> None:
            # What goes wrong `whole` meets again, and says so when its turn has come.
            with suppress(CheckpointError, UsageError):
                self._fetch(remote, [name for name, _ in remote.absent])

        # A daemon: whoever interrupts the run does not wait for a download.
        thread = threading.Thread(target=fetch, daemon=True)
        self._ahead = (remote, thread)
        thread.start()

    def done(self, checkpoint: Checkpoint) -> None:
        """Deletes the weights of a measured revision, where that was asked and they are ours."""
        remote = checkpoint.remote
        if remote is None or not self._evict:
            return
        ours = _Ours(remote.repo)
        for name in ours.of(remote.commit):
            _evict(remote.folder / name)
        ours.forget(remote.commit)

    def _fetch(self, remote: Remote, names: Sequence[str]) -> None:
        import_module("huggingface_hub.utils").disable_progress_bars()
        with _explained(remote.repo, remote.revision):
            for name in names:
                try:
                    with _reached():
                        _api().hf_hub_download(remote.repo, name, revision=remote.commit)
                except _UnreachableError as error:
                    raise CheckpointError(
                        f"{remote.repo}@{remote.revision}: {name} could not be downloaded "
                        f"({error}); run the same command again to go on."
                    ) from error
                if is_weights(name) and self._evict:
                    _Ours(remote.repo).add(remote.commit, name)
        if names:
            _remember(remote)


class _Ours:
    """Weights that were downloaded to be evicted, noted in the cache: a run may be killed.

    Args:
        repo: `org/name`.
    """

    def __init__(self, repo: str) -> None:
        self._file = _cache(repo) / "geoprobe-evicts.txt"

    def _lines(self) -> list[str]:
        return self._file.read_text("utf-8").splitlines() if self._file.is_file() else []

    def add(self, commit: str, name: str) -> None:
        """Notes a file."""
        with _NOTING:
            lines = dict.fromkeys([*self._lines(), f"{commit}/{name}"])
            self._file.write_text("\n".join(lines) + "\n", "utf-8")

    def of(self, commit: str) -> list[str]:
        """Files of a commit."""
        return [n for c, _, n in (line.partition("/") for line in self._lines()) if c == commit]

    def forget(self, commit: str) -> None:
        """Forgets a commit's files."""
        with _NOTING:
            left = [line for line in self._lines() if not line.startswith(f"{commit}/")]
            if left:
                self._file.write_text("\n".join(left) + "\n", "utf-8")
            else:
                self._file.unlink(missing_ok=True)


def _evict(link: Path) -> None:
    """Deletes a file of a snapshot, and what it stands for unless another snapshot has it too.

    The cache links snapshots to blobs, and may link blobs to a store that models share; that store
    is swept by its own rules.
    """
    if not link.is_symlink():
        link.unlink(missing_ok=True)
        return
    blob = _target(link)
    link.unlink()
    snapshots = link.parent.parent
    if any(_target(other) == blob for other in snapshots.rglob("*") if other.is_symlink()):
        return
    stored = _target(blob) if blob.is_symlink() else None
    blob.unlink(missing_ok=True)
    if stored is not None:
        with suppress(ImportError, AttributeError):
            store: Any = import_module("huggingface_hub.utils._shared_blobs")
            store.sweep_shared_blob(stored, cache_dir=snapshots.parent.parent)


def _target(link: Path) -> Path:
    """Where a link leads in one step."""
    return Path(os.path.normpath(link.parent / link.readlink()))


def absent_of(checkpoints: Sequence[Checkpoint]) -> dict[tuple[str, str, str], int]:
    """Bytes of what must be downloaded, by model, commit and file; models of adapters included."""
    return {
        (remote.repo, remote.commit, name): size
        for checkpoint in checkpoints
        for remote in _remotes(checkpoint)
        for name, size in remote.absent
        if checkpoint.kind != "state" or not is_weights(name)
    }


def _remotes(checkpoint: Checkpoint) -> list[Remote]:
    """What of a checkpoint, and of the model it is an adapter of, is on the hub."""
    both = (checkpoint, *((checkpoint.base,) if checkpoint.base is not None else ()))
    return [c.remote for c in both if c.remote is not None]


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turns the hub's refusals into sentences.

    Raises:
        UsageError: There is no such model or revision, or access is refused.
    """
    errors: Any = import_module("huggingface_hub.errors")
    try:
        yield
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{repo} is gated: ask for access at https://huggingface.co/{repo}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{repo}: there is no such folder, and the hub has no such model, or it is private: "
            "check the name, or log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{repo} has no revision {shown(revision)!r}.") from error
    except errors.HFValidationError as error:
        raise UsageError(
            f"{repo}: there is no such folder, and it is no name of the hub."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise UsageError(f"{repo}: the hub answered {status}; try again later.") from error


@contextmanager
def _reached() -> Iterator[None]:
    """Tells a hub that does not answer from one that refuses.

    Raises:
        _UnreachableError: It does not answer.
    """
    errors: Any = import_module("huggingface_hub.errors")
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise _UnreachableError("no connection") from error
    except errors.HFValidationError:
        raise
    except errors.HfHubHTTPError as error:
        if getattr(error.response, "status_code", 0) >= 500:
            raise _UnreachableError(f"it answers {error.response.status_code}") from error
        raise
    except errors.OfflineModeIsEnabled as error:
        raise _UnreachableError("HF_HUB_OFFLINE is set") from error
    except Exception as error:  # the client's own errors are those of whatever it is built on
        raise _UnreachableError(
            " ".join(str(error).split())[:120] or type(error).__name__
        ) from error


def _api() -> Any:
    """The hub's client; its address and its token come from the environment."""
    return import_module("huggingface_hub").HfApi()


def _cache(repo: str) -> Path:
    constants: Any = import_module("huggingface_hub.constants")
    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _refs(repo: str) -> dict[str, str]:
    """Branches and tags, and their commits."""
    with _reached():
        refs = _api().list_repo_refs(repo)
    return {ref.name: str(ref.target_commit) for ref in (*refs.branches, *refs.tags)}


def _cached_refs(repo: str) -> dict[str, str]:
    """Branches and tags that the cache has resolved before."""
    root = _cache(repo) / "refs"
    return {
        file.relative_to(root).as_posix(): file.read_text("utf-8").strip()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def _remember(remote: Remote) -> None:
    """Notes in the cache what a revision stood for, as the hub's client does when given a name.

    Offline, this is how the revision is found again.
    """
    if remote.revision != remote.commit:
        note = _cache(remote.repo) / "refs" / remote.revision
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(remote.commit, "utf-8")


def _listing(remote: Remote) -> dict[str, int]:
    with _reached():
        info = _api().model_info(remote.repo, revision=remote.commit, files_metadata=True)
    return {file.rfilename: int(file.size or 0) for file in info.siblings or ()}


def _some(names: Sequence[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + rest if names else "none"
