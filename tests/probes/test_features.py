"""Effective features through a model, against NumPy over single unpadded documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import geoprobe
from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.formats import read_autoencoder, write_saelens
from geoprobe.errors import UsageError
from geoprobe.probes.base import Outcome
from geoprobe.probes.features import FeaturesOptions, gaussian_rows, plan
from geoprobe.probes.features_readings import Measured, readings_of
from geoprobe.probes.features_training import split
from geoprobe.statistics.codes import GroupedCodes
from tests.conftest import WIDTH, tiny_model, tiny_text, tiny_tokenizer, write_series
from tests.probes import plain
from tests.probes.test_spectrum import documents, survey_with

FEATURES = 40


def coder_at(site: str, seed: int = 0, width: int = WIDTH, **more: Any) -> Autoencoder:
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw)

    return Autoencoder(
        more.pop("architecture", "standard"),
        normal(width, FEATURES) / 4,
        normal(FEATURES, width) / 4,
        normal(FEATURES) / 4 - 0.5,
        normal(width) / 9,
        site=site,
        **more,
    )


def saved(folder: Path, *coders: Autoencoder) -> tuple[str, ...]:
    return tuple(
        str(write_saelens(coder, folder / f"{i}-{coder.site}")) for i, coder in enumerate(coders)
    )


def measured(model: Any, texts: list[list[int]], batch_size: int = 7, **options: Any) -> Outcome:
    options.setdefault("nulls", ("none",))
    options.setdefault("loss_sequences", 0)
    return survey_with(model, texts, [plan(FeaturesOptions(**options))], batch_size)


def by_definition(x: np.ndarray, coder: Autoencoder) -> dict[tuple[str, str], float]:
    """What is read off codes, written out in double precision."""
    w = {
        name: getattr(coder, name).double().numpy()
        for name in ("encoder", "decoder", "encoder_bias", "decoder_bias")
    }
    z = np.maximum((x - w["decoder_bias"]) @ w["encoder"] + w["encoder_bias"], 0)
    if coder.architecture == "topk":
        z *= z >= np.sort(z, axis=1)[:, -int(coder.k or 0)][:, None]
    error = ((z @ w["decoder"] + w["decoder_bias"] - x) ** 2).sum()

    def count(mass: np.ndarray) -> float:
        p = mass[mass > 0] / mass.sum()
        return float(np.exp(-(p * np.log(p)).sum()))

    plain_f, norm_f = count(z.sum(0)), count(z.sum(0) * np.linalg.norm(w["decoder"], axis=1))
    return {
        ("effective_features", "codes"): plain_f,
        ("effective_features", "decoder_norm"): norm_f,
        ("psi", "codes"): plain_f / x.shape[1],
        ("psi", "decoder_norm"): norm_f / x.shape[1],
        ("l0", "exact"): float((z > 0).sum(1).mean()),
        ("explained_variance", "exact"): float(1 - error / ((x - x.mean(0)) ** 2).sum()),
        ("dead_share", "exact"): float(((z > 0).sum(0) == 0).mean()),
    }


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_readings_are_those_of_the_codes_of_real_tokens(
    family: str, architecture: str, tmp_path: Path
) -> None:
    model, texts = tiny_model(family), documents(30)
    more = {"k": 4} if architecture == "topk" else {}
    coders = [
        coder_at(site, seed, architecture=architecture, **more)
        for seed, site in enumerate(("embed", "block.1"))
    ]
    outcome = measured(model, texts, sae=saved(tmp_path, *coders))
    states = plain.hidden_states(model, texts)
    for coder in coders:
        rows, groups = plain.choose(states[str(coder.site)], "all")
        expected = by_definition(rows, coder)
        left = [by_definition(rows[groups != g], coder) for g in range(8)]
        found = {
            (r.measure, r.convention): r
            for r in outcome.readings
            if r.site == coder.site and r.keys["sinks"] == "in"
        }
        for key, value in expected.items():
            reading = found[key]
            assert reading.value == pytest.approx(value, rel=1e-4, abs=1e-5), key
            assert reading.n == len(rows)
            if key[0] != "dead_share":
                parts = np.array([part[key] for part in left])
                error = np.sqrt(7 / 8 * ((parts - parts.mean()) ** 2).sum())
                assert reading.stderr == pytest.approx(error, rel=1e-2, abs=1e-5), key
        curve = outcome.arrays[f"features/curve/{coder.site}/{found['l0', 'exact'].keys['sae']}"]
        assert curve[0, -1] == len(rows)
        assert curve[1, -1] == pytest.approx(expected["effective_features", "codes"], rel=1e-4)


def test_sinks_are_left_out_by_the_rule_that_is_recorded(tmp_path: Path) -> None:
    """A model whose first token is far larger than any other."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[0] += 300
    texts = documents(40, longest=20)
    coder = coder_at("block.1")
    outcome = measured(model, texts, sae=saved(tmp_path, coder))
    rule = next(f for f in outcome.findings if f["kind"] == "sink_rule")
    assert 0 in rule["positions"]
    states = plain.hidden_states(model, texts)["block.1"]
    dropped = set(rule["positions"])
    kept = np.concatenate(
        [
            state[
                [i for i, t in enumerate(text) if i not in dropped and t not in rule["token_ids"]]
            ]
            for state, text in zip(states, texts, strict=True)
        ]
    )
    expected = by_definition(kept, coder)
    found = {(r.measure, r.convention): r for r in outcome.readings if r.keys["sinks"] == "out"}
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, rel=1e-3, abs=1e-5), key
        assert found[key].n == len(kept)


