import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.formats import find_autoencoders, read_autoencoder, write_saelens
from geoprobe.errors import UsageError
from tests.autoencoders.random_autoencoders import ARCHITECTURES, activations, random_autoencoder

WRITTEN = Path(__file__).parent / "written"

READ = {
    "saelens/standard": ("standard", None, "block.3"),
    "saelens/standard-uncentred": ("standard", None, "block.2"),
    "saelens/standard-constant-norm": ("standard", None, "embed"),
    "saelens/standard-layer-norm": ("standard", None, "mlp.out.3"),
    "saelens/standard-bfloat16": ("standard", None, "attention.3"),
    "saelens/standard-head": ("standard", None, None),
    "saelens/topk": ("topk", 4, "neurons.3"),
    "saelens/topk-by-norm": ("topk", 4, "final"),
    "saelens/jumprelu": ("jumprelu", None, "block.3"),
    "saelens/gated": ("gated", None, "block.3"),
    "saelens/gated-uncentred": ("gated", None, "block.3"),
    "saelens/trained-standard": ("standard", None, "block.3"),
    "saelens/trained-topk": ("topk", 4, "block.3"),
    "saelens/trained-batchtopk": ("batchtopk", 4, "block.3"),
    "saelens/trained-matryoshka": ("batchtopk", 4, "block.3"),
    "saelens/trained-jumprelu": ("jumprelu", None, "block.3"),
    "saelens/trained-gated": ("gated", None, "block.3"),
    "saelens/trained-scaled": ("batchtopk", 4, None),
    "saelens/checkpoint-standard": ("standard", None, "block.3"),
    "saelens/checkpoint-topk": ("topk", 4, "block.3"),
    "saelens/checkpoint-batchtopk": ("batchtopk", 4, "block.3"),
    "saelens/checkpoint-matryoshka": ("batchtopk", 4, "block.3"),
    "saelens/checkpoint-jumprelu": ("jumprelu", None, "block.3"),
    "saelens/checkpoint-gated": ("gated", None, "block.3"),
    "saelens/checkpoint-scaled": ("batchtopk", 4, None),
    "saelens5/standard": ("standard", None, "block.2"),
    "saelens5/standard-topk": ("topk", 4, "block.2"),
    "saelens5/topk": ("topk", 4, "block.2"),
    "saelens5/gated": ("gated", None, "block.2"),
    "saelens5/jumprelu": ("jumprelu", None, "block.2"),
    "saelens5/finetuned": ("standard", None, "block.2"),
    "dictionary_learning/standard": ("standard", None, "block.3"),
    "dictionary_learning/standard-unnormed": ("standard", None, "mlp.out.3"),
    "dictionary_learning/p-anneal": ("standard", None, None),
    "dictionary_learning/new": ("standard", None, None),
    "dictionary_learning/gated": ("gated", None, "attention.3"),
    "dictionary_learning/gated-anneal": ("gated", None, None),
    "dictionary_learning/jumprelu": ("jumprelu", None, "block.3"),
    "dictionary_learning/topk": ("topk", 4, "block.3"),
    "dictionary_learning/batchtopk": ("batchtopk", 4, "block.3"),
    "dictionary_learning/matryoshka": ("batchtopk", 4, None),
    "sparsify/layers.3": ("topk", 4, "block.3"),
    "sparsify/layers.10": ("topk", 4, "block.10"),
    "sparsify/layers.3.mlp": ("topk", 4, "mlp.out.3"),
    "sparsify/transformer.h.3": ("topk", 4, "block.3"),
    "sparsify/embed_tokens": ("topk", 4, "embed"),
    "sparsify/bfloat16": ("topk", 4, None),
}
"""Architecture, k and site of what is read."""

