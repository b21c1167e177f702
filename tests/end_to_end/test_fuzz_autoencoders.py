"""Autoencoders' files of any content: read as their config has it, or refused in a sentence.

What a file means is computed a second time here, plainly and in double precision, from the config
and the tensors as they were given: `plain` knows no class of geoprobe.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import Tensor

from geoprobe.autoencoders.formats import read_autoencoder
from geoprobe.autoencoders.given import read_given
from geoprobe.errors import UsageError
from tests.autoencoders.random_autoencoders import activations
from tests.autoencoders.test_formats import FILES, READ, REFUSED, WRITTEN
from tests.conftest import WIDTH, tiny_model, tiny_text, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]
Path_ = tuple[str, ...]

fixed = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# --- what an autoencoder's files mean, plainly


class ContradictionError(Exception):
    """The files say no one thing: what is read from them would be a guess."""


@dataclass(frozen=True)
class Files:
    """An autoencoder's files.

    Attributes:
        package: `saelens`, `dictionary_learning` or `sparsify`.
        text: The config, in bytes as they stand in the file.
        tensors: The weights.
        factor: What activation_scaler.json holds, if it is there.
        name: The folder's name.
    """

    package: str
    text: bytes
    tensors: Mapping[str, Tensor] = field(repr=False)
    factor: Any = None
    name: str = "layers.1"

    @property
    def config(self) -> dict[str, Any]:
        found = json.loads(self.text)
        assert isinstance(found, dict)
        return found

    def weights(self) -> bytes:
        if self.package != "dictionary_learning":
            return bytes(save({n: t.contiguous() for n, t in self.tensors.items()}))
        stream = io.BytesIO()
        torch.save(dict(self.tensors), stream)
        return stream.getvalue()

    def write(self, above: Path, weights: bytes | None = None) -> Path:
        folder = above / self.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config, file = FILES[self.package]
        (folder / config).write_bytes(self.text)
        (folder / file).write_bytes(self.weights() if weights is None else weights)
        if self.factor is not None:
            scaler = {"scaling_factor": self.factor}
            (folder / "activation_scaler.json").write_text(json.dumps(scaler))
        return folder


def whole(value: Any) -> int:
    """A whole number above 0, as any JSON writer may spell it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 2**40:
        raise ContradictionError
    if value != int(value):
        raise ContradictionError
    return int(value)


def said(config: Mapping[str, Any], name: str, usual: Any) -> Any:
    """A value, or what holds where none is given."""
    value = config.get(name)
    if value is None:
        return usual
    if usual is not None and type(value) is not type(usual):
        raise ContradictionError
    return value


