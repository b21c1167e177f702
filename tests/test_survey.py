"""The loop over checkpoints where something runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import geoprobe
from geoprobe import survey
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_when_memory_runs_out_the_batches_become_smaller_and_the_readings_stay(
    error: Exception, tiny_series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"text": tiny_text(40), "tokens": ["last", "all"]}
    whole = geoprobe.measure(tiny_series, batch_size=16, **options).readings
    run, sizes, notes = survey.Capture.run, [], []

    def short_of_memory(self: Any, inputs: Any, *args: Any, **named: Any) -> None:
        run(self, inputs, *args, **named)
        if not args[2:]:  # no edits: a measuring pass, and its work is done
            sizes.append(len(inputs["input_ids"]))
            if sizes[-1] > 5:
                raise error

    class Notes:
        def checkpoint(self, *_: object) -> None: ...

        def batches(self, *_: object) -> None: ...

        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr(survey.Capture, "run", short_of_memory)
    found = geoprobe.measure(tiny_series, batch_size=16, progress=Notes(), **options).readings
    assert notes == [f"Memory ran out; going on with {n} sequences a batch." for n in (8, 4)]
    assert max(sizes[2:]) == 4, "the next checkpoints begin with what fits"
    same = ["checkpoint", "measure", "site", "tokens", "k", "convention"]
    both = whole.join(found, on=same, nulls_equal=True)
    assert len(both) == len(whole)
    apart = (both["value"] - both["value_right"]).abs() / both["value"].abs()
    # In float32 a batch of another size rounds otherwise; neighbours feel it most.
    assert apart.filter(~both["measure"].str.starts_with("intrinsic")).max() < 1e-4
    assert both.select(pl.col("n") == pl.col("n_right")).to_series().all()


def test_a_live_module_is_measured_in_smaller_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"model": tiny_model("llama"), "tokenizer": tiny_tokenizer()}
    options |= {"text": tiny_text(40)}
    whole = geoprobe.measure(**options, batch_size=16).readings
    run, sizes = survey.Capture.run, []

    def short_of_memory(self: Any, inputs: Any, *args: Any, **named: Any) -> None:
        if not args[2:]:
            sizes.append(len(inputs["input_ids"]))
            if sizes[-1] > 5:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        run(self, inputs, *args, **named)

    monkeypatch.setattr(survey.Capture, "run", short_of_memory)
    found = geoprobe.measure(**options, batch_size=16).readings
    assert max(sizes[-3:]) == 4
    assert found.select("measure", "site", "n").equals(whole.select("measure", "site", "n"))


def test_memory_that_is_short_of_one_sequence_is_said(
    tiny_series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(survey, "measure_model", none)
    run = geoprobe.measure(tiny_series, batch_size=2, text=tiny_text(40))
    assert not run.labels
    assert all("memory ran out on single sequences" in str(f) for f in run.failed.values())


def test_another_error_is_not_taken_for_a_lack_of_memory(
    tiny_series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(survey, "measure_model", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        geoprobe.measure(tiny_series, text=tiny_text(40))
