"""Readings as a table: one row a reading, one column a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from polars.datatypes import DataTypeClass

_BEFORE: dict[str, DataTypeClass] = {
    "checkpoint": pl.String,
    "index": pl.Int64,
    "stage": pl.Int64,
    "step": pl.Int64,
    "training_tokens": pl.Float64,
    "epoch": pl.Float64,
    "probe": pl.String,
    "measure": pl.String,
    "site": pl.String,
}
_AFTER: dict[str, DataTypeClass] = {
    "value": pl.Float64,
    "stderr": pl.Float64,
    "n": pl.Int64,
    "convention": pl.String,
    "reason": pl.String,
}
_FIRST_KEYS: dict[str, DataTypeClass] = {"tokens": pl.String, "sinks": pl.String, "k": pl.Int64}
"""Keys whose columns are always there, in this order, before those of other probes; and what they
are where no reading has them, so that tables of several runs fit together."""


def readings_frame(
    rows: Sequence[tuple[int, Mapping[str, Any], Mapping[str, Any]]],
) -> pl.DataFrame:
    """The table of readings.

    Args:
        rows: Place of the checkpoint, its entry, and the reading as JSON, each.

    Returns:
        One row a reading; see `Run.readings` for the columns.
    """
    names = list(dict.fromkeys(name for _, _, r in rows for name in r["keys"]))
    keys = [*_FIRST_KEYS, *(name for name in names if name not in _FIRST_KEYS)]
    columns: dict[str, list[Any]] = {
        "checkpoint": [r["checkpoint"] for _, _, r in rows],
        "index": [index for index, _, _ in rows],
        "stage": [entry.get("stage") for _, entry, _ in rows],
        "step": [entry.get("step") for _, entry, _ in rows],
        "training_tokens": [entry.get("tokens") for _, entry, _ in rows],
        "epoch": [entry.get("epoch") for _, entry, _ in rows],
        **{name: [r[name] for _, _, r in rows] for name in ("probe", "measure", "site")},
        **{name: [r["keys"].get(name) for _, _, r in rows] for name in keys},
        **{name: [r[name] for _, _, r in rows] for name in _AFTER},
    }
    types = {name: _key_type(name, columns[name]) for name in keys}
    for name in keys:
        if types[name] is pl.String:
            columns[name] = [None if key is None else str(key) for key in columns[name]]
    return pl.DataFrame(columns, schema={**_BEFORE, **types, **_AFTER}, strict=False)


def _key_type(name: str, values: Sequence[Any]) -> DataTypeClass:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return _FIRST_KEYS.get(name, pl.String)
    if kinds == {int}:
        return pl.Int64
    return pl.Float64 if kinds <= {int, float} else pl.String
