"""The corpus as each checkpoint's tokenizer has it, and what shows that files have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.errors import CheckpointError
from geoprobe.models.hub import Fetcher
from geoprobe.models.loading import load_tokenizer, tokenizer_folder
from geoprobe.models.series import Checkpoint
from geoprobe.models.weights import TOKENIZER_FILES

if TYPE_CHECKING:
    from geoprobe.data.corpus import Corpus


class Corpora:
    """The corpus as each checkpoint's tokenizer has it; tokenised once a tokenizer.

    Args:
        tokenise: Makes the corpus with a tokenizer.
        fetcher: Downloads the tokenizers of checkpoints on the hub.
        tokenizer: Folder of a tokenizer to use for every checkpoint, or None for their own.
        trust_remote_code: Whether code that comes with a tokenizer may run.
    """

    def __init__(
        self,
        tokenise: Callable[[Any], Corpus],
        fetcher: Fetcher,
        tokenizer: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self._tokenise = tokenise
        self._fetcher = fetcher
        self._tokenizer = tokenizer
        self._trust_remote_code = trust_remote_code
        self._digests: dict[tuple[tuple[str, int, int], ...], str] = {}
        self._known: dict[str, Corpus] = {}

    def __call__(self, checkpoint: Checkpoint) -> Corpus:
        """The corpus for a checkpoint."""
        self._fetcher.small(checkpoint)
        if checkpoint.kind != "gguf":
            folder = tokenizer_folder(checkpoint, self._tokenizer)
            stamps = tuple(
                (str(folder / name), *state)
                for name, state in sorted(stamps_in(folder).items())
                if "token" in name or name in TOKENIZER_FILES
            )
        else:
            stamps = ((str(checkpoint.path), *stamp(checkpoint.path.stat())),)
        if stamps not in self._digests:
            digest = hashlib.sha256()
            for path, *_ in stamps:
                # A .gguf file has its tokenizer in it, and its weights, which need not be read.
                whole = checkpoint.kind != "gguf"
                digest.update(Path(path).read_bytes() if whole else path.encode())
            self._digests[stamps] = digest.hexdigest()
        key = self._digests[stamps]
        if key not in self._known:
            tokenizer = load_tokenizer(
                checkpoint, self._tokenizer, trust_remote_code=self._trust_remote_code
            )
            self._known[key] = self._tokenise(tokenizer)
        return self._known[key]


def stamp(state: os.stat_result) -> tuple[int, int]:
    """Size and time of the last change of a file: what changes when it is written anew."""
    return state.st_size, state.st_mtime_ns


def stamps_in(folder: Path) -> dict[str, tuple[int, int]]:
    """The stamp of every file in a folder."""
    with os.scandir(folder) as entries:
        return {entry.name: stamp(entry.stat()) for entry in entries if entry.is_file()}


def stamps(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """What changes when a checkpoint's files are written anew, file by file."""
    path = checkpoint.path
    try:
        return stamps_in(path) if path.is_dir() else {"": stamp(path.stat())}
    except OSError as error:
        raise CheckpointError(f"{checkpoint.label}: cannot be read ({error}).") from error
