"""The two sides of a check: readings with what is needed to compare them, from a run or a file.

A baseline is one JSON file meant for git: sorted, one reading a line, no times and no paths. Each
reading keeps its value without each jackknife group, so that a check on the same text tests the
differences of pairs, and what other numerics alone did to it when the baseline was made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError
from geoprobe.runs.files import write_whole

if TYPE_CHECKING:
    from geoprobe.runs.folder import Run
    from geoprobe.runs.reading import Key

SCHEMA = "geoprobe.baseline/1"
NUMERICS, HALF = "numerics", "half_precision"
"""What a floor was measured by: another batch size and order of sums, or half precision."""

_DIGITS = 10
"""Significant digits of replicates: far finer than any difference that counts."""


@dataclass(frozen=True, order=True)
class Name:
    """What identifies a reading within a checkpoint.

    Attributes:
        probe: Of the reading.
        measure: Of the reading.
        site: Of the reading.
        convention: Of the reading.
        keys: Of the reading, as JSON with sorted keys.
    """

    probe: str
    measure: str
    site: str
    convention: str
    keys: str

    @property
    def key_values(self) -> dict[str, Key]:
        """The keys."""
        found: dict[str, Key] = json.loads(self.keys)
        return found


@dataclass(frozen=True)
class Kept:
    """What is kept of a reading.

    Attributes:
        value: Its value, or None.
        stderr: Its standard error, or None.
        n: Samples behind it.
        reason: Why one of them is missing.
        replicates: The value without each jackknife group; NaN where there is none.
        floors: What was changed to how much it moved.
    """

    value: float | None
    stderr: float | None = None
    n: int = 0
    reason: str = ""
    replicates: tuple[float, ...] = ()
    floors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One side of a check.

    Attributes:
        header: `label`, `fingerprint`, `model`, `corpus`, `environment`, `options`.
        readings: What was measured.
    """

    header: Mapping[str, Any]
    readings: Mapping[Name, Kept]

    def with_floors(self, what: str, moved: Mapping[Name, float]) -> Side:
        """The same, with how much something moved the readings."""
        return Side(
            self.header,
            {
                name: replace(kept, floors={**kept.floors, what: moved[name]})
                if name in moved
                else kept
                for name, kept in self.readings.items()
            },
        )

    def has_floors(self, what: str) -> bool:
        """Whether any reading knows how much something moves it."""
        return any(what in kept.floors for kept in self.readings.values())


def side_of(run: Run, label: str | None = None) -> Side:
    """A checkpoint of a run, the newest one where none is named.

    Raises:
        UsageError: The run has no such checkpoint, or none at all.
    """
    if not run.labels:
        raise UsageError(f"{run.path} has no readings; measure again.")
    label = label or run.labels[-1]
    entry = next(c for c in run.checkpoints if c["label"] == label)
    header = {
        "label": label,
        "fingerprint": entry.get("fingerprint"),
        "model": entry.get("model"),
        "corpus": {**run.header["corpus"], "fingerprint": entry.get("corpus")},
        "environment": run.header["environment"],
        "options": {k: v for k, v in run.header["options"].items() if k != "batch_size"},
    }
    kept = {
        name_of(reading.to_json()): Kept(
            reading.value, reading.stderr, reading.n, reading.reason, reading.replicates
        )
        for reading in run.measured(label)
    }
    return Side(header, kept)


def name_of(reading: Mapping[str, Any]) -> Name:
    """What identifies a reading that is given as JSON."""
    probe, measure, site, convention = (
        str(reading[part]) for part in ("probe", "measure", "site", "convention")
    )
    return Name(probe, measure, site, convention, json.dumps(reading["keys"], sort_keys=True))


def write_baseline(path: Path, side: Side) -> None:
    """Writes a side as a baseline: beside its place, then renamed into it.

    Raises:
        UsageError: It cannot be written.
    """
    lines = []
    for name in sorted(side.readings):
        kept = side.readings[name]
        row: dict[str, Any] = {
            **{p: getattr(name, p) for p in ("probe", "measure", "site", "convention")},
            "keys": name.key_values,
            "value": kept.value,
            "stderr": kept.stderr,
            "n": kept.n,
        }
        if kept.reason:
            row["reason"] = kept.reason
        if kept.replicates:
            row["replicates"] = [_short(x) for x in kept.replicates]
        if kept.floors:
            row["floors"] = {k: float(f"{v:.3g}") for k, v in sorted(kept.floors.items())}
        lines.append("  " + json.dumps(row, allow_nan=False, ensure_ascii=True))
    head = json.dumps({"schema": SCHEMA, **side.header}, indent=1, sort_keys=True)
    text = head[:-2] + ',\n "readings": [\n' + ",\n".join(lines) + "\n ]\n}\n"
    write_whole(path, text, parents=True)


def _short(number: float) -> float | None:
    return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None


def read_baseline(path: Path) -> Side:
    """Reads a baseline.

    Raises:
        UsageError: It is missing, or is no baseline.
    """
    where = f"--baseline {path}"
    if not path.is_file():
        raise UsageError(
            f"{where}: there is no such file; make it with the same command and --update."
        )
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{where} cannot be read ({error}); make it anew with --update."
        ) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(
            f"{where} is no {SCHEMA} file; give the file that geoprobe check --update wrote."
        )
    try:
        header = {name: found[name] for name in _HEADER}
        if not all(isinstance(header[name], dict) for name in ("corpus", "environment", "options")):
            raise TypeError
        readings = {_name(row): _kept(row) for row in found["readings"]}
        if len(readings) < len(found["readings"]):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{where} is damaged ({type(error).__name__}); make it anew with --update."
        ) from error
    return Side(header, readings)


_HEADER = ("label", "fingerprint", "model", "corpus", "environment", "options")


def _name(row: Mapping[str, Any]) -> Name:
    for part in ("probe", "measure", "site", "convention"):
        if not isinstance(row[part], str):
            raise TypeError
    if not isinstance(row["keys"], dict):
        raise TypeError
    return name_of(row)


def _kept(row: Mapping[str, Any]) -> Kept:
    replicates = tuple(math.nan if x is None else _number(x) for x in row.get("replicates", ()))
    floors = {str(k): abs(_number(v)) for k, v in row.get("floors", {}).items()}
    value, stderr = (None if row[p] is None else _number(row[p]) for p in ("value", "stderr"))
    if not isinstance(row["n"], int):
        raise TypeError
    return Kept(value, stderr, row["n"], str(row.get("reason", "")), replicates, floors)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)
