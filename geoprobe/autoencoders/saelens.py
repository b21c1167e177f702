"""Reads and writes SAELens's files: `cfg.json` and `sae_weights.safetensors`, of all versions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from geoprobe.autoencoders.autoencoder import Architecture, Autoencoder, Normalisation
from geoprobe.autoencoders.files import Config, Weights, read_config
from geoprobe.autoencoders.sites import hook_of, site_of
from geoprobe.errors import UsageError
from geoprobe.models.weights import shown

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

_LAYOUT_VERSION = "6.54.12"
"""The version whose layout is written; files that say none are read as those before 6."""

_ARCHITECTURES: dict[str, Architecture] = {
    "standard": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
"""The last two are checkpoints of training: when it is done they are saved as `jumprelu`."""

_NORMALISATIONS: dict[str, Normalisation] = {
    "none": "none",
    "constant_norm_rescale": "constant_norm",
    "layer_norm": "layer_norm",
}
_OWN: dict[str, frozenset[Architecture]] = {
    "threshold": frozenset({"jumprelu"}),
    "log_threshold": frozenset({"jumprelu"}),
    "topk_threshold": frozenset({"batchtopk"}),
    **dict.fromkeys(("b_gate", "r_mag", "b_mag"), frozenset[Architecture]({"gated"})),
    "W_skip": frozenset(),
}
"""Tensors that only some architectures have; SAELens, too, refuses those of another."""

_SCALER = "activation_scaler.json"
"""Beside a checkpoint of training: the factor that activations are multiplied by."""


def read(config: Config, weights: Weights, name: str) -> Autoencoder:
    """An autoencoder from `cfg.json` and `sae_weights.safetensors`.

    Args:
        config: What is in `cfg.json`.
        weights: What is in `sae_weights.safetensors`: W_enc (d, D), W_dec (D, d), b_enc (D,),
            b_dec (d,), and what the architecture has besides.
        name: The folder's name.

    Raises:
        UsageError: It is not an autoencoder, or none that is understood.
    """
    metadata = config.within("metadata")
    hook = _hook(config, metadata)
    architecture, k = _architecture(config)
    by_norm = config.flag("rescale_acts_by_decoder_norm", False)
    if by_norm and architecture not in ("topk", "batchtopk"):
        raise config.refused(
            f"rescale_acts_by_decoder_norm of a {architecture} autoencoder is not supported; of "
            "topk and batchtopk ones it is"
        )
    _check_own(architecture, config, weights)
    _check_plain(config, metadata, hook)
    d, features = config.count("d_in"), config.count("d_sae")
    trained_as = metadata.text("training_architecture", "")
    more: dict[str, Any] = {}
    if architecture == "gated":
        more["magnitude"] = weights.get("r_mag", (features,)).exp()
        more["magnitude_bias"] = weights.get("b_mag", (features,))
    elif architecture == "batchtopk":
        more["threshold"] = weights.get("topk_threshold", ())
    elif architecture == "jumprelu" and "log_threshold" in weights:  # training before 6
        more["threshold"] = weights.get("log_threshold", (features,)).exp()
    elif architecture == "jumprelu":
        more["threshold"] = weights.get("threshold", (features,))
        if _ARCHITECTURES.get(trained_as) == "batchtopk":
            architecture = "batchtopk"
            k = _average(metadata.within("training_architecture_details"))
    found = Autoencoder(
        architecture=architecture,
        encoder=weights.get("W_enc", (d, features)),
        decoder=weights.get("W_dec", (features, d)),
        encoder_bias=weights.get("b_gate" if architecture == "gated" else "b_enc", (features,)),
        decoder_bias=weights.get("b_dec", (d,)),
        centred=config.flag("apply_b_dec_to_input", True),
        k=k,
        by_norm=by_norm,
        site=_site(config, metadata, hook),
        name=name,
        source="SAELens",
        **more,
    )
    return _normalised(_finetuned(found, config, weights), config)


def write_saelens(
    autoencoder: Autoencoder,
    folder: str | Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes an autoencoder so that SAELens loads it (`SAE.load_from_disk(folder)`).

    SAELens has no architecture for BatchTopK: it keeps those as `jumprelu` with one threshold for
    all features, and so does this; read back here, they are `batchtopk` again.

    Args:
        autoencoder: What to write; in float32, whatever it is in.
        folder: Where to; made if need be.
        metadata: What else SAELens should know, as `model_name`, `context_size`, `dataset_path`;
            JSON's types. `hook_name` follows from the autoencoder's site unless it is given.
        overwrite: Whether an autoencoder that is there already is replaced.

    Returns:
        The folder.

    Raises:
        UsageError: There is one already, the folder cannot be written, or metadata or a magnitude
            cannot be kept in these files.
    """
    folder = Path(folder)
    config, tensors = _folded(autoencoder)
    more = dict(metadata or {})
    hook = hook_of(autoencoder.site or "", str(more.get("model_name", "")))
    config["metadata"] |= {"hook_name": hook} | more
    try:
        text = json.dumps(config, indent=1, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The metadata for {shown(folder, 400)} cannot be written as JSON ({error}); give "
            "strings, numbers, lists and the like."
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in (CONFIG, WEIGHTS) if (folder / name).exists()]
        if there and not overwrite:
            raise UsageError(
                f"{shown(folder, 400)} has a {there[0]} already; name another folder, or have it "
                "overwritten."
            )
        # The config goes first and comes last: with it, the weights are whole and its own.
        (folder / CONFIG).unlink(missing_ok=True)
        _write(folder / WEIGHTS, lambda part: save_file(tensors, part))
        _write(folder / CONFIG, lambda part: part.write_text(text + "\n", "utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(
            f"The autoencoder cannot be written to {shown(folder, 400)} ({error}); name a folder "
            "that can be."
        ) from error
    return folder


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the place and renames, so that no half file is ever there."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _architecture(config: Config) -> tuple[Architecture, int | None]:
    """How codes follow from pre-activations, and k, as versions before 6 and since say it."""
    # Files before 6, which have their hook at the top, may leave it out; a TopK one never did.
    old = any(name in config for name in ("hook_point", "hook_name")) and "k" not in config
    said = config.text("architecture", *(["standard"] if old else []))
    if said not in _ARCHITECTURES:
        raise config.refused(
            f"autoencoders of the architecture {said!r:.60} are not supported; "
            f"{', '.join(_ARCHITECTURES)} are"
        )
    architecture = _ARCHITECTURES[said]
    # Before 6 a TopK autoencoder was `standard` with another activation function.
    first, second = config.text("activation_fn", ""), config.text("activation_fn_str", "")
    if first and second and first != second:
        raise config.refused(
            f"its activation is {first!r:.60} (activation_fn) and {second!r:.60} "
            "(activation_fn_str); the file is damaged or of another format"
        )
    activation = first or second
    options = config.within("activation_fn_kwargs")
    if options.flag("signed", False):
        raise config.refused("its top k are those of largest magnitude (signed), not supported")
    if activation == "topk" and architecture in ("standard", "topk"):
        inner, outer = options.count("k", None), config.count("k", None)
        if inner != outer and None not in (inner, outer):
            raise config.refused(
                f"k is {outer} and, in activation_fn_kwargs, {inner}; the file is damaged or of "
                "another format"
            )
        return "topk", inner or config.count("k")
    if "k" in options and activation != "topk":
        raise config.refused(
            f"its activation function has a k and is {activation or 'not said'}, not topk; the "
            "file is damaged or of another format"
        )
    if activation not in ("", "relu"):
        raise config.refused(
            f"the activation {activation!r:.60} of a {said} autoencoder is not supported; relu "
            "is, and topk of a standard one"
        )
    if architecture == "topk":
        if activation:
            raise config.refused(
                "it is topk by its architecture and relu by its activation; the file is damaged or "
                "of another format"
            )
        return architecture, config.count("k")
    if architecture == "batchtopk":
        return architecture, _average(config)
    if "k" in config:
        raise config.refused(
            f"it says k, which a {said} autoencoder has not; the file is damaged or of another "
            "format"
        )
    return architecture, None


def _check_own(architecture: Architecture, config: Config, weights: Weights) -> None:
    """That there are no weights of another architecture, which would then be left out."""
    strange = [n for n, owners in _OWN.items() if n in weights and architecture not in owners]
    if "threshold" in weights and "log_threshold" in weights:
        strange = ["threshold and log_threshold"]  # one of the two
    if strange:
        raise config.refused(
            f"it is a {architecture} one by its config, and its weights have "
            f"{', '.join(strange)}; the two files are not of one autoencoder"
        )


def _average(config: Config) -> int | None:
    """The k of a BatchTopK autoencoder: an average, so it may be a fraction, which is left out."""
    k = config.number("k", None)
    if k is not None and not k > 0:
        raise config.refused(f"k is {k}, not above 0; the file is damaged or of another format")
    return int(k) if k is not None and k >= 1 and k == int(k) else None


def _check_plain(config: Config, metadata: Config, hook: str) -> None:
    """That it reads activations as they are, and reconstructs what it reads."""
    reshaping = config.text("reshape_activations", "hook_z" if "hook_z" in hook else "none")
    if reshaping != "none":
        raise config.refused(
            f"it reads the heads of attention one after another ({reshaping!r:.60}), which is not "
            "supported"
        )
    for source in (config, metadata):
        out = source.text("hook_name_out", None)
        if out is not None and out != hook:
            raise config.refused(
                f"it predicts {shown(out, 60)} from {shown(hook or 'another place', 60)}: "
                "transcoders are not supported"
            )


def _hook(config: Config, metadata: Config) -> str:
    for source, key in ((config, "hook_name"), (metadata, "hook_name"), (config, "hook_point")):
        if key in source:
            return str(source.text(key))
    return ""


def _site(config: Config, metadata: Config, hook: str) -> str | None:
    own = metadata.text("geoprobe_site", None)
    if own is not None and own.isprintable() and len(own) < 200:
        return str(own)
    heads = ("hook_head_index", "hook_point_head_index")
    if any(head in source for source in (config, metadata) for head in heads):
        return None  # of one head alone
    model = metadata.text("model_name", "") or config.text("model_name", "")
    name = site_of(hook, model)
    return name or site_of(metadata.text("hf_hook_name", ""), model)


def _finetuned(found: Autoencoder, config: Config, weights: Weights) -> Autoencoder:
    """With the factors on codes before they are decoded, which some had until 6, in the decoder."""
    key = next((k for k in ("scaling_factor", "finetuning_scaling_factor") if k in weights), None)
    if key is None:
        return found
    factors = weights.get(key, (found.features,))
    if torch.allclose(factors, torch.ones_like(factors)):
        return found
    if not config.flag("finetuning_scaling_factor", False):
        raise config.refused(
            f"its weights have factors of finetuning ({key}) that its config denies; the two files "
            "are not of one autoencoder"
        )
    return replace(found, decoder=found.decoder * factors[:, None])


def _normalised(found: Autoencoder, config: Config) -> Autoencoder:
    """With what is done to activations first."""
    said = config.values.get("normalize_activations")
    if isinstance(said, bool):
        said = "expected_average_only_in" if said else "none"
    else:
        said = config.text("normalize_activations", "none")
    if said in _NORMALISATIONS:
        return replace(found, normalisation=_NORMALISATIONS[said])
    if said != "expected_average_only_in":
        raise config.refused(f"activations normalised by {said!r:.60} are not supported")
    scaler = config.path.with_name(_SCALER)
    if not scaler.is_file():
        # SAELens runs such files without the factor, and their codes are then wrong.
        raise config.refused(
            "it was trained on activations times a factor (expected_average_only_in) that its "
            "files do not say; fold it in with SAELens (fold_activation_norm_scaling_factor, "
            "save_model) and read what that saves"
        )
    factor = read_config(scaler).number("scaling_factor")
    if not factor > 0:
        raise config.refused(f"the factor in {_SCALER} is {factor:g}, not above 0")
    threshold = found.threshold
    if threshold is not None and found.by_norm:  # it is in units of codes times norms
        threshold = threshold / factor
    return replace(
        found,
        encoder=found.encoder * factor,
        decoder=found.decoder / factor,
        decoder_bias=found.decoder_bias / factor,
        threshold=threshold,
    )


def _folded(autoencoder: Autoencoder) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The config and the tensors of an autoencoder; only SAELens's TopK knows norms in codes."""
    it = autoencoder.to(torch.device("cpu"))
    if it.by_norm and it.architecture != "topk":
        it = it.folded()
    architecture = "jumprelu" if it.architecture == "batchtopk" else it.architecture
    tensors = {"W_enc": it.encoder, "W_dec": it.decoder, "b_dec": it.decoder_bias}
    model: dict[str, Any] = {
        "architecture": architecture,
        "d_in": it.width,
        "d_sae": it.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": it.centred,
        "normalize_activations": {ours: theirs for theirs, ours in _NORMALISATIONS.items()}[
            it.normalisation
        ],
        "reshape_activations": "none",
    }
    metadata: dict[str, Any] = {
        "sae_lens_version": _LAYOUT_VERSION,
        "sae_lens_training_version": None,
        "geoprobe_site": it.site,
    }
    if it.architecture == "gated":
        assert it.magnitude is not None
        assert it.magnitude_bias is not None
        if not bool((it.magnitude > 0).all()):
            raise UsageError(
                f"The gated autoencoder {it.name or 'given'} has magnitudes that are not above 0, "
                "and SAELens keeps their logarithms; it cannot be written."
            )
        tensors |= {"b_gate": it.encoder_bias, "b_mag": it.magnitude_bias}
        tensors["r_mag"] = it.magnitude.log()
    else:
        tensors["b_enc"] = it.encoder_bias
    if it.architecture == "topk":
        model |= {"k": it.k, "rescale_acts_by_decoder_norm": it.by_norm}
    if architecture == "jumprelu":
        assert it.threshold is not None
        tensors["threshold"] = it.threshold.expand(it.features)
    if it.architecture == "batchtopk":
        metadata["training_architecture"] = "batchtopk"
        metadata["training_architecture_details"] = {"k": it.k}
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    return model | {"metadata": metadata}, whole