def plain_loss(model: Any, texts: list[list[int]], site: str, change: Any) -> float:
    """Mean next-token loss with a block's output changed by an ordinary hook."""
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 1)

    def hook(_m: Any, _i: Any, out: Any) -> Any:
        whole = out[0] if isinstance(out, tuple) else out
        changed = change(whole)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    handle = layers[int(site.split(".")[1])].register_forward_hook(hook)
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([text])
            logits = model(input_ids=ids).logits[0, :-1].double()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(text) - 1
    handle.remove()
    return total / count


def test_the_loss_recovered_is_that_of_the_model_with_plain_hooks(
    family: str, tmp_path: Path
) -> None:
    model, texts = tiny_model(family), documents(20)
    coder = coder_at("block.1")
    outcome = measured(model, texts, sae=saved(tmp_path, coder), loss_sequences=12)
    first = texts[:12]
    mean = torch.from_numpy(
        np.concatenate(plain.hidden_states(model, first)["block.1"]).mean(0)
    ).float()
    clean = plain_loss(model, first, "block.1", lambda x: x)
    coded = plain_loss(model, first, "block.1", lambda x: coder.apply(x[0])[1][None])
    for ablation, value in (("zero", torch.zeros(WIDTH)), ("mean", mean)):
        cost = plain_loss(model, first, "block.1", lambda x, v=value: v.expand_as(x))
        reading = next(r for r in outcome.readings if r.keys.get("ablation") == ablation)
        if cost > clean:
            expected = (cost - coded) / (cost - clean)
            assert reading.value == pytest.approx(expected, rel=2e-2, abs=1e-2)
        else:
            assert reading.value is None
            assert "costs no loss" in reading.reason
        assert reading.n == sum(len(t) - 1 for t in first)


def test_a_perfect_autoencoder_explains_and_recovers_all(tmp_path: Path) -> None:
    """Codes max(x, 0) and max(-x, 0) give every activation back."""
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    none = torch.zeros
    coder = Autoencoder(
        "standard", both.T.contiguous(), both, none(2 * WIDTH), none(WIDTH), site="block.0"
    )
    outcome = measured(
        tiny_model("llama"), documents(16), sae=saved(tmp_path, coder), loss_sequences=16
    )
    values = {
        (r.measure, r.keys.get("ablation")): r.value
        for r in outcome.readings
        if r.measure in ("explained_variance", "loss_recovered", "l0")
    }
    assert values["explained_variance", None] == pytest.approx(1, abs=1e-10)
    assert values["l0", None] == WIDTH
    for ablation in ("zero", "mean"):
        if values["loss_recovered", ablation] is not None:
            assert values["loss_recovered", ablation] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 30])
