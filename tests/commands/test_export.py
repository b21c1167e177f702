"""`geoprobe export`: the readings of a run as a file."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.reports.reading_latex import numbers, read
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


def test_a_table_for_a_paper_to_stdout_or_into_a_file(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0", "step-10")
    asked = ("--measures", "rankme", "--where", "convention=li2025", "--label", "tab:x")
    code, out, err = cli("export", run.path, "--latex", *asked)
    assert (code, err) == (0, "")
    table = read(out)
    assert list(table.rows) == ["step-0", "step-10"]
    assert [numbers(cells[0])[:2] for cells in table.rows.values()] == [(5.2, 0.2)] * 2
    assert cli("export", run.path, tmp_path / "a.tex", *asked)[:2] == (
        0,
        f"Wrote {tmp_path / 'a.tex'}\n",
    )
    assert (tmp_path / "a.tex").read_text("utf-8") == out
    assert cli("export", run.path, tmp_path / "a.tex")[0] == 2
    assert cli("export", run.path, tmp_path / "a.tex", "--latex", "--force")[0] == 0
    both = cli(
        *("export", run.path, "--latex", "--rows", "site", "--columns", "checkpoint"),
        *("--checkpoint", "step-10", "--checkpoint", "step-0", "--site", "final,embed"),
        *("--where", "convention=exact", "--where", "tokens=last", "--where", "tokens=all"),
        *("--measures", "rankme", "--caption", "Mine.", "--bibtex"),
    )
    # Last tokens are looked at first, and final has none of them.
    table = read(both[1])
    assert table.heads == ["site", "step-0", "step-10"]
    assert list(table.rows) == ["embed", "final"]
    assert [numbers(cell)[0] for cell in table.rows["final"]] == [None, None]
    assert "Mine." in table.caption
    assert "@inproceedings{" in both[1].partition("endinput")[2]


def test_options_of_a_table_that_cannot_be(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "step-0")
    for arguments, words in (
        ((), "Give a FILE that ends in one of .parquet, .csv, .json, .tex, or --latex"),
        ((tmp_path / "a.csv", "--latex"), "--latex writes LaTeX"),
        ((tmp_path / "a.csv", "--rows", "site"), "--rows is for a LaTeX table"),
        ((tmp_path / "a.csv", "--where", "k=1"), "--where is for a LaTeX table"),
        ((tmp_path / "a.json", "--bibtex"), "--bibtex is for a LaTeX table"),
        (("--latex", "--where", "tokens"), "--where tokens: give KEY=VALUE"),
        (("--latex", "--where", "=last"), "--where =last: give KEY=VALUE"),
        (("--latex", "--rows", "colour"), "--rows colour: not a dimension"),
        (("--latex", "--measures", "nope"), "--measures nope: not in this run"),
        ((tmp_path / "no" / "a.tex",), "cannot be written"),
    ):
        code, out, err = cli("export", run.path, *arguments)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["a.csv", "a.tex"])
def test_it_needs_no_torch(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run", "step-0")
    code = (
        f"import sys; sys.argv[1:] = ['export', {str(run.path)!r}, {str(tmp_path / name)!r}]\n"
        "from geoprobe.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