REFUSED = {
    "saelens/abstopk": "architecture 'abstopk'",
    "saelens/matching-pursuit": "architecture 'matching_pursuit'",
    "saelens/standard-hook-z": "hook_z",
    "saelens/transcoder": "architecture 'transcoder'",
    "saelens/skip-transcoder": "architecture 'skip_transcoder'",
    "saelens/jumprelu-transcoder": "architecture 'jumprelu_transcoder'",
    "saelens5/tanh-relu": "activation 'tanh-relu'",
    "dictionary_learning/batchtopk-unset": "threshold of this BatchTopKSAE was never set",
    "sparsify/groupmax": "activation 'groupmax'",
    "sparsify/transcoder": "transcoder",
    "sparsify/skip": "skip connection",
}
KINDS = ("saelens/trained-batchtopk", "saelens5/topk", "saelens/gated", "saelens/checkpoint-scaled")
KINDS += ("dictionary_learning/topk", "dictionary_learning/matryoshka", "sparsify/layers.3")
FILES = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "saelens5": ("cfg.json", "sae_weights.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "sparsify": ("cfg.json", "sae.safetensors"),
}


@pytest.fixture
def copy(tmp_path):
    """A function that copies what a package wrote, so that it can be damaged."""

    def copied(kind: str) -> tuple[Path, Path, Path]:
        folder = tmp_path / kind.replace("/", "-")
        shutil.copytree(WRITTEN / kind, folder)
        config, weights = FILES[kind.split("/")[0]]
        return folder, folder / config, folder / weights

    return copied


def refused(path: Path | str, *words: str) -> str:
    """The sentence that says why it is not read."""
    with pytest.raises(UsageError) as caught:
        read_autoencoder(path)
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert said.endswith(".")
    assert said.isprintable()
    return said


def test_all_that_the_packages_wrote_is_tested():
    written = {f"{p.parent.parent.name}/{p.parent.name}" for p in WRITTEN.glob("*/*/c*f*g.json")}
    assert written == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("kind", READ)
