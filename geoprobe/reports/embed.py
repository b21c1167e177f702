"""Data inside a page: compact, compressed, and safe whatever text it holds.

A page's data is one document of JSON and behind it a blob of numbers, compressed together. A table
of few rows is in the JSON as it is. A table of many is in the blob, by column and as differences
from the row before that is of the same thing: of a series of checkpoints those are small.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Whole = NDArray[np.int64]

MOST_EXACT = 60_000
"""Readings above which they are embedded with some significant digits instead of all."""
DIGITS = ((250_000, 6, 3), (10**12, 4, 2))
"""Up to so many readings, the digits of values and of standard errors."""
MOST_PLAIN = 4_000
"""Rows above which a chart's table is in the blob."""
TRIED = 5_000
"""Rows by which it is first tried whether the blob makes a table smaller."""
LEVEL = 6
"""Of compression; 9 takes several times as long for one part in fifty."""
CHART_DIGITS, CHART_ERROR_DIGITS = 6, 3
"""Of a chart's numbers in the blob; tooltips show one fewer of values."""
_COURSE = ("run", "checkpoint", "index", "stage", "step", "training_tokens", "epoch", "x")
_OF_ROWS = (*_COURSE, "n", "reason")
"""Columns that change from checkpoint to checkpoint; all others say what a row is of."""
_NULL = 1000
"""Stands for the exponent of a number that is not there."""


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
        levels, codes = _coded(column)
        places = pl.Series(codes - 1)
        found[name] = {"levels": levels, "codes": places.replace(-1, None).to_list()}
    return {"rows": frame.height, "columns": found}


def digits_of(readings: int) -> tuple[int, int] | None:
    """Significant digits of values and standard errors of so many readings; None is all."""
    if readings <= MOST_EXACT:
        return None
    return next((value, error) for most, value, error in DIGITS if readings <= most)


def readings_columns(frame: pl.DataFrame, blob: Blob) -> dict[str, Any]:
    """The table of readings for the page: exact where they are few, in the blob where many."""
    digits = digits_of(frame.height)
    if digits is not None:
        return dense(frame, blob, dict(zip(("value", "stderr"), digits, strict=True)))
    coded = columns(frame.drop("value", "stderr").cast({pl.Float64: pl.String}))
    exact = columns(frame.select("value", "stderr"))
    for name, dtype in frame.schema.items():
        if dtype == pl.Float64 and name in coded["columns"]:
            levels = coded["columns"][name]["levels"]
            coded["columns"][name]["levels"] = [float(level) for level in levels]
    merged = {**coded["columns"], **exact["columns"]}
    return {"rows": frame.height, "columns": {name: merged[name] for name in frame.columns}}


def chart_columns(frame: pl.DataFrame, blob: Blob, readings: int) -> dict[str, Any]:
    """The table of a chart: where it has many rows, in the blob if it is smaller there."""
    if frame.height <= MOST_PLAIN:
        return columns(frame)
    digits = min(CHART_DIGITS, (digits_of(readings) or (CHART_DIGITS,))[0])
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float() and name != "x"]
    given = {name: CHART_ERROR_DIGITS if name == "stderr" else digits for name in floats}
    saved = _saved(frame.head(TRIED), given)
    if 0.7 < saved < 1.4:  # too close to tell
        saved = _saved(frame, given, LEVEL)
    return dense(frame, blob, given) if saved > 1 else columns(frame)


def _saved(frame: pl.DataFrame, digits: Mapping[str, int], level: int = 1) -> float:
    """How many times as large a table is when it is not in the blob."""
    alone = Blob()
    plain = packed(columns(frame), level=level)
    return len(plain) / len(packed(dense(frame, alone, digits), alone, level))


