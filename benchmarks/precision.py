"""What a model in bfloat16 does to every reading, statistics being float64 either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.machine import Line, smollm2_file


def run() -> list[Line]:
    """Two models in both precisions, each measure at its worst site.

    The demo's weights are in bfloat16 on disk, so that only the arithmetic differs; SmolLM2's are
    rounded as well, and it has massive activations.
    """
    from geoprobe.data.demo_series import demo_folder, demo_text_path

    lines = []
    for model, series, options in (
        (
            "demo",
            Path(demo_folder()),
            {"text": str(demo_text_path()), "sequences": 256, "select": {"last": 1}},
        ),
        ("SmolLM2", smollm2_file(), {"sequences": 64, "length": 64}),
    ):
        lines += _lines(model, str(series), {"tokens": ["last", "all"], **options})
    return lines


def _lines(model: str, series: str, options: dict[str, Any]) -> list[Line]:
    import polars as pl

    import geoprobe

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
            pl.col("site", "tokens", "value", "value_half").first(),
        )
        .sort("measure")
    )
    return [
        Line(
            f"{model}: {row['measure']}",
            f"{100 * row['relative']:.2f} %",
            "",
            f"{row['value']:.5g} became {row['value_half']:.5g} at {row['site']}, {row['tokens']}"
            + (
                ""
                if row["errors"] is None
                else f"; at most {row['errors']:.2f} standard errors at any site"
            ),
        )
        for row in worst.iter_rows(named=True)
    ]
