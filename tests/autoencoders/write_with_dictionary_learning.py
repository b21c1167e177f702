"""Writes tests/autoencoders/written/dictionary_learning with that package's own trainSAE.

In an environment of its own (the files here are of dictionary-learning 0.1.0 with torch 2.13.0):

    python -m venv env && env/bin/pip install dictionary-learning==0.1.0 'transformers<4.54' \
        'datasets<4'
    env/bin/python tests/autoencoders/write_with_dictionary_learning.py

(where torchvision does not fit the torch that is there, uninstall it). `trainSAE` is given trainers
whose weights are random and no steps, so that it only saves. Beside each autoencoder,
`expected.safetensors` has activations, the codes and the reconstruction as the package's
`load_dictionary` has them.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

WRITTEN = Path(__file__).parent / "written" / "dictionary_learning"
D_IN, D_SAE, K = 6, 20, 4


def main() -> None:
    from importlib.metadata import version

    from dictionary_learning.dictionary import AutoEncoderNew
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gated_anneal import GatedAnnealTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import trainSAE
    from dictionary_learning.utils import load_dictionary

    def randomised(trainer: type, seed: int, unit: bool, threshold: float) -> type:
        """A trainer of an autoencoder with random weights."""

        class Randomised(trainer):
            def __init__(self, **options: object) -> None:
                super().__init__(**options)
                generator = torch.Generator().manual_seed(seed)
                with torch.no_grad():
                    for name, parameter in self.ae.named_parameters():
                        random = torch.randn(parameter.shape, generator=generator) * 0.6
                        parameter.copy_(random.abs() if name == "threshold" else random)
                        if unit and name == "decoder.weight":
                            parameter /= parameter.norm(dim=0)
                if "threshold" in dict(self.ae.named_buffers()):
                    self.ae.threshold.fill_(threshold)

        return Randomised

    common = {
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    common |= {"device": "cpu", "layer": 3, "seed": 0, "warmup_steps": 1}
    steps = {"steps": 100_000}
    kinds = {
        "standard": (StandardTrainer, {"submodule_name": "resid_post_layer_3", **steps}, True),
        "standard-unnormed": (
            StandardTrainerAprilUpdate,
            {"submodule_name": "mlp_out_layer_3", **steps},
            False,
        ),
        "p-anneal": (PAnnealTrainer, {"submodule_name": None, **steps}, True),
        "gated": (GatedSAETrainer, {"submodule_name": "attention_out_layer_3", **steps}, False),
        "gated-anneal": (GatedAnnealTrainer, {**steps}, False),
        "jumprelu": (JumpReluTrainer, {"submodule_name": "resid_post_layer_3", **steps}, False),
        "topk": (TopKTrainer, {"k": K, "submodule_name": "resid_post_layer_3", **steps}, True),
        "batchtopk": (BatchTopKTrainer, {"k": K, "submodule_name": "resid_post", **steps}, True),
        "batchtopk-unset": (BatchTopKTrainer, {"k": K, **steps}, True),
        "matryoshka": (
            MatryoshkaBatchTopKTrainer,
            {"k": K, "group_fractions": [0.25, 0.75], **steps},
            False,
        ),
    }
    for seed, (name, (trainer, options, unit)) in enumerate(kinds.items(), 400):
        threshold = -1.0 if name == "batchtopk-unset" else 0.5
        made = randomised(trainer, seed, unit, threshold)
        with tempfile.TemporaryDirectory() as place:
            trainSAE(
                data=[torch.zeros(1, D_IN)],
                trainer_configs=[{"trainer": made, **common, **options}],
                steps=0,
                save_dir=place,
                device="cpu",
            )
            (WRITTEN / name).mkdir(parents=True, exist_ok=True)
            for file in ("config.json", "ae.pt"):
                (WRITTEN / name / file).write_bytes((Path(place) / "trainer_0" / file).read_bytes())

    # No trainer of this version makes one of these, and the package still reads them.
    folder = WRITTEN / "new"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(500)
    new = AutoEncoderNew(D_IN, D_SAE)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    torch.save(new.state_dict(), folder / "ae.pt")
    about = {"dict_class": "AutoEncoderNew", "trainer_class": "StandardTrainerNew"}
    about |= {"activation_dim": D_IN, "dict_size": D_SAE}
    (folder / "config.json").write_text(json.dumps({"trainer": about}, indent=4))

    for seed, folder in enumerate(sorted(p for p in WRITTEN.iterdir() if p.is_dir()), 600):
        autoencoder, _ = load_dictionary(str(folder), device="cpu")
        x = torch.randn(16, D_IN, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.3
        with torch.no_grad():
            codes = autoencoder.encode(x)
            found = {"x": x, "codes": codes, "reconstruction": autoencoder.decode(codes)}
        save_file(
            {key: tensor.clone().contiguous() for key, tensor in found.items()},
            folder / "expected.safetensors",
        )
    (WRITTEN / "version.txt").write_text(f"dictionary-learning {version('dictionary-learning')}\n")


if __name__ == "__main__":
    main()