def test_the_batch_size_changes_nothing(batch_size: int, tmp_path: Path) -> None:
    model, texts = tiny_model("llama"), documents(30)
    paths = saved(tmp_path, coder_at("block.0"), coder_at("final", 3))
    one = measured(model, texts, 7, sae=paths, loss_sequences=8)
    other = measured(model, texts, batch_size, sae=paths, loss_sequences=8)
    for a, b in zip(one.readings, other.readings, strict=True):
        assert (a.measure, a.site, a.keys, a.n) == (b.measure, b.site, b.keys, b.n)
        if a.value is None:
            assert b.value is None
        else:
            assert a.value == pytest.approx(b.value, rel=1e-3, abs=1e-5)


def test_the_gaussian_null_has_the_same_mean_and_covariance() -> None:
    draw = np.random.default_rng(0)
    mixed = draw.normal(size=(6, 6))
    covariance, mean = mixed @ mixed.T, draw.normal(size=6) * 9
    rows = gaussian_rows(mean, covariance, 60_000, 1).double().numpy()
    np.testing.assert_allclose(rows.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(rows.T), covariance, atol=0.05 * np.trace(covariance))
    assert abs((((rows - mean) / rows.std(0)) ** 4).mean() - 3) < 0.1


def test_nulls_stand_beside_loaded_autoencoders(tmp_path: Path) -> None:
    texts, coder = documents(24), coder_at("block.1")
    paths = saved(tmp_path, coder)
    found = {}
    for seed in (0, 1):
        outcome = measured(
            tiny_model("llama", seed=seed), texts, sae=paths, nulls=("random_model", "gaussian")
        )
        for r in outcome.readings:
            if (r.measure, r.convention) == ("effective_features", "codes"):
                found[seed, r.keys["activations"], r.keys["sinks"]] = r
    assert found[0, "given", "in"].value != found[1, "given", "in"].value
    # The random model is another draw of the same architecture, whatever the weights were.
    assert found[0, "random_model", "in"].value == found[1, "random_model", "in"].value
    for null in ("random_model", "gaussian"):
        assert "a null" in found[0, null, "out"].reason
        assert found[0, null, "out"].value != found[0, "given", "out"].value
    assert (0, "gaussian", "in") not in found, "its covariance is of tokens that are no sinks"


def trained(tmp_path: Path, series: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        "text": tiny_text(60, longest=40),
        "sites": "block.1,final",
        "train_samples": 3000,
        "nulls": "none",
        "loss_sequences": 4,
        "expansion": 2,
    }
    return geoprobe.measure(
        series, probes=["features"], train=True, out=tmp_path, **{**given, **options}
    )


