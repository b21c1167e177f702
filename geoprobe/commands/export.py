"""`geoprobe export`: the readings of a run as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geoprobe.commands.options import words
from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from geoprobe.reports.crosstab import Asked

_TABLE = "The LaTeX table"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A .parquet, .csv, .json or .tex file. Without it --latex writes to stdout.",
            show_default=False,
        ),
    ] = None,
    latex: Annotated[
        bool,
        typer.Option(
            "--latex",
            help="A booktabs table for a paper, to stdout or into FILE; .tex means it, too.",
            rich_help_panel=_TABLE,
        ),
    ] = False,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="DIMENSION",
            help="checkpoint, site, measure, or a key of the readings (relation, head, ...). "
            "Default: checkpoint if there are several, else site.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="DIMENSION",
            help="The same for columns. Default: measure.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            "--measures",
            metavar="NAME,...",
            help="Measures, as in rankme,alpha. Default: the main ones of the run's probes.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="SITE,...",
            help="The site; several where sites are rows or columns. Default: final where it was "
            "measured.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            metavar="LABEL",
            help="The checkpoint, repeatable where checkpoints are rows or columns. Default there: "
            "all; else the newest.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="KEY=VALUE",
            help="What else is fixed, repeatable: tokens=last, convention=li2025. Measures "
            "without such a key are not touched.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            "--caption",
            help="The caption, as LaTeX. Default: the series and what is fixed.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            help="The key for references. Default: tab:<series>.",
            rich_help_panel=_TABLE,
            show_default=False,
        ),
    ] = None,
    bibtex: Annotated[
        bool,
        typer.Option(
            "--bibtex",
            help="Add the BibTeX entries of the sources, behind an \\endinput.",
            rich_help_panel=_TABLE,
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write all readings of a run as Parquet, CSV or JSON, or some as a LaTeX table.

    The file's ending says the format.
    """
    given = dict(locals())
    from geoprobe.api import open_run
    from geoprobe.runs.export import FORMATS
    from geoprobe.runs.export import export as write

    is_table = latex or (out is not None and out.suffix.lower() == ".tex")
    _check(given, is_table=is_table)
    if out is not None and out.exists() and not force:
        raise UsageError(f"{out} exists; give another name, or --force to overwrite it.")
    if not is_table:
        if out is None:
            raise UsageError(
                f"Give a FILE that ends in one of {', '.join(FORMATS)}, .tex, or --latex for a "
                "table on stdout."
            )
        write(open_run(run), out)
        typer.echo(f"Wrote {out}")
        return
    from geoprobe.reports.latex import latex as table

    text = table(open_run(run), _asked(given), caption=caption, label=label, bibtex=bibtex)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error}).") from error
    typer.echo(f"Wrote {out}")


def _check(given: dict[str, Any], *, is_table: bool) -> None:
    """Raises where options and file do not go together."""
    out = given["out"]
    if is_table:
        if out is not None and out.suffix.lower() != ".tex":
            raise UsageError(f"--latex writes LaTeX; {out} should end in .tex.")
        return
    for name in ("rows", "columns", "measures", "site", "checkpoint", "where", "caption", "label"):
        if given[name] is not None:
            raise UsageError(f"--{name} is for a LaTeX table; add --latex, or give a .tex file.")
    if given["bibtex"]:
        raise UsageError("--bibtex is for a LaTeX table; add --latex, or give a .tex file.")


def _asked(given: dict[str, Any]) -> Asked:
    from geoprobe.reports.crosstab import Asked

    where: dict[str, tuple[str, ...]] = {}
    for condition in given["where"] or ():
        name, equals, value = condition.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--where {condition}: give KEY=VALUE, as in tokens=last.")
        where[name.strip()] = (*where.get(name.strip(), ()), value)
    if given["site"] is not None:
        where["site"] = words(given["site"])
    if given["checkpoint"]:
        where["checkpoint"] = tuple(given["checkpoint"])
    return Asked(given["rows"], given["columns"], words(given["measures"]), where)
