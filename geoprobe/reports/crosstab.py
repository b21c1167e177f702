"""Readings as a table of two dimensions: which reading stands in which cell.

A reading has many dimensions: checkpoint, site, measure, convention and its keys. Two of them are
the rows and the columns; each of the others must have one value in every column, the one that was
asked for or the one that is looked at first. Where that leaves a choice it is the reader's, and the
sentence names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from geoprobe.errors import UsageError
from geoprobe.measures.registry import cards

if TYPE_CHECKING:
    from geoprobe.runs.folder import Run

MAIN: Mapping[str, tuple[str, ...]] = {
    "spectrum": ("rankme", "alpha", "alpha_r2", "participation_ratio"),
    "sinks": ("sink_rate", "primary_norm"),
    "collapse": ("nc1", "nc2_etf", "nc3_duality", "nc4_mismatch"),
    "features": ("effective_features", "psi", "l0", "explained_variance"),
    "superposition": ("dimensionality", "interference", "coherence", "privileged_basis"),
    "relations": ("known", "accuracy", "accuracy_drop", "perplexity"),
}
"""The measures of a probe that a table shows when none is named; of other probes the first four."""
_FIRST: Mapping[str, tuple[str, ...]] = {
    "site": ("penultimate", "final", "model", "unembedding", "embedding"),
    "tokens": ("last", "mean", "all", "first"),
    "sinks": ("in",),
    "position": ("0",),
    "text": ("natural",),
    "seed": ("mean",),
    "labels": ("given", "true"),
    "activations": ("given",),
    "basis": ("given",),
    "rows": ("given",),
    "module": ("all",),
    "deactivated": ("none",),
}
"""What is looked at first where a dimension is not fixed; never a null in the place of a value."""
_FIRST_OF_PROBE: Mapping[tuple[str, str], tuple[str, ...]] = {("features", "sinks"): ("out",)}
_NOT_KEYS = (
    *("checkpoint", "index", "stage", "step", "training_tokens", "epoch", "probe", "measure"),
    *("site", "value", "stderr", "n", "convention", "reason"),
)
_MOST_NAMED = 8


@dataclass(frozen=True)
class Asked:
    """What a table is to show.

    Attributes:
        rows: Dimension of the rows: `checkpoint`, `site`, `measure` or a key. None: checkpoints of
            a series, sites of a single checkpoint, else the first key that varies.
        columns: Dimension of the columns. None: measures, and where those are the rows what would
            have been the rows.
        measures: Names of measures; none stands for the main ones.
        where: Dimension -> the values that are kept. Measures without such a key are not touched.
    """

    rows: str | None = None
    columns: str | None = None
    measures: tuple[str, ...] = ()
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Crosstab:
    """A table of readings.

    Attributes:
        rows: Dimension of the rows.
        columns: Dimension of the columns.
        row_names: In order.
        column_names: In order.
        cells: (row, column) -> the reading, as a row of `Run.readings`.
        fixed: Column -> the other dimensions and the value that they have in it.
    """

    rows: str
    columns: str
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    cells: Mapping[tuple[str, str], Mapping[str, Any]]
    fixed: Mapping[str, Mapping[str, str]]

    @property
    def measures(self) -> list[str]:
        """Measures in it, in order."""
        if self.columns == "measure":
            return list(self.column_names)
        return list(dict.fromkeys(cell["measure"] for cell in self.cells.values()))


class _AmbiguousError(UsageError):
    """A cell would hold more than one reading."""


def crosstab(run: Run, asked: Asked) -> Crosstab:
    """Finds the reading of every cell.

    Args:
        run: The run.
        asked: Rows, columns, and what is fixed.

    Returns:
        The table. A cell without a reading is absent from `cells`.

    Raises:
        UsageError: There is no such dimension, measure or value, or a cell would hold several
            readings; the sentence says what to fix, and its values.
    """
    frame = _as_text(run.readings)
    if frame.is_empty():
        raise UsageError(f"{run.path} has no readings: no checkpoint has been measured yet.")
    _check_dimensions(frame, asked)
    kept = _where(frame, asked.where)
    rows, columns = _axes(kept, asked)
    measures = _named(kept, asked.measures) if asked.measures else _main(kept, rows, columns)
    chosen: list[pl.DataFrame] = []
    there: list[pl.DataFrame] = []
    ambiguous: _AmbiguousError | None = None
    for measure in measures:
        mine = kept.filter(
            pl.col("measure") == measure,
            *(pl.col(axis).is_not_null() for axis in (rows, columns)),
        )
        if mine.is_empty():
            raise UsageError(f"{measure} has no readings by {rows} and {columns}.")
        try:
            chosen.append(_settle(mine, rows, columns))
            there.append(mine)
        except _AmbiguousError as error:
            if asked.measures:
                raise
            ambiguous = ambiguous or error  # of those that nobody asked for, the clear ones
    if ambiguous is not None and not chosen:
        raise ambiguous
    names = {axis: _names(pl.concat(there), axis, run.sites, measures) for axis in (rows, columns)}
    return _table(pl.concat(chosen), rows, columns, names)


def _as_text(readings: pl.DataFrame) -> pl.DataFrame:
    """Readings whose keys are texts, as they are typed on a command line."""
    keys = [name for name in readings.columns if name not in _NOT_KEYS]
    return readings.with_columns(pl.col(keys).cast(pl.String))


def dimensions(frame: pl.DataFrame) -> list[str]:
    """Dimensions of the readings: those that all have, then the keys that any has."""
    keys = [n for n in frame.columns if n not in _NOT_KEYS and frame[n].is_not_null().any()]
    return ["checkpoint", "site", "measure", "convention", *keys]


def _check_dimensions(frame: pl.DataFrame, asked: Asked) -> None:
    known = dimensions(frame)
    for option, name in (("--rows", asked.rows), ("--columns", asked.columns)):
        if name is not None and name not in known:
            raise UsageError(f"{option} {name}: not a dimension of this run ({', '.join(known)}).")
    if asked.rows is not None and asked.rows == asked.columns:
        raise UsageError(f"--rows {asked.rows} and --columns {asked.columns}: give two dimensions.")
    for name in asked.where:
        if name not in known:
            raise UsageError(
                f"--where {name}=...: the readings have no such key (there are {', '.join(known)})."
            )


def _where(frame: pl.DataFrame, where: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Readings with the values that are asked for; measures without a key stay as they are."""
    for name, values in where.items():
        known = frame[name].drop_nulls().unique(maintain_order=True).to_list()
        for value in values:
            if value not in known:
                raise UsageError(
                    f"{_option(name, value)}: no reading has it; {name} is {_listed(known)}."
                )
        has_key = pl.col(name).is_not_null().any().over("probe", "measure")
        frame = frame.filter(pl.col(name).is_in(list(values)) | ~has_key)
    if frame.is_empty():
        raise UsageError("No reading has all of the values that are asked for together.")
    return frame