class Blob:
    """Whole numbers as bytes; the lowest of all come first, then the next, which compress apart."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, numbers: Whole) -> list[int]:
        """Adds numbers of any sign, and says where: `[first byte, bytes a number]`."""
        folded = np.where(numbers >= 0, 2 * numbers, -2 * numbers - 1).astype(np.uint64)
        most = int(folded.max(initial=0))
        width = max(1, (most.bit_length() + 7) // 8)
        at = self._size
        for place in range(width):
            part = ((folded >> np.uint64(8 * place)) & np.uint64(255)).astype(np.uint8).tobytes()
            self._parts.append(part)
            self._size += len(part)
        return [at, width]

    def bytes(self) -> bytes:
        """Everything that was added."""
        return b"".join(self._parts)


def dense(frame: pl.DataFrame, blob: Blob, digits: Mapping[str, int]) -> dict[str, Any]:
    """A table in the blob.

    `what` numbers what rows are of; columns of it have a code for each number (0 is null), columns
    of rows a code each, less the one before that is of the same; numbers of some digits are a whole
    number times a power of ten, both less those before.

    Args:
        frame: The table.
        blob: Where to put it.
        digits: Significant digits of the columns that are numbers.
    """
    of = [name for name in frame.columns if name not in digits and name not in _OF_ROWS]
    what, kinds = _numbered(frame, of)
    before = _before(what)
    found: dict[str, Any] = {}
    for name in frame.columns:
        if name in digits:
            values = frame[name].cast(pl.Float64).to_numpy()
            whole, power = _decimal(values, digits[name])
            found[name] = {
                "whole": blob.add(whole - _expected(whole, power, before)),
                "power": blob.add(power - np.where(before < 0, 0, power[before])),
            }
        elif name in of:
            levels, codes = _coded(kinds[name])
            found[name] = {"levels": levels, "of": blob.add(codes)}
        else:
            levels, codes = _coded(frame[name])
            change = codes - np.where(before < 0, 0, codes[before])
            found[name] = {"levels": levels, "row": blob.add(change)}
    steps = blob.add(np.diff(what, prepend=0))
    return {"rows": frame.height, "kinds": kinds.height, "what": steps, "columns": found}


def _numbered(frame: pl.DataFrame, names: list[str]) -> tuple[Whole, pl.DataFrame]:
    """What each row is of, numbered as it comes, and what the numbers are."""
    if not names:
        return np.zeros(frame.height, dtype=np.int64), pl.DataFrame({"": [0]})
    groups = frame.with_row_index("row ").group_by(names, maintain_order=True).agg("row ")
    rows = groups.select("row ").with_row_index("what").explode("row ").sort("row ")
    return rows["what"].to_numpy().astype(np.int64), groups.drop("row ")


def _before(what: Whole) -> Whole:
    """The last row before each that is of the same; -1 where there is none."""
    order = np.argsort(what, kind="stable")
    same = np.flatnonzero(what[order][1:] == what[order][:-1])
    found = np.full(len(what), -1, dtype=np.int64)
    found[order[same + 1]] = order[same]
    return found


def _coded(column: pl.Series) -> tuple[list[Any], Whole]:
    """Levels, and for each row the place of its own, from 1; 0 is null."""
    levels = column.drop_nulls().unique(maintain_order=True)
    if levels.is_empty():
        return [], np.zeros(len(column), dtype=np.int64)
    codes = column.replace_strict(
        levels, np.arange(1, len(levels) + 1), default=0, return_dtype=pl.Int64
    )
    return levels.to_list(), codes.fill_null(0).to_numpy()


def _decimal(values: NDArray[np.float64], digits: int) -> tuple[Whole, Whole]:
    """Each value as a whole number of some digits, and the power of ten that it is times."""
    there = np.isfinite(values)
    size = np.abs(np.where(there, values, 0.0))
    power = np.floor(np.log10(np.where(size > 0, size, 1.0))).astype(np.int64) - digits + 1
    # Halves keep every power of ten that a division needs within what a double can hold.
    half = power // 2
    whole = np.rint(np.where(there, values, 0.0) / 10.0**half / 10.0 ** (power - half))
    carried = np.abs(whole) >= 10**digits
    whole = np.where(carried, np.sign(whole) * 10 ** (digits - 1), whole).astype(np.int64)
    power = np.where(size > 0, power + carried, 0)
    return whole, np.where(there, power, _NULL)


def _expected(whole: Whole, power: Whole, before: Whole) -> Whole:
    """The whole number before, at this power where it is one more or one less."""
    last, step = whole[before], power[before] - power
    guess = np.where(step == 1, last * 10, np.where(step == -1, np.floor(last / 10 + 0.5), 0))
    return np.where(before < 0, 0, np.where(step == 0, last, guess)).astype(np.int64)


def packed(document: Any, blob: Blob | None = None, level: int = LEVEL) -> str:
    """A document as base64 of gzip of JSON: no character that means anything in HTML.

    In front of the JSON is its length in 4 bytes, the lowest first, and behind it the blob.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    data = len(data).to_bytes(4, "little") + data + (b"" if blob is None else blob.bytes())
    return base64.b64encode(gzip.compress(data, level, mtime=0)).decode()


