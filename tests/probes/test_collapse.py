"""The collapse probe against plain computations, for each kind of classes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_model
from torch import nn

import geoprobe
from geoprobe import measures
from geoprobe.data.corpus import build_corpus
from geoprobe.errors import UsageError
from tests.conftest import VOCABULARY, tiny_model, tiny_text, tiny_tokenizer
from tests.probes import plain, plain_collapse

LAYER = (
    *("nc1", "nc1_quotient", "cdnv", "separation", "nc2_equinorm", "nc2_equiangular"),
    *("nc2_etf", "nc2_uniformity"),
)
HEAD = ("nc3_duality", "nc3_cosine", "nc4_mismatch")


def _measure(model: Any, tokenizer: Any = None, **options: Any) -> Any:
    return geoprobe.measure(model=model, tokenizer=tokenizer, probes=("collapse",), **options)


def _values(run: Any, site: str, data: str, labels: str = "given") -> dict[str, float]:
    """Value by measure, those of the class means where there are others."""
    found = {}
    for row in run.readings.filter(site=site, data=data, labels=labels).iter_rows(named=True):
        if row.get("of") in (None, "means"):
            found[row["measure"]] = row["value"]
    return found


def _errors(run: Any, site: str, data: str) -> dict[str, float]:
    rows = run.readings.filter(site=site, data=data, labels="given").iter_rows(named=True)
    return {row["measure"]: row["stderr"] for row in rows if row.get("of") in (None, "means")}


def _close(found: dict[str, float], expected: dict[str, float], rel: float) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=rel, abs=rel * 0.1), name


def _family(name: str) -> Any:
    model = tiny_model(name, seed=3).eval()
    with torch.no_grad():  # random heads are too small for an answer to be one
        for parameter in model.parameters():
            parameter *= 3 if parameter.ndim > 1 else 1
    return model


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gptj", "opt"])
def test_next_tokens_of_padded_texts(name: str) -> None:
    model, tokenizer = _family(name), tiny_tokenizer()
    texts = tiny_text(90, longest=12)
    run = _measure(model, tokenizer, text=texts, min_count=8, batch_size=7)
    ids = [list(map(int, tokenizer(t)["input_ids"])) for t in texts]
    states = plain.hidden_states(model, ids)
    for site in ("embed", "block.1", "final"):
        x, y, document = plain_collapse.next_tokens(states[site], ids, 8)
        _close(_values(run, site, "text"), plain_collapse.layer(x, y), rel=2e-4)
    x, y, document = plain_collapse.next_tokens(states["final"], ids, 8)
    head = model.get_output_embeddings()
    rows = np.unique(y)
    weight = head.weight.detach().double().numpy()[rows]
    bias = 0.0 if head.bias is None else head.bias.detach().double().numpy()[rows]
    _close(_values(run, "final", "text"), plain_collapse.head(x, y, weight, bias), rel=2e-4)
    without = [
        plain_collapse.layer(x[document % 8 != g], y[document % 8 != g])["cdnv"] for g in range(8)
    ]
    error = _errors(run, "final", "text")["cdnv"]
    assert error == pytest.approx(plain_collapse.jackknife(without), rel=1e-3)


def test_the_batch_makes_no_difference() -> None:
    model, tokenizer = _family("llama"), tiny_tokenizer()
    runs = [
        _measure(model, tokenizer, text=tiny_text(60), min_count=5, batch_size=size)
        for size in (1, 60)
    ]
    for labels in ("given", "permuted"):
        for site in ("embed", "final"):
            one, all_ = (_values(run, site, "text", labels) for run in runs)
            assert one.keys() >= set(LAYER)
            _close(one, all_, rel=1e-4)


def test_permuted_labels_are_those_of_the_same_rows() -> None:
    """A null by its own seed, and the formula of the method where features are Gaussian."""
    draw = np.random.default_rng(0)
    classes, each, width = 6, 40, 60
    x = draw.standard_normal((classes * each, width)).astype(np.float32)
    y = np.repeat(np.arange(classes), each)
    shifted = x + 9 * np.eye(classes, width, dtype=np.float32)[y]
    network = nn.Sequential(nn.Identity(), nn.Linear(width, classes))
    run = _measure(network, data={"noise": (x, y), "signal": (shifted, y)})
    noise, null = (_values(run, "penultimate", "noise", which) for which in ("given", "permuted"))
    # E[quotient] ~ nC/(C-1) = 48 and nc1 ~ n(C-1)/(d-C), both for labels that say nothing.
    for found in (noise, null):
        assert found["nc1_quotient"] == pytest.approx(each * classes / (classes - 1), rel=0.15)
        assert found["nc1"] == pytest.approx(each * (classes - 1) / (width - classes), rel=0.25)
        assert found["nc3_duality"] == pytest.approx(2.0, abs=0.7)
    given, null = (_values(run, "penultimate", "signal", which) for which in ("given", "permuted"))
    assert given["nc1_quotient"] < 1 < 20 < null["nc1_quotient"]
    other = _measure(network, data={"noise": (x, y), "signal": (shifted, y)}, seed=1)
    assert _values(other, "penultimate", "signal", "permuted") != null
    _close(_values(other, "penultimate", "signal"), given, rel=1e-12)


def test_a_frame_that_was_planted() -> None:
    """A simplex frame of norm r, and noise without a mean, of covariance sigma^2 I exactly."""
    classes, width, radius, sigma = 5, 16, 3.0, 0.25
    corners = np.linalg.qr(np.random.default_rng(1).standard_normal((width, classes)))[0]
    frame = (np.eye(classes) - 1 / classes) @ corners.T
    frame *= radius / np.linalg.norm(frame, axis=1, keepdims=True)
    noise = sigma * np.sqrt(width) * np.concatenate([np.eye(width), -np.eye(width)])
    x = np.concatenate([mean + noise for mean in frame])
    y = np.repeat(np.arange(classes), len(noise))
    network = nn.Sequential(nn.Identity(), nn.Linear(width, classes)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(2.5 * frame))
        network[1].bias.zero_()
    run = _measure(network, data=(x, y))
    found = _values(run, "penultimate", "data")
    expected = {
        "nc1": sigma**2 * (classes - 1) ** 2 / (classes * radius**2),
        "nc1_quotient": width * sigma**2 / radius**2,
        "cdnv": width * sigma**2 * (classes - 1) / (2 * classes * radius**2),
        "nc2_equinorm": 0.0,
        "nc2_equiangular": 0.0,
        "nc2_etf": 0.0,
        "nc2_etf_floor": 0.0,
        "nc3_duality": 0.0,
        "nc3_cosine": 1.0,
        "nc4_mismatch": 0.0,
    }
    # The data went through float32 once, as arrays that are fed do.
    _close(found, expected, rel=1e-6)


def _bert(classes: int = 4) -> Any:
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=30,
        num_labels=classes,
        id2label={i: f"class {i}" for i in range(classes)},
        label2id={f"class {i}": i for i in range(classes)},
    )
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight *= 20
    return model


def _labelled(folder: Path, texts: list[str], labels: list[Any], name: str = "some") -> str:
    path = folder / f"{name}.jsonl"
    path.write_text(
        "".join(
            json.dumps({"text": t, "label": label}) + "\n"
            for t, label in zip(texts, labels, strict=True)
        )
    )
    return str(path)


def test_a_text_classifier_and_labels_that_are_ignored(tmp_path: Path) -> None:
    model, tokenizer = _bert(), tiny_tokenizer()
    texts = tiny_text(50)
    names = [f"class {i % 4}" for i in range(40)] + [None] * 10
    run = _measure(model, tokenizer, data=_labelled(tmp_path, texts, names), batch_size=6)
    x, inside, chosen = [], [], []
    for text in texts[:40]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True)
            x.append(model.bert(input_ids=ids).pooler_output[0].double().numpy())
        inside.append(out.hidden_states[1][0, 0].double().numpy())
        chosen.append(int(out.logits.argmax()))
    y = np.arange(40) % 4
    _close(_values(run, "block.0", "data"), plain_collapse.layer(np.array(inside), y), rel=2e-4)
    found = _values(run, "penultimate", "data")
    _close(found, plain_collapse.layer(np.array(x), y), rel=2e-4)
    weight = model.classifier.weight.detach().double().numpy()
    bias = model.classifier.bias.detach().double().numpy()
    _close(found, plain_collapse.head(np.array(x), y, weight, bias), rel=2e-4)
    # The network's answer is the model's own, pooler and bias included.
    assert ((np.array(x) @ weight.T + bias).argmax(1) == chosen).all()
    assert run.readings.filter(measure="nc1", site="penultimate", labels="given")["n"][0] == 40


def test_classes_that_are_some_of_the_models_are_matched_to_their_rows(tmp_path: Path) -> None:
    """Labels in another order than the model's, and one of its classes without samples."""
    model, tokenizer = _bert(), tiny_tokenizer()
    texts = tiny_text(30)
    order = [3, 0, 2]
    names = [f"class {order[i % 3]}" for i in range(30)]
    run = _measure(model, tokenizer, data=_labelled(tmp_path, texts, names))
    x = []
    for text in texts:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            x.append(model.bert(input_ids=ids).pooler_output[0].double().numpy())
    y = np.array([order[i % 3] for i in range(30)])
    rows = [0, 2, 3]
    weight = model.classifier.weight.detach().double().numpy()[rows]
    bias = model.classifier.bias.detach().double().numpy()[rows]
    expected = plain_collapse.head(np.array(x), y, weight, bias)
    _close(_values(run, "penultimate", "data"), expected, rel=2e-4)