def _axes(frame: pl.DataFrame, asked: Asked) -> tuple[str, str]:
    """Dimensions of the rows and the columns: the first that vary, where they are not asked for."""
    first = frame.filter(pl.col("measure") == frame["measure"][0])
    keys = [name for name in dimensions(first) if name not in ("measure", "convention")]
    vary = [name for name in ("checkpoint", "site") if frame[name].n_unique() > 1]
    vary += [name for name in keys if first[name].n_unique() > 1]
    usual = vary[0] if vary else "checkpoint"
    rows = asked.rows or (usual if asked.columns != usual else "measure")
    if asked.columns is not None:
        return rows, asked.columns
    return rows, usual if rows == "measure" else "measure"


def _named(frame: pl.DataFrame, measures: Sequence[str]) -> list[str]:
    known = frame["measure"].unique(maintain_order=True).to_list()
    for name in measures:
        if name not in known:
            raise UsageError(
                f"--measures {name}: not in this run, or not with what is fixed; there are "
                f"{', '.join(known)}."
            )
    return list(dict.fromkeys(measures))


def _main(frame: pl.DataFrame, rows: str, columns: str) -> list[str]:
    """The main measures of the run's probes; by site those of the first probe that has several.

    Only those that have the dimensions of the table.
    """
    axes = {rows, columns} - {"measure"}
    found: list[str] = []
    for probe in frame["probe"].unique(maintain_order=True):
        mine = frame.filter(pl.col("probe") == probe)
        known = mine["measure"].unique(maintain_order=True).to_list()
        for measure in MAIN.get(probe, tuple(known[:4])):
            its = mine.filter(pl.col("measure") == measure)
            if its.is_empty() or any(its[axis].is_null().any() for axis in axes):
                continue
            if "site" in axes and its["site"].n_unique() == 1 < frame["site"].n_unique():
                continue
            found.append(measure)
        if found and "site" in axes:
            break
    if not found:
        raise UsageError(
            f"None of the main measures has several values of {' and '.join(sorted(axes))}; name "
            f"some with --measures: {', '.join(frame['measure'].unique(maintain_order=True))}."
        )
    return found if "measure" in (rows, columns) else found[:1]


