"""The command line: one line per verb, errors turned into sentences and exit codes."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import Annotated

import typer

from geoprobe.commands import (
    check,
    collapse,
    corpus,
    explain,
    export,
    features,
    layout,
    plan,
    rank,
    relations,
    report,
    scan,
    series,
    sinks,
    superposition,
)
from geoprobe.errors import GeoprobeError

app = typer.Typer(
    name="geoprobe",
    help="Measure the geometry of neural network representations over checkpoint series.",
    epilog="Begin with: geoprobe rank demo. What a number means: geoprobe explain rankme.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("rank")(rank.rank)
app.command("scan")(scan.scan)
app.command("check")(check.check)
app.command("sinks")(sinks.sinks)
app.command("collapse")(collapse.collapse)
app.command("superposition")(superposition.superposition)
app.command("features")(features.features)
app.command("relations")(relations.relations)
app.command("series")(series.series)
app.command("plan")(plan.plan)
app.command("layout")(layout.layout)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("explain")(explain.explain)
app.command("corpus")(corpus.corpus)


def _version(show: bool) -> None:
    if show:
        from geoprobe import __version__

        typer.echo(f"geoprobe {__version__}")
        raise typer.Exit


@app.callback()
def shared(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error instead of a sentence.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the verb."""


def main() -> None:
    """Runs the command line; a user's mistake ends in one sentence and its exit code."""
    debug = "--debug" in sys.argv
    with suppress(AttributeError):  # a path may be no UTF-8, and is printed all the same
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = app(prog_name="geoprobe", standalone_mode=False)
        if code == _STOPPED:  # what Typer makes of Ctrl-C, without a word
            code = _stopped()
    except GeoprobeError as error:
        if debug:
            raise
        typer.echo(f"geoprobe: {error}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        code = _stopped()
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        if debug:
            raise
        code = _other(error)
    sys.exit(code if isinstance(code, int) else 0)


_STOPPED = 130
"""Exit code of a process that Ctrl-C ended."""


def _stopped() -> int:
    typer.echo(
        "geoprobe: stopped; checkpoints already measured are kept, and the same command goes on.",
        err=True,
    )
    return _STOPPED


def _told(error: Exception) -> str | None:
    """What is wrong with a path that was typed, where no option's own sentence says it."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        return f"{name[:60]}... is too long for the name of a file; give another."
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "A path begins with ~ and a user that is not there; give ./~NAME for such a file."
    return None


def _other(error: Exception) -> int:
    """Errors of the argument parser are sentences too; anything else is a bug, and said so."""
    from geoprobe.commands.parsing import sentence

    said = sentence(error)
    said = _told(error) if said is None else said
    if said is not None:
        if said:
            typer.echo(f"geoprobe: {said}", err=True)
        return GeoprobeError.exit_code
    if isinstance(error, typer.Abort):
        return _stopped()
    typer.echo(
        f"geoprobe: an unexpected {type(error).__name__} ({error}); checkpoints already measured "
        "are kept. Run again with `geoprobe --debug ...` for the traceback.",
        err=True,
    )
    return 70
