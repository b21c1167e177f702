"""Static pictures of a long report, drawn beside the rest of it by a process of its own.

The renderer holds Python's lock while it draws, so a thread would not help. The painter is another
interpreter: a chart goes in as a line of JSON, its picture comes out as one. Whoever draws a
picture, its bytes are the same; and what the painter cannot do is done here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Thread
from typing import Any, NamedTuple

from geoprobe.cores import cores
from geoprobe.reports import pictures, theme

_PATIENCE = 30.0
"""Seconds that are waited for the process when there is nothing else to do."""

LEAST_BYTES = 2**21
"""A report of fewer bytes of readings, about 10,000, is written before a painter has begun."""
_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_CODE += f"from {__name__} import serve; serve()"


class Drawing(NamedTuple):
    """A chart to be drawn.

    Attributes:
        spec: Vega-Lite, with data.
        marks: About how many marks it draws.
        width: In pixels, where it may stretch.
    """

    spec: dict[str, Any]
    marks: int
    width: int


def picture(drawing: Drawing) -> str:
    """A picture as a data URI."""
    image = theme.picture(drawing.spec, marks=drawing.marks, width=drawing.width)
    return pictures.lean(image)


class Painter:
    """Draws pictures, and makes the charts' script; with a process of its own, meanwhile."""

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self._process = process
        self._script: str | None = None
        self._drawings: dict[str, Drawing] = {}
        self._left: deque[str] = deque()
        self._done: dict[str, str] = {}
        self._complete = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, daemon=True)
        if process is not None:
            try:
                self._thread.start()
            except RuntimeError:  # there can be no more threads
                process.kill()
                process.wait()
                self._process = None

    def begin(self, drawings: Mapping[str, Drawing]) -> None:
        """Begins pictures that are not begun yet, those of the most marks first.

        Args:
            drawings: By the names of the charts.
        """
        new = {name: one for name, one in drawings.items() if name not in self._drawings}
        with self._changed:
            self._drawings |= new
            self._left.extend(sorted(new, key=lambda name: -new[name].marks))
            self._changed.notify()

    def finish(self) -> tuple[dict[str, str], str]:
        """All pictures that were begun, by name, and the charts' script."""
        self._end_of_list()
        while (name := self._next()) is not None:
            self._done[name] = picture(self._drawings[name])
        if self._process is not None:
            self._thread.join(_PATIENCE)
            self.end()
        # What the process left, as it ended early or never answered.
        for name in self._drawings.keys() - self._done.keys():
            self._done[name] = picture(self._drawings[name])
        return self._done, self._script or theme.script_bundle()

    def end(self) -> None:
        """Ends the process, and with it the thread."""
        if self._process is None:
            return
        self._process.kill()
        self._end_of_list()
        self._thread.join()
        with suppress(OSError), self._process:  # what is still in its pipe goes nowhere
            pass

    def _end_of_list(self) -> None:
        with self._changed:
            self._complete = True
            self._changed.notify()

    def _next(self, *, largest: bool = False) -> str | None:
        """The chart to be drawn next; waits for one until the list has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._complete)
            if not self._left:
                return None
            return self._left.popleft() if largest else self._left.pop()

    def _work(self) -> None:
        with suppress(OSError, ValueError):
            self._script = self._answer()  # made while there is nothing to draw yet
            while (name := self._next(largest=True)) is not None:
                self._ask(self._drawings[name])
                self._done[name] = self._answer()

    def _ask(self, drawing: Drawing) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(drawing).encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        answer: str = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def painter(size: int) -> Iterator[Painter]:
    """Whoever draws a report of so many bytes of readings."""
    found = Painter(_process() if size >= LEAST_BYTES and cores() > 1 else None)
    try:
        yield found
    finally:
        found.end()


def _process() -> subprocess.Popen[bytes] | None:
    """Another interpreter that serves; None where none can be had."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    path = [str(Path(entry).absolute()) for entry in sys.path if isinstance(entry, str)]
    try:
        return subprocess.Popen(
            # -P: the folder that a user happens to be in is searched only where it is here.
            [sys.executable, "-P", "-c", _CODE, json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None


def serve() -> None:
    """Gives the charts' script, then a picture for each chart that comes in."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # no library writes among the answers

    def give(answer: str) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    give(theme.script_bundle())
    theme.svg({"data": {"values": []}, "mark": "point"}, 10)  # to have the renderer begin
    for line in sys.stdin.buffer:
        give(picture(Drawing(*json.loads(line))))