def _settle(frame: pl.DataFrame, rows: str, columns: str) -> pl.DataFrame:
    """The readings of one measure that are looked at first: one for each cell.

    Raises:
        _AmbiguousError: There is more than one for a cell, or a column would mix several.
    """
    measure, probe = frame["measure"][0], frame["probe"][0]
    others = [name for name in dimensions(frame) if name not in (rows, columns, "measure")]
    for name in others:
        frame = _first(frame, name, measure, probe, rows)
    unclear = [name for name in others if frame[name].n_unique() > 1]
    if unclear:
        fixes = [
            f"{name} ({_listed(frame[name].drop_nulls().unique(maintain_order=True).to_list())})"
            for name in unclear
        ]
        values = frame[unclear[0]].drop_nulls()
        raise _AmbiguousError(
            f"{measure}: a cell would hold more than one reading; fix {'; '.join(fixes)}, as in "
            f"{_option(unclear[0], values[0])}, or make one of them --rows or --columns."
        )
    return frame


def _first(frame: pl.DataFrame, name: str, measure: str, probe: str, rows: str) -> pl.DataFrame:
    """Readings with the value of a dimension that is looked at first, where there is one."""
    values = frame[name].unique(maintain_order=True).to_list()
    if len(values) < 2:
        return frame
    preferred: Sequence[str] = _FIRST_OF_PROBE.get((probe, name), _FIRST.get(name, ()))
    if name == "checkpoint":
        newest = frame.filter(pl.col("index") == pl.col("index").max())
        preferred = [newest["checkpoint"][0]]
    elif name == "convention":
        card = cards().get(measure)
        preferred = list(card.conventions) if card is not None else []
    elif name == "data":
        preferred = values[:1]  # of named sets the first, as elsewhere
    elif name == "site":
        preferred = [*preferred, [v for v in values if v is not None][-1]]
    for value in preferred:
        if value in values:
            return frame.filter(pl.col(name) == value)
    if None in values:
        # A reading without the key is of the whole; it may stand for those of the parts only
        # where no row is lost by it.
        whole = frame.filter(pl.col(name).is_null())
        if set(whole[rows]) == set(frame[rows]):
            return whole
    return frame


def _table(
    found: pl.DataFrame, rows: str, columns: str, names: Mapping[str, Sequence[str]]
) -> Crosstab:
    cells = {(str(r[rows]), str(r[columns])): r for r in found.iter_rows(named=True)}
    others = [name for name in dimensions(found) if name not in (rows, columns, "measure")]
    fixed = {}
    for column in names[columns]:
        its = found.filter(pl.col(columns) == column)
        values = {name: its[name].drop_nulls().unique().to_list() for name in others}
        fixed[column] = {name: v[0] for name, v in values.items() if len(v) == 1}
    return Crosstab(rows, columns, tuple(names[rows]), tuple(names[columns]), cells, fixed)


def _names(
    frame: pl.DataFrame, axis: str, sites: Sequence[str], measures: Sequence[str]
) -> list[str]:
    """Values of a dimension in order, of all readings: a row that has none of them is shown too."""
    if axis == "checkpoint":
        return [str(v) for v in frame.sort("index")["checkpoint"].unique(maintain_order=True)]
    known = set(frame[axis])
    if axis in ("site", "measure"):
        return [v for v in (sites if axis == "site" else measures) if v in known]
    return _in_order(frame[axis])


def _in_order(values: pl.Series) -> list[str]:
    """Values of a key as they come; numbers by size."""
    found = [str(v) for v in values.unique(maintain_order=True)]
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def _option(name: str, value: str) -> str:
    """How a value is fixed on the command line."""
    return f"--{name} {value}" if name in ("site", "checkpoint") else f"--where {name}={value}"


def _listed(values: Sequence[str]) -> str:
    more = len(values) - _MOST_NAMED
    return ", ".join(values[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
