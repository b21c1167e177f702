"""Readings as a table: one row a reading, one column a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, repeat
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from polars.datatypes import DataTypeClass

_PLACE: dict[str, DataTypeClass] = {
    "checkpoint": pl.String,
    "index": pl.Int64,
    "stage": pl.Int64,
    "step": pl.Int64,
    "training_tokens": pl.Float64,
    "epoch": pl.Float64,
}
_WHAT: dict[str, DataTypeClass] = {"probe": pl.String, "measure": pl.String, "site": pl.String}
_NUMBERS: dict[str, DataTypeClass] = {"value": pl.Float64, "stderr": pl.Float64, "n": pl.Int64}
_HOW: dict[str, DataTypeClass] = {"convention": pl.String, "reason": pl.String}
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
    kinds, before = _Kinds(), list[int]()
    places: list[tuple[str, int, Mapping[str, Any]]] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("place", "kind", *_NUMBERS)}
    for (label, index, _), group in groupby(rows, _of_checkpoint):
        some = list(group)
        here = [reading for _, _, reading in some]
        columns["place"] += [len(places)] * len(here)
        places.append((label, index, some[0][1]))
        before = kinds.codes(here, before)
        columns["kind"] += before
        for name in _NUMBERS:
            columns[name] += [reading[name] for reading in here]
    place, kind = columns.pop("place"), columns.pop("kind")
    what = kinds.frame()
    whole = pl.concat(
        [
            _place_frame(places)[place],
            what[kind],
            pl.DataFrame(columns, schema=_NUMBERS, strict=False),
        ],
        how="horizontal",
    )
    keys = [name for name in what.columns if name not in (*_WHAT, *_HOW)]
    return whole.select(*_PLACE, *_WHAT, *keys, *_NUMBERS, *_HOW)


def _of_checkpoint(row: tuple[int, Mapping[str, Any], Mapping[str, Any]]) -> tuple[str, int, int]:
    index, entry, reading = row
    return reading["checkpoint"], index, id(entry)


def _place_frame(places: Sequence[tuple[str, int, Mapping[str, Any]]]) -> pl.DataFrame:
    """Where in the series checkpoints are."""
    columns: dict[str, list[Any]] = {
        "checkpoint": [label for label, _, _ in places],
        "index": [index for _, index, _ in places],
        "stage": [entry.get("stage") for _, _, entry in places],
        "step": [entry.get("step") for _, _, entry in places],
        "training_tokens": [entry.get("tokens") for _, _, entry in places],
        "epoch": [entry.get("epoch") for _, _, entry in places],
    }
    return pl.DataFrame(columns, schema=_PLACE, strict=False)


class _Kinds:
    """What readings are of, all but their numbers, numbered as it comes."""

    def __init__(self) -> None:
        self._codes: dict[tuple[Any, ...], int] = {}
        self._first: list[Mapping[str, Any]] = []

    def codes(self, readings: Sequence[Mapping[str, Any]], before: Sequence[int]) -> list[int]:
        """The number of each reading of a checkpoint.

        Args:
            readings: Its readings.
            before: Numbers of the one before, which has mostly the same, in the same order: to
                compare is faster than to look up.
        """
        first, guesses = self._first, [*before, *repeat(-1, len(readings) - len(before))]
        return [
            guess if guess >= 0 and _same(reading, first[guess]) else self._code(reading)
            for reading, guess in zip(readings, guesses, strict=False)
        ]

    def _code(self, reading: Mapping[str, Any]) -> int:
        found = self._codes.setdefault(_what(reading), len(self._first))
        if found == len(self._first):
            self._first.append(reading)
        return found

    def frame(self) -> pl.DataFrame:
        """A row for each number."""
        first = self._first
        names = list(dict.fromkeys(name for r in first for name in r["keys"]))
        keys = [*_FIRST_KEYS, *(name for name in names if name not in _FIRST_KEYS)]
        columns: dict[str, list[Any]] = {
            **{name: [r[name] for r in first] for name in (*_WHAT, *_HOW)},
            **{name: [r["keys"].get(name) for r in first] for name in keys},
        }
        types = {name: _key_type(name, columns[name]) for name in keys}
        for name in keys:
            if types[name] is pl.String:
                columns[name] = [None if key is None else str(key) for key in columns[name]]
        return pl.DataFrame(columns, schema={**_WHAT, **_HOW, **types}, strict=False)


def _what(reading: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = reading["keys"]
    types = map(type, keys.values())  # 1, 1.0 and True are the same to a dictionary
    return *(reading[name] for name in (*_WHAT, *_HOW)), *keys, *keys.values(), *types


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether `_what` is the same of both, faster."""
    keys, others = one["keys"], other["keys"]
    return (
        keys == others
        and one["site"] == other["site"]
        and one["measure"] == other["measure"]
        and one["probe"] == other["probe"]
        and one["convention"] == other["convention"]
        and one["reason"] == other["reason"]
        and [*map(type, keys.values())] == [*map(type, others.values())]
    )


def _key_type(name: str, values: Sequence[Any]) -> DataTypeClass:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return _FIRST_KEYS.get(name, pl.String)
    if kinds == {int}:
        return pl.Int64
    return pl.Float64 if kinds <= {int, float} else pl.String
