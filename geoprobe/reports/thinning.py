"""What a page leaves out where there is more than it can hold, and how it says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from geoprobe.reports.embed import digits_of
from geoprobe.reports.parts import Control, Section, Source, Tables
from geoprobe.reports.subject import thinned

MOST_READINGS = 600_000
"""Readings in a page; beyond, some are there for fewer checkpoints."""
LARGE = 1 / 20
"""Share of all readings that makes a kind of them large: those of single heads, for one."""
LADDER = ((24, 0), (12, 0), (6, 0), (6, 75), (6, 48), (6, 24), (6, 12), (6, 6), (2, 2))
"""Checkpoints of a run for which readings of large kinds are kept, and of all others, where 0 is
all: the first pair with which all fit."""
MOST_STEPPED, MOST_STEPS = 40_000, 24
"""Rows of a table that is shown a checkpoint at a time; beyond, one can step to so many."""

_AT = ["run", "index"]


@dataclass(frozen=True)
class Kept:
    """The readings that are in a page.

    Attributes:
        table: The readings.
        said: What is not there, in sentences; empty where all is.
    """

    table: pl.DataFrame
    said: str = ""


def kept_readings(readings: pl.DataFrame, keys: Sequence[str]) -> Kept:
    """All readings where a page can hold them; else fewer checkpoints of the most numerous kinds.

    Args:
        readings: The readings of a subject.
        keys: Its key columns; readings with other keys are of another kind.
    """
    table, said = readings, []
    if readings.height > MOST_READINGS:
        table, fewer = _fewer(readings, keys)
        said.append(f"{table.height:,} of {readings.height:,} readings are here; {fewer}.")
    digits = digits_of(table.height)
    if digits is not None:
        said.append(
            f"Values have {digits[0]} significant digits here, and standard errors {digits[1]}."
        )
    if not said:
        return Kept(table)
    last = "The run folder has everything; geoprobe export writes it as a table."
    return Kept(table, " ".join(["To keep this file small:", *said, last]))


def _fewer(readings: pl.DataFrame, keys: Sequence[str]) -> tuple[pl.DataFrame, str]:
    """The readings that fit, and which those are."""
    given = [pl.col(key).is_not_null().cast(pl.UInt64) * 2**i for i, key in enumerate(keys)]
    has = pl.sum_horizontal(pl.lit(0, pl.UInt64), *given)
    frame = readings.with_columns(has=has).with_columns(
        large=pl.len().over("measure", "has") >= readings.height * LARGE
    )
    many = int(frame["large"].sum())
    there = readings.select(_AT).unique(maintain_order=True)
    few, others = LADDER[-1]
    for few, others in LADDER:
        counts = [_some(there, most).height if most else there.height for most in (few, others)]
        shares = [count / there.height for count in counts]
        if many * shares[0] + (readings.height - many) * shares[1] <= MOST_READINGS:
            break
    shown = pl.lit(value=True) if not others else pl.col("others").is_not_null()
    table = (
        frame.join(_some(there, few, "few"), on=_AT, how="left", maintain_order="left")
        .join(_some(there, others or few, "others"), on=_AT, how="left", maintain_order="left")
        .filter(pl.when("large").then(pl.col("few").is_not_null()).otherwise(shown))
        .select(readings.columns)
    )
    names = frame.filter("large")["measure"].unique(maintain_order=True).to_list()
    said = [f"of {_listed(names)} those of {few} checkpoints"] * bool(names)
    said += [f"of {'others' if names else 'all'} those of {others} checkpoints"] * bool(others)
    return table, ", ".join(said)


def _some(there: pl.DataFrame, most: int, name: str = "shown") -> pl.DataFrame:
    """At most so many checkpoints of each run, evenly, the first and the last among them."""
    kept = [
        own[thinned(own.height, most)] for own in there.partition_by("run", maintain_order=True)
    ]
    return pl.concat(kept).with_columns(pl.lit(value=True).alias(name))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def fewer_steps(sections: Sequence[Section], tables: Tables) -> tuple[list[Section], Tables]:
    """Sections, and the tables behind them, with fewer checkpoints to step to where those are long.

    A table is cut only if all that is drawn of it is a checkpoint at a time; and the sections that
    draw it step to the checkpoints that are left.
    """
    long = [
        name
        for name, frame in tables.items()
        if frame.height > MOST_STEPPED
        and all(
            _steps(part) is not None and "place" in source.controls
            for part in sections
            for source in _drawn(part, name)
        )
    ]
    left: dict[str, list[Control]] = {name: [] for name in long}
    parts = []
    for section in sections:
        here, steps = [name for name in long if _drawn(section, name)], _steps(section)
        if not here or steps is None:
            parts.append(section)
            continue
        fewer = _fewer_options(steps)
        parts.append(_with_steps(section, steps, fewer))
        for name in here:
            left[name].append(fewer)
    return parts, {**tables, **{name: _at(tables[name], left[name]) for name in long}}


def _steps(section: Section) -> Control | None:
    return next((control for control in section.controls if control.name == "place"), None)


def _drawn(section: Section, table: str) -> list[Source]:
    every = [source for chart in section.charts for source in chart.sources.values()]
    return [source for source in every if source.table == table]


def _fewer_options(steps: Control) -> Control:
    kept = [steps.options[i] for i in thinned(len(steps.options), MOST_STEPS)]
    return replace(steps, options=tuple(kept))


def _with_steps(section: Section, steps: Control, fewer: Control) -> Section:
    if len(fewer.options) == len(steps.options):
        return section
    said = f" {len(fewer.options)} of {len(steps.options)} checkpoints can be stepped to."
    first, *rest = section.charts
    charts = [replace(first, caption=first.caption + said), *rest]
    controls = [fewer if control is steps else control for control in section.controls]
    return replace(section, charts=charts, controls=controls)


def _at(table: pl.DataFrame, controls: Sequence[Control]) -> pl.DataFrame:
    """The rows of a table at the checkpoints that one can step to."""
    options = [option for control in controls for option in control.options]
    places = [(run, index) for option in options for run, index in (option.at or {}).items()]
    schema = {name: table.schema[name] for name in _AT}
    wanted = pl.DataFrame(places, schema=schema, orient="row").unique()
    return table.join(wanted, on=_AT, how="semi", maintain_order="left")
