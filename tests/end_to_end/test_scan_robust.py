"""A scan that is killed, stopped, starved of disk or fed oddities: nothing lost, nothing wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geoprobe
from geoprobe.errors import GeoprobeError
from geoprobe.probes.registry import ONE_PASS
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer, write_series

Cli = Callable[..., tuple[int, str, str]]
KILLS = 20


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("robust") / "tiny", range(6))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40)))
    return file


def _scan(series: Path, text: Path, out: Path) -> Any:
    return geoprobe.measure(
        series,
        text=str(text),
        probes=ONE_PASS,
        where_possible=True,
        batch_size=8,
        out=out,
        command="scan",
    )


def _contents(run: Path) -> dict[str, bytes]:
    files = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
    whole = {str(p.relative_to(run)): p.read_bytes() for p in files}
    return {name: data for name, data in whole.items() if not name.endswith(".part")}


def _in_a_child(work: Callable[[], Any], seconds: float) -> bool:
    """Runs something in a forked process and kills it after a while; whether it was done by then.

    A process of its own would take its time to import, where nothing can go wrong.
    """
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return status == 0


def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(
    series: Path, text: Path, tmp_path: Path
) -> None:
    start = time.perf_counter()
    _scan(series, text, tmp_path / "whole")
    whole = time.perf_counter() - start
    draw = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    done: dict[str, bytes] = {}
    folder = tmp_path / "killed"
    kills = 0
    for _ in range(KILLS):
        # Anywhere in the first third of what a whole scan takes, so that it is resumed many times.
        kills += not _in_a_child(lambda: _scan(series, text, folder), draw.uniform(0.05, whole / 3))
        now = {k: v for k, v in _contents(folder).items() if k.startswith("checkpoints/")}
        finished = {k: v for k, v in now.items() if k.endswith(".json")}
        assert done.items() <= finished.items(), "a finished checkpoint was lost or written again"
        done = finished
    assert kills >= 3
    _scan(series, text, folder)
    expected, got = _contents(tmp_path / "whole"), _contents(folder)
    assert got.keys() == expected.keys()
    # What the machine had free when the run began is noted in run.json.
    assert all(got[name] == expected[name] for name in expected if name != "run.json")


def test_stopped_by_hand_it_says_what_is_kept(series: Path, text: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geoprobe", "scan", str(series), "--text", str(text)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "run" / "checkpoints").glob("*.json")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "checkpoints already measured are kept" in said
    assert "Traceback" not in said
    kept = geoprobe.open(tmp_path / "run").labels
    assert kept == [f"step-{i}" for i in range(len(kept))]
    assert kept


def test_a_disk_that_fills_up_is_a_sentence_and_keeps_what_there_is(
    series: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoprobe.runs import files, folder

    real, written = folder.write_whole, []

    def full(file: Path, content: str | bytes) -> None:
        written.append(file.name)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, content)

    for place in (files, folder):
        monkeypatch.setattr(place, "write_whole", full)
    with pytest.raises((GeoprobeError, OSError), match="No space left"):
        _scan(series, text, tmp_path / "run")
    monkeypatch.undo()
    kept = geoprobe.open(tmp_path / "run")
    assert kept.labels
    whole = _scan(series, text, tmp_path / "run")
    assert len(whole.labels) == 6


def test_a_checkpoint_that_vanishes_is_told_and_the_others_go_on(
    series: Path, text: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(series, tmp_path / "series")
    from geoprobe import survey

    real = survey.measure_model

    def vanishing(*arguments: Any, **options: Any) -> Any:
        shutil.rmtree(copy / "step-3", ignore_errors=True)
        return real(*arguments, **options)

    monkeypatch.setattr(survey, "measure_model", vanishing)
    code, _, err = cli("scan", copy, "--text", text, "--out", tmp_path / "run")
    assert code == 4
    assert "step-3" in err
    assert geoprobe.open(tmp_path / "run").labels == [f"step-{i}" for i in (0, 1, 2, 4, 5)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", 2),
        ("\n\n", 2),
        ('{"text": ""}\n', 2),
        ('{"text": "w1 w2 w3"}\n', 2),
        ('{"text": "w1 w2 w3"}\n{"text": "w4"}\n', 0),
        ('{"text": "\\u0000"}\n{"text": "\\ud83e\\uddea \\ud83e\\uddea"}\n', 0),
        ("not json\n", 2),
        ('{"other": "w1"}\n', 2),
    ],
)
def test_odd_corpora(content: str, code: int, series: Path, tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(content)
    given = ("scan", series / "step-0", "--text", file, "--out", tmp_path / "run", "--json")
    found, out, err = cli(*given)
    assert found == code, err
    assert "Traceback" not in err
    if code:
        assert err.startswith("geoprobe: ")
        assert not out
    else:
        for reading in json.loads(out)["readings"]:
            assert reading["value"] is not None or reading["reason"]


@pytest.mark.parametrize("missing", ["pad_token", "bos_token", "both"])
def test_tokenizers_without_special_tokens(missing: str) -> None:
    tokenizer = tiny_tokenizer()
    for name in ("pad_token", "bos_token") if missing == "both" else (missing,):
        setattr(tokenizer, name, None)
    if missing != "pad_token":
        from tokenizers.processors import TemplateProcessing

        bare = TemplateProcessing(single="$A", special_tokens=[])
        tokenizer.backend_tokenizer.post_processor = bare
    run = geoprobe.measure(
        model=tiny_model("llama"), tokenizer=tokenizer, text=tiny_text(150), probes=ONE_PASS
    )
    assert {"spectrum", "sinks", "collapse", "superposition"} == set(run.readings["probe"])
