"""A run survives `kill -9` at any moment: nothing finished is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import geoprobe
from tests.conftest import tiny_text, write_series


def contents(run: Path) -> dict[str, bytes]:
    """All files of a run but the lock."""
    files = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


@pytest.mark.parametrize("kills", [3])
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path, kills: int) -> None:
    series = write_series(tmp_path / "tiny", range(12))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "{t}"}}\n' for t in tiny_text(48)))
    command = [
        *(sys.executable, "-m", "geoprobe", "rank", str(series), "--text", str(text)),
        *("--tokens", "last,all", "--quiet", "--out"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with subprocess.Popen(  # beside those that are killed: they share nothing
        [*command, str(whole)], env=environment, stderr=subprocess.PIPE, text=True
    ) as uninterrupted:
        _kill_and_resume([*command, str(parts)], environment, parts, kills)
        _, complaints = uninterrupted.communicate()
    assert uninterrupted.returncode == 0, complaints
    expected, got = contents(whole), contents(parts)
    expected.pop("report.html"), got.pop("report.html")  # it names the folder
    got = {name: data for name, data in got.items() if not name.endswith(".part")}
    # What the machine had free when the run began is noted in run.json, and nothing else differs.
    assert got.keys() == expected.keys()
    assert all(got[name] == expected[name] for name in expected if name != "run.json")


def _kill_and_resume(
    command: list[str], environment: dict[str, str], parts: Path, kills: int
) -> None:
    finished: dict[str, int] = {}
    for kill in range(kills):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        wanted = 2 + 3 * kill
        while process.poll() is None and len(list(parts.glob("checkpoints/*.json"))) < wanted:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = {p.name: p.stat().st_mtime_ns for p in parts.glob("checkpoints/*.json")}
        assert finished.items() <= now.items(), "a finished checkpoint was written again"
        finished = now
    assert 2 <= len(finished) < 12
    assert geoprobe.open(parts).labels == [f"step-{i}" for i in range(len(finished))]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.PIPE)
