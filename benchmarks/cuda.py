"""What an accelerator changes: readings against the processor's, and times on a large model.

Prints nothing to compare where there is no CUDA device. The large model has random weights: speed
and memory do not depend on them.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.machine import Line
from benchmarks.scan import scanned

LENGTH = 128
SEQUENCES = 1024
LARGE = {
    "vocab_size": 32_000,
    "hidden_size": 2_048,
    "intermediate_size": 5_632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
"""The shape of TinyLlama-1.1B."""


def run() -> list[Line]:
    """Agreement on the demo series, then time and memory of a scan of 1.1 B parameters."""
    if not torch.cuda.is_available():
        return [Line("readings on CUDA", "not run", "", "this machine has no CUDA device")]
    name = torch.cuda.get_device_name(0)
    return [Line("device", name), *agreement("cuda"), *against_a_baseline("cuda"), *large("cuda")]


def agreement(device: str) -> list[Line]:
    """Each measure at its worst reading, the demo's first, a middle and its last checkpoint."""
    import polars as pl

    from geoprobe.probes.registry import ONE_PASS

    lines = []
    for dtype in ("float32", "bfloat16"):
        here, there = (
            _measured(where, probes=ONE_PASS, tokens=["last", "all"], dtype=dtype)
            for where in ("cpu", device)
        )
        keys = [c for c in here.columns if c not in ("value", "stderr", "n", "reason")]
        both = here.join(there, on=keys, suffix="_there", nulls_equal=True)
        assert both.height == here.height == there.height, (here.height, there.height)
        lost = both.filter(pl.col("value").is_null() != pl.col("value_there").is_null())
        moved = (pl.col("value_there") - pl.col("value")).abs()
        found = both.with_columns(
            relative=moved / pl.col("value").abs(), errors=moved / pl.col("stderr")
        ).filter(pl.col("relative").is_finite())
        worst = found.sort("relative", descending=True).group_by("measure", maintain_order=True)
        rows = list(worst.first().head(5).iter_rows(named=True))
        told = ", ".join(f"{r['measure']} {r['relative']:.1e} at {r['site']}" for r in rows)
        errors = found.filter(pl.col("errors").is_finite())["errors"].max()
        lines.append(
            Line(
                f"{dtype}: largest difference from the processor's",
                f"{rows[0]['relative']:.1e}",
                "",
                f"{both.height} readings, {lost.height} with a value on one alone; at most "
                f"{errors:.2g} standard errors; {told}",
            )
        )
    return lines


def _measured(device: str, **options: Any) -> Any:
    import geoprobe

    found = geoprobe.measure("demo", device=device, sequences=256, select={"every": 6}, **options)
    assert not found.failed, found.failed
    return found.readings


def against_a_baseline(device: str) -> list[Line]:
    """A check of the same checkpoint on the device, against the processor's baseline."""
    import tempfile
    from pathlib import Path

    import geoprobe
    from geoprobe.data.demo_series import demo_folder

    series = str(demo_folder())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "baseline.json"
        given: dict[str, Any] = {"select": {"last": 1}, "sequences": 256, "baseline": file}
        geoprobe.check(series, update=True, device="cpu", **given)
        lines = []
        for dtype in ("float32", "bfloat16"):
            found = geoprobe.check(series, device=device, dtype=dtype, **given).verdict
            assert found is not None
            worst = found.changes[0]
            lines.append(
                Line(
                    f"check against the processor's float32, {dtype}",
                    f"exit {found.exit_code}",
                    "exit 0",
                    f"{len(found.of('moved'))} moved, {len(found.of('failed'))} failed; "
                    f"{worst.measure} at {worst.site} {worst.why}; {' '.join(found.problems)}",
                )
            )
    return lines


def large(device: str) -> list[Line]:
    """Scans of 1.1 B parameters in bfloat16, with batches as chosen and larger ones."""
    import transformers

    where = torch.device(device)
    with where:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**LARGE)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.eval().requires_grad_(False)
    lines = []
    for size in (32, 128):
        torch.cuda.reset_peak_memory_stats()
        found = scanned(model, _drawn(), size, where)
        gib = torch.cuda.max_memory_allocated() / 2**30
        each, finishing = (
            ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found[what].items())
            for what in ("each", "finishing")
        )
        lines.append(
            Line(
                f"scan of 1.1 B in batches of {size} x {LENGTH}: watching",
                f"{found['watching']:.2f} x",
                "",
                f"of the bare pass ({found['bare']:.2f} s; {each}); a batch {found['spread']}, "
                f"median {found['median']:.2f}; readings {found['readings']:.1f} s ({finishing}); "
                f"weights {found['weights']:.1f} s; peak {gib:.1f} GiB",
            )
        )
    return lines


def _drawn() -> Any:
    from geoprobe.data.corpus import Corpus

    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, LARGE["vocab_size"], (SEQUENCES, LENGTH), generator=draw).numpy()
    return Corpus.from_ids(list(ids), pad_id=0, source="drawn")
