"""Readings as a table: one row a reading, one column a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import itemgetter
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
    checkpoints: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> pl.DataFrame:
    """The table of readings.

    Args:
        checkpoints: In the order of the series; of each its entry, and its readings as JSON.

    Returns:
        One row a reading; see `Run.readings` for the columns.
    """
    kinds, before = _Kinds(), list[int]()
    place, kind = list[int](), list[int]()
    columns: dict[str, list[Any]] = {name: [] for name in _NUMBERS}
    for index, (_, here) in enumerate(checkpoints):
        place += [index] * len(here)
        before = kinds.codes(here, before)
        kind += before
        for name, column in columns.items():
            column += [reading[name] for reading in here]
    what = kinds.frame()
    whole = pl.concat(
        [
            _place_frame([entry for entry, _ in checkpoints])[place],
            what[kind],
            pl.DataFrame(columns, schema=_NUMBERS, strict=False),
        ],
        how="horizontal",
    )
    keys = [name for name in what.columns if name not in (*_WHAT, *_HOW)]
    return whole.select(*_PLACE, *_WHAT, *keys, *_NUMBERS, *_HOW)


def _place_frame(entries: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Where in the series checkpoints are."""
    columns: dict[str, list[Any]] = {
        "checkpoint": [entry["label"] for entry in entries],
        "index": list(range(len(entries))),
        "stage": [entry.get("stage") for entry in entries],
        "step": [entry.get("step") for entry in entries],
        "training_tokens": [entry.get("tokens") for entry in entries],
        "epoch": [entry.get("epoch") for entry in entries],
    }
    return pl.DataFrame(columns, schema=_PLACE, strict=False)


class _Kinds:
    """What readings are of, all but their numbers, numbered as it comes."""

    def __init__(self) -> None:
        self._codes: dict[tuple[Any, ...], int] = {}
        self._first: list[Mapping[str, Any]] = []
        self._alike: list[tuple[Any, Any, Any]] = []

    def codes(self, readings: Sequence[Mapping[str, Any]], before: Sequence[int]) -> list[int]:
        """The number of each reading of a checkpoint.

        Args:
            readings: Its readings.
            before: Numbers of the one before, which has mostly the same, in the same order: to
                compare is faster than to look up.
        """
        guesses = [*before, *repeat(-1, len(readings) - len(before))]
        alike = self._alike
        return [
            guess if guess >= 0 and _parts(reading) == alike[guess] else self._code(reading)
            for reading, guess in zip(readings, guesses, strict=False)
        ]

    def _code(self, reading: Mapping[str, Any]) -> int:
        fixed, keys, types = _parts(reading)
        what = (fixed, *keys, *keys.values(), *types)
        found = self._codes.setdefault(what, len(self._first))
        if found == len(self._first):
            self._first.append(reading)
            self._alike.append((fixed, keys, types))
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


_fixed = itemgetter(*_WHAT, *_HOW)


def _parts(reading: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """What a reading is of; 1, 1.0 and True are the same to a dictionary."""
    keys = reading["keys"]
    return _fixed(reading), keys, [*map(type, keys.values())]


def _key_type(name: str, values: Sequence[Any]) -> DataTypeClass:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return _FIRST_KEYS.get(name, pl.String)
    if kinds == {int}:
        return pl.Int64
    return pl.Float64 if kinds <= {int, float} else pl.String