def test_trained_autoencoders_are_kept_and_give_the_same_when_they_are_loaded(
    tiny_series: Path, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", tiny_series, select={"last": 1}, seeds=2)
    (label,) = run.labels
    places = sorted((tmp_path / "run" / "autoencoders").glob("*/*/seed-*"))
    assert [p.relative_to(tmp_path / "run" / "autoencoders").parts[1:] for p in places] == [
        (site, f"seed-{seed}") for site in ("block.1", "final") for seed in (0, 1)
    ]
    assert read_autoencoder(places[0]).site == "block.1"
    assert not list((tmp_path / "run" / "autoencoders").rglob("training-*"))
    again = geoprobe.measure(
        tiny_series,
        probes=["features"],
        select={"last": 1},
        sae=[str(places[0])],
        nulls="none",
        loss_sequences=4,
        text=tiny_text(60, longest=40),
    )
    mine = run.readings.filter(site="block.1", seed="0").sort("measure", "convention", "sinks")
    loaded = again.readings.sort("measure", "convention", "sinks")
    # Of one that was trained here there is the held-out text, too, on which its loss is measured.
    values = [
        rows.filter(~pl.col("measure").is_in(["loss_recovered", "explained_variance_held_out"]))
        for rows in (loaded, mine)
    ]
    np.testing.assert_allclose(*(v["value"].to_numpy() for v in values), rtol=1e-4)
    findings = {f["kind"] for f in run.findings}
    assert {"training", "autoencoder", "sink_rule"} <= findings
    history = next(f for f in run.findings if f["kind"] == "training")["history"]
    assert history[-1]["held_out"] < history[0]["held_out"]
    assert label


def test_the_mean_over_seeds_has_their_error_and_the_text_s(
    tiny_series: Path, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", tiny_series, select={"last": 1}, seeds=3, loss_sequences=0)
    rows = run.readings.filter(site="final", measure="psi", convention="codes", sinks="in")
    each = rows.filter(rows["seed"] != "mean")
    mean = rows.filter(seed="mean")
    assert len(each) == 3
    assert mean["value"][0] == pytest.approx(each["value"].mean())
    among = each["value"].std() / 3**0.5  # polars' has ddof 1
    text = each["stderr"].mean()
    assert mean["stderr"][0] == pytest.approx(np.hypot(among, text))


def test_held_out_text_is_that_of_the_split(tiny_series: Path, tmp_path: Path) -> None:
    text = tiny_text(60, longest=40)
    run = trained(tmp_path / "run", tiny_series, select={"last": 1}, seeds=1, sites="block.1")
    place = next((tmp_path / "run" / "autoencoders").glob("*/block.1/seed-0"))
    coder = read_autoencoder(place)
    model, tokenizer = tiny_model("llama", seed=100), tiny_tokenizer()
    _, test = split(60, 0)
    assert len(test) == 6
    documents = [tokenizer(text[i])["input_ids"] for i in test]
    x = np.concatenate(plain.hidden_states(model, documents)["block.1"])
    expected = by_definition_of(x, coder)
    found = run.readings.filter(measure="explained_variance_held_out", sinks="in")
    assert found["value"][0] == pytest.approx(expected, rel=1e-3)
    assert found["n"][0] == len(x)
    predicted = sum(len(d) - 1 for d in documents[:4])
    assert run.readings.filter(measure="loss_recovered")["n"].to_list() == [predicted] * 2


def by_definition_of(x: np.ndarray, coder: Autoencoder) -> float:
    """Explained variance in double precision."""
    error = coder.to(torch.device("cpu"), torch.float64).apply(torch.from_numpy(x))[1].numpy() - x
    return float(1 - (error**2).sum() / ((x - x.mean(0)) ** 2).sum())


def test_a_run_is_not_resumed_with_other_weights_in_the_same_folder(
    tiny_series: Path, tmp_path: Path
) -> None:
    def measured_with(seed: int, fresh: bool = False) -> Any:
        path = write_saelens(coder_at("block.1", seed), tmp_path / "sae", overwrite=True)
        return geoprobe.measure(
            tiny_series,
            probes=["features", "superposition"],
            sae=str(path),
            weights="embedding",
            text=tiny_text(12),
            select={"last": 1},
            nulls="none",
            loss_sequences=0,
            out=tmp_path / "run",
            fresh=fresh,
        )

    one = measured_with(1).readings
    assert measured_with(1).readings.equals(one)
    with pytest.raises(UsageError, match="holds another run"):
        measured_with(2)
    assert not measured_with(2, fresh=True).readings.equals(one)
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()


def test_no_samples_have_no_numbers() -> None:
    empty = GroupedCodes(WIDTH, FEATURES, 8)
    for reading in readings_of([Measured("block.1", "x", None, empty, np.ones(FEATURES))]).readings:
        assert reading.value is None
        assert reading.reason == "there are no samples"


def test_a_series_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", (1, 2))
    whole = trained(tmp_path / "whole", series, seeds=1, nulls="random_model")
    calls = 0
    from geoprobe.probes import features_training

    collect = features_training.Activations._collect

    def killed(self: Any, index: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return collect(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features_training.Activations, "_collect", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", series, seeds=1, nulls="random_model")
    cut = trained(tmp_path / "cut", series, seeds=1, nulls="random_model")
    assert cut.labels == whole.labels
    for label in whole.labels:
        one, other = (
            (tmp_path / name / "checkpoints" / f"{label}.json").read_bytes()
            for name in ("whole", "cut")
        )
        assert one == other


def test_what_predicts_no_next_token_has_no_loss_recovered(tmp_path: Path) -> None:
    outcome = measured(
        tiny_model("bert"),
        documents(12),
        sae=saved(tmp_path, coder_at("block.0")),
        loss_sequences=4,
    )
    warned = [f["message"] for f in outcome.findings if f.get("code") == "no_loss_recovered"]
    assert len(warned) == 1
    assert not any(r.measure == "loss_recovered" for r in outcome.readings)


def test_an_autoencoder_that_does_not_fit_is_doubted(tmp_path: Path) -> None:
    coder = coder_at("block.1", architecture="topk", k=30)
    outcome = measured(tiny_model("llama"), documents(12), sae=saved(tmp_path, coder))
    doubts = [f["message"] for f in outcome.findings if f.get("code") == "autoencoder_unfit"]
    assert any("worse than its mean" in doubt for doubt in doubts)


@pytest.mark.parametrize(
    ("site", "width", "said"),
    [
        ("block.9", WIDTH, "has no such site"),
        ("block.1", 2 * WIDTH, "reads 64 dimensions, and block.1 of this llama model has 32"),
        (None, WIDTH, "do not say where it was trained"),
    ],
)
def test_an_autoencoder_of_another_place_is_refused(
    site: str | None, width: int, said: str, tmp_path: Path
) -> None:
    paths = saved(tmp_path, coder_at(site, width=width))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        measured(tiny_model("llama"), documents(8), sae=paths)


def test_the_site_can_be_said(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, coder_at(None))  # type: ignore[arg-type]
    outcome = measured(tiny_model("llama"), documents(8), sae=(f"block.2={path}",))
    assert {r.site for r in outcome.readings} == {"block.2"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Give --sae PATH"),
        ({"train": True, "sae": ("x",)}, "one of the two"),
        ({"train": True, "seeds": 0}, "--seeds 0"),
        ({"train": True, "nulls": ("shuffled",)}, "--nulls shuffled"),
        ({"train": True, "architecture": "relu"}, "--architecture relu"),
        ({"train": True, "train_samples": 0}, "--train-samples 0"),
        ({"train": True, "nulls": ("none", "gaussian")}, "none stands alone"),
        ({"train": True, "k": 5}, "--k 5 is for topk"),
        ({"train": True, "l1": 0.2, "architecture": "topk"}, "--l1 0.2 is for"),
        ({"sae": ("x",), "seeds": 4}, "--seeds is for --train"),
        ({"sae": ("x",), "train_sinks": True}, "--train-sinks is for --train"),
    ],
)
def test_wrong_options_are_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FeaturesOptions(**options)


def test_a_live_model_is_trained_on_as_well() -> None:
    run = geoprobe.measure(
        model=tiny_model("gpt_neox"),
        tokenizer=tiny_tokenizer(),
        probes=["features"],
        train=True,
        text=tiny_text(40, longest=30),
        sites="block.0",
        train_samples=1000,
        seeds=1,
        loss_sequences=0,
    )
    assert set(run.readings["activations"].unique()) == {"given", "random_model", "gaussian"}


def test_a_training_that_was_cut_off_while_f_changed_is_said(
    tiny_series: Path, tmp_path: Path
) -> None:
    def warned(samples: int) -> list[str]:
        run = trained(
            tmp_path / str(samples),
            tiny_series,
            select={"last": 1},
            train_samples=samples,
            seeds=1,
            loss_sequences=0,
            patience=0,
        )
        return [f["message"] for f in run.findings if f.get("code") == "training_unsettled"]

    (said,) = warned(600)
    assert "block.1, final" in said
    assert "--train-samples" in said
    assert warned(60_000) == []
