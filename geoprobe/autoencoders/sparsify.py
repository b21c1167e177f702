"""Reads what EleutherAI's sparsify writes: a folder named by its hook point, TopK alone."""

from __future__ import annotations

from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.files import Config, Weights
from geoprobe.autoencoders.sites import site_of


def read(config: Config, weights: Weights, name: str) -> Autoencoder:
    """An autoencoder from `cfg.json` and `sae.safetensors`.

    Args:
        config: What is in `cfg.json`.
        weights: What is in `sae.safetensors`: encoder.weight (D, d), encoder.bias (D,), W_dec
            (D, d), b_dec (d,).
        name: The folder's name.

    Raises:
        UsageError: It is not an autoencoder, or none that is understood.
    """
    activation = config.text("activation", "topk")
    if activation != "topk":
        raise config.refused(
            f"autoencoders with the activation {activation!r:.60} are not supported, of sparsify's "
            "only topk is"
        )
    if config.flag("signed", False):
        raise config.refused("its top k are those of largest magnitude (signed), not supported")
    if config.flag("transcode", False):
        raise config.refused("it is a transcoder, not an autoencoder, and those are not supported")
    if config.flag("skip_connection", False) or "W_skip" in weights:
        raise config.refused("it has a skip connection, and those are not supported")
    d = config.count("d_in")
    said = config.number("num_latents", 0) or d * config.count("expansion_factor", 32)
    encoder = weights.get("encoder.weight", (said, d))
    features = encoder.shape[0]
    return Autoencoder(
        architecture="topk",
        encoder=encoder.T.contiguous(),
        decoder=weights.get("W_dec", (features, d)),
        encoder_bias=weights.get("encoder.bias", (features,)),
        decoder_bias=weights.get("b_dec", (d,)),
        k=config.count("k"),
        site=site_of(name),
        name=name,
        source="sparsify",
    )
