"""Writes tests/autoencoders/written/sparsify with EleutherAI's sparsify itself.

In an environment of its own (the files here are of eai-sparsify 1.3.3 with torch 2.13.0):

    python -m venv env && env/bin/pip install eai-sparsify==1.3.3
    env/bin/python tests/autoencoders/write_with_sparsify.py

Beside each autoencoder, `expected.safetensors` has activations, the codes and the reconstruction
that the package's encode and decode compute in float32 from the files that it wrote. (Its forward
decodes 4 k codes where `multi_topk` is set, which is a term of its loss.)
"""

from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

WRITTEN = Path(__file__).parent / "written" / "sparsify"
D_IN, D_SAE, K = 6, 20, 4


def main() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    kinds = {
        "layers.3": {},
        "layers.10": {},
        "layers.3.mlp": {"normalize_decoder": False},
        "transformer.h.3": {"expansion_factor": 3, "num_latents": 0},
        "embed_tokens": {"multi_topk": True},
        "bfloat16": {},
        "groupmax": {"activation": "groupmax"},
        "transcoder": {"transcode": True},
        "skip": {"skip_connection": True},
    }
    for seed, (name, options) in enumerate(kinds.items(), 700):
        config = SparseCoderConfig(**({"num_latents": D_SAE, "k": K} | options))
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        coder = SparseCoder(D_IN, config, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in coder.parameters():
                random = torch.randn(parameter.shape, generator=generator) * 0.6
                parameter.copy_(random.to(dtype))
        coder.save_to_disk(WRITTEN / name)
        coder = SparseCoder.load_from_disk(WRITTEN / name).float()
        x = torch.randn(16, D_IN, generator=generator) * 1.5 + 0.3
        with torch.no_grad():
            acts, indices, _ = coder.encode(x)
            codes = torch.zeros(16, coder.num_latents).scatter_(1, indices, acts)
            found = {"x": x, "codes": codes, "reconstruction": coder.decode(acts, indices)}
        save_file(
            {key: tensor.clone().contiguous() for key, tensor in found.items()},
            WRITTEN / name / "expected.safetensors",
        )
    (WRITTEN / "version.txt").write_text(f"eai-sparsify {version('eai-sparsify')}\n")


if __name__ == "__main__":
    main()
