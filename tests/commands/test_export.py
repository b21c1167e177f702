"""`geoprobe export`: the readings of a run as a file."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl

from tests.runs.example import contents, make_run

Cli = Callable[..., tuple[int, str, str]]


def test_each_format_holds_the_readings(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0", "step-10")
    before = contents(run.path)
    for ending in ("parquet", "csv", "json"):
        code, out, err = cli("export", run.path, tmp_path / f"a.{ending}")
        assert (code, err) == (0, "")
        assert f"a.{ending}" in out
    assert pl.read_parquet(tmp_path / "a.parquet").equals(run.readings)
    assert len(pl.read_csv(tmp_path / "a.csv")) == len(run.readings)
    assert len(json.loads((tmp_path / "a.json").read_text())["readings"]) == len(run.readings)
    assert contents(run.path) == before


def test_nothing_is_overwritten_without_force(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0")
    file = tmp_path / "a.csv"
    file.write_text("mine")
    code, _, err = cli("export", run.path, file)
    assert code == 2
    assert "--force" in err
    assert file.read_text() == "mine"
    assert cli("export", run.path, file, "--force")[0] == 0
    assert file.read_text().startswith("checkpoint,index,stage,step,")


def test_bad_input_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0")
    for folder, file in (
        (tmp_path, tmp_path / "a.csv"),
        (tmp_path / "none", tmp_path / "a.csv"),
        (run.path, tmp_path / "a.xlsx"),
        (run.path, tmp_path / "no" / "a.csv"),
        (run.path, tmp_path / "no" / "a.parquet"),
    ):
        code, out, err = cli("export", folder, file)
        assert (code, out) == (2, "")
        assert err.startswith("geoprobe: ")
        assert "unexpected" not in err
        assert len(err.splitlines()) == 1


def test_it_needs_no_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0")
    code = (
        f"import sys; sys.argv[1:] = ['export', {str(run.path)!r}, {str(tmp_path / 'a.csv')!r}]\n"
        "from geoprobe.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
