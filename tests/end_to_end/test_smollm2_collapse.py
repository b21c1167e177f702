"""SmolLM2-135M's collapse of next tokens and of labelled text, against plain hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import geoprobe
from geoprobe.data.corpus import build_corpus
from tests.probes import plain, plain_collapse
from tests.smollm2 import loaded

pytestmark = pytest.mark.xdist_group("smollm2")

SEQUENCES, LENGTH, LEAST = 20, 64, 8


def test_next_tokens() -> None:
    model, tokenizer = loaded()
    run = geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        probes=["collapse"],
        sequences=SEQUENCES,
        length=LENGTH,
        min_count=LEAST,
    )
    corpus = build_corpus(tokenizer, None, sequences=SEQUENCES, length=LENGTH)
    documents = [[int(t) for t in corpus.sequence(i)] for i in range(len(corpus))]
    states = plain.hidden_states(model, documents)
    for site in ("block.5", "final"):
        x, y, _ = plain_collapse.next_tokens(states[site], documents, LEAST)
        expected = plain_collapse.layer(x, y)
        if site == "final":
            weight = model.lm_head.weight.detach().double().numpy()[np.unique(y)]
            expected |= plain_collapse.head(x, y, weight)
        rows = run.readings.filter(site=site, labels="given")
        for row in rows.iter_rows(named=True):
            if row["measure"] in expected and row.get("of") in (None, "means"):
                assert row["value"] == pytest.approx(expected[row["measure"]], rel=2e-3), row
                assert row["n"] == len(x)
    # A trained model's means are told apart by more than chance, and its rows lie along them.
    final = run.readings.filter(site="final")
    for measure in ("cdnv", "nc3_duality", "nc4_mismatch"):
        given, null = (
            final.filter(measure=measure, labels=labels)["value"][0]
            for labels in ("given", "permuted")
        )
        assert given < 0.9 * null, measure


def test_labelled_text(tmp_path: Any) -> None:
    """Questions and statements: no classifier answers in these classes."""
    import json

    model, tokenizer = loaded()
    cities = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Quito"]
    texts = [f"Where is {c}?" for c in cities] + [f"They live in {c}." for c in cities]
    labels = ["question"] * 8 + ["statement"] * 8
    path = tmp_path / "some.jsonl"
    path.write_text(
        "".join(
            json.dumps({"text": t, "label": label}) + "\n"
            for t, label in zip(texts, labels, strict=True)
        )
    )
    run = geoprobe.measure(
        model=model, tokenizer=tokenizer, probes=["collapse"], data=str(path), layers="3,20"
    )
    documents = [list(map(int, tokenizer(t)["input_ids"])) for t in texts]
    states = plain.hidden_states(model, documents)
    for site in ("block.3", "block.20", "final"):
        x, _ = plain.choose(states[site], "last")
        expected = plain_collapse.layer(x, np.array(labels))["nc1_quotient"]
        found = run.readings.filter(site=site, measure="nc1_quotient", labels="given")
        assert found["value"][0] == pytest.approx(expected, rel=1e-3)
    absent = run.readings.filter(measure="nc4_mismatch")
    assert absent["value"][0] is None
    assert "not what the model predicts" in absent["reason"][0]
