"""Whether SAELens itself loads what write_saelens writes, with equal codes and reconstructions.

    .venv/bin/python -m tests.autoencoders.load_with_saelens write FOLDER
    env/bin/python tests/autoencoders/load_with_saelens.py load FOLDER

where `env` is the environment of write_with_saelens.py. The second prints the largest differences
and fails where one exceeds 1e-5.
"""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def write(place: Path) -> None:
    from geoprobe.autoencoders.formats import write_saelens
    from tests.autoencoders.random_autoencoders import (
        ARCHITECTURES,
        activations,
        random_autoencoder,
    )

    kinds = {
        "": {},
        "-uncentred": {"centred": False, "site": "mlp.out.3"},
        "-by-norm": {"by_norm": True, "site": "block.3"},
        "-constant-norm": {"normalisation": "constant_norm", "site": "embed"},
        "-layer-norm": {"normalisation": "layer_norm", "by_norm": True, "site": "final"},
    }
    for architecture in ARCHITECTURES:
        for seed, (suffix, changes) in enumerate(kinds.items()):
            autoencoder = random_autoencoder(architecture, seed, **changes)
            folder = write_saelens(
                autoencoder,
                place / f"{architecture}{suffix}",
                metadata={"model_name": "gpt2-small"},
                overwrite=True,
            )
            x = activations()
            codes, found = autoencoder.apply(x)
            save_file(
                {"x": x, "codes": codes, "reconstruction": found}, folder / "expected.safetensors"
            )


def load(place: Path) -> bool:
    from sae_lens import SAE

    good = True
    for folder in sorted(p for p in place.iterdir() if p.is_dir()):
        sae = SAE.load_from_disk(folder)
        expected = load_file(folder / "expected.safetensors")
        codes = sae.encode(expected["x"])
        off = float((codes - expected["codes"]).abs().max())
        found_off = float((sae.decode(codes) - expected["reconstruction"]).abs().max())
        good = good and max(off, found_off) < 1e-5
        hook = sae.cfg.metadata.hook_name
        print(f"{folder.name:24} {sae.cfg.architecture():10} {hook!s:28} {off:.1e} {found_off:.1e}")
    return good


if __name__ == "__main__":
    action, where = sys.argv[1:]
    if action == "write":
        write(Path(where))
    elif not load(Path(where)):
        sys.exit("a difference exceeds 1e-5")
