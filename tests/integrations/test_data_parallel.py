"""The callback in a training by two processes, each with a replica of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def main(name: str, folder: str) -> None:
    """One process of the training; the first keeps what it ends with."""
    from geoprobe.integrations.trainer import GeoprobeCallback
    from tests.conftest import tiny_text
    from tests.integrations.trainings import trainer

    out = Path(folder) / name
    added = [GeoprobeCallback(text=tiny_text(24), every=2, probes=("spectrum",))]
    torch.manual_seed(0)
    own = trainer(out, added if name == "with" else [])
    own.train()
    assert type(own.model_wrapped).__name__ == "DistributedDataParallel"
    if os.environ["RANK"] == "0":
        torch.save(own.model.state_dict(), out / "weights.pt")
        logged = [x["step"] for x in own.state.log_history if "geoprobe/rankme/final" in x]
        (out / "logged.json").write_text(json.dumps(logged))


def test_two_processes_train_as_without_it_and_measure_once(tmp_path: Path) -> None:
    for name in ("without", "with"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", "-m", __name__, name, str(tmp_path)),
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    without, with_it = (torch.load(tmp_path / n / "weights.pt") for n in ("without", "with"))
    assert without.keys() == with_it.keys()
    for name, tensor in without.items():
        assert torch.equal(tensor, with_it[name]), name
    assert json.loads((tmp_path / "with" / "logged.json").read_text()) == [0, 2, 4, 6]
    measured = (tmp_path / "with" / "geoprobe" / "checkpoints").glob("*.json")
    assert sorted(file.stem for file in measured) == ["step-0", "step-2", "step-4", "step-6"]


if __name__ == "__main__":
    main(*sys.argv[1:])