def unpacked(text: str) -> Any:
    """The inverse of `packed`, with tables from the blob as `columns` gives them."""
    data = gzip.decompress(base64.b64decode(text))
    size = int.from_bytes(data[:4], "little")
    document, blob = json.loads(data[4 : 4 + size]), data[4 + size :]
    for name, table in (document.get("tables", {}) if isinstance(document, dict) else {}).items():
        if "what" in table:
            document["tables"][name] = _sparse(table, blob)
    return document


def _sparse(table: Mapping[str, Any], blob: bytes) -> dict[str, Any]:
    """A table from the blob, as the page's script reads it, too."""
    rows = table["rows"]
    what = np.cumsum(_read(blob, table["what"], rows)).tolist()
    found: dict[str, Any] = {}
    for name, column in table["columns"].items():
        if "whole" in column:
            found[name] = {"values": list(_numbers(column, blob, what))}
            continue
        if "of" in column:
            codes = _read(blob, column["of"], table["kinds"]).tolist()
            own: Iterable[int] = (codes[kind] for kind in what)
        else:
            own = _summed(_read(blob, column["row"], rows).tolist(), what)
        found[name] = {"levels": column["levels"], "codes": [c - 1 if c else None for c in own]}
    return {"rows": rows, "columns": found}


def _read(blob: bytes, where: list[int], count: int) -> Whole:
    at, width = where
    parts = np.frombuffer(blob, np.uint8, count * width, at).reshape(width, count).astype(np.int64)
    folded = sum(part << (8 * place) for place, part in enumerate(parts))
    return np.where(folded % 2 == 0, folded // 2, -(folded + 1) // 2)


def _summed(changes: Iterable[int], what: list[int]) -> Iterable[int]:
    last: dict[int, int] = {}
    for change, kind in zip(changes, what, strict=True):
        last[kind] = last.get(kind, 0) + change
        yield last[kind]


def _numbers(column: Mapping[str, Any], blob: bytes, what: list[int]) -> Iterable[float | None]:
    powers = list(_summed(_read(blob, column["power"], len(what)).tolist(), what))
    changes = _read(blob, column["whole"], len(what)).tolist()
    last: dict[int, tuple[int, int]] = {}
    for change, power, kind in zip(changes, powers, what, strict=True):
        whole, step = change, 0
        if kind in last:
            step = last[kind][1] - power
            before = last[kind][0]
            whole += {0: before, 1: before * 10, -1: int(np.floor(before / 10 + 0.5))}.get(step, 0)
        last[kind] = (whole, power)
        yield None if power == _NULL else float(f"{whole}e{power}")


def packed_text(text: str) -> str:
    """A text as base64 of gzip."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def script_hash(script: str) -> str:
    """A script's source expression for a content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