def test_codes_and_reconstructions_are_those_of_the_package(kind):
    expected = load_file(WRITTEN / kind / "expected.safetensors")
    it = read_autoencoder(WRITTEN / kind)
    codes, found = it.apply(expected["x"])
    assert torch.allclose(codes, expected["codes"], atol=1e-5, rtol=0)
    assert torch.allclose(found, expected["reconstruction"], atol=1e-5, rtol=0)
    architecture, k, site = READ[kind]
    assert (it.architecture, it.k, it.site) == (architecture, k, site)
    assert it.name == kind.split("/")[1]
    assert it.source.lower() == kind.split("/")[0].removesuffix("5")
    assert it.encoder.dtype == torch.float32
    l0 = (codes > 0).sum(1)
    assert 0 < int(l0.max()) <= (k if architecture == "topk" else it.features)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_run_as_it_was_trained_is_refused(kind):
    refused(WRITTEN / kind, REFUSED[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_either_file_stands_for_the_folder(kind):
    folder = WRITTEN / kind
    whole = read_autoencoder(folder)
    for name in FILES[kind.split("/")[0]]:
        assert read_autoencoder(str(folder / name)).encoder.equal(whole.encoder)
        assert find_autoencoders(folder / name) == [folder / name]


def test_two_formats_in_one_folder_are_told_apart_by_the_weights(copy):
    folder, _, weights = copy("saelens/standard")
    shutil.copy(WRITTEN / "dictionary_learning/topk/config.json", folder)
    shutil.copy(WRITTEN / "dictionary_learning/topk/ae.pt", folder)
    refused(folder, "2 autoencoders", "ae.pt", "sae_weights.safetensors")
    assert read_autoencoder(folder / "ae.pt").source == "dictionary_learning"
    assert read_autoencoder(weights).source == "SAELens"
    assert read_autoencoder(folder / "cfg.json").source == "SAELens"
    shutil.copy(WRITTEN / "sparsify/layers.3/sae.safetensors", folder)
    refused(folder / "cfg.json", "2 autoencoders")


def test_those_beneath_a_folder_are_found_in_natural_order(tmp_path):
    for name in ("layers.10", "layers.2", "layers.2.mlp", "deep/er/layers.1", "embed_tokens"):
        shutil.copytree(WRITTEN / "sparsify/layers.3", tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    shutil.copy(WRITTEN / "sparsify/layers.3/cfg.json", tmp_path / "half")
    (tmp_path / "odd/ae.pt").mkdir(parents=True)
    (tmp_path / "odd/config.json").mkdir()
    found = [folder.relative_to(tmp_path).as_posix() for folder in find_autoencoders(tmp_path)]
    assert found == ["deep/er/layers.1", "embed_tokens", "layers.2", "layers.2.mlp", "layers.10"]
    assert find_autoencoders(tmp_path / "layers.2") == [tmp_path / "layers.2"]


@pytest.mark.parametrize("look", [read_autoencoder, find_autoencoders])
def test_where_there_is_none(tmp_path, look):
    with pytest.raises(UsageError, match=r"holds no sparse autoencoder: there is no cfg\.json"):
        look(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no sparse autoencoder"):
        look(tmp_path / "ae.pt")
    with pytest.raises(UsageError, match="hub; if it is there, download it first"):
        look("EleutherAI/sae-pythia-160m-32k")
    for path in ("no/such/folder", "\0", "x" * 5000, "a\nb"):
        with pytest.raises(UsageError, match="no such"):
            look(path)


def test_the_name_is_that_of_the_folder_however_it_is_given(monkeypatch):
    monkeypatch.chdir(WRITTEN / "sparsify/layers.3")
    assert read_autoencoder(".").site == "block.3"
    assert read_autoencoder("../layers.3/cfg.json").name == "layers.3"
    assert read_autoencoder("cfg.json").site == "block.3"


# --- configs of any content


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 30)
    | st.integers()
    | st.floats()
    | st.sampled_from(["standard", "topk", "relu", "gated", "jumprelu", "batchtopk", "none", ""])
    | st.sampled_from(["layer_norm", "expected_average_only_in", "AutoEncoder", "BatchTopKSAE"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(config: dict, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in config.items():
        found.append((*at, key))
        if isinstance(value, dict):
            found += places(value, (*at, key))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_configs_of_any_content_give_an_autoencoder_or_a_sentence(kind, tmp_path):
    folder = tmp_path / "layers.3"
    shutil.copytree(WRITTEN / kind, folder)
    name = FILES[kind.split("/")[0]][0]
    whole = json.loads((folder / name).read_text())
    extra = [("activation_fn_str",), ("activation_fn_kwargs",), ("signed",), ("hook_point",)]
    extra += [("metadata", "geoprobe_site"), ("hook_name_out",), ("metadata", "hf_hook_name")]
    where = st.sampled_from(places(whole) + extra)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(st.tuples(where, st.just("gone") | JSON), min_size=1, max_size=4), st.data())
    def check(changes, data):
        config = json.loads(json.dumps(whole))
        for (*path, last), value in changes:
            inner = config
            for key in path:
                inner = inner.get(key) if isinstance(inner, dict) else None
            if not isinstance(inner, dict):
                continue
            if value == "gone":
                inner.pop(last, None)
            else:
                inner[last] = value
        document = config if data.draw(st.integers(0, 9)) else data.draw(JSON)
        (folder / name).write_text(json.dumps(document))
        it: Autoencoder | str
        try:
            it = read_autoencoder(folder)
        except UsageError as error:
            it = str(error)
        if isinstance(it, str):
            assert it.isprintable()
            assert it.endswith(".")
            return
        assert it.apply(torch.zeros(2, it.width))[0].shape == (2, it.features)
        assert it.site is None or isinstance(it.site, str)
        if whole.get("architecture") == "topk" or "sparsify" in kind:
            assert it.architecture != "standard" or config.get("architecture") == "standard"

    check()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00\x01",
        b"null",
        b"[]",
        b"NaN",
        b"{}",
        b'{"d_in": ' + b"9" * 5000 + b"}",
        b'{"a":' * 200_000,
        b'{"architecture": "\\ud800"}',
        b'{"d_in": 6, "d_sae": 20, "trainer": []}',
        b'{"trainer": {"dict_class": ["AutoEncoder"]}}',
        b" " * (17 * 2**20),
    ],
    ids=lambda content: repr(content[:20]),
)
@pytest.mark.parametrize("kind", ["saelens/topk", "dictionary_learning/topk", "sparsify/layers.3"])
def test_files_that_are_no_config_are_refused(kind, content, copy):
    folder, config, _ = copy(kind)
    config.write_bytes(content)
    refused(folder)


def changed(config: Path, **changes: object) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("saelens/topk", {"k": None}, ["does not say k"]),
        ("saelens/topk", {"k": 2.5}, ["k is 2.5, not a whole number above 0"]),
        ("saelens/topk", {"k": 21}, ["20 features, and k is 21"]),
        ("saelens/topk", {"architecture": None}, ["does not say architecture"]),
        ("saelens5/topk", {"architecture": None, "activation_fn_kwargs": {}}, ["does not say k"]),
        ("saelens5/topk", {"architecture": None, "activation_fn_str": None}, ["is not said"]),
        ("saelens5/topk", {"activation_fn_str": "relu"}, ["has a k and is relu"]),
        ("saelens/topk", {"reshape_activations": "\x1b[31m"}, ["'\\x1b[31m'"]),
        ("saelens/topk", {"k": True}, ["k is true"]),
        ("saelens/topk", {"d_sae": 21}, ["W_enc is 6 x 20, where 6 x 21 is expected"]),
        ("saelens/topk", {"architecture": "relu\n"}, ["architecture 'relu\\n'"]),
        ("saelens/topk", {"normalize_activations": "unit"}, ["normalised by 'unit'"]),
        ("saelens/topk", {"normalize_activations": True}, ["expected_average_only_in", "SAELens"]),
        ("saelens/topk", {"hook_name_out": "blocks.4.hook_mlp_out"}, ["transcoders"]),
        ("saelens/standard", {"activation_fn": "topk"}, ["does not say k"]),
        ("saelens/gated", {"activation_fn": "topk"}, ["'topk' of a gated"]),
        ("saelens/standard", {"architecture": "jumprelu"}, ["has no threshold"]),
        ("saelens/standard", {"architecture": "batchtopk", "k": 4}, ["has no topk_threshold"]),
        ("saelens5/finetuned", {"finetuning_scaling_factor": False}, ["finetuning"]),
        ("saelens5/topk", {"activation_fn_kwargs": {"k": 4, "signed": True}}, ["signed"]),
        ("sparsify/layers.3", {"signed": True}, ["signed"]),
        ("sparsify/layers.3", {"num_latents": 0}, ["20 x 6, where 192 x 6"]),
        ("sparsify/layers.3", {"d_in": 7}, ["20 x 6, where 20 x 7"]),
    ],
)
def test_what_a_config_may_get_wrong(kind, changes, words, copy):
    folder, config, _ = copy(kind)
    changed(config, **changes)
    refused(folder, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dict_class": "CrossCoder"}, ["class 'CrossCoder'"]),
        ({"dict_class": "IdentityDict"}, ["class 'IdentityDict'"]),
        ({"dict_class": "AutoEncoder"}, ["has no bias"]),
        ({"dict_class": "MatryoshkaBatchTopKSAE"}, ["has no W_enc"]),
        ({"dict_class": None}, ["does not say trainer.dict_class"]),
        ({"k": 5}, ["k is 5 here and 4 in its weights"]),
        ({"dict_size": 21}, ["encoder.weight is 20 x 6"]),
    ],
)
def test_what_a_trainers_config_may_get_wrong(changes, words, copy):
    folder, config, _ = copy("dictionary_learning/topk")
    trainer = json.loads(config.read_text())["trainer"] | changes
    config.write_text(json.dumps({"trainer": trainer}))
    refused(folder, *words)


