"""What reports show of runs: the charts' marks, the terminal's text."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from geoprobe.reports import html
from geoprobe.reports.parts import Filled, filled
from geoprobe.reports.subject import Subject
from geoprobe.reports.terminal import render
from geoprobe.runs.folder import Run


def charts_of(*runs: Run) -> dict[str, Filled]:
    """Charts by name, as a report of these runs draws them."""
    subject = Subject.of(runs)
    parts, frames = html._parts(subject)
    return {c.name: filled(c, s, frames, subject) for s in parts for c in s.charts}


def rows_of(chart: Filled, table: str = "readings", **where: Any) -> list[dict[str, Any]]:
    """Marks of a chart with these values."""
    rows = chart.spec["datasets"][table]
    return [r for r in rows if all(r[name] == value for name, value in where.items())]


def values_of(chart: Filled, table: str = "readings", **where: Any) -> list[float]:
    """Their values."""
    return [r["value"] for r in rows_of(chart, table, **where)]


def in_terminal(run: Run, width: int = 100) -> str:
    """What the terminal shows of a run."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    render(run, Console(file=stream, width=width, force_terminal=False))
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


def on_one_line(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())
