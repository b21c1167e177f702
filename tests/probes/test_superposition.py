"""The superposition probe against NumPy on state dicts, and SciPy on plain hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
import torch
from torch import nn

import geoprobe
from geoprobe import measures
from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.formats import write_saelens
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.layout import find_layout
from geoprobe.probes import superposition as probes_superposition
from geoprobe.probes.superposition import MOST_ROTATIONS, rotations_of
from geoprobe.probes.superposition_names import choose, missing_kinds, weight_sites
from geoprobe.probes.superposition_rows import WeightRows
from geoprobe.probes.superposition_weights import GaussianRows, matrix_readings
from geoprobe.statistics.neurons import Rotation
from tests.conftest import DEPTH, VOCABULARY, WIDTH, tiny_model, tiny_text, tiny_tokenizer
from tests.probes import plain

TEXTS = tiny_text(24, longest=12)


def _measure(model: Any, **options: Any) -> Any:
    options = {"text": TEXTS, "batch_size": 7, **options}
    tokenizer = None if "data" in options else tiny_tokenizer()
    if tokenizer is None:
        options.pop("text")
    return geoprobe.measure(model=model, tokenizer=tokenizer, probes=("superposition",), **options)


def _matrices(family: str, model: Any) -> dict[str, np.ndarray]:
    """Site -> features in rows, by the names in the state dict."""
    state = {name: p.double().numpy() for name, p in model.state_dict().items()}
    found = {}
    for i in range(DEPTH):
        if family == "gpt2":
            block = f"transformer.h.{i}.mlp"
            found[f"mlp.in.{i}"] = state[f"{block}.c_fc.weight"].T
            found[f"mlp.out.{i}"] = state[f"{block}.c_proj.weight"]
        elif family == "gpt_neox":
            block = f"gpt_neox.layers.{i}.mlp"
            found[f"mlp.in.{i}"] = state[f"{block}.dense_h_to_4h.weight"]
            found[f"mlp.out.{i}"] = state[f"{block}.dense_4h_to_h.weight"].T
        elif family == "phi3":
            block = f"model.layers.{i}.mlp"
            halves = np.split(state[f"{block}.gate_up_proj.weight"], 2)
            found[f"mlp.gate.{i}"], found[f"mlp.up.{i}"] = halves
            found[f"mlp.out.{i}"] = state[f"{block}.down_proj.weight"].T
        else:
            block = f"model.layers.{i}.mlp"
            found[f"mlp.gate.{i}"] = state[f"{block}.gate_proj.weight"]
            found[f"mlp.up.{i}"] = state[f"{block}.up_proj.weight"]
            found[f"mlp.out.{i}"] = state[f"{block}.down_proj.weight"].T
    embed = {"gpt2": "transformer.wte", "gpt_neox": "gpt_neox.embed_in"}
    head = {"gpt_neox": "embed_out" if "embed_out.weight" in state else "lm_head"}
    found["embedding"] = state[embed.get(family, "model.embed_tokens") + ".weight"]
    found["unembedding"] = state[head.get(family, "lm_head") + ".weight"]
    return found


def _values(run: Any, site: str, **keys: Any) -> dict[tuple[str, str], float]:
    rows = run.readings.filter(site=site, **keys).iter_rows(named=True)
    return {(row["measure"], row["convention"]): row["value"] for row in rows}


def _expected(rows: np.ndarray) -> dict[tuple[str, str], float]:
    m, norms = rows.shape[1], np.linalg.norm(rows, axis=1)
    there = rows[norms > 0]  # the padding token's may be zero
    n = len(there)
    products = (there @ there.T) ** 2
    shares = np.diagonal(products) / products.sum(1)
    units = there / norms[norms > 0, None]
    cosines = (units @ units.T)[np.triu_indices(n, 1)]
    return {
        ("dimensionality", "exact"): shares.sum() / len(rows),
        ("dimensionality_sum", "exact"): shares.sum(),
        ("matrix_rank", "exact"): np.linalg.matrix_rank(rows),
        ("interference", "exact"): (cosines**2).mean(),
        ("welch_bound", "exact"): max(0, (n - m) / (m * (n - 1))),
        ("coherence", "exact"): np.abs(cosines).max(),
        ("dimensions_per_feature", "raw"): m / (norms**2).sum(),
        ("dimensions_per_feature", "unit_rows"): m / n,
        ("frobenius_psi", "raw"): (norms**2).sum() / m,
        ("frobenius_psi", "unit_rows"): n / m,
        ("row_norm", "exact"): norms.mean(),
    }


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", False), ("gpt2", True), ("phi3", False), ("gpt_neox", False)]
)
def test_weights_are_those_of_the_state_dict(family: str, tied: bool) -> None:
    model = tiny_model(family, seed=3)
    run = _measure(model)
    matrices = _matrices(family, model)
    if tied:
        np.testing.assert_array_equal(matrices.pop("unembedding"), matrices["embedding"])
    weights = run.readings.filter(of="weights")
    assert set(weights["site"]) == set(matrices)
    for site, rows in matrices.items():
        found = _values(run, site, of="weights", rows="given")
        cosine = found.pop(("in_out_cosine", "exact"), None)
        expected = _expected(rows)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-7, abs=1e-12), (site, name)
        assert (cosine is not None) == site.startswith(("mlp.in", "mlp.gate", "mlp.up"))
        if cosine is not None:
            out = matrices[f"mlp.out.{site.rsplit('.', 1)[1]}"]
            sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(out, axis=1)
            each = (rows * out).sum(1) / sizes
            assert cosine == pytest.approx(each.mean(), rel=1e-6, abs=1e-9)
            kept = run.arrays("model")[f"superposition/{site}/in_out_cosine"]
            np.testing.assert_allclose(kept, each, atol=1e-6)
    assert weights["stderr"].is_null().all()
    assert weights["reason"].str.starts_with("no standard error").all()
    same = [f["sites"] for f in run.findings if f["kind"] == "tied"]
    assert same == ([["embedding", "unembedding"]] if tied else [])


def test_nulls_are_gaussian_and_drawn_by_the_seed() -> None:
    model = tiny_model("llama", seed=3)
    run = _measure(model, weights="embedding")
    null = _values(run, "embedding", rows="gaussian")
    assert null.keys() == {("dimensionality", "exact"), ("interference", "exact")}
    n, m = VOCABULARY, WIDTH
    assert null["dimensionality", "exact"] == pytest.approx(m / (m + n - 1), rel=0.03)
    assert null["interference", "exact"] == pytest.approx(1 / m, rel=0.1)
    rows = np.asarray(GaussianRows(n, m, 0)[0:n])
    assert null["interference", "exact"] == pytest.approx(measures.interference(rows), rel=1e-9)
    other = _values(_measure(model, weights="embedding", seed=1), "embedding", rows="gaussian")
    assert other != null


def test_drawn_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    rows = GaussianRows(150, 3, 5)
    whole = rows[0:150]
    assert whole.shape == (150, 3)
    parts = [rows[a:b] for a, b in ((0, 1), (1, 70), (70, 128), (128, 200))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole)) == 450
    assert abs(whole.mean()) < 0.2
    assert whole.std() == pytest.approx(1, rel=0.1)


def _neurons(model: Any, documents: list[list[int]]) -> dict[str, np.ndarray]:
    """`neurons.i` -> (tokens, d_ff), by hooks of one's own on single documents."""
    found: dict[str, list[np.ndarray]] = {}
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, given, i=i: found.setdefault(f"neurons.{i}", []).append(
                given[0][0].double().numpy()
            )
        )
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for document in documents:
            model(input_ids=torch.tensor([document]))
    for handle in handles:
        handle.remove()
    return {site: np.concatenate(parts) for site, parts in found.items()}