def test_a_checkpoint_of_training_needs_the_factor_of_its_activations(copy):
    folder, _, _ = copy("saelens/checkpoint-scaled")
    for content in ("{}", '{"scaling_factor": 0}', '{"scaling_factor": "x"}', "[]"):
        (folder / "activation_scaler.json").write_text(content)
        refused(folder)
    (folder / "activation_scaler.json").unlink()
    refused(folder, "expected_average_only_in", "fold_activation_norm_scaling_factor")


def test_first_spelling_and_missing_k_of_dictionary_learning(copy):
    folder, config, _ = copy("dictionary_learning/matryoshka")
    trainer = json.loads(config.read_text())["trainer"] | {"dict_class": "MatroyshkaBatchTopKSAE"}
    del trainer["k"]
    config.write_text(json.dumps({"trainer": trainer}))
    assert read_autoencoder(folder).k == 4


def test_the_oldest_files_of_saelens_say_no_architecture(copy):
    folder, config, _ = copy("saelens5/standard")
    old = json.loads(config.read_text())
    for name in ("architecture", "activation_fn_str", "apply_b_dec_to_input"):
        del old[name]
    old["hook_point"] = old.pop("hook_name")
    config.write_text(json.dumps(old | {"normalize_activations": False}))
    expected = load_file(folder / "expected.safetensors")
    it = read_autoencoder(folder)
    assert torch.allclose(it.encode(expected["x"]), expected["codes"], atol=1e-5)
    assert it.site == "block.2"


