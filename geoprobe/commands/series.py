"""`geoprobe series`: what would be measured, in order, with sizes; loads nothing."""

from __future__ import annotations

import typer

from geoprobe.commands import options as o


def series(
    series: o.SeriesArgument,
    pattern: o.Pattern = None,
    every: o.Every = 1,
    log_spaced: o.LogSpaced = None,
    last: o.Last = None,
    json: o.Json = False,
) -> None:
    """List the checkpoints of a series in the order in which they would be measured."""
    from geoprobe.models.series import find_series

    found = find_series(series, pattern=pattern, every=every, log_spaced=log_spaced, last=last)
    if json:
        import json as json_module

        rows = [
            {
                "label": c.label,
                "path": str(c.path),
                "kind": c.kind,
                "stage": c.stage,
                "step": c.step,
                "tokens": c.tokens,
                "epoch": c.epoch,
                "size_bytes": c.size_bytes,
                "incomplete": c.incomplete,
            }
            for c in found.checkpoints
        ]
        document = {
            "schema": "geoprobe.series/1",
            "checkpoints": rows,
            "skipped": [{"label": label, "message": message} for label, message in found.skipped],
        }
        typer.echo(json_module.dumps(document, indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("checkpoint", overflow="fold")
    numbers = ("stage", "step", "tokens", "epoch")
    columns = [n for n in numbers if any(getattr(c, n) is not None for c in found.checkpoints)]
    for name in (*columns, "size"):
        table.add_column(name, justify="right")
    if any(c.incomplete for c in found.checkpoints):
        table.add_column("cannot be measured", overflow="fold")
    for i, c in enumerate(found.checkpoints):
        table.add_row(
            str(i),
            Text(c.label),
            *("" if (v := getattr(c, name)) is None else f"{v:,}" for name in columns),
            f"{c.size_bytes / 1e6:,.1f} MB",
            Text(c.incomplete or ""),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no edge to break lines at
    console.print(table)
    count = len(found.checkpoints)
    total = sum(c.size_bytes for c in found.checkpoints)
    console.print(f"{count} checkpoint{'s' if count > 1 else ''}, {total / 1e6:,.1f} MB")
    for label, message in found.skipped:
        console.print(Text(f"skipped {label}: {message}"))