def test_activations_of_padded_texts_against_scipy() -> None:
    model, tokenizer = tiny_model("llama", seed=3), tiny_tokenizer()
    documents = [list(map(int, tokenizer(text)["input_ids"])) for text in TEXTS]
    assert len({len(d) for d in documents}) > 3
    states = {
        **{s: np.concatenate(x) for s, x in plain.hidden_states(model, documents).items()},
        **_neurons(model, documents),
    }
    groups = np.concatenate([np.full(len(d), i % 8) for i, d in enumerate(documents)])
    run = _measure(model)
    activations = run.readings.filter(of="activations")
    assert set(activations["site"]) == set(states)
    assert set(activations["n"]) == {len(groups)}
    assert set(activations["tokens"]) == {"all"}
    for site, x in states.items():
        width = x.shape[1]
        rotations = [Rotation(width, i) for i in range(rotations_of(width))]
        turned = [r(torch.from_numpy(x)).numpy() for r in rotations]

        def top(values: np.ndarray) -> float:
            return float(values.var(0).max() / values.var(0).sum())  # of fewer than 200: one

        def kurtosis(some: np.ndarray) -> float:
            return float(scipy.stats.kurtosis(some, axis=0).mean())

        def privileged(keep: Any, x: Any = x, turned: Any = turned, top: Any = top) -> float:
            return top(x[keep]) / float(np.mean([top(t[keep]) for t in turned]))

        everything = slice(None)
        for measure, value, null, left_out in (
            (
                "kurtosis",
                kurtosis(x),
                np.mean([kurtosis(t) for t in turned]),
                [kurtosis(x[groups != g]) for g in range(8)],
            ),
            (
                "privileged_basis",
                privileged(everything),
                max(
                    top(t) / np.mean([top(o) for o in turned if o is not t])  # by the others
                    for t in turned
                ),
                [privileged(groups != g) for g in range(8)],
            ),
        ):
            given = activations.row(
                by_predicate=(pl.col("site") == site)
                & (pl.col("measure") == measure)
                & (pl.col("basis") == "given"),
                named=True,
            )
            assert given["value"] == pytest.approx(value, rel=1e-3), (site, measure)
            spread = np.sqrt(7 / 8 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
            assert given["stderr"] == pytest.approx(spread, rel=1e-2), (site, measure)
            rotated = activations.filter(site=site, measure=measure, basis="rotated")
            assert rotated["value"].item() == pytest.approx(null, rel=1e-3), (site, measure)
            assert "a null" in rotated["reason"].item()
        arrays = run.arrays("model")
        np.testing.assert_allclose(arrays[f"superposition/{site}/variance"], x.var(0), rtol=1e-3)
        np.testing.assert_allclose(
            arrays[f"superposition/{site}/kurtosis"],
            scipy.stats.kurtosis(x, axis=0),
            atol=1e-2,
        )


def test_the_batch_makes_no_difference() -> None:
    model = tiny_model("gpt2", seed=1)
    one, all_ = (_measure(model, batch_size=size).readings for size in (1, 24))
    assert one.drop("value", "stderr", "reason").equals(all_.drop("value", "stderr", "reason"))
    np.testing.assert_allclose(one["value"], all_["value"], rtol=1e-4, atol=1e-6)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="has no parameters"):
        _measure(nn.Identity(), data=np.ones((40, 3), dtype=np.float32))