# --- weights of any content


@pytest.mark.parametrize("kind", ["saelens/topk", "dictionary_learning/topk", "sparsify/layers.3"])
def test_truncated_and_empty_weights_are_refused(kind, copy):
    folder, _, weights = copy(kind)
    content = weights.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        weights.write_bytes(content[:size])
        refused(folder, weights.name)
    weights.write_bytes(os.urandom(4096))
    refused(folder, weights.name)


class Bomb:
    """What an unpickler that runs code would make a file of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))])
def test_code_in_a_pickle_is_not_run(save, copy, tmp_path):
    folder, _, weights = copy("dictionary_learning/topk")
    whole = torch.load(weights, weights_only=True)
    for content in (Bomb(tmp_path / "ran"), {**whole, "more": Bomb(tmp_path / "ran")}):
        save(content, weights)
        refused(folder)
        assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it does run, where it is let


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("encoder.weight", torch.ones(20, 6, dtype=torch.int8), "quantised"),
        ("encoder.weight", torch.ones(20, 6, dtype=torch.complex64), "no real numbers"),
        ("encoder.weight", torch.full((20, 6), torch.nan), "NaN"),
        ("encoder.weight", torch.full((20, 6), torch.inf), "infinite"),
        ("encoder.weight", torch.ones(()), "one number"),
        ("encoder.weight", torch.ones(20, 6).to_sparse(), "not a plain tensor"),
        ("encoder.weight", torch.ones(1, 1).expand(2**20, 2**20), "not a plain tensor"),
        ("encoder.weight", torch.ones(20, 6, device="meta"), "not a plain tensor"),
        ("encoder.bias", torch.ones(19), "19, where 20"),
        ("k", torch.tensor(0), "0 in its weights"),
        ("k", torch.tensor(torch.nan), "0 in its weights"),
        ("k", torch.tensor([4, 4]), "0 in its weights"),
        ("k", [4], "not a state dict"),
    ],
)
def test_weights_that_are_no_autoencoders(name, value, word, copy):
    folder, _, weights = copy("dictionary_learning/topk")
    torch.save(torch.load(weights, weights_only=True) | {name: value}, weights)
    refused(folder, word)


def test_a_missing_tensor_is_named(copy):
    for kind, name in (("saelens/gated", "r_mag"), ("sparsify/layers.3", "W_dec")):
        folder, _, weights = copy(kind)
        tensors = load_file(weights)
        del tensors[name]
        save_file(tensors, weights)
        refused(folder, f"has no {name}")


def test_weights_do_not_hang_on_to_the_file(copy):
    folder, _, weights = copy("dictionary_learning/standard")
    it = read_autoencoder(folder)
    before = it.encoder.clone()
    weights.write_bytes(bytes(weights.stat().st_size))
    assert it.encoder.equal(before)


# --- writing


CHANGES = ({}, {"centred": False, "site": "mlp.out.3"}, {"normalisation": "layer_norm"})


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_is_read_back_bit_for_bit(architecture, changes, tmp_path):
    it = random_autoencoder(architecture, **changes)
    assert write_saelens(it, tmp_path / "new/one", metadata={"model_name": "gpt2"}) == Path(
        tmp_path / "new/one"
    )
    back = read_autoencoder(tmp_path / "new/one")
    for name in ("architecture", "k", "centred", "by_norm", "normalisation", "site"):
        assert getattr(back, name) == getattr(it, name)
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias", "magnitude_bias"):
        ours, theirs = getattr(it, name), getattr(back, name)
        assert ours is theirs is None or ours.equal(theirs)
    if it.threshold is not None:
        assert it.threshold.expand(it.features).equal(back.threshold)
    if architecture == "gated":  # the logarithm is what is kept
        assert torch.allclose(it.magnitude, back.magnitude, rtol=1e-6, atol=0)
    else:
        for ours, theirs in zip(it.apply(activations()), back.apply(activations()), strict=True):
            assert ours.equal(theirs)
    assert sorted(p.name for p in (tmp_path / "new/one").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norms_in_codes_are_folded_where_saelens_has_none(architecture, tmp_path):
    it = random_autoencoder(architecture, by_norm=True)
    back = read_autoencoder(write_saelens(it, tmp_path / "one"))
    assert back.by_norm == (architecture == "topk")
    for ours, theirs in zip(it.apply(activations()), back.apply(activations()), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_hooks_and_metadata_are_written(tmp_path):
    def metadata(name: str, site: str | None, **more: object) -> dict:
        it = random_autoencoder("standard", site=site)
        folder = write_saelens(it, tmp_path / name, metadata=more)
        assert read_autoencoder(folder).site == site
        return json.loads((folder / "cfg.json").read_text())["metadata"]

    assert metadata("a", "block.3", context_size=8)["hook_name"] == "blocks.3.hook_resid_post"
    assert metadata("b", "block.3", hook_name="x")["hook_name"] == "x"
    assert metadata("c", "mlp.gate.3")["hook_name"] is None
    assert metadata("d", None)["hook_name"] is None
    assert metadata("e", "mlp.out.3", model_name="gemma-2-2b")["hook_name"] is None
    assert metadata("f", "block.3", context_size=8)["context_size"] == 8


def test_nothing_is_overwritten_unless_that_is_asked_for(tmp_path):
    first, second = random_autoencoder("standard", 1), random_autoencoder("topk", 2)
    write_saelens(first, tmp_path)
    with pytest.raises(UsageError, match=r"has a cfg\.json already"):
        write_saelens(second, tmp_path)
    assert read_autoencoder(tmp_path).encoder.equal(first.encoder)
    write_saelens(second, tmp_path, overwrite=True)
    assert read_autoencoder(tmp_path).encoder.equal(second.encoder)


def test_what_cannot_be_written_is_said(tmp_path):
    it = random_autoencoder("gated", magnitude=torch.zeros(20))
    with pytest.raises(UsageError, match="not above 0"):
        write_saelens(it, tmp_path / "a")
    it = random_autoencoder("standard")
    for metadata in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(UsageError, match="JSON"):
            write_saelens(it, tmp_path / "a", metadata=metadata)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_saelens(it, tmp_path / "file")


def test_half_a_file_leaves_no_autoencoder(tmp_path, monkeypatch):
    def fails(tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("geoprobe.autoencoders.saelens.save_file", fails)
    with pytest.raises(UsageError, match="no space left"):
        write_saelens(random_autoencoder("standard"), tmp_path)
    assert list(tmp_path.iterdir()) == []
