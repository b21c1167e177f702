"""`geoprobe sinks` from the command line, and its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import geoprobe
from geoprobe.reports.html import write_report
from geoprobe.reports.sinks import sink_frames
from geoprobe.reports.subject import Subject
from tests.conftest import tiny_text

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40, longest=30)))
    return file


def test_the_table_the_report_and_the_document(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("sinks", tiny_series, "--text", text, "--out", tmp_path / "run")
    code, out, err = cli(*command, "--probe-text", "natural,repeat")
    assert code == 0, err
    assert "Sink rate, step-100" in out
    assert "Sinks over training" in out
    assert (tmp_path / "run" / "report.html").is_file()
    code, out, _ = cli(*command, "--probe-text", "natural,repeat", "--json", "--quiet")
    document = json.loads(out)
    assert code == 0
    found = {(r["measure"], r["site"]) for r in document["readings"]}
    assert {("sink_rate", "model"), ("sink_score", "attention.0"), ("primary_norm", "block.2")} <= (
        found
    )
    assert {f["checkpoint"] for f in document["findings"] if f["kind"] == "primary"} == {
        f"step-{n}" for n in (0, 1, 10, 100)
    }


def test_levels_alone(tiny_series: Path, text: Path, tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli(
        *("sinks", tiny_series, "--text", text, "--last", "1", "--out", tmp_path / "run"),
        "--levels-only",
    )
    assert code == 0
    assert "Sink rate" not in out
    run = geoprobe.open(tmp_path / "run")
    assert set(run.readings["measure"]) == {"primary_norm", "massive_activation"}
    write_report([run], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--probe-text", "prose"), "--probe-text prose: not one of natural"),
        (("--eps", "2"), "--eps 2: give a share"),
        (("--length", "1"), "--length 1: give at least 2"),
    ],
)
def test_mistakes_are_sentences(
    tiny_series: Path, text: Path, tmp_path: Path, cli: Cli, options: tuple[str, ...], said: str
) -> None:
    code, _, err = cli("sinks", tiny_series, "--text", text, "--out", tmp_path / "run", *options)
    assert code == 2
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_both_probes_share_one_pass_and_one_report(tiny_series: Path, tmp_path: Path) -> None:
    run = geoprobe.measure(
        tiny_series,
        probes=["spectrum", "sinks"],
        text=tiny_text(40, longest=30),
        tokens="all",
        select={"last": 2},
        out=tmp_path / "run",
    )
    apart = geoprobe.measure(
        tiny_series, probes=["sinks"], text=tiny_text(40, longest=30), select={"last": 2}
    )
    columns = ["checkpoint", "measure", "site", "position", "head", "set", "value", "stderr"]
    both = run.readings.filter(probe="sinks").select(columns)
    assert both.equals(apart.readings.select(columns))
    page = run.report(tmp_path / "report.html").read_text()
    assert "attention-sinks" in page
    assert "RankMe" in page
    frames = sink_frames(Subject.of([run]))
    assert frames["sink_norms"].height == 2 * 2 * 3
    assert set(frames["sink_scores"]["index"]) == {0, 1}
    # Two runs in one report: their sinks are in the tables.
    write_report([run, apart], tmp_path / "two.html")