def plain(files: Files, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions (in float64) of activations, or `ContradictionError`."""
    try:
        config = files.config
    except (ValueError, RecursionError, AssertionError):
        raise ContradictionError from None
    rule = {"saelens": saelens, "dictionary_learning": dictionaries, "sparsify": sparsify}
    try:
        return rule[files.package](config, Finite(files.tensors), files.factor, x.double())
    except (KeyError, TypeError, AttributeError):
        raise ContradictionError from None


class Finite(dict[str, Tensor]):
    """Tensors, of which those that are used hold finite numbers of single precision."""

    def __getitem__(self, name: str) -> Tensor:
        tensor = super().__getitem__(name)
        if name in ("k", "group_sizes"):
            return tensor
        if not tensor.is_floating_point():
            raise ContradictionError
        tensor = tensor.float().double()
        if bool(tensor.isnan().any()):
            raise ContradictionError
        if "threshold" not in name and not bool(tensor.isfinite().all()):
            raise ContradictionError
        return tensor


def magnitudes(r: Tensor) -> Tensor:
    if bool((r > 88.7).any()):  # beyond the largest number of single precision
        raise ContradictionError
    return r.exp()


def top(h: Tensor, k: int) -> Tensor:
    if k > h.shape[1]:
        raise ContradictionError
    kept = h.argsort(1, descending=True)[:, :k]
    return torch.zeros_like(h).scatter_(1, kept, h.gather(1, kept)).clamp_min(0.0)


def above(h: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(h > threshold, h, 0.0).clamp_min(0.0)


def fits(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ContradictionError


OF = {
    "threshold": ("jumprelu",),
    "log_threshold": ("jumprelu",),
    "topk_threshold": ("batchtopk", "matryoshka_batchtopk"),
    "b_gate": ("gated",),
    "r_mag": ("gated",),
    "b_mag": ("gated",),
    "W_skip": (),
}


def saelens_rule(config: Mapping[str, Any]) -> tuple[str, int | None]:
    """The architecture and k."""
    top_hook = any(config.get(name) is not None for name in ("hook_name", "hook_point"))
    k, inner = config.get("k"), said(config, "activation_fn_kwargs", {})
    architecture = config.get("architecture")
    if architecture is None:
        if not top_hook or k is not None:
            raise ContradictionError
        architecture = "standard"
    if architecture not in (
        *("standard", "topk", "gated", "jumprelu"),
        *("batchtopk", "matryoshka_batchtopk"),
    ):
        raise ContradictionError
    if inner.get("signed"):
        raise ContradictionError
    names = {said(config, n, "") for n in ("activation_fn", "activation_fn_str")} - {""}
    if len(names) > 1 or not names <= {"relu", "topk"}:
        raise ContradictionError
    if names == {"topk"}:
        ks = {whole(v) for v in (k, inner.get("k")) if v is not None}
        if architecture not in ("standard", "topk") or len(ks) != 1:
            raise ContradictionError
        return "topk", ks.pop()
    if inner.get("k") is not None:
        raise ContradictionError
    if architecture == "topk":
        if names or k is None:
            raise ContradictionError
        return "topk", whole(k)
    if k is not None and ("topk" not in architecture or not 0 < k < math.inf):
        raise ContradictionError
    return architecture, None


def hooks_of(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    metadata = said(config, "metadata", {})
    return config.get("hook_name"), metadata.get("hook_name"), config.get("hook_point")


def saelens(
    config: Mapping[str, Any], t: Mapping[str, Tensor], factor: Any, x: Tensor
) -> tuple[Tensor, Tensor]:
    architecture, k = saelens_rule(config)
    if any(name in t and architecture not in owners for name, owners in OF.items()):
        raise ContradictionError
    d, size = whole(config["d_in"]), whole(config["d_sae"])
    bias = t["b_gate" if architecture == "gated" else "b_enc"]
    fits(t, {"W_enc": (d, size), "W_dec": (size, d), "b_dec": (d,)})
    if bias.shape != (size,):
        raise ContradictionError
    # What it reads.
    metadata = said(config, "metadata", {})
    hook = next((h for h in hooks_of(config) if h is not None), "")
    if said(config, "reshape_activations", "hook_z" if "hook_z" in hook else "none") != "none":
        raise ContradictionError
    for source in (config, metadata):
        if source.get("hook_name_out") not in (None, hook):
            raise ContradictionError
    mode = config.get("normalize_activations")
    if isinstance(mode, bool):
        mode = "expected_average_only_in" if mode else "none"
    mode = "none" if mode is None else mode
    scale: Any = 1.0
    mean: Any = 0.0
    if mode == "constant_norm_rescale":
        scale = x.norm(dim=1, keepdim=True) / d**0.5
    elif mode == "layer_norm":
        mean = x.mean(1, keepdim=True)
        scale = (x - mean).std(1, keepdim=True)
    elif mode == "expected_average_only_in":
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            raise ContradictionError
        scale = 1 / factor
    elif mode != "none":
        raise ContradictionError
    rows = (x - mean) / (scale + 1e-5 if mode == "layer_norm" else scale)
    # Codes.
    norms: Any = 1.0
    if said(config, "rescale_acts_by_decoder_norm", False):
        if "topk" not in architecture:
            raise ContradictionError
        norms = t["W_dec"].norm(dim=1)
    inward = rows - t["b_dec"] * said(config, "apply_b_dec_to_input", True)
    h = (inward @ t["W_enc"] + bias) * norms
    if architecture == "gated":
        fits(t, {"r_mag": (size,), "b_mag": (size,)})
        magnitude = torch.relu(inward @ t["W_enc"] * magnitudes(t["r_mag"]) + t["b_mag"])
        codes = torch.where(h > 0, magnitude, 0.0)
    elif architecture == "topk":
        assert k is not None
        codes = top(h, k)
    elif architecture == "jumprelu":
        logs = [name for name in ("threshold", "log_threshold") if name in t]
        if len(logs) != 1 or t[logs[0]].shape != (size,):
            raise ContradictionError
        codes = above(h, t["threshold"] if logs == ["threshold"] else t["log_threshold"].exp())
    elif "topk" in architecture:
        if t["topk_threshold"].shape != ():
            raise ContradictionError
        codes = above(h, t["topk_threshold"])
    else:
        codes = h.clamp_min(0.0)
    decoder = t["W_dec"]
    factors = [n for n in ("scaling_factor", "finetuning_scaling_factor") if n in t]
    if factors:
        by = t[factors[0]]
        if by.shape != (size,):
            raise ContradictionError
        if not torch.allclose(by, torch.ones_like(by)):
            if not said(config, "finetuning_scaling_factor", False):
                raise ContradictionError
            decoder = decoder * by[:, None]
    found = (codes / norms) @ decoder + t["b_dec"]
    if mode == "expected_average_only_in" and said(config, "rescale_acts_by_decoder_norm", False):
        codes = codes * scale  # in units of the activations, as their norms are then
    return codes, found * scale + mean


def dictionaries(
    config: Mapping[str, Any], t: Mapping[str, Tensor], factor: Any, x: Tensor
) -> tuple[Tensor, Tensor]:
    trainer = config["trainer"]
    name = trainer["dict_class"]
    plain_names = name in (
        "JumpReluAutoEncoder",
        "MatryoshkaBatchTopKSAE",
        "MatroyshkaBatchTopKSAE",
    )
    inner = t["W_enc"] if plain_names else t["encoder.weight"].T
    outer = t["W_dec"] if plain_names else t["decoder.weight"].T
    d, size = inner.shape
    for key, value in (("activation_dim", d), ("dict_size", size)):
        if trainer.get(key) is not None and whole(trainer[key]) != value:
            raise ContradictionError
    ks = set()
    if "TopK" in name:
        if trainer.get("k") is not None:
            ks.add(whole(trainer["k"]))
        if "k" in t:
            if t["k"].is_floating_point():
                raise ContradictionError
            ks.add(whole(t["k"].item()))
        if len(ks) != 1:
            raise ContradictionError
    biases = {
        "AutoEncoder": ("encoder.bias", "bias"),
        "AutoEncoderNew": ("encoder.bias", "decoder.bias"),
        "GatedAutoEncoder": ("gate_bias", "decoder_bias"),
        "AutoEncoderTopK": ("encoder.bias", "b_dec"),
        "BatchTopKSAE": ("encoder.bias", "b_dec"),
    }
    first, last = ("b_enc", "b_dec") if plain_names else biases[name]
    fits(t, {first: (size,), last: (d,)})
    if outer.shape != (size, d):
        raise ContradictionError
    uncentred = name in ("AutoEncoderNew", "JumpReluAutoEncoder")
    rows = (x if uncentred else x - t[last]) @ inner
    h = rows + t[first]
    if name == "AutoEncoder":
        norms = outer.norm(dim=1)
        codes = h.clamp_min(0.0) * norms
        return codes, h.clamp_min(0.0) @ outer + t[last]
    if name == "AutoEncoderNew":
        codes = h.clamp_min(0.0)
    elif name == "GatedAutoEncoder":
        fits(t, {"r_mag": (size,), "mag_bias": (size,)})
        magnitude = torch.relu(rows * magnitudes(t["r_mag"]) + t["mag_bias"])
        codes = torch.where(h > 0, magnitude, 0.0)
    elif name == "JumpReluAutoEncoder":
        fits(t, {"threshold": (size,)})
        codes = above(h, t["threshold"])
    elif name == "AutoEncoderTopK":
        codes = top(h, ks.pop())
    else:
        fits(t, {"threshold": ()})
        if not t["threshold"] >= 0 or max(ks) > size:
            raise ContradictionError
        codes = above(h, t["threshold"])
    return codes, codes @ outer + t[last]


def sparsify(
    config: Mapping[str, Any], t: Mapping[str, Tensor], factor: Any, x: Tensor
) -> tuple[Tensor, Tensor]:
    if said(config, "activation", "topk") != "topk" or "W_skip" in t:
        raise ContradictionError
    for flag in ("signed", "transcode", "skip_connection"):
        if said(config, flag, False):
            raise ContradictionError
    d = whole(config["d_in"])
    size = said(config, "num_latents", None) or d * whole(said(config, "expansion_factor", 32))
    size = whole(size)
    fits(
        t, {"encoder.weight": (size, d), "W_dec": (size, d), "encoder.bias": (size,), "b_dec": (d,)}
    )
    codes = top((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"], whole(config["k"]))
    return codes, codes @ t["W_dec"] + t["b_dec"]


# --- files, and what may be wrong with them


@cache
def written(kind: str) -> Files:
    """What a package wrote."""
    folder = WRITTEN / kind
    package = kind.split("/")[0].removesuffix("5")
    config, weights = FILES[package]
    scaler = folder / "activation_scaler.json"
    return Files(
        package,
        (folder / config).read_bytes(),
        load_file(folder / weights)
        if weights.endswith(".safetensors")
        else torch.load(folder / weights, weights_only=True),
        json.loads(scaler.read_text())["scaling_factor"] if scaler.is_file() else None,
        folder.name,
    )


NUMBERS = [0, -1, 1, 3, 4, 5, 6, 7, 19, 20, 21, 120, 4.0, 4.5, -0.0, 1e308, 2**31, 2**63, 10**400]
NUMBERS += [math.nan, math.inf, -math.inf, True, "4", [4], None]
HOOKS = ["blocks.3.hook_resid_post", "blocks.4.hook_mlp_out", "blocks.2.attn.hook_z", "", " ", None]
ARCHITECTURES = ["standard", "topk", "gated", "jumprelu", "batchtopk", "matryoshka_batchtopk"]
ARCHITECTURES += ["abstopk", "TOPK", "topк", "transcoder", "relu", None]
CLASSES = ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "CrossCoder"]
CLASSES += ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", None]
ACTIVATIONS = ["relu", "topk", "tanh-relu", "groupmax", "", None]
FLAGS = [True, False, None, 0, 1, "true"]
POOLS: dict[str, list[Any]] = {
    "architecture": ARCHITECTURES,
    "training_architecture": ARCHITECTURES,
    "dict_class": CLASSES,
    **dict.fromkeys(["activation", "activation_fn", "activation_fn_str"], ACTIVATIONS),
    "activation_fn_kwargs": [{}, {"k": 4}, {"k": 5}, {"k": "4"}, {"signed": True}, [], None],
    **dict.fromkeys(["k", "d_in", "d_sae", "num_latents", "expansion_factor"], NUMBERS),
    **dict.fromkeys(["activation_dim", "dict_size"], NUMBERS),
    **dict.fromkeys(["rescale_acts_by_decoder_norm", "apply_b_dec_to_input"], FLAGS),
    **dict.fromkeys(["signed", "transcode", "skip_connection", "finetuning_scaling_factor"], FLAGS),
    "normalize_activations": [
        *("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in", "unit"),
        *FLAGS,
    ],
    "reshape_activations": ["none", "hook_z", "", None],
    **dict.fromkeys(["hook_name", "hook_point", "hook_name_out"], HOOKS),
    "metadata": [None, {}, [], {"hook_name_out": "blocks.4.hook_mlp_out"}],
    "trainer": [None, {}, [], "x"],
}
"""What is tried of the keys that settle what the weights mean."""
KEYS = {
    "sparsify": ["activation", "k", "d_in", "num_latents", "expansion_factor", "signed"],
    "dictionary_learning": ["dict_class", "k", "activation_dim", "dict_size"],
    "saelens": ["architecture", "k", "d_in", "d_sae", "activation_fn", "activation_fn_str"],
}
KEYS["sparsify"] += ["transcode", "skip_connection"]
KEYS["saelens"] += ["activation_fn_kwargs", "rescale_acts_by_decoder_norm", "metadata"]
KEYS["saelens"] += ["apply_b_dec_to_input", "normalize_activations", "reshape_activations"]
KEYS["saelens"] += ["hook_name", "hook_point", "hook_name_out", "finetuning_scaling_factor"]
"""The keys by package."""
ANY = (
    st.sampled_from(NUMBERS + HOOKS + FLAGS + ARCHITECTURES + ["\x1b[31m", "\u202e"])
    | st.text(max_size=6)
    | st.recursive(st.integers() | st.floats(), lambda x: st.lists(x, max_size=2), max_leaves=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)
TENSORS = ["threshold", "log_threshold", "topk_threshold", "b_gate", "r_mag", "b_mag", "W_skip"]
TENSORS += [
    "b_enc",
    "k",
    "scaling_factor",
    "bias",
    "decoder.bias",
    "encoder.bias",
    "b_dec",
    "W_enc",
]
SHAPES = [(), (6,), (20,), (6, 6), (0,), (20, 1)]


def with_value(tensor: Tensor, value: float, at: int = 0) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    found = tensor.clone(memory_format=torch.contiguous_format)
    found.view(-1)[at % found.numel()] = value
    return found


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.T if t.ndim == 2 else t[None],
    "shorter": lambda t: t[..., :-1] if t.ndim else t.expand(2),
    "fewer rows": lambda t: t[:-1] if t.ndim else t,
    "flat": lambda t: t.flatten(),
    "one": lambda t: t.flatten()[:1].sum().to(t.dtype),
    "empty": lambda t: t[:0] if t.ndim else t,
    "even": lambda t: torch.linspace(0.1, 1, t.numel()).reshape(t.shape),
    "negative": lambda t: t if t.dtype == torch.bool else -t,
    **{f"as {d}": (lambda t, d=d: t.to(d)) for d in (torch.float64, torch.float16, torch.bfloat16)},
    **{f"as {d}": (lambda t, d=d: t.to(d)) for d in (torch.int8, torch.bool, torch.complex64)},
    **{
        f"with {value}": (lambda t, value=value: with_value(t, value, 7))
        for value in (math.nan, math.inf, -math.inf, 3e38, 1e-45, 200.0, -200.0)
    },
}
"""What may become of a tensor."""


def places(config: Mapping[str, Any], at: Path_ = ()) -> list[Path_]:
    found = []
    for key, value in config.items():
        found.append((*at, key))
        if isinstance(value, dict):
            found += places(value, (*at, key))
    return found


@st.composite
def values(draw: st.DrawFn, key: str) -> Any:
    pool = st.sampled_from(POOLS.get(key, NUMBERS))
    return draw(st.one_of(pool, pool, pool, ANY))


@st.composite
def other_configs(draw: st.DrawFn, files: Files) -> Files:
    """The same with something wrong in its config."""
    config = files.config
    inside = config["trainer"] if files.package == "dictionary_learning" else config
    keys = places(config)
    likely = [p for p in keys if p[-1] in POOLS]
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["gone", "other", "other", "more"]))
        if kind == "more":
            key = draw(st.sampled_from(sorted(POOLS)))
            inside[key] = draw(values(key))
            continue
        *above_, last = draw(st.sampled_from(likely * 3 + keys))
        place: Any = config
        for key in above_:
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue
        if kind == "gone":
            place.pop(last, None)
        else:
            place[last] = draw(values(last))
    text = json.dumps(config, ensure_ascii=draw(st.booleans()))
    if config and draw(st.integers(0, 5)) == 0:  # a key that is there twice
        key = draw(st.sampled_from(sorted(config)))
        twice = f"{json.dumps(key)}: {json.dumps(draw(values(key)))}"
        before, after = f"{{{twice}, {text[1:]}", f"{text[:-1]}, {twice}}}"
        text = draw(st.sampled_from([before, after]))
    factor = files.factor
    if factor is not None:
        others = [None, 0, -1.0, math.nan, "2", True, 1e-300, 1e300, 3]
        factor = draw(st.sampled_from([factor] * 5 + others))
    return replace(files, text=text.encode("utf-8", "surrogatepass"), factor=factor)


@st.composite
def other_weights(draw: st.DrawFn, files: Files) -> Files:
    """The same with something wrong in its weights."""
    tensors = dict(files.tensors)
    for _ in range(draw(st.integers(1, 2))):
        if not tensors:
            break
        name = draw(st.sampled_from(sorted(tensors)))
        change = draw(st.sampled_from(["gone", "renamed", "more", *CHANGES]))
        if change == "gone":
            del tensors[name]
        elif change == "renamed":
            tensors[draw(st.sampled_from(TENSORS + sorted(tensors)))] = tensors.pop(name)
        elif change == "more":
            tensors[draw(st.sampled_from(TENSORS))] = torch.full(
                draw(st.sampled_from(SHAPES)), 0.25
            )
        else:
            tensors[name] = CHANGES[change](tensors[name])
    return replace(files, tensors=tensors)


def huge(files: Files) -> bool:
    tensors = (tensor.to(torch.complex128).abs() for tensor in files.tensors.values())
    return any(bool((tensor > 1e3).any()) for tensor in tensors)


def one_sentence(error: UsageError) -> None:
    told = str(error)
    assert told.isprintable(), told
    assert told.endswith("."), told
    assert len(told) < 2000, told


@dataclass
class Tally:
    """What became of the examples: a test of nothing but refusals would be none."""

    outcomes: Counter[str] = field(default_factory=Counter)

    def check(self, files: Files, folder: Path) -> None:
        """One example: refused in a sentence, or read as it was given."""
        x = activations(rows=8) * 1.0
        try:
            it = read_autoencoder(folder)
        except UsageError as error:
            one_sentence(error)
            self.outcomes["refused"] += 1
            return
        try:
            codes, found = plain(files, x)
        except ContradictionError:
            raise AssertionError(f"read as {it.architecture}: {files.text!r}") from None
        got, back = it.apply(x)
        self.outcomes[it.architecture] += 1
        if huge(files):
            return  # single precision has no room for what follows
        for ours, theirs in ((got, codes), (back, found)):
            close = torch.isclose(ours.double(), theirs, rtol=1e-4, atol=1e-4)
            assert bool(close.all()), (it.architecture, files.text)


KINDS = [kind for kind in READ if "bfloat16" not in kind]
SOME = ["standard", "standard-layer-norm", "topk", "topk-by-norm", "jumprelu", "gated"]
SOME += ["trained-batchtopk", "checkpoint-scaled", "checkpoint-matryoshka"]
SOME = [f"saelens/{name}" for name in SOME]
SOME += [f"saelens5/{name}" for name in ("topk", "standard-topk", "jumprelu", "finetuned", "gated")]
SOME += [k for k in KINDS if k.startswith("dictionary_learning/") and "anneal" not in k]
SOME += ["sparsify/layers.3"]
"""One of each kind."""


@pytest.mark.parametrize("kind", [*READ, *REFUSED])
def test_the_plain_rule_is_that_of_the_packages(kind: str) -> None:
    files = written(kind)
    expected = load_file(WRITTEN / kind / "expected.safetensors") if kind in READ else {}
    if kind in REFUSED:
        with pytest.raises(ContradictionError):
            plain(files, activations())
        return
    codes, found = plain(files, expected["x"])
    assert torch.allclose(codes.float(), expected["codes"], atol=1e-4)
    assert torch.allclose(found.float(), expected["reconstruction"], atol=1e-4)


def changed(config: Mapping[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A config with another value at a place; without the place, where that is `...`."""
    found: dict[str, Any] = json.loads(json.dumps(config))
    place = found
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value
    return found


@pytest.mark.parametrize("kind", [*KINDS, *REFUSED])
def test_a_config_that_lost_a_key_is_read_as_it_says_or_refused(kind: str, tmp_path: Path) -> None:
    files, tally = written(kind), Tally()
    for path in places(files.config):
        without = replace(files, text=json.dumps(changed(files.config, path, ...)).encode())
        tally.check(without, without.write(tmp_path))
    assert tally.outcomes["refused"]


@pytest.mark.parametrize("kind", SOME)
def test_a_config_with_one_other_value_is_read_as_it_says_or_refused(
    kind: str, tmp_path: Path
) -> None:
    files, tally = written(kind), Tally()
    inside: Path_ = ("trainer",) if files.package == "dictionary_learning" else ()
    paths = [p for p in places(files.config) if p[-1] in POOLS]
    paths += [(*inside, key) for key in KEYS[files.package] if (*inside, key) not in paths]
    for path in paths:
        for value in POOLS[path[-1]]:
            other = replace(files, text=json.dumps(changed(files.config, path, value)).encode())
            tally.check(other, other.write(tmp_path))
    assert tally.outcomes["refused"] > 20
    assert sum(tally.outcomes.values()) - tally.outcomes["refused"] > 5, tally.outcomes


@pytest.mark.parametrize("kind", SOME)
def test_one_other_tensor_is_used_as_it_is_or_refused(kind: str, tmp_path: Path) -> None:
    files, tally = written(kind), Tally()

    def check(**tensors: Tensor) -> None:
        other = replace(files, tensors={**files.tensors, **tensors})
        tally.check(other, other.write(tmp_path))

    for name, tensor in files.tensors.items():
        without = replace(files, tensors={n: t for n, t in files.tensors.items() if n != name})
        tally.check(without, without.write(tmp_path))
        for change in CHANGES.values():
            check(**{name: change(tensor)})
    for name in TENSORS:
        for shape in SHAPES if name not in files.tensors else []:
            check(**{name: torch.full(shape, 0.25)})
    assert tally.outcomes["refused"] > 20
    assert sum(tally.outcomes.values()) - tally.outcomes["refused"] > 5, tally.outcomes


def test_a_factor_of_any_kind_is_used_as_it_is_or_refused(tmp_path: Path) -> None:
    files, tally = written("saelens/checkpoint-scaled"), Tally()
    for factor in (*NUMBERS, 1e-300, 1e-30, 0.5, 2.5, "2", {}):
        other = replace(files, factor=factor)
        tally.check(other, other.write(tmp_path))
    assert tally.outcomes["batchtopk"] > 5
    assert tally.outcomes["refused"] > 5


def test_configs_of_any_content_are_read_as_they_say_or_refused(tmp_path: Path) -> None:
    tally = Tally()

    @settings(fixed, max_examples=600)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        files = data.draw(other_configs(written(data.draw(st.sampled_from([*KINDS, *REFUSED])))))
        tally.check(files, files.write(tmp_path))

    check()
    assert tally.outcomes["refused"] > 100
    for architecture in ("standard", "topk", "batchtopk", "jumprelu", "gated"):
        assert tally.outcomes[architecture] > 10, tally.outcomes


def test_files_with_several_things_wrong_are_read_as_they_say_or_refused(tmp_path: Path) -> None:
    tally = Tally()

    @settings(fixed, max_examples=400)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        files = data.draw(other_weights(written(data.draw(st.sampled_from([*KINDS, *REFUSED])))))
        if data.draw(st.booleans()):
            files = data.draw(other_configs(files))
        tally.check(files, files.write(tmp_path))

    check()
    assert tally.outcomes["refused"] > 100
    assert sum(tally.outcomes.values()) - tally.outcomes["refused"] > 50, tally.outcomes


def test_bytes_of_any_kind_for_a_config(tmp_path: Path) -> None:
    tally = Tally()

    def cut(text: bytes, at: int) -> bytes:
        return text[: at % len(text)]

    def with_byte(text: bytes, at: int) -> bytes:
        place = at % len(text)
        return text[:place] + bytes([at // len(text) % 256]) + text[place + 1 :]

    ways: list[Callable[[bytes, int], bytes]] = [
        cut,
        with_byte,
        lambda text, _: text.decode().encode("utf-16"),
        lambda text, _: b"\xef\xbb\xbf" + text,
        lambda text, at: text + bytes([at % 256]),
        lambda text, at: b"[" * (at % 2**17) + text,
        lambda text, _: b"[" + text + b"]",
        lambda text, at: text[:-1] + b', "x": ' + b"9" * (at % 6000) + b"}",
    ]

    @settings(fixed, max_examples=400)
    @given(st.sampled_from(KINDS), st.sampled_from(ways), st.integers(0, 2**20))
    def check(kind: str, way: Callable[[bytes, int], bytes], at: int) -> None:
        files = replace(written(kind), text=way(written(kind).text, at))
        tally.check(files, files.write(tmp_path))

    check()
    assert tally.outcomes["refused"] > 100
    assert sum(tally.outcomes.values()) - tally.outcomes["refused"] > 20, tally.outcomes


def test_bytes_of_any_kind_for_weights_are_refused_or_whole(tmp_path: Path) -> None:
    refused = 0

    @settings(fixed, max_examples=300)
    @given(st.sampled_from(KINDS), st.data())
    def check(kind: str, data: st.DataObject) -> None:
        nonlocal refused
        files = written(kind)
        content = files.weights()
        way = data.draw(st.sampled_from(["cut", "more", "header", "other"]))
        at = data.draw(st.integers(0, len(content) - 1))
        if way == "cut":
            content = content[:at]
        elif way == "more":
            content += bytes(at % 64 + 1)
        elif way == "other":
            content = data.draw(st.binary(max_size=200))
        else:  # in what says which tensors there are
            at %= 400
            content = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
        folder = files.write(tmp_path, content)
        try:
            it = read_autoencoder(folder)
        except UsageError as error:
            one_sentence(error)
            refused += 1
            return
        assert way in ("header", "more")
        assert it.architecture == READ[kind][0]
        assert it.apply(activations())[0].shape == (16, it.features)

    check()
    assert refused > 100


@settings(fixed, max_examples=200)
@given(
    (
        st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
        | st.text(alphabet="x~=/.", max_size=12)
        | st.text(alphabet="名", min_size=250, max_size=2000)
    ).filter(lambda text: ".." not in text and "=/" not in text and not text.startswith("/"))
)
@example("~no-such-user")
@example("block.1=" + "x" * 5000)
@example("block.1=~no-such-user/x")
@example("x" * 5000)
@example("./~")
def test_any_text_for_sae_is_a_folder_or_a_sentence(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(WRITTEN / "saelens" / "topk")  # where there is an autoencoder
        patch.setenv("HOME", "/no/such/home")
        try:
            found = read_given([text])
        except UsageError as error:
            one_sentence(error)
            return
    assert {it.name for it in found} <= {"topk"}


# --- through the command


FEATURES = 40


def made(package: str, architecture: str, hook: str, name: str = "layers.1") -> Files:
    """An autoencoder of the tiny model's width, as a package has it."""
    draw = torch.Generator().manual_seed(len(architecture) + len(package))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.3

    encoder, decoder = normal(WIDTH, FEATURES), normal(FEATURES, WIDTH)
    bias, last = normal(FEATURES), normal(WIDTH)
    config: dict[str, Any]
    if package == "saelens":
        config = {"architecture": architecture, "d_in": WIDTH, "d_sae": FEATURES}
        config |= {"apply_b_dec_to_input": True, "normalize_activations": "none"}
        config |= {"reshape_activations": "none", "metadata": {"hook_name": hook}}
        tensors = {"W_enc": encoder, "W_dec": decoder, "b_enc": bias, "b_dec": last}
        if architecture == "topk":
            config["k"] = 5
        if architecture == "jumprelu":
            tensors["threshold"] = normal(FEATURES).abs()
        if architecture == "gated":
            tensors |= {"b_gate": tensors.pop("b_enc"), "b_mag": normal(FEATURES)}
            tensors["r_mag"] = normal(FEATURES)
    elif package == "dictionary_learning":
        trainer = {"dict_class": architecture, "activation_dim": WIDTH, "dict_size": FEATURES}
        config = {"trainer": {**trainer, "k": 5, "submodule_name": "resid_post_layer_1"}}
        tensors = {"encoder.weight": encoder.T, "decoder.weight": decoder.T, "encoder.bias": bias}
        tensors |= {"b_dec": last, "k": torch.tensor(5), "threshold": torch.tensor(0.5)}
    else:
        config = {"activation": "topk", "num_latents": FEATURES, "k": 5, "d_in": WIDTH}
        tensors = {"encoder.weight": encoder.T, "W_dec": decoder, "encoder.bias": bias}
        tensors["b_dec"] = last
    return Files(package, json.dumps(config).encode(), tensors, name=name)


MADE = [("saelens", a) for a in ("standard", "topk", "jumprelu", "gated")]
MADE += [("dictionary_learning", a) for a in ("AutoEncoderTopK", "BatchTopKSAE")]
MADE += [("sparsify", "topk")]
PLACES: dict[Any, str] = {f"blocks.{n}.hook_resid_post": f"block.{n}" for n in range(12)}
PLACES |= {"blocks.0.hook_resid_pre": "embed", "blocks.2.hook_resid_pre": "block.1"}
"""Hook points of the residual stream and where they are; the tiny model has three blocks."""


@dataclass(frozen=True)
class Subject:
    """A tiny model on disk, a text, and what the model makes of it, by transformers alone."""

    folder: Path
    text: Path
    states: Mapping[str, Tensor]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    above_ = tmp_path_factory.mktemp("subject")
    model, tokenizer, texts = (
        tiny_model("llama").eval(),
        tiny_tokenizer(),
        tiny_text(12, longest=20),
    )
    model.save_pretrained(above_ / "model")
    tokenizer.save_pretrained(above_ / "model")
    text = above_ / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    rows: dict[str, list[Tensor]] = {}
    for t in texts:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(t)["input_ids"]])
            states = model(ids, output_hidden_states=True).hidden_states
        # The last of them has the final norm behind it.
        for site, state in zip(["embed", "block.0", "block.1"], states, strict=False):
            rows.setdefault(site, []).append(state[0])
    return Subject(above_ / "model", text, {site: torch.cat(r) for site, r in rows.items()})


def test_configs_of_any_content_through_the_command(
    subject: Subject, tmp_path: Path, cli: Cli
) -> None:
    outcomes: Counter[str] = Counter()

    @settings(fixed, max_examples=40, phases=[Phase.generate])  # none to shrink for minutes
    @given(st.sampled_from(MADE), st.sampled_from(sorted(PLACES)), st.booleans(), st.data())
    def check(kind: tuple[str, str], hook: str, as_it_is: bool, data: st.DataObject) -> None:
        files = made(*kind, hook)
        if not as_it_is:
            files = data.draw(data.draw(st.sampled_from([other_configs, other_weights]))(files))
        folder, run = files.write(tmp_path), tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        code, out, err = cli(
            *("features", subject.folder, "--sae", folder, "--text", subject.text, "--nulls"),
            *("none", "--loss-sequences", 2, "--batch-size", 12, "--json", "--out", run),
        )
        assert "Traceback" not in err
        if code:
            assert code in (2, 4), err
            assert out == ""
            assert err.startswith("geoprobe: "), err
            assert "unexpected" not in err
            assert len(err.splitlines()) == 1, err
            outcomes["refused"] += 1
            return
        if huge(files):
            return
        found = {r["measure"]: r for r in json.loads(out)["readings"] if r["keys"]["sinks"] == "in"}
        config = files.config
        if files.package == "saelens":
            site = PLACES[next(v for v in hooks_of(config) if v is not None)]
        else:
            site = "block.1"
        assert found["l0"]["site"] == site
        if site in subject.states:
            x = subject.states[site]
            codes, back = plain(files, x)
            assert found["l0"]["value"] == pytest.approx(float((codes > 0).sum(1).double().mean()))
            spread = float((x - x.mean(0)).double().square().sum())
            explained = 1 - float((back - x).square().sum()) / spread
            assert found["explained_variance"]["value"] == pytest.approx(explained, rel=1e-3)
            outcomes["compared"] += 1

    check()
    assert outcomes["refused"] >= 8, outcomes
    assert outcomes["compared"] >= 8, outcomes