def test_an_image_classifier_from_a_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=3,
    )
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight *= 30
    model.save_pretrained(tmp_path / "step-5")
    x = np.random.default_rng(0).standard_normal((36, 1, 8, 8)).astype(np.float32)
    y = np.arange(36) % 3
    np.savez(tmp_path / "some.npz", x=x, y=y)
    run = geoprobe.measure(
        tmp_path / "step-5", probes=("collapse",), data=f"train={tmp_path / 'some.npz'}"
    )
    with torch.no_grad():
        out = model(torch.from_numpy(x), output_hidden_states=True)
        states = model.vit(torch.from_numpy(x)).last_hidden_state[:, 0].double().numpy()
    found = _values(run, "penultimate", "train")
    _close(found, plain_collapse.layer(states, y), rel=2e-4)
    weight = model.classifier.weight.detach().double().numpy()
    _close(found, plain_collapse.head(states, y, weight), rel=2e-4)
    assert ((states @ weight.T).argmax(1) == out.logits.argmax(1).numpy()).all()
    first = out.hidden_states[1][:, 0].double().numpy()
    _close(_values(run, "block.0", "train"), plain_collapse.layer(first, y), rel=2e-4)


@pytest.mark.parametrize("pool", ["last", "mean", "first"])
def test_labelled_text_of_a_language_model_has_no_classifier(pool: str, tmp_path: Path) -> None:
    model, tokenizer = _family("llama"), tiny_tokenizer()
    texts = tiny_text(48)
    labels = ["b", "a", "c"] * 16
    if pool == "first":  # the token behind <s> is there for all, and so is what it makes
        model, tokenizer = _bert_encoder(), tokenizer
    run = _measure(model, tokenizer, data=_labelled(tmp_path, texts, labels), pool=pool)
    ids = [list(map(int, tokenizer(t)["input_ids"])) for t in texts]
    states = plain.hidden_states(model, ids)
    y = np.array(labels)
    for site in ("block.0", "block.1"):
        x, _ = plain.choose(states[site], pool)
        _close(_values(run, site, "data"), plain_collapse.layer(x, y), rel=2e-4)
    absent = run.readings.filter(measure="nc3_duality", labels="given")
    assert absent["value"][0] is None
    assert (
        "classifier" in absent["reason"][0] or "not what the model predicts" in absent["reason"][0]
    )


