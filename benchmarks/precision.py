"""What a model in bfloat16 does to every reading, statistics being float64 either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.machine import Line

SEQUENCES = 256


def run() -> list[Line]:
    """The demo series' last checkpoint in both precisions, each measure at its worst site.

    Its weights are in bfloat16 on disk, so that only the arithmetic differs.
    """
    import polars as pl

    import geoprobe
    from geoprobe.data.demo_series import demo_folder, demo_text_path

    options: dict[str, Any] = {
        "text": str(demo_text_path()),
        "sequences": SEQUENCES,
        "tokens": ["last", "all"],
        "select": {"last": 1},
    }
    series = str(Path(demo_folder()))
    exact, half = (
        geoprobe.measure(series, dtype=dtype, **options).readings.filter(
            pl.col("value").is_not_null()
        )
        for dtype in ("float32", "bfloat16")
    )
    both = exact.join(
        half, on=["measure", "site", "tokens", "k", "convention"], suffix="_half", nulls_equal=True
    )
    moved = (pl.col("value_half") - pl.col("value")).abs()
    worst = (
        both.with_columns(relative=moved / pl.col("value").abs(), errors=moved / pl.col("stderr"))
        .sort("relative", descending=True, nulls_last=True)
        .group_by("measure", maintain_order=True)
        .agg(
            pl.col("relative").first(),
            pl.col("errors").max(),
            pl.col("site").first(),
            pl.col("value").first(),
            pl.col("value_half").first(),
        )
        .sort("measure")
    )
    return [
        Line(
            str(row["measure"]),
            f"{100 * row['relative']:.2f} %",
            "",
            f"{row['value']:.5g} became {row['value_half']:.5g} at {row['site']}; at most "
            + ("no" if row["errors"] is None else f"{row['errors']:.2f}")
            + " standard errors at any site",
        )
        for row in worst.iter_rows(named=True)
    ]
