"""The spectrum probe through the survey's own loop, against plain NumPy over single documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoprobe.data.corpus import Corpus
from geoprobe.models.capture import Capture
from geoprobe.models.layout import find_layout
from geoprobe.models.loading import Loaded
from geoprobe.probes.base import Outcome, Plan
from geoprobe.probes.spectral import SpectrumOptions
from geoprobe.probes.spectrum import measure_rows, plan
from geoprobe.runs.reading import Reading
from geoprobe.survey import measure_model
from tests.conftest import VOCABULARY, WIDTH, tiny_model
from tests.probes import plain

CONVENTIONS = ("exact", "li2025", "garrido2023", "reptrix0.1")


def documents(n: int, seed: int = 0, longest: int = 14) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, VOCABULARY, draw.integers(2, longest)).tolist() for _ in range(n)]


def survey_with(
    model: object,
    texts: list[list[int]],
    plans: list[Plan],
    batch_size: int = 7,
    memory: int = 1 << 30,
    sites: str | None = None,
) -> Outcome:
    loaded = Loaded(model, find_layout(model), in_place=False)  # type: ignore[arg-type]
    return measure_model(
        loaded,
        Capture(loaded.model, loaded.layout),
        Corpus.from_ids(texts, pad_id=0, source="test"),
        plans,
        batch_size=batch_size,
        seed=0,
        memory=memory,
        sites=sites,
    )


def survey(
    model: object,
    texts: list[list[int]],
    batch_size: int = 7,
    memory: int = 1 << 30,
    **options: object,
) -> Outcome:
    chosen = SpectrumOptions(**options)  # type: ignore[arg-type]
    return survey_with(model, texts, [plan(chosen)], batch_size, memory)


def by_key(readings: list[Reading], **keys: str) -> dict[tuple[str, str], Reading]:
    return {
        (r.measure, r.convention): r
        for r in readings
        if all(r.keys.get(k) == v for k, v in keys.items())
    }


@pytest.mark.parametrize("tokens", ["last", "mean", "all"])
def test_every_reading_and_error_equals_numpy_over_single_documents(
    family: str, tokens: str
) -> None:
    _equals_numpy(family, tokens)


@pytest.mark.parametrize(
    ("other", "tokens"),
    [
        ("bert", "first"),
        ("modernbert", "first"),
        ("t5", "mean"),
        ("stablelm", "first"),
        ("opt", "all"),
    ],
)
def test_other_families_and_first_tokens_equal_numpy(other: str, tokens: str) -> None:
    """Encoders without a final norm, first tokens."""
    _equals_numpy(other, tokens)


def _equals_numpy(family: str, tokens: str) -> None:
    model, texts = tiny_model(family), documents(61)
    found = survey(model, texts, tokens=(tokens,), conventions=CONVENTIONS)
    states = plain.hidden_states(model, texts)
    assert set(states) == {r.site for r in found.readings}
    for site, arrays in states.items():
        rows, groups = plain.choose(arrays, tokens)
        expected, errors = plain.spectral(rows), plain.jackknife(rows, groups)
        mine = by_key([r for r in found.readings if r.site == site], tokens=tokens, sinks="in")
        for key, value in expected.items():
            assert mine[key].value == pytest.approx(value, rel=2e-4), (site, key)
            assert mine[key].n == len(rows)
            if key in errors:
                assert mine[key].stderr == pytest.approx(errors[key], rel=5e-3, abs=1e-7), key
        spectrum = found.arrays[f"spectrum/{site}/{tokens}/in/eigenvalues"]
        direct = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2 / len(rows)
        np.testing.assert_allclose(spectrum, direct, atol=1e-5 * direct[0])


def test_the_batch_size_changes_nothing_beyond_rounding() -> None:
    model, texts = tiny_model("llama"), documents(40)
    one, other = (
        survey(model, texts, batch_size=b, tokens=("last", "mean", "all")) for b in (3, 40)
    )
    for a, b in zip(one.readings, other.readings, strict=True):
        assert (a.measure, a.site, a.keys) == (b.measure, b.site, b.keys)
        assert (a.value is None) == (b.value is None)
        if a.value is not None:
            assert a.value == pytest.approx(b.value, rel=1e-3), a


def test_replicates_are_kept_beside_the_readings() -> None:
    found = survey(tiny_model("llama"), documents(40), tokens=("last",))
    for reading in found.readings:
        row = np.array(reading.replicates or [np.nan] * 8)
        assert len(row) == 8
        if reading.stderr is not None:
            assert reading.stderr == pytest.approx(np.sqrt(7 / 8 * ((row - row.mean()) ** 2).sum()))


def test_too_little_memory_costs_the_error_and_says_so() -> None:
    model, texts = tiny_model("llama"), documents(40)
    plenty, little = (survey(model, texts, memory=m, tokens=("all",)) for m in (1 << 30, 1))
    for a, b in zip(plenty.readings, little.readings, strict=True):
        if a.measure == "rankme_corrected":
            assert a.value is not None
            assert "no halves" in b.reason
            continue
        assert b.value == (None if a.value is None else pytest.approx(a.value, rel=1e-9))
        if a.stderr is not None and not a.measure.startswith("intrinsic"):
            assert b.stderr is None
            assert "GiB" in b.reason


def test_few_samples_are_warned_about() -> None:
    few = survey(tiny_model("llama"), documents(40), tokens=("last",))
    many = survey(tiny_model("llama"), documents(200, longest=3), tokens=("last",))
    assert [f["code"] for f in few.findings] == ["finite_sample"]
    assert many.findings == []


def test_dropping_sinks_equals_leaving_their_rows_out() -> None:
    model, texts = tiny_model("llama"), [[5, *d] for d in documents(48)]
    with torch.no_grad():  # token 5 begins every document and gets a huge residual
        model.model.embed_tokens.weight[5] *= 400
    found = survey(model, texts, batch_size=48, tokens=("all", "mean", "last"), drop_sinks=True)
    rule = next(f for f in found.findings if f["kind"] == "sink_rule")
    assert rule["positions"] == [0]
    states = plain.hidden_states(model, texts)
    for site in ("embed", "final"):
        dropped = [
            s[[i > 0 and t not in rule["token_ids"] for i, t in enumerate(text)]]
            for s, text in zip(states[site], texts, strict=True)
        ]
        for tokens in ("all", "mean"):
            rows, _ = plain.choose(dropped, tokens)
            mine = by_key([r for r in found.readings if r.site == site], tokens=tokens, sinks="out")
            assert mine[("rankme", "exact")].value == pytest.approx(
                plain.spectral(rows)[("rankme", "exact")], rel=2e-4
            )
            kept, _ = plain.choose(states[site], tokens)
            whole = by_key([r for r in found.readings if r.site == site], tokens=tokens, sinks="in")
            assert whole[("rankme", "exact")].value == pytest.approx(
                plain.spectral(kept)[("rankme", "exact")], rel=2e-4
            )


def test_rows_someone_already_has() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 24)) @ np.diag(np.arange(1, 25) ** -0.5)
    found = by_key(measure_rows({"x": rows}, SpectrumOptions(conventions=CONVENTIONS), 0).readings)
    for key, value in plain.spectral(rows).items():
        assert found[key].value == pytest.approx(value, rel=1e-9), key


def test_constant_features_are_undefined_with_a_reason() -> None:
    found = measure_rows({"x": np.ones((40, 6))}, SpectrumOptions(), 0)
    rankme = by_key(found.readings)[("rankme", "exact")]
    assert rankme.value is None
    assert rankme.reason


def test_the_corrected_rankme_is_twice_the_whole_less_the_halves() -> None:
    rows = np.random.default_rng(0).normal(size=(160, 24)) @ np.diag(np.arange(1, 25) ** -0.5)
    found = measure_rows({"x": rows}, SpectrumOptions(conventions=CONVENTIONS), 0).readings
    groups = np.arange(160) % 8
    whole, even, odd = (
        plain.spectral(part) for part in (rows, rows[groups % 2 == 0], rows[groups % 2 == 1])
    )
    corrected = {r.convention: r for r in found if r.measure == "rankme_corrected"}
    assert set(corrected) == set(CONVENTIONS)
    for name, reading in corrected.items():
        key = ("rankme", name)
        assert reading.value == pytest.approx(2 * whole[key] - (even[key] + odd[key]) / 2)
        assert reading.stderr is None
        assert reading.reason


def test_no_rows_at_all_is_a_reason_and_no_crash() -> None:
    """Every last token is a sink, and --drop-sinks leaves none."""
    model = tiny_model("llama")
    texts = np.random.default_rng(1).integers(6, VOCABULARY, (24, 4)).tolist()
    texts = [[*ids, 5] for ids in texts]
    with torch.no_grad():
        model.model.embed_tokens.weight[5] *= 400
    found = survey(model, texts, batch_size=24, tokens=("last",), drop_sinks=True)
    left = [r for r in found.readings if r.keys["sinks"] == "out"]
    assert left
    assert all(r.value is None and r.reason for r in left)


def test_activations_that_are_not_finite_are_undefined_with_a_reason() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 6))
    rows[7, 3] = np.nan
    found = measure_rows({"x": rows}, SpectrumOptions(), 0)
    assert all(r.value is None for r in found.readings)
    assert any("NaN" in r.reason for r in found.readings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_double(dtype: torch.dtype) -> None:
    model, texts = tiny_model("llama").to(dtype), documents(61)
    found = survey(model, texts, tokens=("last", "mean", "all"))
    states = plain.hidden_states(model, texts)
    for tokens in ("last", "mean", "all"):
        rows, _ = plain.choose(states["final"], tokens)
        mine = by_key([r for r in found.readings if r.site == "final"], tokens=tokens)
        assert all(r.value is not None for r in mine.values() if "alpha" not in r.measure)
        expected = plain.spectral(rows)[("rankme", "exact")]
        # Padding moves half-precision activations by their spacing.
        assert mine[("rankme", "exact")].value == pytest.approx(expected, rel=5e-3)


def test_groups_of_which_two_rows_are_left_give_no_error() -> None:
    """Any two rows span one line: RankMe is 1 whatever they are, and does not vary."""
    found = survey(tiny_model("llama"), documents(3), tokens=("last",))
    rankme = by_key([r for r in found.readings if r.site == "final"])[("rankme", "exact")]
    assert rankme.value is not None
    assert rankme.stderr is None
    assert rankme.reason


@pytest.mark.parametrize("sites", ["final", "embed,final", "block.0,final"])
def test_the_sinks_that_are_dropped_do_not_depend_on_the_sites_or_the_batch(sites: str) -> None:
    model, texts = tiny_model("llama"), [[5, *d] for d in documents(48)]
    with torch.no_grad():
        model.model.embed_tokens.weight[5] *= 400
    chosen = plan(SpectrumOptions(tokens=("all",), drop_sinks=True))
    whole = survey_with(model, texts, [chosen])
    part = survey_with(model, texts, [chosen], batch_size=1, sites=sites)
    expected, got = (
        by_key([r for r in o.readings if r.site == "final"], sinks="out") for o in (whole, part)
    )
    assert got[("rankme", "exact")].n == expected[("rankme", "exact")].n < sum(map(len, texts))
    assert got[("rankme", "exact")].value == pytest.approx(
        expected[("rankme", "exact")].value, rel=1e-4
    )


@pytest.mark.parametrize("short", [(1,), tuple(range(1, 40, 2))])
def test_a_document_of_sinks_alone_has_no_mean_and_stops_nothing(short: tuple[int, ...]) -> None:
    model = tiny_model("llama")
    texts = [[5] if i in short else [5, *d] for i, d in enumerate(documents(40))]
    with torch.no_grad():
        model.model.embed_tokens.weight[5] *= 400
    found = survey(model, texts, tokens=("last", "mean", "all"), drop_sinks=True)
    states = plain.hidden_states(model, texts)["final"]
    rule = next(f for f in found.findings if f["kind"] == "sink_rule")
    assert rule["positions"] == [0]
    kept = [
        [i for i, token in enumerate(text) if i > 0 and token not in rule["token_ids"]]
        for text in texts
    ]
    rows = np.stack([s[k].mean(0) for s, k in zip(states, kept, strict=True) if k])
    mine = by_key([r for r in found.readings if r.site == "final"], tokens="mean", sinks="out")
    assert mine[("rankme", "exact")].n == len(rows)
    assert mine[("rankme", "exact")].value == pytest.approx(
        plain.spectral(rows)[("rankme", "exact")], rel=2e-4
    )


def test_fewer_groups_are_said() -> None:
    one = 5 * 2 * WIDTH**2 * 8  # five sites, two matrices each
    found = survey(tiny_model("llama"), documents(60), memory=5 * one, tokens=("all",))
    said = next(f for f in found.findings if f.get("code") == "fewer_groups")
    assert "4 groups instead of 8" in said["message"]
