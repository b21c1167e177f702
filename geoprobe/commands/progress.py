"""Progress bars on stderr: one for checkpoints, one for batches; silent when not a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bars:
    """Shows how far a survey is.

    Args:
        quiet: Show notes only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._outer: TaskID | None = None
        self._inner: TaskID | None = None
        self._start = time.monotonic()

    def __enter__(self) -> Bars:
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def checkpoint(self, label: str, done: int, total: int) -> None:
        """A checkpoint begins."""
        if self._progress is None:
            return
        if self._outer is None:
            self._outer = self._progress.add_task("checkpoints", total=total, speed="")
            self._inner = self._progress.add_task("batches", total=1, speed="")
        assert self._inner is not None
        self._progress.update(self._outer, completed=done)
        self._progress.reset(self._inner, total=1, description=_plain(label), speed="")
        self._start = time.monotonic()

    def batches(self, done: int, total: int, tokens: int) -> None:
        """A batch was measured."""
        if self._progress is None or self._inner is None:
            return
        speed = f"{tokens / max(1e-9, time.monotonic() - self._start):,.0f} tokens/s"
        self._progress.update(self._inner, completed=done, total=total, speed=speed)

    def status(self, what: str, done: int, total: int) -> None:
        """How far something else than a pass is, with what there is to say of it."""
        if self._progress is not None and self._inner is not None:
            self._progress.update(self._inner, completed=done, total=total, speed=_plain(what))

    def note(self, message: str) -> None:
        """A sentence for the user, above the bars."""
        if self._progress is not None:
            from rich.text import Text

            self._progress.console.print(Text(message))
        else:
            print(message, file=sys.stderr)


def _plain(label: str) -> str:
    from rich.markup import escape

    return escape(label)
