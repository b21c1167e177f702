"""What a checkpoint's name says."""

from __future__ import annotations

import pytest

from geoprobe.models.naming import is_conventional, is_temporary, numbers_in

NAMES = [
    ("checkpoint-500", {"step": 500}),
    ("checkpoint_500", {"step": 500}),
    ("checkpoint-10000step", {"step": 10_000}),
    ("step512", {"step": 512}),
    ("step0", {"step": 0}),
    ("stage1-step140000-tokens294B", {"stage": 1, "step": 140_000, "tokens": 294 * 10**9}),
    ("step150-tokens1B", {"step": 150, "tokens": 10**9}),
    ("stage2-ingredient3-step11931-tokens50B", {"stage": 2, "step": 11_931, "tokens": 50 * 10**9}),
    ("step-001000-2BT", {"step": 1000, "tokens": 2 * 10**9}),
    ("step1000-tokens2T", {"step": 1000, "tokens": 2 * 10**12}),
    ("step1000-tokens500M", {"step": 1000, "tokens": 500 * 10**6}),
    ("tokens2.5B", {"tokens": 2_500_000_000}),
    ("20B-tokens", {"tokens": 20 * 10**9}),
    ("epoch_3", {"epoch": 3}),
    ("epoch=3-step=1200", {"epoch": 3, "step": 1200}),
    ("epoch_0.5", {"epoch": 0.5}),
    ("checkpoint-epoch-4", {"epoch": 4}),
    ("global_step250", {"step": 250}),
    ("iter_0001000", {"step": 1000}),
    ("step-100k", {"step": 100_000}),
    ("step1000-unsharded", {"step": 1000}),
    ("Pythia-70m-step512", {"step": 512}),
    ("llama-7b-step1000", {"step": 1000}),
    ("000500", {"step": 500}),
    ("tmp-checkpoint-500", {"step": 500}),
    ("checkpoint-500.tmp", {"step": 500}),
    ("timestep5", {}),
    ("llama-7b", {}),
    ("final", {}),
    ("2_Dense", {}),
]


@pytest.mark.parametrize(("name", "expected"), NAMES, ids=[n for n, _ in NAMES])
def test_a_name_is_read_by_its_convention(name: str, expected: dict[str, float]) -> None:
    numbers = numbers_in(name)
    found = {f: getattr(numbers, f) for f in ("stage", "step", "tokens", "epoch")}
    assert {f: v for f, v in found.items() if v is not None} == expected
    assert all(isinstance(v, int) for f, v in found.items() if v is not None and v != 0.5)


def test_only_a_name_that_is_all_numbers_is_conventional() -> None:
    yes = ("checkpoint-500", "checkpoint-10000step", "stage1-step140000-tokens294B", "epoch_3")
    no = ("eval-step512", "step512-samples", "7", "final", "runs")
    assert all(map(is_conventional, yes))
    assert not any(map(is_conventional, no))


def test_names_of_saves_under_way() -> None:
    assert all(map(is_temporary, ("tmp-checkpoint-5", "checkpoint-5.tmp", "step5.incomplete")))
    assert not any(map(is_temporary, ("checkpoint-5", "template-5", "temperature")))