def _bert_encoder() -> Any:
    torch.manual_seed(6)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=30,
    )
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def _perceptron(classes: int = 5) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, classes)).eval()


def _items(n: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = draw.integers(classes, size=n)
    return (draw.standard_normal((n, 3, 3)) + y[:, None, None]).astype(np.float32), y


def test_a_network_of_a_factory_with_two_data_sets(tmp_path: Path) -> None:
    model = _perceptron()
    save_model(model, str(tmp_path / "step-3.safetensors"))
    sets = {"train": _items(60), "heldout": _items(40, seed=1)}
    for name, (x, y) in sets.items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    run = geoprobe.measure(
        tmp_path / "step-3.safetensors",
        factory="tests.probes.test_collapse:_perceptron",
        probes=("collapse",),
        data=[f"{name}={tmp_path / name}.npz" for name in sets],
    )
    for name, (x, y) in sets.items():
        with torch.no_grad():
            states = model[:3](torch.from_numpy(x)).double().numpy()
            hidden = model[:2](torch.from_numpy(x)).double().numpy()
        _close(_values(run, "1", name), plain_collapse.layer(hidden, y), rel=1e-4)
        _close(_values(run, "penultimate", name), plain_collapse.layer(states, y), rel=1e-4)
        weight, bias = (p.detach().double().numpy() for p in model[3].parameters())
        expected = plain_collapse.head(states, y, weight, bias)
        _close(_values(run, "penultimate", name), expected, rel=1e-4)
    assert "3" not in set(run.readings["site"])  # what the classifier answers is no layer


def test_items_without_labels_change_nothing() -> None:
    model, (x, y) = _perceptron(), _items(60)
    more = np.concatenate([x, 100 * np.ones((7, 3, 3), dtype=np.float32)])
    without = np.concatenate([y, np.full(7, -100)])
    plain_run, run = (_measure(model, data=d) for d in ((x, y), (more, without)))
    for site in ("1", "penultimate"):
        _close(_values(run, site, "data"), _values(plain_run, site, "data"), rel=1e-9)


def test_a_second_pass_gives_what_kept_features_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = _perceptron(), _items(200)
    kept = _measure(model, data=(x, y))
    monkeypatch.setattr("geoprobe.probes.collapse._FEATURES_SHARE", 2**60)
    said: list[str] = []

    class Progress:
        def checkpoint(self, *_: Any) -> None: ...
        def batches(self, *_: Any) -> None: ...
        def note(self, message: str) -> None:
            said.append(message)

    again = _measure(model, data=(x, y), batch_size=16, progress=Progress())
    a, b = (_values(run, "penultimate", "data") for run in (kept, again))
    assert a["nc4_mismatch"] == b["nc4_mismatch"]
    assert 0 < a["nc4_mismatch"] < 1
    assert any("second pass" in sentence for sentence in said)


def test_groups_are_classes_in_turn() -> None:
    """Classes that take turns every eight items would each be a jackknife group of their own."""
    x, _ = _items(160)
    y = np.arange(160) % 8
    run = _measure(_perceptron(8), data=(x, y))
    rows = run.readings.filter(site="1", labels="given", measure="cdnv")
    assert rows["stderr"][0] is not None
    with torch.no_grad():
        hidden = _perceptron(8)[:2](torch.from_numpy(x)).double().numpy()
    in_turn = (np.arange(160) // 8 + y) % 8
    without = [
        plain_collapse.layer(hidden[in_turn != g], y[in_turn != g])["cdnv"] for g in range(8)
    ]
    assert rows["stderr"][0] == pytest.approx(plain_collapse.jackknife(without), rel=1e-4)


def test_no_groups_where_memory_forbids_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoprobe.probes.collapse._GROUPS_BYTES", 500_000)
    run = _measure(_family("llama"), tiny_tokenizer(), text=tiny_text(60), min_count=5)
    first = run.readings.filter(site="embed", measure="nc1", labels="given")
    last = run.readings.filter(site="final", measure="nc1", labels="given")
    assert first["stderr"][0] is None
    assert "GiB" in first["reason"][0]
    assert last["stderr"][0] is not None
    assert any(f.get("code") == "no_groups" for f in run.findings)


def test_sets_of_text_side_by_side(tmp_path: Path) -> None:
    model, tokenizer = _family("llama"), tiny_tokenizer()
    paths = {}
    for seed, name in enumerate(("train", "heldout")):
        paths[name] = _labelled(tmp_path, tiny_text(80, seed), [0] * 80, name)
    run = _measure(model, tokenizer, data=paths, classes="tokens", min_count=6)
    ids = {
        name: build_corpus(tokenizer, [Path(path)], sequences=None) for name, path in paths.items()
    }
    documents = {
        name: [list(map(int, c.sequence(i))) for i in range(len(c))] for name, c in ids.items()
    }
    # The same classes on both sides: seen often enough in each.
    counts = {
        name: np.bincount([t for d in documents[name] for t in d[1:]], minlength=VOCABULARY)
        for name in paths
    }
    classes = np.flatnonzero((counts["train"] >= 6) & (counts["heldout"] >= 6))
    for name in paths:
        states = plain.hidden_states(model, documents[name])["final"]
        x, y, _ = plain_collapse.next_tokens(states, documents[name], 1)
        kept = np.isin(y, classes)
        _close(_values(run, "final", name), plain_collapse.layer(x[kept], y[kept]), rel=2e-4)


def test_distance_to_the_predicted_frame() -> None:
    """Features and rows planted on the frame of three imbalanced classes, up to their lengths."""
    counts, width = [20, 10, 5], 8
    frame = geoprobe.measures.general_orthogonal_frame(counts, 5e-3, 5e-3)
    axes = np.eye(3, width)
    network = nn.Sequential(nn.Identity(), nn.Linear(width, 3, bias=False)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(np.sqrt(frame.rows)[:, None] * axes))
    y = np.repeat(np.arange(3), counts)
    x = 7 * (np.sqrt(frame.means)[:, None] * axes)[y]
    run = _measure(network, data=(x, y), weight_decay_w=5e-3, weight_decay_h=5e-3)
    rows = run.readings.filter(measure="gof_distance")
    assert set(rows["of"]) == {"means", "rows", "logits"}
    assert max(rows["value"]) < 1e-6
    assert _values(run, "penultimate", "data")["nc2_etf"] > 0.1
    arrays = run.arrays("model")
    np.testing.assert_allclose(
        arrays["collapse/data/predicted_norms"], arrays["collapse/data/norms"], rtol=1e-6
    )
    small = _measure(network, data=(x, y), weight_decay_w=0.1, weight_decay_h=0.1)
    found = next(f for f in small.findings if f["kind"] == "imbalance")
    assert found["threshold"] == pytest.approx(35**2 * 0.1 * 0.1)
    assert found["collapsed"] == [1, 2]


def _deep() -> nn.Module:
    torch.manual_seed(4)
    layers: list[nn.Module] = [nn.Linear(9, 12)]
    for _ in range(3):
        layers += [nn.ReLU(), nn.Linear(12, 12)]
    return nn.Sequential(nn.Flatten(), *layers, nn.ReLU(), nn.Linear(12, 5)).eval()


@pytest.mark.parametrize("sites", [None, "1,2,5,7"])
def test_the_law_of_separation_is_a_line_through_the_layers(sites: str | None) -> None:
    """By depth in the network, whichever of its layers are measured."""
    (x, y), model = _items(160), _deep()
    run = _measure(model, data=(x, y), sites=sites)
    named = [str(i) for i in range(1, 9)] if sites is None else sites.split(",")
    depth, logs = [], []
    for name in named:
        with torch.no_grad():
            states = model[: int(name) + 1](torch.from_numpy(x)).double().numpy()
        depth.append(int(name))
        logs.append(np.log(plain_collapse.layer(states, y)["separation"]))
    slope, middle = np.polyfit(depth, logs, 1)
    rest = np.array(logs) - slope * np.array(depth) - middle
    found = dict(run.readings.filter(site="model").select("measure", "value").iter_rows())
    assert found["separation_decay"] == pytest.approx(np.exp(slope), rel=1e-4)
    r2 = 1 - (rest**2).sum() / ((logs - np.mean(logs)) ** 2).sum()
    assert found["separation_decay_r2"] == pytest.approx(r2, rel=1e-3, abs=1e-4)


def test_layers_that_halve_noise_apart_from_the_means() -> None:
    """Each layer halves the noise, which is not in the directions of the means."""
    width, classes = 12, 3

    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(4)])
            self.head = nn.Linear(width, classes)
            keep = torch.diag(torch.tensor([1.0] * classes + [0.5] * (width - classes)))
            with torch.no_grad():
                for layer in self.layers:
                    layer.weight.copy_(keep)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            found: torch.Tensor = self.head(x)
            return found

    draw = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), 50)
    x = np.zeros((150, width), dtype=np.float32)
    x[:, classes:] = draw.standard_normal((150, width - classes))
    for c in range(classes):  # so that the means are exactly where they were put
        x[y == c] -= x[y == c].mean(0)
    x[:, :classes] += 5 * np.eye(classes)[y]
    run = _measure(Halving(), data=(x, y))
    # The noise is not where the means are: what separation finds of it there is rounding.
    model = run.readings.filter(site="model")
    assert model["value"].to_list() == [None, None]
    assert all("rounding" in reason for reason in model["reason"])
    quotients = [_values(run, f"layers.{i}", "data")["nc1_quotient"] for i in range(4)]
    for before, after in pairwise(quotients):
        assert after == pytest.approx(before / 4, rel=1e-5)
    depth = next(f for f in run.findings if f["kind"] == "depth")
    assert depth["falls"] == [True] * 3
    same = run.readings.filter(measure="geometry_distance")
    assert max(same["value"]) < 1e-6  # the frame of the means is moved by none of them


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ((np.zeros((9, 3, 3)), np.zeros(9, int)), {}, "every item has the label"),
        ((np.zeros((9, 3, 3)), np.array([0] * 8 + [1])), {}, "a single item"),
        ((np.zeros((9, 3, 3)), np.array([0] * 5 + [7] * 4)), {}, "label 7 is no class"),
        ((np.zeros((9, 3, 3)), np.arange(9) % 3), {"min_count": 50}, "50 or more items"),
        ((np.zeros((9, 3, 3)), np.arange(9) % 3), {"min_count": 1}, "at least 2"),
        ((np.zeros((9, 3, 3)), np.arange(9) % 3), {"pool": "best"}, "--pool best"),
        ((np.zeros((9, 3, 3)), np.arange(9) % 3), {"weight_decay_w": 0.1}, "give both"),
        ((np.zeros((9, 3, 3)), np.arange(9) % 3), {"classes": "colours"}, "--classes colours"),
    ],
)
def test_bad_input_is_a_sentence(data: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _measure(_perceptron(), data=data, **options)


def test_models_that_predict_no_next_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sees the next token"):
        _measure(_bert_encoder(), tiny_tokenizer(), text=tiny_text(20))
    with pytest.raises(UsageError, match="seen 999 times or more"):
        _measure(_family("llama"), tiny_tokenizer(), text=tiny_text(20), min_count=999)
    with pytest.raises(UsageError, match="--classes labels"):
        _measure(_family("llama"), tiny_tokenizer(), text=tiny_text(20), classes="labels")


def test_more_classes_than_dimensions_is_said() -> None:
    draw = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 4)
    x = draw.standard_normal((24, 3)) + np.eye(6, 3)[y]
    run = _measure(nn.Sequential(nn.Identity(), nn.Linear(3, 6)), data=(x, y))
    warning = next(f for f in run.findings if f.get("code") == "more_classes_than_dimensions")
    assert "6 classes in 3 dimensions" in warning["message"]
    found = _values(run, "penultimate", "data")
    assert found["nc2_etf"] >= found["nc2_etf_floor"] > 0
    assert found["nc2_etf_floor"] == pytest.approx(np.sqrt(2 - 2 * np.sqrt(3 / 5)))


