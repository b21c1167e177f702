"""Writes tests/autoencoders/written/saelens5 with SAELens 5, whose configs are different.

The files here are of sae-lens 5.11.0 with torch 2.13.0. It runs beside newer packages than it asks
for, so its wheel, unpacked, was put before the sae-lens of write_with_saelens.py's environment:

    pip download --no-deps sae-lens==5.11.0 && unzip -d old sae_lens-5.11.0-py3-none-any.whl
    PYTHONPATH=old env/bin/python tests/autoencoders/write_with_saelens_5.py
"""

from pathlib import Path

from write_with_saelens import D_IN, D_SAE, K, expect, randomise

WRITTEN = Path(__file__).parent / "written" / "saelens5"


def main() -> None:
    import sae_lens
    from sae_lens.sae import SAE, SAEConfig
    from safetensors.torch import load_file, save_file

    common = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "context_size": 16,
        "model_name": "gpt2-small",
        "hook_name": "blocks.3.hook_resid_pre",
        "hook_layer": 3,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "none",
        "dataset_trust_remote_code": False,
        "normalize_activations": "none",
        "dtype": "float32",
        "device": "cpu",
        "sae_lens_training_version": sae_lens.__version__,
    }
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    kinds = {
        "standard": {"architecture": "standard"},
        "standard-topk": {"architecture": "standard", **topk},
        "topk": {"architecture": "topk", **topk},
        "gated": {"architecture": "gated"},
        "jumprelu": {"architecture": "jumprelu"},
        "finetuned": {"architecture": "standard", "finetuning_scaling_factor": True},
        "tanh-relu": {"architecture": "standard", "activation_fn_str": "tanh-relu"},
    }
    for seed, (name, options) in enumerate(kinds.items(), 300):
        sae = SAE(SAEConfig(**(common | options)))
        randomise(sae, seed)
        sae.save_model(WRITTEN / name)
        if name == "finetuned":  # it was `scaling_factor` in the files that SAELens reads
            weights = load_file(WRITTEN / name / "sae_weights.safetensors")
            weights["scaling_factor"] = weights.pop("finetuning_scaling_factor")
            save_file(weights, WRITTEN / name / "sae_weights.safetensors")
        expect(WRITTEN / name, SAE.load_from_pretrained(str(WRITTEN / name), device="cpu"), seed)
    (WRITTEN / "version.txt").write_text(f"sae-lens {sae_lens.__version__}\n")


if __name__ == "__main__":
    main()
