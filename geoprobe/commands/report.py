"""`geoprobe report`: the HTML report of one run or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoprobe.errors import UsageError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file. Default: report.html in the first run folder."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Also write each chart as PNG into this folder.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Also write each chart as SVG into this folder.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite --out and images that are there.")
    ] = False,
) -> None:
    """Write one self-contained HTML report; several runs are laid side by side."""
    from geoprobe.api import open_run
    from geoprobe.reports.html import write_charts, write_report

    opened = [open_run(path) for path in runs]
    target = out or opened[0].path / "report.html"
    if out is not None and out.is_dir():
        raise UsageError(
            f"--out {out}: that is a folder; give a file, as in {out / 'report.html'}."
        )
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"--out {out}: the report is one HTML file; give a name that ends in .html (a browser "
            "prints it to PDF; --png and --svg write the charts as images)."
        )
    if out is not None and out.exists() and not force:
        raise UsageError(f"--out {out} exists; give another name, or --force to overwrite it.")
    images = [(folder, kind) for folder, kind in ((png, "png"), (svg, "svg")) if folder is not None]
    for folder, kind in images:
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"--{kind} {folder}: that is a file; give a folder, and each chart becomes a file "
                "in it."
            )
        if any(folder.glob(f"*.{kind}")) and not force:
            raise UsageError(
                f"--{kind} {folder} holds .{kind} files already; give another folder, or --force "
                "to overwrite those of the same name."
            )
    write_report(opened, target)
    typer.echo(f"Report: {target}")
    for folder, kind in images:
        for path in write_charts(opened, folder, kind):
            typer.echo(f"Chart: {path}")
