"""Sparse autoencoders: training beside other packages' trainers, and applying a large one.

The peers cannot be installed beside geoprobe. Name a Python that has them:

    export GEOPROBE_PEER_DICTIONARY_LEARNING=/path/to/python GEOPROBE_PEER_SAELENS=/path/to/python
    python -m benchmarks features

The rest is run without. All trainers get the same activations (SmolLM2-135M, block 15, standardised
by us), the same number of features, batch, learning rate and steps, and threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Line, corpus, interleaved, load_smollm2, median, spread

SITE, SEQUENCES, HELD_OUT = "block.15", 256, 2048
STEPS, FEATURES, K, L1, LR = 400, 2304, 32, 2.4, 1e-3
ACTIVE = 50
"""Features of a token that are active, as of a trained autoencoder of that size."""
_MASSIVE = 4.0
"""Times the median norm, above which a token is a sink, and its error would be all of the loss."""
BATCHES = (128, 1024)
PEERS = {
    "dictionary_learning": "GEOPROBE_PEER_DICTIONARY_LEARNING",
    "saelens": "GEOPROBE_PEER_SAELENS",
}


def run() -> list[Line]:
    """Times training and applying."""
    model, tokenizer = load_smollm2()
    rows = _activations(model, tokenizer)
    lines = []
    for kind in ("standard", "topk"):
        for batch in BATCHES:
            lines += _training(rows, kind, batch)
    lines += _applying(model, tokenizer)
    return lines


def _activations(model: Any, tokenizer: Any) -> torch.Tensor:
    """Standardised activations of tokens that are no sinks (n, d), shuffled."""
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.survey import feeds

    capture = Capture(model, find_layout(model))
    found: list[torch.Tensor] = []
    for feed in feeds(corpus(tokenizer, SEQUENCES), 32, capture.device):
        capture.run(feed.inputs, [SITE], lambda _, x: found.append(x[:, 1:].flatten(0, 1).clone()))
    rows = torch.cat(found)
    norms = rows.norm(dim=1)
    rows = rows[norms < _MASSIVE * norms.median()]
    rows = rows - rows.mean(0)
    rows = rows / rows.square().mean().sqrt()
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def _training(rows: torch.Tensor, kind: str, batch: int) -> list[Line]:
    test, x = rows[:HELD_OUT].contiguous(), rows[HELD_OUT:].contiguous()
    told = {
        "kind": kind,
        "features": FEATURES,
        "batch": batch,
        "steps": STEPS if batch < 1000 else STEPS // 4,
        "k": K,
        "l1": L1,
        "lr": LR,
        "threads": torch.get_num_threads(),
    }
    found = {"geoprobe": [_ours(x, test, told, seed) for seed in (0, 1)]}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in (("x", x), ("test", test)):
            np.save(Path(folder) / f"{name}.npy", values.numpy())
            told[name] = str(Path(folder) / f"{name}.npy")
        for peer, variable in PEERS.items():
            python = os.environ.get(variable)
            if python:
                found[peer] = [_theirs(python, peer, {**told, "seed": seed}) for seed in (0, 1)]
    ours = median([one["rate"] for one in found["geoprobe"]])
    lines = []
    for who, several in found.items():
        rate = median([one["rate"] for one in several])
        said = (
            f"{rate:,.0f} tokens/s; held-out |x-x^|^2 "
            + ", ".join(f"{one['residual']:.2f}" for one in several)
            + "; L0 "
            + ", ".join(f"{one['l0']:.1f}" for one in several)
        )
        if kind == "standard":
            loss = [one["residual"] + L1 * one["penalty"] for one in several]
            said += "; loss " + ", ".join(f"{value:.2f}" for value in loss)
        target = "-" if who == "geoprobe" else f"geoprobe {ours / rate:.2f} x as fast (>= 1)"
        lines.append(Line(f"train {kind}, batch {batch}: {who}", said, target))
        print("  ", lines[-1].what, said, target, file=sys.stderr, flush=True)
    return lines


def _ours(x: torch.Tensor, test: torch.Tensor, told: dict[str, Any], seed: int) -> dict[str, float]:
    from geoprobe.autoencoders.recipe import Recipe
    from geoprobe.autoencoders.stack import Stack

    recipe = Recipe(
        told["kind"],
        expansion=FEATURES // x.shape[1],
        l1=L1,
        k=K,
        lr=LR,
        standardise=False,
        unit_decoder=True,
        centre=True,
    )
    stack = Stack(recipe, x.shape[1], [seed])
    order = torch.Generator().manual_seed(seed)

    def samples() -> torch.Tensor:
        return x[torch.randint(len(x), (told["batch"],), generator=order)][None]

    stack.step(samples())
    start = time.perf_counter()
    for _ in range(told["steps"] - 1):
        stack.step(samples())
    seconds = time.perf_counter() - start
    losses = stack.evaluate(test[None])
    residual = float(losses.residual)
    return {
        "rate": (told["steps"] - 1) * told["batch"] / seconds,
        "residual": residual,
        "penalty": (float(losses.loss) - residual) / L1 if told["kind"] == "standard" else 0.0,
        "l0": float(losses.l0),
    }


def _theirs(python: str, peer: str, told: dict[str, Any]) -> dict[str, float]:
    script = Path(__file__).parent / "peers" / f"{peer}_trainer.py"
    done = subprocess.run(
        [python, str(script), json.dumps(told)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _applying(model: Any, tokenizer: Any, pairs: int = 7) -> list[Line]:
    """What a 16 x autoencoder at one site adds to a pass, against its own products alone."""
    from geoprobe.autoencoders.autoencoder import Autoencoder
    from geoprobe.models.capture import Capture
    from geoprobe.models.layout import find_layout
    from geoprobe.probes.features_evaluation import Evaluation, Member
    from geoprobe.survey import feeds

    capture = Capture(model, find_layout(model))
    text = corpus(tokenizer, 32)
    (feed,) = list(feeds(text, 32, capture.device))
    lines = []
    directions = torch.randn(16 * model.config.hidden_size, model.config.hidden_size)
    directions /= directions.norm(dim=1, keepdim=True)
    for name in ("ReLU", "TopK"):
        kept: list[torch.Tensor] = []
        capture.run(feed.inputs, [SITE], lambda _, x, kept=kept: kept.append(x.clone()))  # type: ignore[misc]
        x, rows_of_it = kept[0], kept[0].flatten(0, 1)
        h = rows_of_it @ directions.T
        cut = h.kthvalue(len(directions) - ACTIVE, dim=1).values.median()
        coder = Autoencoder(
            "topk" if name == "TopK" else "standard",
            directions.T.contiguous(),
            directions,
            torch.full((len(directions),), -float(cut) if name == "ReLU" else 0.0),
            torch.zeros(directions.shape[1]),
            k=ACTIVE if name == "TopK" else None,
        )
        codes = coder.encode(rows_of_it)
        evaluation = Evaluation([Member(SITE, name, coder)], len(text))

        def observe(_: int, evaluation: Any = evaluation, x: Any = x) -> None:
            with torch.inference_mode():
                evaluation.observe(SITE, x, feed.at(x))

        def products(_: int, coder: Any = coder, x: Any = rows_of_it, codes: Any = codes) -> None:
            with torch.inference_mode():
                torch.mm(x, coder.encoder)
                torch.mm(codes, coder.decoder)

        both = interleaved(products, observe, pairs)
        ratios = [ours / own for own, ours in both]
        lines.append(
            Line(
                f"apply {name}, 16 x ({coder.features} features, "
                f"{float((codes > 0).sum() / len(codes)):.0f} active): time / its two products",
                f"{median(ratios):.2f} ({spread(ratios)})",
                "<= 1",
                f"{median([ours for _, ours in both]):.2f} s a batch of {len(codes)} tokens",
            )
        )
    return lines
