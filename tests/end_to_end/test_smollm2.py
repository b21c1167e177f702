"""SmolLM2-135M from its GGUF file, every reading against NumPy over single unpadded documents."""

from __future__ import annotations

import copy
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

import geoprobe
from tests.probes import plain
from tests.smollm2 import gguf_file, loaded

pytestmark = pytest.mark.xdist_group("smollm2")
CONVENTIONS = ("exact", "li2025", "garrido2023", "reptrix0.1")
LENGTH = 40


def documents() -> list[str]:
    """Prose of many lengths, some shorter than the rest of their batch."""
    texts = [" ".join(topics[name].split()) for name in sorted(topics)[:30]]
    return [text[: 20 + 6 * i] for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return geoprobe.measure(
        gguf_file(),
        out=tmp_path_factory.mktemp("smollm2") / "run",
        text=documents(),
        length=LENGTH,
        batch_size=8,
        tokens=["last", "mean", "all"],
        conventions=CONVENTIONS,
    )


@pytest.fixture(scope="module")
def states() -> dict[str, list[np.ndarray]]:
    model, tokenizer = loaded()
    ids = [tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"] for text in documents()]
    assert len({len(i) for i in ids}) > 10
    return plain.hidden_states(model, ids)


def test_all_sites_are_measured(measured: Any) -> None:
    assert measured.sites == ["embed", *(f"block.{i}" for i in range(30)), "final"]
    assert measured.labels == [gguf_file().stem]
    assert measured.failed == {}


@pytest.mark.parametrize("tokens", ["last", "mean", "all"])
def test_every_reading_equals_numpy(
    measured: Any, states: dict[str, list[np.ndarray]], tokens: str
) -> None:
    frame = measured.readings
    for site, arrays in states.items():
        rows, groups = plain.choose(arrays, tokens)
        expected = plain.spectral(rows)
        errors = plain.jackknife(rows, groups) if site in ("block.12", "final") else {}
        mine = {
            (r["measure"], r["convention"]): r
            for r in frame.filter(site=site, tokens=tokens, sinks="in").iter_rows(named=True)
        }
        for key, value in expected.items():
            reading = mine[key]
            assert reading["value"] == pytest.approx(value, rel=1e-3), (site, key)
            assert reading["n"] == len(rows)
            if key in errors:
                assert reading["stderr"] == pytest.approx(errors[key], rel=1e-2), (site, key)


def test_the_nearest_neighbour_dimension_equals_brute_force(
    measured: Any, states: dict[str, list[np.ndarray]]
) -> None:
    for site in ("embed", "block.15", "final"):
        rows, _ = plain.choose(states[site], "mean")
        gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
        np.fill_diagonal(gaps, np.inf)
        first, second = np.sort(gaps, axis=1)[:, :2].T
        log_mu = np.log(second / first)
        reading = measured.readings.filter(site=site, tokens="mean", measure="intrinsic_dim_ml")
        assert reading["value"][0] == pytest.approx((len(rows) - 1) / log_mu.sum(), rel=1e-2)


def test_phases_need_a_series_and_few_samples_are_warned_about(measured: Any) -> None:
    kinds = [finding["kind"] for finding in measured.findings]
    assert "phase" not in kinds
    assert "warning" in kinds


def test_removing_directions_costs_loss_and_keeping_ten_costs_more() -> None:
    model, tokenizer = loaded()
    run = geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        text=documents()[::3],
        length=LENGTH,
        layers="29",
        ablate=[10],
    )
    loss = {
        r["mode"]: r["value"]
        for r in run.readings.filter(measure="ablation_loss").iter_rows(named=True)
    }
    assert loss["none"] < loss["removed"] < loss["kept"]


def test_the_gguf_file_gives_the_readings_of_its_weights_saved_in_float32(
    measured: Any, tmp_path: Path
) -> None:
    import polars as pl
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = loaded()
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain_model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain_model.load_state_dict(model.state_dict())
    plain_model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    del model, plain_model
    other = geoprobe.measure(
        tmp_path / "plain",
        text=documents(),
        length=LENGTH,
        batch_size=8,
        layers="3,29",
        sites="final",
        tokens=["last", "mean", "all"],
        conventions=CONVENTIONS,
    )
    assert other.sites == ["block.3", "block.29", "final"]
    one = measured.readings.filter(pl.col("site").is_in(other.sites))
    columns = ["site", "tokens", "measure", "convention", "value", "stderr", "n", "reason"]
    assert one.select(columns).equals(other.readings.select(columns))
    assert one["value"].is_not_null().any()
