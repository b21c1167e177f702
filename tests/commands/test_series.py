"""`geoprobe series` lists a series without loading anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geoprobe.cli import app
from geoprobe.errors import UsageError
from tests.models.checkpoints import age, truncate, write


@pytest.fixture
def series(tmp_path: Path) -> Path:
    for name in ("stage1-step1000-tokens3B", "stage1-step20000-tokens42B", "step150-tokens1B"):
        write(tmp_path / "olmo" / name)
    return tmp_path / "olmo"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["series", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_it_lists_in_order_with_numbers_and_sizes(series: Path) -> None:
    lines = run(series).splitlines()
    assert lines[0].split() == ["#", "checkpoint", "stage", "step", "tokens", "size"]
    assert [line.split()[:5] for line in lines[1:4]] == [
        ["0", "step150-tokens1B", "1", "150", "1,000,000,000"],
        ["1", "stage1-step1000-tokens3B", "1", "1,000", "3,000,000,000"],
        ["2", "stage1-step20000-tokens42B", "1", "20,000", "42,000,000,000"],
    ]
    assert lines[4] == "3 checkpoints, 0.0 MB"


def test_it_shows_only_the_numbers_that_there_are(tmp_path: Path) -> None:
    write(tmp_path / "epoch_3")
    lines = run(tmp_path).splitlines()
    assert lines[0].split() == ["#", "checkpoint", "epoch", "size"]
    assert lines[2] == "1 checkpoint, 0.0 MB"


def test_it_says_what_cannot_be_measured_and_what_was_skipped(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write(tmp_path / f"checkpoint-{step}")
    truncate(tmp_path / "checkpoint-5"), truncate(tmp_path / "checkpoint-15")
    out = run(tmp_path)
    assert "cannot be measured" in out.splitlines()[0]
    assert "model.safetensors is truncated" in out.splitlines()[1]
    assert "skipped checkpoint-15: it is being written (model.safetensors is trunc" in out
    age(tmp_path / "checkpoint-15")
    assert "skipped" not in run(tmp_path)


def test_selections_and_patterns_reach_the_series(series: Path) -> None:
    assert "step150" not in run(series, "--last", 1)
    assert "step1000-" not in run(series, "--every", 2)
    assert "step1000-" not in run(series, "--log-spaced", 2)
    assert "skipped step150" in run(series, "--pattern", r"stage1-step(?P<step>\d+)")
    with pytest.raises(UsageError, match="--every 0"):
        run(series, "--every", 0)


def test_json_is_one_document(series: Path) -> None:
    truncate(series / "stage1-step1000-tokens3B")
    document = json.loads(run(series, "--json"))
    assert document["schema"] == "geoprobe.series/1"
    assert [c["tokens"] for c in document["checkpoints"]] == [10**9, 3 * 10**9, 42 * 10**9]
    assert document["checkpoints"][1]["incomplete"].startswith("model.safetensors is truncated")
    assert document["checkpoints"][0]["path"] == str(series / "step150-tokens1B")
    assert document["skipped"] == []


def test_it_says_what_is_missing_to_measure(series: Path) -> None:
    no_tokenizer = (
        f"There is no tokenizer in {series}/stage1-step20000-tokens42B or the folder above it; "
        "give its folder to `geoprobe rank` with --tokenizer FOLDER."
    )
    assert run(series).splitlines()[5:] == [no_tokenizer]
    (series / "tokenizer.json").write_text("{}")
    assert run(series).splitlines()[5:] == []
    assert json.loads(run(series, "--json"))["missing"] == []
    # The newest checkpoint tells the family.
    (series / "step150-tokens1B" / "config.json").write_text('{"model_type": "abacus"}')
    assert run(series).splitlines()[5:] == []
    newest = series / "stage1-step20000-tokens42B"
    (newest / "config.json").write_text('{"model_type": "abacus"}')
    (said,) = json.loads(run(series, "--json"))["missing"]
    assert said.startswith("Models of type 'abacus' (stage1-step20000-tokens42B) are not supported")
    assert said in run(series).splitlines()
    (series / "tokenizer.json").rename(newest / "vocab.txt")
    assert json.loads(run(series, "--json"))["missing"] == [said]
    for broken in ("{", "[1]", "{}"):
        (newest / "config.json").write_text(broken)
        age(newest)  # or it counts as being written
        assert json.loads(run(series, "--json"))["missing"] == []


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    write(tmp_path / "[red]x\x1b[31m")
    assert "_red_x__31m" in run(tmp_path)


def test_it_imports_no_torch_and_no_transformers(series: Path) -> None:
    code = (
        "import sys\n"
        "from geoprobe.cli import app\n"
        "app(['series', *sys.argv[1:]], standalone_mode=False)\n"
        "print({'torch', 'transformers', 'polars'} & set(sys.modules))\n"
    )
    for options in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code, str(series), *options],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "step150-tokens1B" in done.stdout
        assert done.stdout.splitlines()[-1] == "set()"


def test_the_demo_is_a_series() -> None:
    steps = [c["step"] for c in json.loads(run("demo", "--json"))["checkpoints"]]
    assert len(steps) >= 12
    assert steps == sorted(steps)
    assert steps[0] == 0
