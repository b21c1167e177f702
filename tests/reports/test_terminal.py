"""The terminal view: fits, escapes, and says what the run holds."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from geoprobe.reports.terminal import render, sparkline
from geoprobe.runs.folder import Run
from tests.reports.factory import HOSTILE, make_run


def _shown(run: Run, *, encoding: str = "utf-8", width: int = 80) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(run, Console(file=stream, width=width, force_terminal=False))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def _series(path: Path) -> Run:
    return make_run(
        path,
        tokens=("last", "all"),
        sinks=("in", "out"),
        ablate=(10, 50),
        failed={"step9999": "step9999: truncated."},
        warn="too few rows",
        blocks=12,
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp437"])
def test_a_series_fits_80_columns_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = _shown(_series(tmp_path / "run"), encoding=encoding)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for word in ("RankMe", "top-1", "ID", "PR", "warmup", "entropy-seeking", "removed 10"):
        assert word in text
    for line in ("final", "embed"):
        row = next(r for r in text.splitlines() if r.startswith(line))
        assert row.split()[1][:1].isdigit()
    if encoding == "utf-8":
        assert "▁" in text
        assert "±" in text


def test_warnings_are_counted_and_failures_told(tmp_path: Path) -> None:
    text = _shown(_series(tmp_path / "run"))
    assert text.count("too few rows") == 1
    assert "warning: too few rows (all 13 checkpoints)" in text
    assert "failed: step9999: truncated." in text


def test_sites_are_spread_over_the_depth(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", blocks=40, steps=(None,))
    rows = [line.split()[0] for line in _shown(run).splitlines() if line]
    sites = [r for r in rows if r in run.sites]
    assert sites[0] == "embed"
    assert sites[-1] == "final"
    assert len(sites) == 8
    assert "8 of 42 sites" in _shown(run)


def test_markup_and_control_characters_are_shown_not_obeyed(tmp_path: Path) -> None:
    evil = "[bold red]x[/] [link=http://a]b \x1b[31mred\x07"
    run = make_run(
        tmp_path / "run",
        name=evil,
        labels=[evil + str(i) for i in range(4)],
        steps=(0, 10, 100, 1000),
        sites=("embed", evil, "final"),
        warn=evil + HOSTILE,
        failed={evil + "f": evil},
    )
    text = _shown(run)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold red]x[/]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_console_with_colour_says_the_same(tmp_path: Path) -> None:
    run = _series(tmp_path / "run")
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="truecolor")
    render(run, console)
    from rich.text import Text

    plain = Text.from_ansi(stream.getvalue()).plain
    assert plain.split() == _shown(run).split()


@pytest.mark.parametrize("steps", [(), (None,), (0, 1)])
def test_small_runs_are_shown_too(tmp_path: Path, steps: tuple[int | None, ...]) -> None:
    text = _shown(make_run(tmp_path / "run", steps=steps, blocks=1))
    assert text.strip()


def test_a_sparkline_rises_with_its_values_and_leaves_gaps() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([8, None, 1], plain=True) == "# _"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([None, None]) == ""
    assert len(sparkline(list(range(100)), width=10)) == 10


def test_the_terminal_needs_no_torch_and_no_charts(tmp_path: Path) -> None:
    _series(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from geoprobe.runs.folder import Run\n"
        "from geoprobe.reports.terminal import render\n"
        "render(Run.open(Path(sys.argv[1])), Console())\n"
        "bad = {'torch', 'transformers', 'altair', 'vl_convert'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], check=True, capture_output=True
    )
    assert b"RankMe" in done.stdout  # piped