def test_features_that_are_the_same_have_reasons() -> None:
    y = np.arange(12) % 3
    run = _measure(_perceptron(), data=(np.ones((12, 3, 3)), y))
    for row in run.readings.filter(measure="nc1", labels="given").iter_rows(named=True):
        assert row["value"] is None
        assert "the same" in row["reason"]


def test_a_folder_of_images_and_a_series_of_classifiers(tmp_path: Path) -> None:
    """Names of folders are the model's own classes, in another order; loaded in place."""
    from PIL import Image

    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        id2label={0: "dog", 1: "cat"},
        label2id={"dog": 0, "cat": 1},
    )
    models = []
    for step in (0, 9):
        torch.manual_seed(step)
        models.append(transformers.ViTForImageClassification(config).eval())
        models[-1].save_pretrained(tmp_path / "runs" / f"step-{step}")
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
    processor.save_pretrained(tmp_path / "runs")
    draw = np.random.default_rng(0)
    pictures = {
        name: draw.integers(0, 255, (9, 8, 8, 3), dtype=np.uint8) for name in ("cat", "dog")
    }
    for name, some in pictures.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, pixels in enumerate(some):
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    run = geoprobe.measure(tmp_path / "runs", probes=("collapse",), data=str(tmp_path / "photos"))
    every = [Image.fromarray(p) for name in ("cat", "dog") for p in pictures[name]]
    x = torch.as_tensor(np.array(processor(every)["pixel_values"]))
    y = np.repeat([0, 1], 9)
    for label, model in zip(("step-0", "step-9"), models, strict=True):
        with torch.no_grad():
            states = model.vit(x).last_hidden_state[:, 0].double().numpy()
        weight = model.classifier.weight.detach().double().numpy()[[1, 0]]
        here = run.readings.filter(
            checkpoint=label, site="penultimate", labels="given", data="data"
        )
        found = dict(zip(here["measure"], here["value"], strict=True))
        expected = plain_collapse.head(states, y, weight)
        expected["cdnv"] = plain_collapse.layer(states, y)["cdnv"]
        _close(found, expected, rel=1e-3)


