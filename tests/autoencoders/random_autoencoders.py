"""Small autoencoders of every architecture, with random weights and biases that matter."""

import torch

from geoprobe.autoencoders.autoencoder import Architecture, Autoencoder

D_IN, D_SAE, K = 6, 20, 4

ARCHITECTURES: tuple[Architecture, ...] = ("standard", "topk", "batchtopk", "jumprelu", "gated")


def random_autoencoder(architecture: Architecture, seed: int = 0, **changes: object) -> Autoencoder:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.6

    more: dict[str, object] = {"k": K} if "topk" in architecture else {}
    if architecture == "batchtopk":
        more["threshold"] = torch.tensor(0.4)
    if architecture == "jumprelu":
        more["threshold"] = normal(D_SAE).abs()
    if architecture == "gated":
        more["magnitude"], more["magnitude_bias"] = normal(D_SAE).exp(), normal(D_SAE)
    given = {
        "encoder": normal(D_IN, D_SAE),
        "decoder": normal(D_SAE, D_IN),
        "encoder_bias": normal(D_SAE),
        "decoder_bias": normal(D_IN),
    }
    return Autoencoder(architecture, **(given | more | changes))  # type: ignore[arg-type]


def activations(seed: int = 1, rows: int = 16) -> torch.Tensor:
    return torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.3
