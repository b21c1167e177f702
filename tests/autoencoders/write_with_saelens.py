"""Writes tests/autoencoders/written/saelens with SAELens itself: every architecture it has.

In an environment of its own (the files here are of sae-lens 6.54.12 with torch 2.13.0):

    python -m venv env && env/bin/pip install sae-lens==6.54.12
    env/bin/python tests/autoencoders/write_with_saelens.py

Beside each autoencoder, `expected.safetensors` has the activations `x` that it was given (16, d),
its codes and its reconstruction, as the package computes them in float32 from the files it wrote.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WRITTEN = Path(__file__).parent / "written" / "saelens"
D_IN, D_SAE, K = 6, 20, 4
HOOKS = {
    "standard": "blocks.3.hook_resid_post",
    "standard-uncentred": "blocks.3.hook_resid_pre",
    "standard-constant-norm": "blocks.0.hook_resid_pre",
    "standard-layer-norm": "blocks.3.hook_mlp_out",
    "standard-bfloat16": "blocks.3.hook_attn_out",
    "topk": "blocks.3.mlp.hook_post",
    "topk-by-norm": "ln_final.hook_normalized",
    "standard-head": "blocks.3.attn.hook_q",
}


def randomise(sae: torch.nn.Module, seed: int) -> None:
    """Random weights and biases, directions of unequal norms, thresholds above and below codes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, scale: float) -> torch.Tensor:
        return (torch.randn(like.shape, generator=generator) * scale).to(like.dtype)

    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if "threshold" in name:
                parameter.copy_(normal(parameter, 0.4).abs())
            else:
                parameter.copy_(normal(parameter, 0.6))
        for name, buffer in sae.named_buffers():
            if name == "topk_threshold":
                buffer.fill_(0.35)


def activations(seed: int) -> torch.Tensor:
    """Activations (16, d) that are off the origin."""
    return torch.randn(16, D_IN, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.3


def expect(folder: Path, sae: torch.nn.Module, seed: int) -> None:
    """Writes what the package makes of activations with an autoencoder it has read."""
    x = activations(seed)
    with torch.no_grad():
        codes = sae.encode(x)
        found = {"x": x, "codes": codes.clone(), "reconstruction": sae.decode(codes).clone()}
    save_file(
        {name: t.float().contiguous() for name, t in found.items()}, folder / "expected.safetensors"
    )


def main() -> None:
    import sae_lens
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    common = {"d_in": D_IN, "d_sae": D_SAE}
    inference = {
        "standard": ("standard", {}),
        "standard-uncentred": ("standard", {"apply_b_dec_to_input": False}),
        "standard-constant-norm": ("standard", {"normalize_activations": "constant_norm_rescale"}),
        "standard-layer-norm": ("standard", {"normalize_activations": "layer_norm"}),
        "standard-bfloat16": ("standard", {"dtype": "bfloat16"}),
        "standard-head": ("standard", {}),
        "topk": ("topk", {"k": K}),
        "topk-by-norm": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": ("jumprelu", {}),
        "gated": ("gated", {}),
        "gated-uncentred": ("gated", {"apply_b_dec_to_input": False}),
        # not read here
        "abstopk": ("abstopk", {"k": K}),
        "matching-pursuit": ("matching_pursuit", {"residual_threshold": 0.1}),
        "standard-hook-z": ("standard", {"reshape_activations": "hook_z"}),
        "transcoder": ("transcoder", {"d_out": D_IN, "apply_b_dec_to_input": False}),
        "skip-transcoder": ("skip_transcoder", {"d_out": D_IN, "apply_b_dec_to_input": False}),
        "jumprelu-transcoder": (
            "jumprelu_transcoder",
            {"d_out": D_IN, "apply_b_dec_to_input": False},
        ),
    }
    for seed, (name, (architecture, options)) in enumerate(inference.items()):
        sae_class, config_class = get_sae_class(architecture)
        hook = HOOKS.get(name, "blocks.3.hook_resid_post")
        about = {"model_name": "gpt2-small", "hook_name": hook, "context_size": 16}
        if name == "standard-head":
            about["hook_head_index"] = 2
        if name == "standard-hook-z":
            about["hook_name"] = "blocks.3.attn.hook_z"
        if "transcoder" in name:
            about["hook_name_out"] = "blocks.3.hook_mlp_out"
        sae = sae_class(config_class(**common, **options, metadata=SAEMetadata(**about)))
        randomise(sae, seed)
        sae.save_model(WRITTEN / name)
        if name in HOOKS or name in ("jumprelu", "gated", "gated-uncentred"):
            expect(WRITTEN / name, SAE.load_from_disk(WRITTEN / name, dtype="float32"), seed)

    training = {
        "batchtopk": ("batchtopk", {"k": K}),
        "matryoshka": ("matryoshka_batchtopk", {"k": K, "matryoshka_widths": [5, 20]}),
        "topk": ("topk", {"k": K}),
        "jumprelu": ("jumprelu", {}),
        "gated": ("gated", {}),
        "standard": ("standard", {}),
    }
    for seed, (name, (architecture, options)) in enumerate(training.items(), 100):
        sae_class, config_class = get_sae_training_class(architecture)
        about = {"model_name": "gpt2-small", "hook_name": "blocks.3.hook_resid_post"}
        sae = sae_class(config_class(**common, **options, metadata=SAEMetadata(**about)))
        randomise(sae, seed)
        trained, checkpoint = WRITTEN / f"trained-{name}", WRITTEN / f"checkpoint-{name}"
        sae.save_model(checkpoint)
        if architecture in ("topk", "standard", "gated", "jumprelu"):
            # the training class encodes as the finished one does
            expect(checkpoint, sae, seed)
        sae.save_inference_model(trained)
        expect(trained, SAE.load_from_disk(trained, dtype="float32"), seed)
        if name in ("batchtopk", "matryoshka"):  # the batch decides while it trains; so as finished
            codes = load_file(trained / "expected.safetensors")
            save_file(codes, checkpoint / "expected.safetensors")

    # A checkpoint of training on activations times a factor, and the same with it folded in.
    sae_class, config_class = get_sae_training_class("batchtopk")
    config = config_class(**common, k=K, normalize_activations="expected_average_only_in")
    sae = sae_class(config)
    randomise(sae, 200)
    folder = WRITTEN / "checkpoint-scaled"
    sae.save_model(folder)
    (folder / "activation_scaler.json").write_text(
        json.dumps({"scaling_factor": 0.7, "has_whitening": False})
    )
    sae.fold_activation_norm_scaling_factor(0.7)
    sae.save_inference_model(WRITTEN / "trained-scaled")
    expect(
        WRITTEN / "trained-scaled",
        SAE.load_from_disk(WRITTEN / "trained-scaled", dtype="float32"),
        200,
    )
    save_file(
        load_file(WRITTEN / "trained-scaled/expected.safetensors"), folder / "expected.safetensors"
    )
    (WRITTEN / "version.txt").write_text(f"sae-lens {sae_lens.__version__}\n")


if __name__ == "__main__":
    main()
