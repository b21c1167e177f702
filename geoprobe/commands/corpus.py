"""`geoprobe corpus`: the built-in corpus, and a frozen copy of it for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoprobe.errors import UsageError


def corpus(
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", help="Write the built-in corpus to this .txt file.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Say what the built-in corpus is, or freeze it into a file.

    It is English prose that comes with Python (the language reference and the docstrings of the
    standard library), so it changes with the Python version: freeze it where numbers must last.
    """
    from geoprobe.data.builtin import builtin_text, describe
    from geoprobe.data.builtin import export as write

    if export is None:
        facts = describe()
        typer.echo("\n".join(f"{name}: {value}" for name, value in facts.items()))
        return
    if export.exists() and not force:
        raise UsageError(f"{export} exists; give another name, or --force to overwrite it.")
    write(export)
    typer.echo(f"Wrote {export} ({len(builtin_text()):,} characters)")
