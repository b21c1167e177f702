"""The check's two errors on the demo series, in small; `make bench-check` has them in full."""

from __future__ import annotations

import pytest

from benchmarks import check as bench


@pytest.fixture(scope="module")
def demo() -> bench.Bench:
    return bench.Bench()


def test_the_same_model_does_not_fail(demo: bench.Bench) -> None:
    found = bench.alarms(demo, samples=2, repeats=60)
    for unpaired, verdicts in found.items():
        failed = [verdict for verdict in verdicts if verdict.exit_code]
        assert not failed, (unpaired, [v.changes[0] for v in failed[:3]])
        assert len(verdicts) == 60
        assert all(len(verdict.changes) > 600 for verdict in verdicts)


def test_what_moves_is_caught(demo: bench.Bench) -> None:
    found = bench.changed(
        demo,
        ("int8 weights", "fine-tuned on one sentence", "a tokenizer without its special tokens"),
    )
    assert [verdict.exit_code for verdict, _ in found.values()] == [1, 1, 3]
    assert [verdict.exit_code for _, verdict in found.values()] == [1, 1, 3]
    assert len(found["int8 weights"][0].of("failed")) > 20
