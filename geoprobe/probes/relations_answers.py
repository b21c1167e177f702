"""What a model answers with some of its neurons set to 0, kept as it goes so that it can resume."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.data.inputs import Part
from geoprobe.errors import UsageError
from geoprobe.models.generation import greedy
from geoprobe.probes.next_tokens import losses
from geoprobe.probes.relations_scores import BATCH
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.probes.base import Subject
    from geoprobe.probes.relations_prompts import Prompt
    from geoprobe.probes.relations_units import Units

_STATE = "answers.jsonl"


class Kept:
    """Results by key, in a file that a killed process leaves whole but for its last line.

    Args:
        folder: Where the file is; None keeps nothing.
        of: What the results depend on besides their keys; those of something else are dropped.
    """

    def __init__(self, folder: Path | None, of: str) -> None:
        self._known: dict[str, Any] = {}
        self._file = None if folder is None else folder / _STATE
        if self._file is None:
            return
        head = {"of": hashlib.sha256(of.encode("utf-8", "surrogatepass")).hexdigest()}
        whole = _whole_lines(self._file)
        if whole[:1] != [head]:
            whole = [head]
        # Written anew: behind half a line, the next one would be lost.
        _write(self._file, "w", *whole)
        self._known = {line["key"]: line["found"] for line in whole[1:]}

    def get(self, key: str) -> Any:
        """What is known under a key, or None."""
        return self._known.get(key)

    def put(self, key: str, found: Any) -> Any:
        """Keeps a result, and gives it back."""
        self._known[key] = found
        if self._file is not None:
            _write(self._file, "a", {"key": key, "found": found})
        return found

    def forget(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if file.is_file():
        for line in file.read_text("utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found


def _write(file: Path, mode: str, *lines: Any) -> None:
    try:
        with file.open(mode, encoding="utf-8") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error}).") from error


class Answers:
    """Asks a model under one condition after another.

    Args:
        subject: The model.
        units: Its neurons.
        prompts: All prompts.
        sequences: Sequences of the corpus for the loss; 0 asks for none.
        kept: What was found before.
    """

    def __init__(
        self,
        subject: Subject,
        units: Units,
        prompts: Sequence[Prompt],
        sequences: int,
        kept: Kept,
    ) -> None:
        self._subject, self._units, self._prompts = subject, units, prompts
        self._sequences, self._kept = sequences, kept

    def to(
        self,
        which: NDArray[np.int64],
        off: NDArray[np.int64] | None = None,
        told: str = "",
    ) -> list[list[int]]:
        """Token ids of the answers to the prompts `which`, with the neurons `off` set to 0.

        Args:
            which: Indices of prompts.
            off: Numbers of neurons; None is the model as it is.
            told: What this is, for those who wait; silent where empty.
        """
        key = _key("answers", which, off)
        known: list[list[int]] | None = self._kept.get(key)
        if known is not None:
            return known
        asked = [self._prompts[i] for i in which]

        def tell(done: int) -> None:
            if told:
                self._subject.progress.status(told, done, len(asked))

        with self._without(off):
            found = greedy(
                self._subject.capture,
                [prompt.ids for prompt in asked],
                [prompt.count for prompt in asked],
                BATCH,
                tell,
            )
        self._kept.put(key, found)
        return found

    def loss(self, off: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Summed next-token loss in nats, and predicted tokens, of each group (2, GROUPS)."""
        key = _key("loss", np.arange(self._sequences), off)
        known = self._kept.get(key)
        if known is None:
            inputs = self._subject.survey.inputs
            assert inputs is not None
            part = Part(inputs, np.arange(min(self._sequences, len(inputs))))
            sums = np.zeros((2, GROUPS))
            with self._without(off):
                for feed in self._subject.feeds(part, told=False):
                    hidden = self._subject.capture.hidden(feed.inputs, {})
                    groups = feed.index % GROUPS
                    np.add.at(sums[0], groups, losses(self._subject.capture, hidden, feed))
                    np.add.at(sums[1], groups, np.maximum(feed.lengths - 1, 0))
            known = self._kept.put(key, sums.tolist())
        return np.array(known)

    def no_loss(self) -> str:
        """Why there is no next-token loss; empty where there is."""
        inputs = self._subject.survey.inputs
        if not self._sequences or inputs is None:
            return ""
        part = Part(inputs, np.arange(min(self._sequences, len(inputs))))
        if int(part.lengths.max()) < 2:
            return "no sequence of the text has two tokens"
        try:
            feed = next(iter(self._subject.feeds(part, told=False)))
            self._subject.capture.check_head(feed.inputs)
        except UsageError as error:
            return str(error).rstrip(".")
        return ""

    def _without(self, off: NDArray[np.int64] | None) -> ExitStack:
        stack = ExitStack()
        if off is not None and len(off):
            units = self._units.by_site(off)
            stack.enter_context(self._subject.capture.deactivated(units))
        return stack


def _key(what: str, which: NDArray[np.int64], off: NDArray[np.int64] | None) -> str:
    """What a result depends on: the prompts or sequences, and the set of neurons."""
    digest = hashlib.sha256(np.asarray(which, dtype="<i8").tobytes())
    if off is not None:
        digest.update(b"off" + np.sort(off).astype("<i8").tobytes())
    return f"{what} {digest.hexdigest()}"
