"""The sinks probe and study: planted states, and models against their eager attention."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geoprobe
from geoprobe.data.corpus import Corpus
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.layout import Layout, Tap, find_layout
from geoprobe.models.loading import Loaded
from geoprobe.probes.base import Feed, Outcome, Survey
from geoprobe.probes.sinks import (
    SinksOptions,
    SinksProbe,
    medians,
    medians_in_place,
    plan,
)
from geoprobe.survey import measure_model
from tests.conftest import tiny_text, tiny_tokenizer
from tests.tiny_families import CONFIGS, VISION, tiny_model

WIDTH = 64
CPU = torch.device("cpu")


def survey_of(depth: int, lengths: list[int]) -> Survey:
    taps = {f"block.{i}": Tap("", "output", WIDTH) for i in range(depth)}
    layout = Layout("made", depth, WIDTH, 99, None, False, False, taps, "", None, None, {})
    return Survey(layout, list(taps), np.array(lengths), 0, 1 << 30, torch.float32, CPU, CPU)


def watch(states: list[Tensor], lengths: list[int]) -> SinksProbe:
    """The probe after it has seen made states (L, batch, time, d)."""
    batch, time = states[0].shape[:2]
    probe = SinksProbe(survey_of(len(states), lengths))
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    ids = torch.arange(batch * time).reshape(batch, time) % 99
    half = batch // 2
    for rows in (slice(0, half), slice(half, batch)):
        index = np.arange(batch)[rows]
        feed = Feed({"input_ids": ids[rows]}, mask[rows].long(), index, np.array(lengths)[rows])
        for layer, x in enumerate(states):
            probe.observe(f"block.{layer}", x[rows], feed)
    return probe


def secondary(probe: SinksProbe, sequence: int) -> list[int]:
    """Positions of the secondary sinks of a sequence."""
    assert probe.found is not None
    a, b = probe.stream.offsets[sequence : sequence + 2]
    return np.flatnonzero(probe.found.secondary[a:b]).tolist()


def made(
    depth: int, primary: int, runs: list[tuple[int, int, float]], sinks: dict[tuple[int, int], Any]
) -> list[Tensor]:
    """Noise, a primary that stands out in runs of blocks, and tokens aligned with it for a while.

    Args:
        depth: Blocks.
        primary: Its position.
        runs: First block, the one behind the last, and the primary's norm.
        sinks: (sequence, position) -> (first block, the one behind the last).
    """
    draw = torch.Generator().manual_seed(5)
    direction = torch.nn.functional.normalize(torch.randn(WIDTH, generator=draw), dim=0)
    states = []
    for layer in range(depth):
        x = torch.randn(6, 20, WIDTH, generator=draw) / WIDTH**0.5
        norm = next((n for a, b, n in runs if a <= layer < b), 1.0)
        x[:, primary] = direction * norm + 0.01 * x[:, primary]
        for (sequence, position), (a, b) in sinks.items():
            if a <= layer < b:  # either sign counts
                x[sequence, position] = -direction * 0.5 * norm + 0.01 * x[sequence, position]
        states.append(x)
    return states


def test_planted_levels_two_stages_and_a_primary_behind_a_template() -> None:
    sinks = {(0, 9): (14, 20), (1, 9): (14, 20), (1, 12): (16, 19), (4, 3): (13, 20)}
    sinks |= {(5, 7): (4, 10), (2, 4): (1, 5)}  # in the modest stage, and from outside it
    sinks |= {(3, 6): (14, 20)}
    states = made(24, 2, [(3, 8, 5.0), (12, 20, 80.0)], sinks)
    probe = watch(states, [20] * 6)
    outcome = probe.finish()
    assert probe.found is not None
    assert probe.found.primary == 2
    found = [(s.start, s.end) for s in probe.found.stages]
    assert found == [(3, 8), (12, 20)]
    assert probe.found.spans == [(3, 8), (12, 20)]
    count = {level: len(tokens) for level, tokens in probe.found.members().items()}
    assert count == {(14, 6): 3, (16, 3): 1, (13, 7): 1, (4, 4): 1, (3, 2): 1}
    assert next(iter(count)) == (14, 6), "the most frequent first"
    assert secondary(probe, 1) == [9, 12]
    assert secondary(probe, 5) == [7]
    stages = [f for f in outcome.findings if f["kind"] == "stage"]
    assert [(s["layer_start"], s["layer_end"]) for s in stages] == [(3, 8), (12, 20)]
    assert stages[1]["peak_norm"] == pytest.approx(80, rel=0.01)
    norms = {r.site: r for r in outcome.readings if r.measure == "primary_norm"}
    for layer, x in enumerate(states):
        expected = np.linalg.norm(x[:, 2].double().numpy(), axis=-1).mean()
        assert norms[f"block.{layer}"].value == pytest.approx(expected, rel=1e-6)
        assert norms[f"block.{layer}"].keys == {"position": 2}


def test_a_sink_of_both_stages_is_one_sink_and_a_gap_is_no_attention() -> None:
    states = made(24, 0, [(3, 8, 5.0), (12, 20, 80.0)], {(0, 9): (0, 24)})
    noise = torch.randn(WIDTH, generator=torch.Generator().manual_seed(9))
    states[15][0, 9] = noise  # for one block it goes elsewhere
    probe = watch(states, [20] * 6)
    found = next(f for f in probe.finish().findings if f["kind"] == "primary")
    assert found["secondary"] == 1
    assert probe.found is not None
    assert list(probe.found.members()) == [(3, 5), (12, 7)]
    token = 9
    assert probe.found.attended(token, 3) == [4, 5, 6, 7, 8]
    assert probe.found.attended(token, 12) == [13, 14, 15, 17, 18, 19, 20]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lengths", [[1, 10], [1, 1, 1], [2, 2], [1, 12, 3, 3]])
def test_short_sequences_are_measured_or_have_their_reason(lengths: list[int]) -> None:
    outcome = measured(tiny_model("llama"), ids_of(lengths), probe_text=("natural", "random"))
    for reading in outcome.readings:
        assert reading.reason if reading.value is None else np.isfinite(reading.value)
    json.dumps(outcome.findings, allow_nan=False)


def test_a_primary_that_never_stands_out_has_no_sinks() -> None:
    probe = watch(made(12, 0, [], {(0, 5): (4, 9)}), [20] * 6)
    probe.finish()
    assert probe.found is not None
    assert probe.found.stages == []
    assert probe.found.spans == []
    assert not probe.found.is_sink().any()


def test_padding_and_sequences_without_the_primary_are_left_out() -> None:
    states = made(12, 2, [(4, 9, 50.0)], {(0, 5): (5, 8), (3, 1): (5, 8)})
    for x in states:
        x[3, 2:] = 1e6  # padding: whatever is there
        x[5, 10:] = 1e6
    probe = watch(states, [20, 20, 20, 2, 20, 10])
    outcome = probe.finish()
    assert probe.found is not None
    assert (probe.found.primary, probe.found.spans) == (2, [(4, 9)])
    assert [secondary(probe, i) for i in range(6)] == [[5], [], [], [], [], []]
    tops = [r.value for r in outcome.readings if r.measure == "massive_activation"]
    assert all(value is not None and value < 100 for value in tops)


def test_the_largest_activations_are_those_of_a_plain_search() -> None:
    states = made(3, 0, [(1, 3, 5.0)], {})
    states[1][4, 7, 33] = -5000.0
    outcome = watch(states, [20] * 6).finish()
    massive = [f for f in outcome.findings if f["kind"] == "massive"]
    assert len(massive) == 1
    median = states[1].abs().flatten(1).median(1).values.mean()
    assert massive[0]["value"] == -5000.0
    assert (massive[0]["layer"], massive[0]["position"], massive[0]["dimension"]) == (1, 7, 33)
    assert massive[0]["ratio"] == pytest.approx(5000 / float(median), rel=1e-6)
    for k in (1, 2, 3):
        value = next(
            r.value
            for r in outcome.readings
            if (r.measure, r.site, r.keys.get("k")) == ("massive_activation", "block.1", k)
        )
        expected = states[1].abs().flatten(1).sort(1, descending=True).values[:, k - 1].mean()
        assert value == pytest.approx(float(expected), rel=1e-6)


def measured(model: Any, ids: list[list[int]], **options: Any) -> Outcome:
    layout = find_layout(model)
    return measure_model(
        Loaded(model, layout, in_place=False),
        Capture(model, layout),
        Corpus.from_ids(ids, pad_id=1, source="test"),
        [plan(SinksOptions(**options))],
        batch_size=4,
        seed=0,
        memory=1 << 30,
    )


def ids_of(lengths: list[int]) -> list[list[int]]:
    draw = np.random.default_rng(3)
    return [draw.integers(2, 64, n).tolist() for n in lengths]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj", "mistral", "bloom"])
def test_scores_and_masses_are_those_of_single_documents_by_eager_attention(family: str) -> None:
    model = tiny_model(family)
    ids = ids_of([12, 12, 5, 9, 12, 7])
    outcome = measured(model, ids, eps=0.3)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "eager"
    scores, mass, queries = [], 0.0, 0
    for sequence in ids:
        with torch.no_grad():
            maps = model(torch.tensor([sequence]), output_attentions=True).attentions
        whole = torch.stack(maps)[:, 0].double()  # (layers, heads, queries, keys)
        scores.append(whole[:, :, :, 0].mean(-1))
        mass += float(whole[1, 2, 1:, 0].sum())
        queries += len(sequence) - 1
    alpha = torch.stack(scores)
    values = {
        (r.measure, r.site, r.keys.get("head"), r.keys.get("position"), r.keys.get("set")): r.value
        for r in outcome.readings
    }
    assert values["sink_score", "attention.1", 2, 0, None] == pytest.approx(
        float(alpha[:, 1, 2].mean()), abs=1e-5
    )
    rate = float((alpha > 0.3).double().mean())
    assert 0 < rate < 1
    assert values["sink_rate", "model", None, 0, None] == pytest.approx(rate, abs=1e-9)
    assert values["sink_mass", "attention.1", 2, None, "first"] == pytest.approx(
        mass / queries, abs=1e-5
    )


def test_a_repeated_token_without_bos_has_no_sink_on_a_rotary_model() -> None:
    model = tiny_model("llama")
    found: dict[str, Tensor] = {}
    layout = find_layout(model)
    Capture(model, layout).run(
        {"input_ids": torch.full((1, 32), 7)},
        [f"block.{i}" for i in range(layout.depth)],
        lambda site, x: found.update({site: x.clone()}),
    )
    for x in found.values():
        assert torch.allclose(x, x[:, :1], rtol=1e-4, atol=1e-4 * float(x.abs().max()))
    outcome = measured(model, ids_of([32] * 8), probe_text=("repeat",))
    rates = [r for r in outcome.readings if r.measure == "sink_rate" and r.site == "model"]
    assert {r.keys["text"] for r in rates} == {"repeat"}
    first = next(r for r in rates if r.keys["position"] == 0)
    assert first.value == 0.0


def test_learned_sinks_have_their_mass() -> None:
    model = tiny_model("gpt_oss")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.sinks.fill_(2.0)
    outcome = measured(model, ids_of([10] * 6))
    learned = [r.value for r in outcome.readings if r.keys.get("set") == "learned"]
    assert len(learned) == 3 * 4
    assert all(value is not None and 0.05 < value < 1 for value in learned)
    assert not any(
        r.keys.get("set") == "learned"
        for r in measured(tiny_model("llama"), ids_of([9] * 4)).readings
    )


def test_a_model_without_attention_keeps_its_levels_and_says_so() -> None:
    outcome = measured(tiny_model("mamba"), ids_of([10] * 6))
    assert {r.measure for r in outcome.readings} == {"primary_norm", "massive_activation"}
    warning = next(f for f in outcome.findings if f["kind"] == "warning")
    assert warning["code"] == "no_sink_scores"


def test_levels_alone_ask_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoprobe.probes.sinks_study.Attention", None)
    monkeypatch.setattr("geoprobe.probes.sinks_study.formation", None)
    outcome = measured(tiny_model("llama"), ids_of([10] * 6), levels_only=True)
    assert {r.measure for r in outcome.readings} == {"primary_norm", "massive_activation"}


@pytest.mark.parametrize("family", [f for f in CONFIGS if f not in (*VISION, "mamba")])
def test_every_family_that_attends_is_measured(family: str) -> None:
    texts = ("natural", "random", "repeat")
    outcome = measured(tiny_model(family), ids_of([20, 9, 20, 14, 20]), probe_text=texts)
    assert "warning" not in {f["kind"] for f in outcome.findings}
    shares = [r for r in outcome.readings if r.measure.startswith("sink_")]
    assert {r.keys["text"] for r in shares} == set(texts)
    assert all(r.value is not None and -1e-6 <= r.value <= 1 + 1e-5 for r in shares)


def test_activations_that_are_not_finite_are_a_failure() -> None:
    states = made(3, 0, [(1, 3, 5.0)], {})
    states[1][2, 3, 4] = torch.inf
    with pytest.raises(CheckpointError, match="after block 1 are NaN or infinite"):
        watch(states, [20] * 6).finish()


def test_options_that_cannot_be() -> None:
    for options, said in (
        ({"probe_text": ("prose",)}, "--probe-text prose: not one of natural, random, repeat"),
        ({"eps": 1.5}, "--eps 1.5: give a share"),
    ):
        with pytest.raises(UsageError, match=said):
            geoprobe.measure("demo", probes=["sinks"], **options)
    with pytest.raises(UsageError, match="reads no text"):
        geoprobe.measure(
            model=tiny_model("vit"), data=np.zeros((4, 3, 12, 12), dtype="f4"), probes=["sinks"]
        )


def test_the_tokens_of_findings_have_their_text() -> None:
    model = tiny_model("llama")
    run = geoprobe.measure(
        model=model, tokenizer=tiny_tokenizer(), text=tiny_text(20), length=16, probes=["sinks"]
    )
    primary = next(f for f in run.findings if f["kind"] == "primary")
    expected = [tiny_tokenizer().decode([i]) for i in primary["token_ids"]]
    assert primary["tokens_text"] == expected


def test_what_rank_drops_is_what_sinks_finds() -> None:
    """A planted model: token 5 begins every document, token 9 goes the same way."""
    from geoprobe.probes.spectral import SpectrumOptions
    from geoprobe.probes.spectrum import plan as spectrum

    model = tiny_model("llama")
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[5] *= 400
        embedding[9] = embedding[5] * 0.5
    draw = np.random.default_rng(2)
    others = list(range(10, 64))
    ids = [[5, *draw.choice(others, 6).tolist(), 9, *draw.choice(others, 4)] for _ in range(24)]
    layout = find_layout(model)
    outcome = measure_model(
        Loaded(model, layout, in_place=False),
        Capture(model, layout),
        Corpus.from_ids(ids, pad_id=1, source="test"),
        [
            plan(SinksOptions(levels_only=True)),
            spectrum(SpectrumOptions(tokens=("all",), drop_sinks=True)),
        ],
        batch_size=24,
        seed=0,
        memory=1 << 30,
    )
    rule = next(f for f in outcome.findings if f["kind"] == "sink_rule")
    levels = [f for f in outcome.findings if f["kind"] == "level"]
    assert {t for level in levels for t in level["token_ids"]} == {9}
    assert rule["positions"] == [0, 7]
    dropped = next(
        r for r in outcome.readings if r.measure == "rankme" and r.keys["sinks"] == "out"
    )
    assert dropped.n == 24 * 10


def test_medians_are_the_same_on_a_processor_and_elsewhere() -> None:
    draw = np.random.default_rng(0)
    numbers = torch.from_numpy(draw.standard_normal((6, 41)).astype(np.float32))
    for counts in (np.full(6, 41), np.array([1, 2, 3, 40, 41, 17])):
        expected = [np.sort(x[:n])[(n - 1) // 2] for x, n in zip(numbers, counts, strict=True)]
        for function in (medians, medians_in_place):
            np.testing.assert_array_equal(function(numbers, counts), expected)
    # Of many numbers, also where their sample misleads: steps of 31 find the small ones alone.
    many = torch.from_numpy(draw.standard_normal((4, 32_000)).astype(np.float32))
    many[1], many[2, ::31], many[3] = 1.0, -9.0, many[3].round()
    counts = np.array([32_000, 31_999, 32_000, 32_000])
    expected = [np.sort(x[:n])[(n - 1) // 2] for x, n in zip(many, counts, strict=True)]
    np.testing.assert_array_equal(medians(many, counts), expected)
