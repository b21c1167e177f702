"""What each checkpoint is fed, and what shows that files have changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.families import FAMILIES, TEXT, Reads
from geoprobe.models.hub import Fetcher
from geoprobe.models.loading import companion_folder, load_processor, load_tokenizer
from geoprobe.models.series import Checkpoint
from geoprobe.models.weights import PROCESSOR_FILES, TOKENIZER_FILES

if TYPE_CHECKING:
    from geoprobe.data.arrays import Arrays
    from geoprobe.data.corpus import Corpus
    from geoprobe.data.examples import Examples
    from geoprobe.data.inputs import Inputs


@dataclass(frozen=True)
class Sources:
    """What is fed, before any checkpoint's tokenizer or image processor has had it.

    Attributes:
        tokenise: Makes a corpus of the text with a tokenizer.
        images: Image files; empty where none were asked for.
        folder: Name of the folder they are in.
        data: Items that are fed as they are; None where none were given.
        tokenizer: Folder of a tokenizer or an image processor to use for every checkpoint, or None
            for their own.
        trust_remote_code: Whether code that comes with one of them may run.
        examples: Labelled items; None where none were given.
        length: Tokens that a text of them has at most.
    """

    tokenise: Callable[[Any], Corpus]
    images: tuple[Path, ...] = ()
    folder: str = ""
    data: Arrays | None = None
    tokenizer: str | None = None
    trust_remote_code: bool = False
    examples: Examples | None = None
    length: int = 0

    @property
    def helper(self) -> Literal["tokenizer", "processor"] | None:
        """What of a checkpoint makes its input of the items."""
        if self.data is not None or (self.examples and self.examples.kind == "arrays"):
            return None
        pictures = self.images or (self.examples and self.examples.kind == "images")
        return "processor" if pictures else "tokenizer"

    def check(self, reads: Reads | None, family: str) -> None:
        """Makes sure that a model can read what is fed.

        Args:
            reads: What its family reads; None for a network that is in no table.
            family: What to call it.

        Raises:
            UsageError: It cannot.
        """
        if self.examples is not None:
            self._check_examples(self.examples, reads, family)
        elif reads is None:
            if self.images:
                raise UsageError(
                    "--images needs a model with an image processor; for a network of --factory, "
                    "give its input as an array with --data FILE."
                )
            if self.data is None and self.tokenizer is None:
                raise UsageError(
                    f"What is {family} fed? Give its input as an array with --data FILE, or "
                    "--tokenizer FOLDER for text."
                )
        elif reads.name == TEXT.name:
            if self.images:
                raise UsageError(f"--images: {family} models read text; leave it out.")
            if self.data is not None and not self.data.is_token_ids:
                raise UsageError(
                    f"--data: {family} models read token ids, whole numbers of shape (sequences, "
                    f"time), and x is {self.data.x.dtype} of shape {self.data.x.shape}."
                )
        elif self.data is None and not self.images:
            raise UsageError(
                f"{family} models read images: give --images FOLDER, or pixels with --data FILE."
            )
        elif self.data is not None and (self.data.x.ndim != 4 or self.data.whole_numbers):
            raise UsageError(
                f"--data: {family} models read pixels as their image processor makes them, of "
                f"shape (images, channels, height, width), and x is {self.data.x.dtype} of shape "
                f"{self.data.x.shape}; for image files, give --images FOLDER."
            )

    def _check_examples(self, examples: Examples, reads: Reads | None, family: str) -> None:
        wants = "text" if reads == TEXT else "images"
        if reads is None:
            if examples.kind == "images" or (examples.kind == "text" and self.tokenizer is None):
                raise UsageError(
                    f"--data holds {examples.kind}: {family} of --factory is fed arrays, a .npz or "
                    ".safetensors file with x and y, or text with --tokenizer FOLDER."
                )
        elif examples.kind not in (wants, "arrays"):
            raise UsageError(
                f"--data holds {examples.kind}, and {family} models read {wants}; give a "
                + ("file with text and labels." if wants == "text" else "folder of images.")
            )
        elif wants == "images" and examples.kind == "arrays":
            shape = np.asarray(examples.items).shape
            if len(shape) != 4:
                raise UsageError(
                    f"--data: {family} models read pixels of shape (images, channels, height, "
                    f"width), and x is of shape {shape}."
                )

    def with_(self, helper: Any, reads: Reads | None) -> Inputs:
        """What a model is fed, given its tokenizer or image processor (None for data)."""
        if self.examples is not None:
            return self.examples.fed(helper, self.length, token_ids=reads == TEXT)
        if self.data is not None:
            return self.data.as_token_ids() if reads == TEXT else self.data
        if self.images:
            from geoprobe.data.images import Images

            return Images(self.images, helper, self.folder)
        return self.tokenise(helper)


class Corpora:
    """What each checkpoint is fed; made once for checkpoints with the same tokenizer.

    Args:
        sources: What there is to feed.
        fetcher: Downloads the tokenizers of checkpoints on the hub.
    """

    def __init__(self, sources: Sources, fetcher: Fetcher) -> None:
        self._sources = sources
        self._fetcher = fetcher
        self._digests: dict[tuple[tuple[str, int, int], ...], str] = {}
        self._known: dict[str, Inputs] = {}

    def __call__(self, checkpoint: Checkpoint) -> Inputs:
        """The corpus for a checkpoint.

        Raises:
            UsageError: Its model does not read what is to be fed, or its tokenizer is missing.
        """
        self._fetcher.small(checkpoint)
        sources = self._sources
        reads, family = _reads_of(checkpoint)
        sources.check(reads, family)
        key = self._digest(checkpoint) if sources.helper else ""
        if key not in self._known:
            helper = None
            if sources.helper:
                load = load_processor if sources.helper == "processor" else load_tokenizer
                helper = load(
                    checkpoint, sources.tokenizer, trust_remote_code=sources.trust_remote_code
                )
            self._known[key] = sources.with_(helper, reads)
        return self._known[key]

    def _digest(self, checkpoint: Checkpoint) -> str:
        """What identifies a checkpoint's tokenizer or image processor."""
        override = self._sources.tokenizer
        pictures = self._sources.helper == "processor"
        files = PROCESSOR_FILES if pictures else TOKENIZER_FILES
        if checkpoint.kind != "gguf":
            folder = companion_folder(checkpoint, override, files)
            stamps = tuple(
                (str(folder / name), *state)
                for name, state in sorted(stamps_in(folder).items())
                if "token" in name or name in files
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
        return self._digests[stamps]


def _reads_of(checkpoint: Checkpoint) -> tuple[Reads | None, str]:
    """What a checkpoint's model reads, by its config, and what to call it."""
    if checkpoint.kind == "module":
        return None, "the network"
    try:
        config = json.loads((checkpoint.model_folder / "config.json").read_bytes())
        family = config.get("model_type")
    except (OSError, ValueError, RecursionError, AttributeError):
        return TEXT, ""  # a .gguf file, or something that loading will tell more about
    row = FAMILIES.get(str(family))
    return (row.reads if row is not None else TEXT), str(family)


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
