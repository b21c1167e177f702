"""Data inside a page: compact, compressed, and safe whatever text it holds."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

import polars as pl

MOST_EXACT = 100_000
"""Rows above which standard errors are embedded with 5 significant digits instead of all."""


def columns(frame: pl.DataFrame) -> dict[str, Any]:
    """A table by column: texts and whole numbers as levels and codes, floats as they are.

    `{"rows": n, "columns": {name: {"levels": [...], "codes": [...]} or {"values": [...]}}}`; a null
    is null in both.
    """
    found: dict[str, Any] = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype in (pl.Float64, pl.Float32):
            found[name] = {"values": column.to_list()}
            continue
        levels = column.drop_nulls().unique(maintain_order=True).to_list()
        place = {level: code for code, level in enumerate(levels)}
        found[name] = {
            "levels": levels,
            "codes": [None if value is None else place[value] for value in column.to_list()],
        }
    return {"rows": frame.height, "columns": found}


def readings_columns(frame: pl.DataFrame) -> dict[str, Any]:
    """The table of readings for the page; values are exact, floats that repeat are coded."""
    if frame.height > MOST_EXACT:
        frame = frame.with_columns(pl.col("stderr").round_sig_figs(5))
    coded = columns(frame.drop("value", "stderr").cast({pl.Float64: pl.String}))
    exact = columns(frame.select("value", "stderr"))
    for name, dtype in frame.schema.items():
        if dtype == pl.Float64 and name in coded["columns"]:
            levels = coded["columns"][name]["levels"]
            coded["columns"][name]["levels"] = [float(level) for level in levels]
    order = [name for name in frame.columns if name not in ("value", "stderr")]
    place = order.index("n") if "n" in order else len(order)
    merged = {**coded["columns"], **exact["columns"]}
    names = [*order[:place], "value", "stderr", *order[place:]]
    return {"rows": frame.height, "columns": {name: merged[name] for name in names}}


def packed(document: Any) -> str:
    """A document as base64 of gzip of JSON: no character that means anything in HTML."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def unpacked(text: str) -> Any:
    """The inverse of `packed`."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def script_hash(script: str) -> str:
    """A script's source expression for a content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
