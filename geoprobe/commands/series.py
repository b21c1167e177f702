"""`geoprobe series`: what would be measured, in order, with sizes; loads nothing."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING

import typer

from geoprobe.commands import options as o
from geoprobe.commands.console import listing_console

if TYPE_CHECKING:
    from geoprobe.models.series import Checkpoint


def series(
    series: o.SeriesArgument,
    pattern: o.Pattern = None,
    every: o.Every = 1,
    log_spaced: o.LogSpaced = None,
    last: o.Last = None,
    revisions: o.Revisions = None,
    base: o.Base = None,
    json: o.Json = False,
) -> None:
    """List the checkpoints of a series in the order in which they would be measured."""
    given = dict(locals())
    from geoprobe.models.series import find_series, to_download

    found = find_series(series, **o.which(given))
    missing = _missing(found.checkpoints[-1])
    if json:
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
                "commit": None if c.remote is None else c.remote.commit,
                "download_bytes": 0 if c.remote is None else sum(n for _, n in c.remote.absent),
            }
            for c in found.checkpoints
        ]
        document = {
            "schema": "geoprobe.series/1",
            "checkpoints": rows,
            "skipped": [{"label": label, "message": message} for label, message in found.skipped],
            "missing": missing,
        }
        typer.echo(json_module.dumps(document, indent=1))
        return
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
    console = listing_console()
    console.print(table)
    count = len(found.checkpoints)
    total = sum(c.size_bytes for c in found.checkpoints)
    console.print(f"{count} checkpoint{'s' if count > 1 else ''}, {total / 1e6:,.1f} MB")
    if (download := to_download(found.checkpoints)) is not None:
        console.print(download)
    for label, message in found.skipped:
        console.print(Text(f"skipped {label}: {message}"))
    for sentence in missing:
        console.print(Text(sentence), soft_wrap=True)


def _missing(newest: Checkpoint) -> list[str]:
    """What `rank` would stop at, as far as the newest checkpoint's file names and config tell."""
    from geoprobe.models.families import FAMILIES
    from geoprobe.models.weights import TOKENIZER_FILES, shown

    if newest.kind == "gguf" or (newest.remote is not None and newest.remote.absent):
        return []  # both are inside the file, or still on the hub
    found = []
    family = _family(newest)
    if family is not None and family not in FAMILIES:
        found.append(
            f"Models of type {shown(family)!r} ({newest.label}) are not supported; supported are "
            f"{', '.join(FAMILIES)}."
        )
    folders = [newest.path, newest.path.absolute().parent]
    if newest.base is not None:
        folders += [newest.base.path, newest.base.path.parent]
    if not any((folder / name).is_file() for folder in folders for name in TOKENIZER_FILES):
        found.append(
            f"There is no tokenizer in {shown(newest.path)} or the folder above it; give its "
            "folder to `geoprobe rank` with --tokenizer FOLDER."
        )
    return found


def _family(checkpoint: Checkpoint) -> str | None:
    """`model_type` of config.json; None where there is none to be read."""
    try:
        config = json_module.loads((checkpoint.model_folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # the column of what cannot be measured says so
    family = config.get("model_type") if isinstance(config, dict) else None
    return None if family is None else str(family)
