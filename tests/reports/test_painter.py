"""Whoever draws the pictures of a report, the process beside or this one: the same page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from geoprobe.reports import painter, theme
from geoprobe.reports.html import render
from geoprobe.reports.subject import Subject
from tests.reports.factory import make_run


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    run = make_run(tmp_path_factory.mktemp("painter") / "run", steps=(0, 8, 64), blocks=2)
    return Subject.of([run])


@pytest.fixture(scope="module")
def alone(subject: Subject) -> str:
    """The page as this process draws it."""
    assert sum(run.size for run in subject.runs.values()) < painter.LEAST_BYTES
    return render(subject)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every report has a process beside, wherever the tests run; those that were started."""
    started = []
    original = painter._process

    def start() -> Any:
        process = original()
        if process is not None:
            started.append(process)
        return process

    monkeypatch.setattr(painter, "LEAST_BYTES", 0)
    monkeypatch.setattr(painter, "cores", lambda: 2)
    monkeypatch.setattr(painter, "_process", start)
    return started


def only_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*given: Any) -> str:
        raise AssertionError("drawn here")

    monkeypatch.setattr(painter, "picture", forbidden)
    monkeypatch.setattr(theme, "script_bundle", forbidden)


def test_the_page_is_the_same_when_all_is_drawn_beside(
    subject: Subject,
    alone: str,
    beside: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = painter.Painter.finish

    def patient(self: painter.Painter) -> Any:
        self._end_of_list()
        self._thread.join(100)
        return finish(self)

    monkeypatch.setattr(painter.Painter, "finish", patient)
    only_beside(monkeypatch)
    assert render(subject) == alone
    assert len(beside) == 1
    assert beside[0].returncode is not None  # none is left behind


def test_the_page_is_the_same_when_both_draw(
    subject: Subject, alone: str, beside: list[subprocess.Popen[bytes]]
) -> None:
    assert render(subject) == alone
    assert len(beside) == 1


def _no_thread(self: Thread) -> None:
    raise RuntimeError("can't start new thread")


CODES = (
    "raise SystemExit",
    "print('not a line of JSON')",
    # The script, then the end in the middle of a picture.
    "import sys; print('null', flush=True); sys.stdin.readline(); print('\"half')",
    "import time; time.sleep(1000)",
)


@pytest.mark.parametrize(
    "hinder",
    [
        *(lambda patch, code=code: patch.setattr(painter, "_CODE", code) for code in CODES),
        lambda patch: patch.setattr(painter.Thread, "start", _no_thread),
        lambda patch: patch.setattr(sys, "path", [*sys.path, Path("/somewhere"), None]),
    ],
    ids=[*CODES, "no thread", "what is no text on the path"],
)
def test_what_a_process_leaves_is_drawn_here(
    hinder: Callable[[pytest.MonkeyPatch], None],
    subject: Subject,
    alone: str,
    beside: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when it never answers."""
    monkeypatch.setattr(painter, "_PATIENCE", 0.1)
    hinder(monkeypatch)
    assert render(subject) == alone
    assert len(beside) == 1
    assert beside[0].returncode is not None


def _no_process(*args: Any, **kwargs: Any) -> None:
    raise OSError("no more processes")


@pytest.mark.parametrize(
    "without",
    [
        lambda patch: patch.setattr(sys, "executable", ""),
        lambda patch: patch.setattr(sys, "frozen", True, raising=False),
        lambda patch: patch.setattr(subprocess, "Popen", _no_process),
        lambda patch: patch.setattr(painter, "cores", lambda: 1),
    ],
)
def test_where_no_process_can_be_had_all_is_drawn_here(
    without: Callable[[pytest.MonkeyPatch], None],
    subject: Subject,
    alone: str,
    beside: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch)
    assert render(subject) == alone
    assert beside == []


def test_no_process_outlives_a_mistake(beside: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt), painter.painter(1):
        raise KeyboardInterrupt
    assert beside[0].returncode is not None


def test_the_users_folder_is_not_imported(
    beside: list[subprocess.Popen[bytes]],
    subject: Subject,
    alone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file of the user's that happens to be called as a module is not run."""
    for name in ("json", "polars", "vl_convert"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    assert render(subject) == alone
    assert not (tmp_path / "ran").exists()
