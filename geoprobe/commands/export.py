"""`geoprobe export`: the readings of a run as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoprobe.errors import UsageError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet, .csv or .json file.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write all readings of a run as Parquet, CSV or JSON, by the file's ending."""
    from geoprobe.api import open_run
    from geoprobe.runs.export import export as write

    if out.exists() and not force:
        raise UsageError(f"{out} exists; give another name, or --force to overwrite it.")
    write(open_run(run), out)
    typer.echo(f"Wrote {out}")
