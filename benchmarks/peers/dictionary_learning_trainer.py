"""dictionary_learning's own trainers on activations in a file; run by a Python that has it.

`python dictionary_learning_trainer.py '{"x": "x.npy", "test": "test.npy", ...}'` prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Trains as told and prints the speed and the losses on what is held out."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(told["threads"])
    x, test = (torch.from_numpy(np.load(told[name])) for name in ("x", "test"))
    trainers: Any = import_module("dictionary_learning.trainers")
    common = {
        "steps": told["steps"],
        "activation_dim": x.shape[1],
        "dict_size": told["features"],
        "layer": 0,
        "lm_name": "activations",
        "lr": told["lr"],
        "warmup_steps": 0,
        "seed": told["seed"],
        "device": "cpu",
    }
    if told["kind"] == "standard":
        trainer = trainers.standard.StandardTrainer(
            l1_penalty=told["l1"], sparsity_warmup_steps=None, resample_steps=None, **common
        )
    else:
        trainer = trainers.top_k.TopKTrainer(k=told["k"], **common)
    order = torch.Generator().manual_seed(told["seed"])
    batch = told["batch"]

    def samples() -> torch.Tensor:
        return x[torch.randint(len(x), (batch,), generator=order)]

    trainer.update(0, samples())  # sets the bias, too; not timed
    start = time.perf_counter()
    for step in range(1, told["steps"]):
        trainer.update(step, samples())
    seconds = time.perf_counter() - start
    with torch.no_grad():
        codes = trainer.ae.encode(test)
        residual = (trainer.ae.decode(codes) - test).square().sum(1).mean()
    found = {
        "rate": (told["steps"] - 1) * batch / seconds,
        "residual": float(residual),
        "penalty": float(codes.sum(1).mean()),
        "l0": float((codes > 0).sum(1).float().mean()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
