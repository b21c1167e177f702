"""`geoprobe report` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from geoprobe.commands.report import report
from geoprobe.errors import UsageError
from tests.reports.factory import make_run

app = typer.Typer()
app.command()(report)


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", steps=(0, 10), blocks=1).path


def test_the_report_goes_into_the_run_folder_and_may_be_made_again(folder: Path) -> None:
    for _ in range(2):
        output = _run(folder)
        assert f"Report: {folder / 'report.html'}" in output.replace("\n", "")
    assert (folder / "report.html").stat().st_size > 400_000


def test_a_file_that_is_there_is_not_overwritten_without_force(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.html"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        _run(folder, "--out", out)
    assert out.read_text() == "mine"
    _run(folder, "--out", out, "--force")
    assert out.read_text() != "mine"


def test_charts_are_written_as_images_and_not_over_others(folder: Path, tmp_path: Path) -> None:
    output = _run(folder, "--png", tmp_path / "p", "--svg", tmp_path / "s")
    stems = {f.stem for f in (tmp_path / "p").iterdir()}
    assert stems == {f.stem for f in (tmp_path / "s").iterdir()}
    assert {"training-rankme", "heatmap", "spectra"} <= stems
    assert output.count("Chart: ") == 2 * len(stems)
    with pytest.raises(UsageError, match=r"\.png files already"):
        _run(folder, "--png", tmp_path / "p")
    _run(folder, "--png", tmp_path / "p", "--force")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_images_are_not_written_into_a_file(folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "there").write_text("mine")
    for force in ([], ["--force"]):
        with pytest.raises(UsageError, match=f"--{kind} .*there: that is a file; give a folder"):
            _run(folder, f"--{kind}", tmp_path / "there", *force)
    assert (tmp_path / "there").read_text() == "mine"
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("name", ["x.pdf", "x.html.gz", "x"])
def test_a_report_that_would_not_be_html_is_a_mistake(
    folder: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match=r"ends in \.html"):
        _run(folder, "--out", tmp_path / name)
    assert not (tmp_path / name).exists()
    _run(folder, "--out", tmp_path / "y.HTM")
    assert (tmp_path / "y.HTM").is_file()


def test_a_report_is_not_written_over_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="that is a folder; give a file"):
        _run(folder, "--out", tmp_path, "--force")


def test_several_runs_are_laid_beside_each_other(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", name="cobble", steps=(0, 10), blocks=1).path
    _run(folder, other, "--out", tmp_path / "both.html")
    text = (tmp_path / "both.html").read_text("utf-8")
    assert "<h1>pebble and cobble</h1>" in text


def test_what_is_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        _run(tmp_path)
