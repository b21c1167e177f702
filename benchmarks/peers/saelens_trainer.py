"""SAELens' own trainer on activations in a file; run by a Python that has it.

`python saelens_trainer.py '{"x": "x.npy", "test": "test.npy", ...}'` prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Trains as told and prints the speed and the losses on what is held out."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(told["threads"])
    torch.manual_seed(told["seed"])
    x, test = (torch.from_numpy(np.load(told[name])) for name in ("x", "test"))
    lens: Any = import_module("sae_lens")
    config: Any = import_module("sae_lens.config")
    common = {"d_in": x.shape[1], "d_sae": told["features"], "device": "cpu"}
    if told["kind"] == "standard":
        made = lens.StandardTrainingSAEConfig(l1_coefficient=told["l1"], **common)
        sae = lens.StandardTrainingSAE(made)
    else:
        sae = lens.TopKTrainingSAE(lens.TopKTrainingSAEConfig(k=told["k"], **common))
    order = torch.Generator().manual_seed(told["seed"])
    batch = told["batch"]

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield x[torch.randint(len(x), (batch,), generator=order)]

    trainer = lens.SAETrainer(
        cfg=config.SAETrainerConfig(
            total_training_samples=told["steps"] * batch,
            train_batch_size_samples=batch,
            device="cpu",
            lr=told["lr"],
            lr_end=told["lr"],
            lr_scheduler_name="constant",
            lr_warm_up_steps=0,
            lr_decay_steps=0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            n_restart_cycles=1,
            dead_feature_window=1000,
            feature_sampling_window=2000,
            autocast=False,
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            logger=lens.LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=batches(),
    )
    start = time.perf_counter()
    sae = trainer.fit()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        codes = sae.encode(test)
        residual = (sae.decode(codes) - test).square().sum(1).mean()
    found = {
        "rate": told["steps"] * batch / seconds,
        "residual": float(residual),
        "penalty": float(codes.sum(1).mean()),
        "l0": float((codes > 0).sum(1).float().mean()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
