"""`geoprobe plan`: what a measurement will take, from configs alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geoprobe.commands import options as o
from geoprobe.commands.console import listing_console
from geoprobe.commands.options import words

if TYPE_CHECKING:
    from geoprobe.planning import Estimate


def plan(
    series: o.SeriesArgument,
    probes: Annotated[
        str,
        typer.Option(
            "--probes", help="Probes of the one pass.", rich_help_panel="What is measured"
        ),
    ] = "spectrum",
    tokens: o.Tokens = None,
    convention: o.Convention = None,
    drop_sinks: o.DropSinks = False,
    ablate: o.Ablate = None,
    skip: o.Skip = None,
    text: o.Text = None,
    field: o.Field = "text",
    images: o.Images = None,
    data: o.Data = None,
    sequences: o.Sequences = 1024,
    length: o.Length = 128,
    tokenizer: o.Tokenizer = None,
    pattern: o.Pattern = None,
    every: o.Every = 1,
    log_spaced: o.LogSpaced = None,
    last: o.Last = None,
    revisions: o.Revisions = None,
    base: o.Base = None,
    factory: o.Factory = None,
    batch_size: o.BatchSize = None,
    layers: o.Layers = None,
    sites: o.Sites = None,
    device: o.Device = None,
    device_map: o.DeviceMap = None,
    dtype: o.Dtype = "float32",
    trust_remote_code: o.TrustRemoteCode = False,
    accelerator: Annotated[
        str | None,
        typer.Option(
            "--accelerator",
            help="Estimate for this one too, by its data sheet: t4, v100, a10g, rtx4090, l40s, "
            "a100, h100, h200, mi300x.",
            rich_help_panel="How it runs",
            show_default=False,
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Estimate downloads, operations, memory and time of `rank`; loads no weights.

    Takes a few seconds, for it times some blocks of the model with random weights.
    """
    given = dict(locals())
    from geoprobe.api import plan as estimate
    from geoprobe.commands.progress import Bars

    with Bars(quiet=True) as notes:
        found = estimate(
            series,
            accelerator=accelerator,
            progress=notes,
            probes=words(probes),
            **o.asked(given),
        )
    if json:
        import json as json_module

        document = {
            "schema": "geoprobe.plan/1",
            **asdict(found),
            "watching": found.watching,
            "reading": found.reading,
        }
        typer.echo(json_module.dumps(document, indent=1))
        return
    _show(found)


def _show(found: Estimate) -> None:
    from rich.table import Table
    from rich.text import Text

    console = listing_console()
    several = f"{found.checkpoints} checkpoint{'s' * (found.checkpoints != 1)}"
    console.print(
        f"{several} of a {found.family} model with {_count(found.parameters)} parameters; "
        f"each fed {found.sequences:,} inputs ({found.tokens:,} tokens), {found.batch} a batch"
    )
    if found.download:
        console.print(f"to download: {_bytes(found.download)} at most")
    console.print()
    table = Table(box=None, pad_edge=False)
    for column in ("each checkpoint", "operations", "seconds here"):
        table.add_column(column, justify="left" if column.startswith("each") else "right")
    if found.elsewhere:
        table.add_column(f"on {found.elsewhere['name']}", justify="right")
    for name, operations in (
        ("load", None),
        ("forward", found.forward),
        ("watching", found.watching),
        ("readings", found.reading),
        ("checkpoint", None),
        ("all", None),
    ):
        table.add_row(
            "whole series" if name == "all" else {"checkpoint": "together"}.get(name, name),
            "" if operations is None else f"{_count(operations)}FLOP",
            _time(found.here[name]),
            *([] if found.elsewhere is None else [_time(found.elsewhere[name])]),
        )
    console.print(table)
    console.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("memory")
    table.add_column("", justify="right")
    for name, size in found.memory.items():
        table.add_row("peak, libraries included" if name == "peak" else name, _bytes(size))
    console.print(table)
    for cost in sorted(found.costs, key=lambda c: -c.memory)[:1]:
        if cost.site:
            console.print(
                f"statistics at most {_bytes(cost.memory)} a site ({cost.site}); "
                f"{sum(bool(c.site) for c in found.costs)} sites",
            )
    if found.elsewhere is not None:
        fits = "fits" if found.elsewhere["fits"] else "does not fit"
        console.print(
            Text(
                f"{found.elsewhere['name']}: by its data sheet, at 40 % of its peak, readings on "
                f"this machine; {fits} in its {_bytes(found.elsewhere['memory'])}"
            )
        )


def _count(number: float) -> str:
    for suffix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:,.1f} {suffix}"
    return f"{number:,.0f} "


def _bytes(size: float) -> str:
    for suffix, unit in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= unit:
            return f"{size / unit:,.1f} {suffix}"
    return f"{size / 1024:,.1f} KiB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:,.2f} s" if seconds < 10 else f"{seconds:,.0f} s"
    hours, minutes = divmod(seconds / 60, 60)
    if hours >= 100:
        return f"{hours / 24:,.0f} days"
    return (
        f"{hours:,.0f} h {minutes:02.0f} min"
        if hours
        else f"{minutes:.0f} min {seconds % 60:02.0f} s"
    )


__all__: list[Any] = ["plan"]
