"""`geoprobe layout`: a model's sites, from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from geoprobe.commands import options as o
from geoprobe.commands.console import listing_console
from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from geoprobe.models.layout import Layout


def layout(
    series: o.SeriesArgument,
    data: o.Data = None,
    factory: o.Factory = None,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
) -> None:
    """Show the sites of a model: names, shapes, where they are read, what is missing.

    Reads the config of the newest checkpoint and no weights. A network of --factory is built, and
    run on an item of --data.
    """
    from geoprobe.models.hub import Fetcher
    from geoprobe.models.layout import find_layout
    from geoprobe.models.pretrained import empty_model
    from geoprobe.models.series import find_series

    newest = find_series(series, factory=factory is not None).checkpoints[-1]
    if factory is not None:
        found = _of_network(factory, data)
    else:
        Fetcher().small(newest)
        found = find_layout(empty_model(newest, trust_remote_code=trust_remote_code))
    if json:
        import json as json_module

        typer.echo(json_module.dumps(_document(newest.label, found), indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    console = listing_console()
    console.print(
        Text(
            f"{newest.label}: {found.family}, "
            + (f"{found.depth} block{'s' * (found.depth != 1)}, " if found.depth else "")
            + f"width {found.width}, "
            + (
                f"{found.vocabulary:,} token ids"
                if found.vocabulary
                else f"reads {found.reads.name}"
            )
            + (f", {found.positions:,} positions" if found.positions else "")
            + (", bidirectional" if found.bidirectional else "")
        )
    )
    table = Table(box=None, pad_edge=False)
    for column in ("sites", "shape", "read at"):
        table.add_column(column, overflow="fold")
    for sites, width, where in _rows(found):
        table.add_row(sites, f"batch x time x {width}", Text(where))
    if found.head is not None:
        table.add_row("logits", f"batch x time x {found.vocabulary}", f"output of {found.head}")
    console.print(table)
    for kind, reason in found.missing.items():
        console.print(Text(f"no {kind}: {reason}"), soft_wrap=True)


def _of_network(factory: str, data: Path | None) -> Layout:
    """The layout of a network that is in no table."""
    import numpy as np

    from geoprobe.data.arrays import read_array
    from geoprobe.models.factory import build, describe

    if data is None:
        raise UsageError(
            "--factory: the shapes of its sites show on input only; give some with --data FILE."
        )
    return describe(build(factory), read_array(data, 2).batch(np.arange(1)), factory)


def _rows(found: Layout) -> list[tuple[str, int, str]]:
    """One row for all sites of a kind that are alike but for the number of their block."""
    from geoprobe.models.layout import kind_of

    if not found.depth:  # a network that is in no table
        measured = set(found.sites)
        return [
            (site, tap.width, "output" + (", measured by default" if site in measured else ""))
            for site, tap in found.taps.items()
        ]
    number_at = found.taps["embed"].module.count(".")  # the path of block 0 ends in its number
    rows: dict[tuple[str, int, str], list[str]] = {}
    for site, tap in found.taps.items():
        kind = kind_of(site)
        parts = tap.module.split(".")
        if kind != site:
            parts[number_at] = "N"
        where = ".".join(parts)
        half = "" if tap.half is None else f", {('first', 'second')[tap.half]} half"
        at = f"{tap.side} of {found.root}{'.' * bool(found.root)}{where}{half}"
        rows.setdefault((kind, found.width_of(site), at), []).append(site)
    return [
        (few[0] if len(few) == 1 else f"{few[0]} to {few[-1]}", width, at)
        for (_, width, at), few in rows.items()
    ]


def _document(label: str, found: Layout) -> dict[str, Any]:
    return {
        "schema": "geoprobe.layout/1",
        "checkpoint": label,
        "family": found.family,
        "depth": found.depth,
        "width": found.width,
        "vocabulary": found.vocabulary,
        "reads": found.reads.name,
        "positions": found.positions,
        "bidirectional": found.bidirectional,
        "sites": [
            {
                "site": site,
                "width": found.width_of(site),
                "module": f"{found.root}.{tap.module}".lstrip("."),
                "side": tap.side,
                "half": tap.half,
            }
            for site, tap in found.taps.items()
        ],
        "head": found.head,
        "missing": dict(found.missing),
    }
