"""SmolLM2-135M's attention sinks, against eager attention and plain hidden states."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest

import geoprobe
from geoprobe.data.corpus import build_corpus
from tests.smollm2 import loaded

pytestmark = pytest.mark.xdist_group("smollm2")

SEQUENCES, LENGTH, EPS = 24, 64, 0.3


@pytest.fixture(scope="module")
def measured() -> Any:
    model, tokenizer = loaded()
    return geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        probes=["sinks"],
        sequences=SEQUENCES,
        length=LENGTH,
        probe_text=["natural", "repeat"],
    )


@pytest.fixture(scope="module")
def eager() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention to the first token (n, layers, heads, queries); norms, cosines (n, layers, t)."""
    import torch

    shared, tokenizer = loaded()
    model = copy.deepcopy(shared)  # the one that is shared keeps its attention
    model.set_attn_implementation("eager")
    corpus = build_corpus(tokenizer, None, sequences=SEQUENCES, length=LENGTH)
    firsts, norms, cosines = [], [], []
    for i in range(SEQUENCES):
        outputs: list[Any] = []
        hooks = [
            block.register_forward_hook(
                lambda *a, o=outputs: o.append(a[2][0] if isinstance(a[2], tuple) else a[2])
            )
            for block in model.model.layers
        ]
        with torch.no_grad():
            found = model(
                torch.tensor(corpus.sequence(i)[None].astype("i8")), output_attentions=True
            )
        for hook in hooks:
            hook.remove()
        firsts.append(torch.stack([a[0, :, :, 0] for a in found.attentions]).double().numpy())
        states = torch.stack([x[0] for x in outputs]).double()  # (layers, time, d)
        norms.append(states.norm(dim=-1).numpy())
        unit = states / states.norm(dim=-1, keepdim=True)
        cosines.append((unit @ unit[:, 0, :, None])[..., 0].numpy())
    return np.stack(firsts), np.stack(norms), np.stack(cosines)


def test_the_sink_rate_is_that_of_eager_attention_and_of_the_literature(
    measured: Any, eager: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    alpha = eager[0].mean(-1)
    rates = measured.readings.filter(measure="sink_rate", site="model", position=0)
    natural = rates.filter(text="natural")["value"][0]
    assert natural == pytest.approx((alpha > EPS).mean(), abs=2 / alpha.size)
    assert natural == pytest.approx(0.74, abs=0.03)
    assert rates.filter(text="repeat")["value"][0] == 0.0
    scores = measured.readings.filter(measure="sink_score", text="natural", position=0)
    for layer, head in ((0, 0), (5, 3), (18, 7), (29, 8)):
        score = scores.filter(site=f"attention.{layer}", head=head)["value"][0]
        assert score == pytest.approx(alpha[:, layer, head].mean(), abs=1e-5)
    mass = measured.readings.filter(measure="sink_mass", text="natural", set="first")
    for layer, head in ((5, 3), (18, 7)):
        value = mass.filter(site=f"attention.{layer}", head=head)["value"][0]
        assert value == pytest.approx(eager[0][:, layer, head, 1:].mean(), abs=1e-5)


def test_both_stages_are_told(
    measured: Any, eager: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    norms = eager[1]
    primary = norms[:, :, 0].mean(0)
    median = np.array([np.median(norms[:, layer, 1:]) for layer in range(30)])
    out = primary > 2 * median
    expected = [i for i in range(30) if out[i] and (i == 0 or not out[i - 1])]
    stages = [f for f in measured.findings if f["kind"] == "stage"]
    assert [s["layer_start"] for s in stages] == expected
    assert len(stages) == 2
    assert stages[0]["layer_end"] == 9
    assert stages[1]["layer_start"] == 11
    assert stages[1]["peak_norm"] > 10 * stages[0]["peak_norm"]
    assert stages[1]["peak_norm"] == pytest.approx(primary[11:].max(), rel=1e-4)
    first = next(f for f in measured.findings if f["kind"] == "primary")
    assert (first["position"], first["spans"]) == (0, [[2, 9], [11, 28]])
    massive = {f["dimension"] for f in measured.findings if f["kind"] == "massive"}
    assert len(massive) == 1, "one dimension carries it"


def test_levels_are_tokens_along_the_primary(
    measured: Any, eager: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """The modest stage has its own sinks: every ` the` that is not the primary, say."""
    levels = [f for f in measured.findings if f["kind"] == "level"]
    expected: Counter[tuple[int, int]] = Counter()
    for start, end in ((2, 9), (11, 28)):
        aligned = np.abs(eager[2][:, start:end, 1:]) > 0.9
        for sequence, position in zip(*np.nonzero(aligned.any(1)), strict=True):
            mine = aligned[sequence, :, position]
            expected[start + int(mine.argmax()), int(mine.sum())] += 1
    assert {(f["l_start"], f["lifetime"]): f["count"] for f in levels} == expected
    first = levels[0]
    assert (first["l_start"], first["lifetime"]) == (2, 7)
    assert first["tokens_text"][0] == " the"
    assert first["share"] > 0.9
    assert 0.1 < first["sink_score"] < 0.3, "less than the primary's 0.4, and much more than 1/T"


def test_the_eleventh_mlp_makes_the_massive_stage_and_the_model_needs_it() -> None:
    model, tokenizer = loaded()
    run = geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        probes=["sinks"],
        sequences=4,
        length=LENGTH,
        causal=True,
    )
    massive = {"of": "primary", "l_start": 11}
    formed, trial = (
        next(f for f in run.findings if f["kind"] == kind and massive.items() <= f.items())
        for kind in ("formation", "causal")
    )
    assert formed["first"]["layer"] == formed["most"]["layer"] == trial["layer"] == 11
    assert formed["output_along"] > 0.999
    assert trial["sink_score"]["before"] > 0.5
    assert trial["sink_score"]["change"] < -0.3
    assert trial["loss"]["change"] > 1.0
    assert abs(trial["loss"]["control"]) < 0.02
    assert abs(trial["sink_score"]["control"]) < 0.01
    level = next(f for f in run.findings if f["kind"] == "formation" and f["of"] == "level")
    assert level["cosine"]["input"] < level["cosine"]["product"] < level["cosine"]["output"]