def test_rotations_see_one_token_in_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """All positions and groups alike, and the same tokens in batches of any size."""
    stride, time, width = 4, 10, 24
    network = nn.Sequential(nn.Identity(), nn.Linear(width, 2))
    draw = np.random.default_rng(3)
    x = draw.standard_normal((96, time, width)).astype(np.float32) ** 3
    monkeypatch.setattr(probes_superposition, "ROTATED_TOKENS", 96 * time // stride)
    seen = (np.arange(time) + np.arange(96)[:, None] // 8) % stride == 0
    assert abs(seen.mean(0) - 1 / stride).max() < 0.02
    rows = x[seen].astype(np.float64)

    def top(values: np.ndarray) -> float:
        return float(values.var(0).max() / values.var(0).sum())

    turned = [Rotation(width, i)(torch.from_numpy(rows)).numpy() for i in range(8)]
    turned = turned[: rotations_of(width)]
    for batch_size in (7, 96):
        run = _measure(network, data=x, sites="0", batch_size=batch_size)
        found = {(r["measure"], r["basis"]): r for r in run.readings.iter_rows(named=True)}
        assert found["kurtosis", "given"]["n"] == 96 * time
        assert found["privileged_basis", "given"]["n"] == len(rows)
        assert found["kurtosis", "rotated"]["n"] == len(rows)
        for key, value in (
            (("kurtosis", "given"), scipy.stats.kurtosis(x.reshape(-1, width), axis=0).mean()),
            (
                ("kurtosis", "rotated"),
                np.mean([scipy.stats.kurtosis(t, axis=0).mean() for t in turned]),
            ),
            (("privileged_basis", "given"), top(rows) / np.mean([top(t) for t in turned])),
        ):
            assert found[key]["value"] == pytest.approx(value, rel=1e-4), key


def test_planted_neurons_and_coordinates_are_found() -> None:
    """One loud coordinate is a privileged basis; sparse ones have heavy tails; turned, neither."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((4000, 40)).astype(np.float32)
    loud, sparse = x.copy(), x.copy()
    loud[:, 3] *= 30
    sparse[:, 10:20] *= 10 * (draw.random((4000, 10)) < 0.01)
    network = nn.Sequential(nn.Identity(), nn.Linear(40, 2))
    found = {}
    for name, data in (("noise", x), ("loud", loud), ("sparse", sparse)):
        run = _measure(network, data=data, sites="0")
        rows = run.readings.filter(of="activations").iter_rows(named=True)
        found[name] = {(row["measure"], row["basis"]): row["value"] for row in rows}
    for name in ("noise", "loud"):
        assert abs(found[name]["kurtosis", "given"]) < 0.1
    assert 0.9 < found["noise"]["privileged_basis", "given"] < 1.1
    assert found["loud"]["privileged_basis", "given"] > 4
    assert found["loud"]["privileged_basis", "rotated"] < 2.5
    assert found["sparse"]["kurtosis", "given"] > 10 * found["sparse"]["kurtosis", "rotated"]


def test_names_of_matrices() -> None:
    model = tiny_model("llama", seed=2)
    every = {f"mlp.{kind}.{i}" for kind in ("gate", "up", "out") for i in range(DEPTH)}
    q = "model.layers.{}.self_attn.q_proj.weight"
    for asked, sites in (
        ("mlp.in", {s for s in every if "out" not in s}),
        ("mlp.up", {s for s in every if "up" in s}),
        ("mlp.out.1", {"mlp.out.1"}),
        ("mlp.*", every),
        ("*.1", {s for s in every if s.endswith(".1")}),
        ("lm_head.weight", {"lm_head.weight"}),
        ("*q_proj*", {q.format(i) for i in range(DEPTH)}),
        (("embedding.T", "embedding"), {"embedding.T", "embedding"}),
        ("mlp.out.T", {f"mlp.out.{i}.T" for i in range(DEPTH)}),
        (q.format(0) + ".T", {q.format(0) + ".T"}),
    ):
        chosen = _chosen(model, asked)
        assert {m.site for m in chosen.matrices} == sites, asked
        assert not chosen.tied
    few = _chosen(model, ("mlp.in", "mlp.*"), blocks=[2])
    assert {m.site for m in few.matrices} == {"mlp.gate.2", "mlp.up.2", "mlp.out.2"}
    twice = _chosen(model, ("embedding", "model.embed_tokens.weight", "embedding"))
    assert [m.site for m in twice.matrices] == ["embedding"]
    assert twice.tied == [("embedding", "model.embed_tokens.weight")]


def _chosen(model: Any, names: Any, blocks: Any = range(DEPTH)) -> Any:
    names = (names,) if isinstance(names, str) else names
    return choose(Capture(model, find_layout(model)), names, blocks)


def test_a_parameter_its_columns_and_the_chosen_blocks() -> None:
    model = tiny_model("llama", seed=2)
    name = "model.layers.1.self_attn.k_proj.weight"
    run = _measure(model, weights=(name, f"{name}.T"), layers="1", skip_coherence=True)
    rows = model.state_dict()[name].double().numpy()
    for site, matrix in ((name, rows), (f"{name}.T", rows.T)):
        found = _values(run, site, rows="given")
        expected = _expected(matrix)
        del expected["coherence", "exact"]
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, rel=1e-7), key
        values = run.arrays("model")[f"superposition/{site}/dimensionality"]
        np.testing.assert_allclose(values, measures.dimensionality(matrix), rtol=1e-9)
        counts = run.arrays("model")[f"superposition/{site}/dimensionality_counts"]
        np.testing.assert_array_equal(counts, np.histogram(values, bins=200, range=(0, 1))[0])
        assert counts.sum() == len(matrix)
    assert set(run.readings.filter(of="activations")["site"]) == {"block.1", "neurons.1"}
    assert not any(f["kind"] in ("closest", "warning") for f in run.findings)


@pytest.mark.parametrize(
    ("family", "names", "said"),
    [
        ("llama", "embeding", "no weights of that name. Did you mean embedding"),
        ("llama", "mlp.out.9", "no weights of that name. Did you mean mlp.out.2"),
        ("llama", "model.layers.0.mlp.up_proj", "Did you mean model.layers.0.mlp.up_proj.weight"),
        ("llama", "*conv*", "no weights of that name. Known are embedding"),
        ("llama", "model.norm.weight", r"shape \(32,\) and type torch.float32 is no matrix"),
        ("llama", "", "--weights: an empty name; give embedding"),
        ("gpt2", "mlp.gate", "its MLP has no gate: mlp.in is what there is"),
        ("mixtral", "mlp.in.0", "its MLP is a mixture of experts"),
        ("mamba", "mlp.out", "its blocks have no MLP; leave it out, or name parameters"),
        ("bert", "unembedding", "loaded without a language-model head"),
    ],
)
def test_mistakes_are_sentences(family: str, names: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as found:
        _measure(tiny_model(family), weights=(names,))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("family", "words"), [("mixtral", "mlp.in and mlp.out"), ("bert", "unem")])
def test_what_a_family_lacks_is_said(family: str, words: str) -> None:
    run = _measure(tiny_model(family))
    (warning,) = (f for f in run.findings if f.get("code") == "no_weights")
    assert words in warning["message"]
    assert "embedding" in set(run.readings["site"])


def test_every_family_has_the_matrices_that_its_layout_promises(any_family: str) -> None:
    model = tiny_model(any_family)
    layout = find_layout(model)
    chosen = _chosen(model, ())
    found = {m.site: tuple(m.weight.shape) for m in chosen.matrices}
    tied = {second for _, second in chosen.tied}
    promised = weight_sites(layout)
    assert set(found) | tied == set(promised)
    for site, shape in found.items():
        assert shape == promised[site], site
    assert chosen.missing == missing_kinds(layout)
    neurons = [site for site in layout.taps if site.startswith("neurons")]
    assert sum(site.startswith("mlp.out") for site in found) == len(neurons)
    for matrix in chosen.matrices:
        if matrix.partner is not None:
            assert matrix.partner.shape == matrix.weight.shape


def test_a_network_of_ones_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5))
    data = np.random.default_rng(0).standard_normal((40, 9)).astype(np.float32)
    run = _measure(network, data=data)
    assert set(run.readings.filter(of="weights")["site"]) == {"0.weight", "2.weight"}
    found = _values(run, "0.weight", rows="given")
    for key, value in _expected(network[0].weight.detach().double().numpy()).items():
        assert found[key] == pytest.approx(value, rel=1e-7), key
    assert set(run.readings.filter(of="activations")["site"]) == {"0", "1", "2"}
    with pytest.raises(UsageError, match="no layout that says which of its weights"):
        _measure(network, data=data, weights="embedding")
    with pytest.raises(UsageError, match=r"Did you mean 2\.weight"):
        _measure(network, data=data, weights="3.weight")
    bare = nn.Sequential(nn.Conv1d(1, 3, 2), nn.Flatten())
    run = _measure(bare, data=data[:, None])
    assert [f["message"] for f in run.findings if f["kind"] == "warning"] == [
        "this network has no linear maps: no weights were measured."
    ]


def test_weights_of_half_precision_and_broken_ones() -> None:
    weight = torch.randn(20, 6, dtype=torch.bfloat16)
    found = matrix_readings("x", WeightRows(weight.T)).readings
    expected = _expected(weight.double().numpy().T)
    for reading in found:
        if reading.keys["rows"] == "given":
            key = (reading.measure, reading.convention)
            assert reading.value == pytest.approx(expected[key], rel=1e-7), key
            assert reading.n == 6
    weight[3, 2] = float("nan")
    with pytest.raises(CheckpointError, match=r"the weights x cannot be measured: .* NaN"):
        matrix_readings("x", WeightRows(weight))
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"activations at \S+ are NaN or infinite"):
        _measure(model)


def test_zero_rows_and_single_ones() -> None:
    found = {
        (r.measure, r.keys["rows"]): r for r in matrix_readings("x", np.zeros((3, 2))).readings
    }
    assert found["dimensionality", "given"].value == 0.0
    for name in ("interference", "coherence", "welch_bound"):
        assert found[name, "given"].reason == "fewer than two rows are not zero"
    assert found["dimensions_per_feature", "given"].reason == "every row is zero"
    one = {(r.measure, r.keys["rows"]): r for r in matrix_readings("x", np.ones((1, 4))).readings}
    assert one["dimensionality", "given"].value == 1.0
    assert one["interference", "gaussian"].value is None


def test_plateaus_and_the_closest_pair() -> None:
    angles = 2 * np.pi * np.arange(5) / 5
    pentagon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = np.zeros((400, 160))
    for i in range(80):
        rows[5 * i : 5 * i + 5, 2 * i : 2 * i + 2] = pentagon
    outcome = matrix_readings("toy", rows)
    (plateau,) = (f for f in outcome.findings if f["kind"] == "plateau")
    assert plateau["plateau"] == "pentagon"
    assert (plateau["share"], plateau["null_share"], plateau["count"]) == (1.0, 0.0, 400)
    (closest,) = (f for f in outcome.findings if f["kind"] == "closest")
    assert abs(closest["cosine"]) == pytest.approx(-np.cos(angles[2]))
    assert np.ptp(np.array(closest["rows"]) // 5) == 0
    assert plateau["message"] == (
        "toy: 100% of 400 features have within 0.02 of 0.4 dimensions (pentagon); of independent "
        "Gaussian rows 0%."
    )
    for toy, name in ((pentagon, "pentagon"), (pentagon[:1] * [[1], [-1]], "digon")):
        (small,) = (f for f in matrix_readings("x", toy).findings if f["kind"] == "plateau")
        assert (small["plateau"], small["count"]) == (name, len(toy))
    # Gaussian rows whose shape puts them there are no pentagons, nor is a broad distribution.
    gaussian = np.random.default_rng(0).standard_normal((300, 200))
    assert abs(measures.dimensionality(gaussian).mean() - 0.4) < 0.01
    broad = np.random.default_rng(0).standard_normal((400, 300))
    broad *= np.exp(np.random.default_rng(1).standard_normal((400, 1)))
    for matrix in (gaussian, broad, broad[:60, :50]):
        assert not [f for f in matrix_readings("x", matrix).findings if f["kind"] == "plateau"]


def test_of_many_rows_a_histogram_is_kept() -> None:
    rows = np.random.default_rng(0).standard_normal((5001, 4))
    arrays = matrix_readings("x", rows, skip_coherence=True).arrays
    assert arrays.keys() == {"superposition/x/dimensionality_counts"}
    assert arrays["superposition/x/dimensionality_counts"].sum() == 5001
    arrays = matrix_readings("x", rows, skip_coherence=True, each_norm=True).arrays
    np.testing.assert_allclose(
        arrays["superposition/x/row_norm"], np.linalg.norm(rows, axis=1), rtol=1e-6
    )


def test_rotations_are_fewer_where_one_has_many_top_coordinates() -> None:
    widths = (1, 64, 128, 576, 768, 1536, 4096, 16384)
    assert [rotations_of(width) for width in widths] == [8, 8, 8, 4, 3, 2, 2, 2]
    assert MOST_ROTATIONS == 8


def test_the_directions_of_an_autoencoder_are_features(tmp_path: Path) -> None:
    """A decoder of three directions at 120 degrees has dimensionality 2/3 each."""
    angles = np.deg2rad([90, 210, 330])
    decoder = torch.tensor(np.stack([np.cos(angles), np.sin(angles)], 1) * 3).float()
    coder = Autoencoder(
        "standard", decoder.T.contiguous(), decoder, torch.zeros(3), torch.zeros(2), site="final"
    )
    path = write_saelens(coder, tmp_path / "triangle")
    run = _measure(tiny_model("llama"), weights=("embedding",), sae=(str(path),))
    found = run.readings.filter(site="decoder:triangle@final", rows="given")
    values = dict(zip(found["measure"], found["value"], strict=True))
    assert values["dimensionality"] == pytest.approx(2 / 3)
    assert values["dimensionality_sum"] == pytest.approx(2)
    assert values["interference"] == pytest.approx(0.25)
    assert "embedding" in set(run.readings["site"])
