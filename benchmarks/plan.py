"""What `geoprobe plan` says against what `measure` then takes: time and peak memory."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.machine import Line, alone, peak, smollm2_file

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SmolLM2-135M, last tokens", {"tokens": ["last"], "sequences": 320}),
    ("SmolLM2-135M, all tokens", {"tokens": ["all"], "sequences": 320}),
    ("demo series, last tokens", {"tokens": ["last"]}),
    ("demo series, all tokens", {"tokens": ["all"]}),
)


def run() -> list[Line]:
    """Each estimate and each measurement in a process of its own."""
    lines = []
    for name, options in CASES:
        series = "demo" if name.startswith("demo") else str(smollm2_file())
        said = alone("benchmarks.plan:planned", series, options)
        was = alone("benchmarks.plan:measured", series, options)
        for what, unit in (("seconds", "s"), ("peak", "MiB")):
            lines.append(
                Line(
                    f"{name}: {what}",
                    f"{said[what] / was[what]:.2f} x",
                    "0.75 to 1.25 x",
                    f"{said[what]:,.0f} {unit} estimated, {was[what]:,.0f} {unit} measured",
                )
            )
    return lines


def planned(series: str, options: dict[str, Any]) -> dict[str, float]:
    """The estimate."""
    import geoprobe

    found = geoprobe.plan(series, **options)
    return {"seconds": found.here["all"], "peak": found.memory["peak"] / 2**20}


def measured(series: str, options: dict[str, Any]) -> dict[str, float]:
    """The same work, done."""
    import geoprobe
    import geoprobe.survey

    start = time.perf_counter()
    geoprobe.measure(series, **options)
    return {"seconds": time.perf_counter() - start, "peak": peak()}
