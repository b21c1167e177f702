"""Reads what dictionary_learning writes: `config.json` of a trainer and `ae.pt`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geoprobe.autoencoders.autoencoder import Architecture, Autoencoder
from geoprobe.autoencoders.files import Config, Weights
from geoprobe.autoencoders.sites import site_of

_CLASSES = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "new",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
    "MatroyshkaBatchTopKSAE": "matryoshka",  # as it was spelled at first
}
"""What the package calls its dictionaries, and what they are here."""

_BIASES = {
    "standard": ("encoder.bias", "bias"),
    "new": ("encoder.bias", "decoder.bias"),
    "gated": ("gate_bias", "decoder_bias"),
    "topk": ("encoder.bias", "b_dec"),
    "batchtopk": ("encoder.bias", "b_dec"),
}
"""Where those that are made of nn.Linear keep b_enc and b_dec."""


def read(config: Config, weights: Weights, name: str) -> Autoencoder:
    """An autoencoder from `config.json` and `ae.pt`, as the package's `load_dictionary` has it.

    Args:
        config: What is in `config.json`.
        weights: What is in `ae.pt`; nn.Linear stores (out, in), so most matrices are transposed.
        name: The folder's name.

    Raises:
        UsageError: It is none that is understood, or its codes cannot be computed from its files.
    """
    trainer = config.within("trainer")
    named = trainer.text("dict_class")
    kind = _CLASSES.get(named)
    if kind is None:
        raise config.refused(
            f"dictionaries of the class {named!r:.60} are not supported; {', '.join(_CLASSES)} are"
        )
    d, features = trainer.count("activation_dim", None), trainer.count("dict_size", None)
    if kind in ("jumprelu", "matryoshka"):  # their matrices are parameters, not modules
        encoder, decoder = weights.get("W_enc", (d, features)), weights.get("W_dec", (features, d))
        bias_name, shift_name = "b_enc", "b_dec"
    else:
        encoder = weights.get("encoder.weight", (features, d)).T.contiguous()
        decoder = weights.get("decoder.weight", (d, features)).T.contiguous()
        bias_name, shift_name = _BIASES[kind]
    d, features = encoder.shape
    bias, shift = weights.get(bias_name, (features,)), weights.get(shift_name, (d,))
    architecture: Architecture = "standard"
    more: dict[str, Any] = {}
    if kind == "standard":
        encoder, decoder, bias = _unit(encoder, decoder, bias)
    elif kind == "gated":
        architecture = "gated"
        more["magnitude"] = weights.get("r_mag", (features,)).exp()
        more["magnitude_bias"] = weights.get("mag_bias", (features,))
    elif kind == "jumprelu":
        architecture = "jumprelu"
        more["threshold"] = weights.get("threshold", (features,))
    elif kind == "topk":  # its threshold is kept, too, and not used unless asked for
        architecture = "topk"
        more["k"] = _k(trainer, weights)
    elif kind in ("batchtopk", "matryoshka"):
        architecture = "batchtopk"
        more["k"] = _k(trainer, weights)
        more["threshold"] = _threshold(config, named, weights)
    return Autoencoder(
        architecture,
        encoder,
        decoder,
        bias,
        shift,
        centred=kind not in ("new", "jumprelu"),
        site=_site(trainer),
        name=name,
        source="dictionary_learning",
        **more,
    )


def _threshold(config: Config, named: str, weights: Weights) -> Tensor:
    threshold = weights.get("threshold", ())
    if threshold < 0:
        # The package runs such a one as a plain ReLU: every code that is not 0 exceeds -1.
        raise config.refused(
            f"the threshold of this {named} was never set (it is {float(threshold):g}), so its "
            "codes cannot be told one row at a time; it is set after threshold_start_step steps "
            "of training, so take a later checkpoint"
        )
    return threshold


def _unit(encoder: Tensor, decoder: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same autoencoder with directions of norm 1, which `load_dictionary` makes of this class.

    Codes are then in units of the activations, whether or not training had kept the norms at 1.
    """
    norms = decoder.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return encoder, decoder, bias
    tiny = torch.finfo(norms.dtype).tiny  # a direction that vanished has the code 0
    return encoder * norms, decoder / norms.clamp_min(tiny)[:, None], bias * norms


def _k(trainer: Config, weights: Weights) -> int:
    said: int | None = trainer.count("k", None)
    if "k" not in weights:
        return said or int(trainer.count("k"))
    stored = weights.tensors["k"]
    whole = stored.ndim == 0 and not stored.is_floating_point() and not stored.is_complex()
    kept = int(stored.item()) if whole else 0
    if kept < 1 or said not in (None, kept):
        raise trainer.refused(
            f"k is {said} here and {kept} in its weights, not one whole number above 0; "
            "the two files are not of one autoencoder"
        )
    return kept


def _site(trainer: Config) -> str | None:
    # Without a name it was most often the residual stream, but nothing says so.
    if "submodule_name" not in trainer:
        return None
    layer = trainer.values.get("layer")
    known = isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < 10_000
    return site_of(trainer.text("submodule_name"), layer=layer if known else None)