def test_documents_without_tokens_can_leave_a_single_class(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    path = _labelled(tmp_path, [*tiny_text(6), "", "", ""], ["a"] * 6 + ["b"] * 3)
    with pytest.raises(UsageError, match="1 class are left"):
        _measure(_family("llama"), tokenizer, data=path)


def test_a_decoder_that_takes_the_end_of_a_text_for_padding(tmp_path: Path) -> None:
    """transformers' classifiers read the last token that is not the padding's id."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, num_labels=3, pad_token_id=1
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        model.score.weight *= 40
    texts, y = tiny_text(36), np.arange(36) % 3
    run = _measure(model, tokenizer, data=_labelled(tmp_path, texts, y.tolist()), batch_size=5)
    x, chosen = [], []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            chosen.append(int(model(ids).logits.argmax()))
            x.append(model.transformer(ids).last_hidden_state[0, -2].double().numpy())
    states, weight = np.array(x), model.score.weight.detach().double().numpy()
    assert ((states @ weight.T).argmax(1) == chosen).all()
    found = _values(run, "penultimate", "data")
    _close(found, plain_collapse.head(states, y, weight), rel=2e-4)
    _close(found, {"cdnv": plain_collapse.layer(states, y)["cdnv"]}, rel=2e-4)


def test_a_projection_before_the_unembedding() -> None:
    """OPT-350m's final states are projected; a live module's weights may still want gradients."""
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        word_embed_proj_dim=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=30,
        max_position_embeddings=40,
    )
    model = transformers.OPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4 if parameter.ndim > 1 else 1
    tokenizer, texts = tiny_tokenizer(), tiny_text(60)
    run = _measure(model, tokenizer, text=texts, min_count=6)
    ids = [list(map(int, tokenizer(t)["input_ids"])) for t in texts]
    last: list[np.ndarray] = []
    projected: list[np.ndarray] = []
    with torch.no_grad():
        for document in ids:
            seen: list[torch.Tensor] = []
            handle = model.model.decoder.project_out.register_forward_hook(
                lambda _, given, out, seen=seen: seen.extend((given[0][0], out[0]))
            )
            model(torch.tensor([document]))
            handle.remove()
            last.append(seen[0].double().numpy())
            projected.append(seen[1].double().numpy())
    x, y, _ = plain_collapse.next_tokens(last, ids, 6)
    out, _, _ = plain_collapse.next_tokens(projected, ids, 6)
    rows = model.lm_head.weight.detach().double().numpy()[np.unique(y)]
    means = np.array([x[y == c].mean(0) for c in np.unique(y)])
    nearest = np.array([((means - row) ** 2).sum(1).argmin() for row in x])
    expected = (nearest != (out @ rows.T).argmax(1)).mean()
    assert _values(run, "final", "text")["nc4_mismatch"] == pytest.approx(expected, abs=2e-3)
    absent = run.readings.filter(measure="nc3_duality", labels="given")
    assert "projection" in absent["reason"][0]


def test_counts_of_the_predicted_frame_are_those_of_training() -> None:
    """Whatever the order of the sets, and whichever classes are left out of what is measured."""
    draw, network = np.random.default_rng(0), nn.Sequential(nn.Identity(), nn.Linear(6, 4))
    y = np.repeat(np.arange(4), [30, 20, 10, 4])
    train = (draw.standard_normal((64, 6)) + np.eye(4, 6)[y], y)
    held_y = np.repeat(np.arange(4), 12)
    held = (draw.standard_normal((48, 6)) + np.eye(4, 6)[held_y], held_y)
    decays = {"weight_decay_w": 0.03, "weight_decay_h": 0.03}
    expected = measures.general_orthogonal_frame([30, 20, 10, 4], 0.03, 0.03)
    for data, options in (
        ({"heldout": held, "train": train}, {}),
        ({"train": train, "heldout": held}, {"min_count": 8}),
    ):
        run = _measure(network, data=data, **decays, **options)
        found = [f for f in run.findings if f["kind"] == "imbalance"]
        assert [f["data"] for f in found] == ["train"]
        assert found[0]["threshold"] == pytest.approx(expected.threshold)
    only = {"train": (train[0][y < 3], y[y < 3]), "heldout": held}
    run = _measure(network, data=only, **decays)
    absent = run.readings.filter(measure="gof_distance", data="heldout")
    assert absent["value"].to_list() == [None] * 3
    assert "classes that train has not" in absent["reason"][0]


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 1, "length": 8}, {}])
def test_plan_knows_it(tiny_series: Path, options: dict[str, Any]) -> None:
    found = geoprobe.plan(
        tiny_series, probes=("collapse",), text=tiny_text(60), min_count=4, **options
    )
    assert found.here["watching"] > 0
    assert found.here["readings"] > 0


def test_many_classes_take_little_memory() -> None:
    import tracemalloc

    means = np.random.default_rng(0).standard_normal((6000, 8))
    tracemalloc.start()
    measures.pairwise(means, np.ones(6000))
    measures.nearest_means(means, means)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20  # all pairs would be 275 MiB at a time
