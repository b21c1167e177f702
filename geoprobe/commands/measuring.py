"""What every measuring verb does with its parameters: measure, write the report, show the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from geoprobe.commands import options as o
from geoprobe.paths import is_there
from geoprobe.probes.registry import scan_options

if TYPE_CHECKING:
    from geoprobe.api import Run


def run_verb(verb: str, given: Mapping[str, Any]) -> Run:
    """Measures what a verb's parameters ask for, and shows it.

    Args:
        verb: Its name; its probe has the same, `rank` the default, `scan` those named.
        given: Its parameters by name.

    Returns:
        The run.
    """
    from geoprobe.api import measure
    from geoprobe.commands.progress import Bars

    series, out = given["series"], given["out"]
    probes: dict[str, Any] = {} if verb == "rank" else {"probes": (verb,)}
    if verb == "scan":
        attention = given["attention"]
        given = {name: value for name, value in given.items() if name != "attention"}
        probes = scan_options(o.words(given["probes"]), attention=attention)
    with Bars(quiet=given["quiet"]) as bars:
        found = measure(
            series,
            out=out or default_out(series, "" if verb == "rank" else verb),
            fresh=given["fresh"],
            progress=bars,
            command=verb,
            **probes,
            **o.asked(given),
        )
    show(found, json=given["json"], quiet=given["quiet"])
    if found.failed:
        raise typer.Exit(4)
    return found


def show(run: Run, *, json: bool, quiet: bool) -> None:
    """Writes the report, then the JSON document or the table."""
    import sys

    report = run.report(run.path / "report.html")
    if json:
        import json as json_module

        json_module.dump(run.document(), sys.stdout, indent=1, sort_keys=True, allow_nan=False)
        sys.stdout.write("\n")
    elif not quiet:
        from rich.console import Console

        from geoprobe.reports.terminal import render

        render(run, Console())
    print(f"Run: {run.path}\nReport: {report}", file=sys.stderr if json or quiet else sys.stdout)


def default_out(series: list[str], verb: str = "") -> Path:
    """The run folder when none is named: after the series."""
    names = [
        Path(argument).resolve().name if is_there(Path(argument)) else argument.split("/")[-1]
        for argument in series
    ]
    stem = re.sub(r"[^\w.-]+", "_", "+".join(names))[:80]
    stem = stem.encode()[:160].decode(errors="ignore").strip("._") or "run"
    return Path("geoprobe-runs") / (f"{stem}-{verb}" if verb else stem)
