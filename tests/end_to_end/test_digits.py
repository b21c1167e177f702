"""Networks trained on digits until their classes collapse, by the script that a user runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geoprobe
from scripts import train_digits as script
from tests.probes import plain_collapse

FACTORY = "scripts.train_digits:mlp"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two are many times slower on networks so small where another process runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sets() -> dict[str, Any]:
    train, heldout = script.digits()
    return {"train": train, "heldout": heldout, "tail": script.long_tailed(train)}


def _value(run: Any, label: str, measure: str, data: str = "train", **keys: str) -> float:
    rows = run.readings.filter(
        checkpoint=label, site="penultimate", measure=measure, data=data, labels="given", **keys
    )
    return float(rows["value"][0])


def test_the_mlp_ends_in_the_frame_that_its_class_sizes_predict(
    sets: dict[str, Any], tmp_path: Path
) -> None:
    train = sets["tail"]
    model = script.train_mlp(
        train.x, train.y, steps=1024, checkpoints=(0, 40, 1024), out=tmp_path / "mlp"
    )
    run = geoprobe.measure(
        tmp_path / "mlp",
        factory=FACTORY,
        probes=("collapse",),
        data={name: tuple(sets[key]) for name, key in (("train", "tail"), ("held", "heldout"))},
        weight_decay_w=script.WEIGHT_DECAY_W,
        weight_decay_h=script.WEIGHT_DECAY_H,
    )
    last = "step-1024"
    # The least class has fewer samples than the threshold, and vanishes.
    imbalance = [f for f in run.findings if f["kind"] == "imbalance" and f["checkpoint"] == last]
    assert [f["collapsed"] for f in imbalance] == [[9]]
    assert _value(run, last, "gof_distance", of="means") < 0.05
    assert _value(run, last, "gof_distance", of="rows") < 0.02
    assert _value(run, "step-0000", "gof_distance", of="means") > 0.5
    assert _value(run, last, "nc2_etf") > 0.2
    # Collapse is of what was trained on.
    assert _value(run, last, "nc1") < 0.01 < _value(run, last, "nc1", data="held")
    onset = [f for f in run.findings if f["kind"] == "onset" and f["data"] == "train"]
    assert [(f["start"], f["end"]) for f in onset] == [("step-0000", "step-0040")]
    x, y = script.features_of(model, train.x), train.y
    expected = plain_collapse.layer(x, y)
    for measure in ("nc1_quotient", "cdnv", "nc2_etf", "nc2_equiangular"):
        assert _value(run, last, measure) == pytest.approx(expected[measure], rel=1e-3), measure
    weight = model.get_submodule("classifier").weight.detach().double().numpy()
    for measure, value in plain_collapse.head(x, y, weight).items():
        assert _value(run, last, measure) == pytest.approx(value, rel=1e-3), measure


def test_the_vit_collapses_by_cross_entropy(sets: dict[str, Any], tmp_path: Path) -> None:
    train = sets["train"]
    model = script.train_vit(
        train.x, train.y, steps=320, checkpoints=(0, 320), out=tmp_path / "vit"
    )
    run = geoprobe.measure(tmp_path / "vit", probes=("collapse",), data=(train.x, train.y))
    for measure in ("nc1", "cdnv", "nc2_etf", "nc3_duality", "nc4_mismatch"):
        before, after = (_value(run, f"step-0{n}", measure, "data") for n in ("000", "320"))
        assert after < 0.8 * before, measure
    x = script.features_of(model, train.x)
    expected = plain_collapse.layer(x, train.y)
    head = model.classifier
    weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
    expected |= plain_collapse.head(x, train.y, weight, bias)
    for measure in ("nc1_quotient", "cdnv", "nc2_etf", "nc3_duality", "nc4_mismatch"):
        found = _value(run, "step-0320", measure, "data")
        assert found == pytest.approx(expected[measure], rel=2e-3, abs=1e-9), measure


def test_the_long_tail_is_long_and_the_split_is_even(sets: dict[str, Any]) -> None:
    counts = sets["tail"].counts
    assert (np.diff(counts) < 0).all()
    assert counts[-1] <= 0.06 * counts[0]
    shares = sets["train"].counts / (sets["train"].counts + sets["heldout"].counts)
    assert np.ptp(shares) < 0.01
