"""`geoprobe explain`: the card of a measure."""

from __future__ import annotations

import unicodedata
from typing import Annotated

import typer

_DIRECTIONS = {
    "up": "Up is better: a check calls a fall worse.",
    "down": "Down is better: a check calls a rise worse.",
    "either": "Neither is better: a check says only that it changed.",
}

_HEADS = {"top-1": "top1_share", "top1": "top1_share", "alpha-req": "alpha"}
"""Names that tables and papers use and no card has."""


def explain(
    measure: Annotated[
        str | None,
        typer.Argument(metavar="[MEASURE]", help="Its name, as in readings. Default: list all."),
    ] = None,
    bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Only the BibTeX entries of the sources.")
    ] = False,
) -> None:
    """Say what a measure is: definition, convention, source, pitfalls."""
    from geoprobe.measures.bibtex import entries
    from geoprobe.measures.registry import card, cards

    chosen = [card(_name_of(measure))] if measure else list(cards().values())
    if bibtex:
        found_entries = {key: entry for c in chosen for key, entry in entries(c.bibtex)}
        if not found_entries:
            typer.echo(f"{measure} has no published source: {chosen[0].source}", err=True)
        else:
            typer.echo("\n\n".join(found_entries.values()))
        return
    if measure is None:
        width = max(len(c.name) for c in chosen)
        wide = max(len(c.section) for c in chosen)
        for c in chosen:
            typer.echo(f"{c.name:<{width}}  {c.section:<{wide}}  {c.title}")
        typer.echo("\ngeoprobe explain MEASURE says what one is.")
        return
    import shutil
    import textwrap

    columns = min(100, shutil.get_terminal_size((100, 24)).columns)

    def paragraph(title: str, text: str) -> None:
        filled = textwrap.fill(
            " ".join(text.split()),
            columns,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        typer.echo(f"\n{title}\n{filled}")

    found = chosen[0]
    symbol = "" if found.title.startswith(found.symbol) else f" ({found.symbol})"
    name = "" if found.name == found.title else f"{found.name}: "
    typer.echo(f"{name}{found.title}{symbol}")
    paragraph("Definition", found.formula)
    paragraph("Unit", found.unit)
    paragraph("Direction", _DIRECTIONS[found.direction])
    typer.echo("\nConventions")
    for name, what in found.conventions.items():
        typer.echo(
            textwrap.fill(f"{name}: {what}", columns, initial_indent="  ", subsequent_indent="    ")
        )
    paragraph("Source", found.source)
    if found.pitfalls:
        typer.echo("\nPitfalls")
        for pitfall in found.pitfalls:
            typer.echo(
                textwrap.fill(pitfall, columns, initial_indent="  - ", subsequent_indent="    ")
            )


def _name_of(word: str) -> str:
    """The name of the measure that a word stands for; the word itself where there is none.

    A name, a symbol, a title or the head of a column, in letters of either case; `R2` is R².
    """
    from geoprobe.measures.registry import cards

    known = cards()
    if word in known:
        return word
    names = dict(_HEADS)
    for c in known.values():
        for other in (c.name, c.symbol, c.title, c.title.split(" (")[0]):
            if other:
                names.setdefault(_plain(other), c.name)
    return names.get(_plain(word), word)


def _plain(word: str) -> str:
    """Without case, and with superscripts and subscripts as digits."""
    return unicodedata.normalize("NFKC", word).casefold().strip()
