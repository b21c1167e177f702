"""Trains the networks whose classes collapse: an MLP and a ViT on scikit-learn's digits.

    python -m scripts.train_digits --out digits

Each is trained on balanced classes and on long-tailed ones, and kept at steps that double. One
command, fixed seeds, no network; all four took 57 seconds on one thread of a busy machine, where
two threads are many times slower on networks so small. What it writes:

    digits/{balanced,long-tailed}/{train,heldout}.npz   x (n, 1, 8, 8) in [0, 1], and y
    digits/{balanced,long-tailed}/mlp/step-0000.safetensors, step-0001.safetensors, ...
    digits/{balanced,long-tailed}/vit/step-0000/, step-0001/, ...   as transformers saves them

The MLP is trained on |W H - Y|^2 / (2N) + lambda_W |W|^2 / 2 + lambda_H |H|^2 / 2, whose minimiser
is known (Dang et al. 2023, arXiv 2301.00437), H being the input of its last layer on all N
samples. That layer has no bias, and nothing but linear maps follows the last ReLU, so that H is as
free as the theory has it. The ViT is trained as usual, on cross-entropy with AdamW.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.logging import disable_progress_bar

from geoprobe.measures.collapse import nc1
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.frames import nc2_etf
from geoprobe.measures.imbalance import Frame, general_orthogonal_frame, gof_distance

CLASSES = 10
SEED = 0
HELD_OUT = 0.3
"""Share of the samples of each class that is held out."""
TAIL_RATIO = 0.05
TAIL_LEAST = 5
"""The last class of the long tail has that share of the first one's samples, and at least five."""

WEIGHT_DECAY_W = 2e-2
WEIGHT_DECAY_H = 2e-3
"""A class vanishes that has at most N^2 lambda_W lambda_H samples: 6.9 of the 416 in the long tail,
where the last class has 6 and the one before it 9; 63.2 of the 1257 balanced ones, where each class
has at least 122."""
MLP_WIDTH, MLP_FEATURES = 128, 64
MLP_STEPS = 1024
MLP_LEARNING_RATE = 3e-3

VIT_STEPS = 768
VIT_BATCH = 64
VIT_LEARNING_RATE = 1e-3
VIT_WEIGHT_DECAY = 0.3

Array = NDArray[np.float64]


class Samples(NamedTuple):
    """Images (n, 1, 8, 8) in [0, 1], and the digit that each shows (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each class."""
        return np.bincount(self.y, minlength=CLASSES).astype(np.int64)


class Outcome(NamedTuple):
    """What a trained network is like.

    Attributes:
        accuracy: Share of the training samples that it gets right.
        held_out: The same of the held-out samples.
        means: Class means of the training features (C, d).
        rows: Rows of the classifier (C, d).
        nc1: NC1 of the training features; None where it is not defined.
        etf: Distance of their class means to an ETF; None where it is not defined.
    """

    accuracy: float
    held_out: float
    means: Array
    rows: Array
    nc1: float | None
    etf: float | None


def digits() -> tuple[Samples, Samples]:
    """The digits for training and those held out, each class in the same share."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    x = (found.images / 16).astype(np.float32)[:, None]
    y = found.target.astype(np.int64)
    train_x, held_x, train_y, held_y = train_test_split(
        x, y, test_size=HELD_OUT, stratify=y, random_state=SEED
    )
    return Samples(train_x, train_y), Samples(held_x, held_y)


def long_tailed(samples: Samples, ratio: float = TAIL_RATIO) -> Samples:
    """The first samples of each class, class by class fewer of them.

    Args:
        samples: Balanced ones.
        ratio: Samples of the last class over those of the first.
    """
    first = int(samples.counts.min())
    kept = [
        np.flatnonzero(samples.y == k)[: max(TAIL_LEAST, round(first * ratio ** (k / 9)))]
        for k in range(CLASSES)
    ]
    rows = np.sort(np.concatenate(kept))
    return Samples(samples.x[rows], samples.y[rows])


def mlp() -> nn.Sequential:
    """The untrained MLP, for `--factory scripts.train_digits:mlp`."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden1=nn.Linear(64, MLP_WIDTH),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(MLP_WIDTH, MLP_WIDTH),
            relu2=nn.ReLU(),
            hidden3=nn.Linear(MLP_WIDTH, MLP_WIDTH),
            relu3=nn.ReLU(),
            features=nn.Linear(MLP_WIDTH, MLP_FEATURES),
            classifier=nn.Linear(MLP_FEATURES, CLASSES, bias=False),
        )
    )


def vit() -> ViTForImageClassification:
    """The untrained ViT: sixteen patches of 2 x 2, three blocks."""
    names = {k: str(k) for k in range(CLASSES)}
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label=names,
            label2id={name: k for k, name in names.items()},
        )
    )


def doubling(last: int) -> tuple[int, ...]:
    """The steps 0, 1, 2, 4, ... below the last one, and that."""
    return (0, *(2**i for i in range(last.bit_length()) if 2**i < last), last)


def train_mlp(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    steps: int = MLP_STEPS,
    checkpoints: Sequence[int] | None = None,
    out: Path | None = None,
    seed: int = SEED,
) -> nn.Sequential:
    """Trains the MLP on all samples at once, Adam with a learning rate that falls to zero.

    Args:
        x: Images.
        y: Their classes.
        steps: Optimiser steps.
        checkpoints: Steps to keep it at; the doubling ones where none are given.
        out: Folder for `step-0000.safetensors` and so on; None keeps nothing.
        seed: What it starts from.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(seed)
    model = mlp()
    body, head = model[:-1], _classifier(model)
    images, targets = torch.from_numpy(x), functional.one_hot(torch.from_numpy(y), CLASSES).float()

    def loss(_: int) -> Tensor:
        features: Tensor = body(images)
        error = functional.mse_loss(head(features), targets, reduction="sum") / len(x)
        decay = WEIGHT_DECAY_W * head.weight.square().sum()
        return (error + decay + WEIGHT_DECAY_H * features.square().sum()) / 2

    def keep(step: int) -> None:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), out / f"step-{step:04d}.safetensors")

    optimiser = torch.optim.Adam(model.parameters(), lr=MLP_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    _train(
        optimiser,
        schedule,
        loss,
        steps,
        keep,
        doubling(steps) if checkpoints is None else checkpoints,
    )
    return model.eval()


def train_vit(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    steps: int = VIT_STEPS,
    checkpoints: Sequence[int] | None = None,
    out: Path | None = None,
    seed: int = SEED,
) -> ViTForImageClassification:
    """Trains the ViT in batches, AdamW with a learning rate that rises and falls to zero.

    Args:
        x: Images.
        y: Their classes.
        steps: Optimiser steps.
        checkpoints: Steps to keep it at; the doubling ones where none are given.
        out: Folder for the folders `step-0000` and so on; None keeps nothing.
        seed: What it starts from, and the order of the samples.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(seed)
    model = vit()
    model.train()
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    a_pass = max(1, len(x) // VIT_BATCH)
    order = torch.empty(0, dtype=torch.long)

    def loss(step: int) -> Tensor:
        nonlocal order
        if step % a_pass == 0:
            order = torch.randperm(len(x))
        batch = order[step % a_pass * VIT_BATCH :][:VIT_BATCH]
        return functional.cross_entropy(model(pixel_values=images[batch]).logits, labels[batch])

    def keep(step: int) -> None:
        if out is not None:
            model.save_pretrained(out / f"step-{step:04d}")

    optimiser = torch.optim.AdamW(
        model.parameters(), lr=VIT_LEARNING_RATE, weight_decay=VIT_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, VIT_LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    _train(
        optimiser,
        schedule,
        loss,
        steps,
        keep,
        doubling(steps) if checkpoints is None else checkpoints,
    )
    model.train(False)
    return model


def _train(
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss: Callable[[int], Tensor],
    steps: int,
    keep: Callable[[int], None],
    checkpoints: Sequence[int],
) -> None:
    """Steps the optimiser, and keeps the network after so many steps as are asked for."""
    for step in range(steps + 1):
        if step in checkpoints:
            keep(step)
        if step < steps:
            optimiser.zero_grad()
            loss(step).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _classifier(model: nn.Module) -> nn.Linear:
    found = model.get_submodule("classifier")
    assert isinstance(found, nn.Linear)
    return found


def features_of(model: nn.Module, x: NDArray[np.float32]) -> Array:
    """What the last layer of either network reads, in float64."""
    with torch.inference_mode():
        images = torch.from_numpy(x)
        if isinstance(model, ViTForImageClassification):
            found = model.vit(pixel_values=images).last_hidden_state[:, 0]
        else:
            assert isinstance(model, nn.Sequential)
            found = model[:-1](images)
    return np.asarray(found.numpy(), dtype=np.float64)


def outcome_of(model: nn.Module, train: Samples, heldout: Samples) -> Outcome:
    """Measures a trained network, in two passes over its features in float64."""
    head = _classifier(model)
    rows = np.asarray(head.weight.detach().numpy(), dtype=np.float64)
    bias = 0.0 if head.bias is None else np.asarray(head.bias.detach().numpy(), dtype=np.float64)
    features = features_of(model, train.x)
    means = np.stack([features[train.y == k].mean(0) for k in range(CLASSES)])
    around = features - means[train.y]
    within = around.T @ around / len(around)

    def right(of: Array, y: NDArray[np.int64]) -> float:
        return float(((of @ rows.T + bias).argmax(1) == y).mean())

    return Outcome(
        right(features, train.y),
        right(features_of(model, heldout.x), heldout.y),
        means,
        rows,
        _defined(lambda: nc1(within, means)),
        _defined(lambda: nc2_etf(means)),
    )


def _defined(measured: Callable[[], float]) -> float | None:
    try:
        return measured()
    except Undefined:
        return None


def predicted_frame(counts: NDArray[np.int64]) -> Frame:
    """The frame that the MLP's loss has as its minimiser."""
    return general_orthogonal_frame(counts, WEIGHT_DECAY_W, WEIGHT_DECAY_H)


def _distance(vectors: Array, squared_lengths: Array) -> float:
    return gof_distance(vectors @ vectors.T, squared_lengths)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2g}"


def _run(
    name: str,
    trainer: Callable[..., nn.Module],
    train: Samples,
    heldout: Samples,
    steps: int,
    out: Path,
) -> None:
    """Trains one network and prints a line on it."""
    began = time.monotonic()
    model = trainer(train.x, train.y, steps=steps, out=out)
    seconds = time.monotonic() - began
    found = outcome_of(model, train, heldout)
    line = (
        f"{name}: {seconds:.1f} s, accuracy {found.accuracy:.4f}, held out {found.held_out:.4f}, "
        f"nc1 {_shown(found.nc1)}, ETF distance {_shown(found.etf)}"
    )
    if isinstance(model, nn.Sequential):
        frame = predicted_frame(train.counts)
        line += (
            f", frame distance of means {_distance(found.means, frame.means):.2g}, of rows "
            f"{_distance(found.rows, frame.rows):.2g}"
        )
    print(line, flush=True)


def _about(name: str, train: Samples) -> str:
    """A line on the classes, and on which of them vanish."""
    frame = predicted_frame(train.counts)
    gone = ", ".join(map(str, np.flatnonzero(frame.collapsed))) or "none"
    return (
        f"{name}: {len(train.y)} samples, {train.counts.tolist()} of the classes; up to "
        f"{frame.threshold:.2f} vanish from the MLP: {gone}"
    )


def _commands(out: Path, name: str) -> list[str]:
    """The command lines that measure what was trained."""
    here = out / name
    data = f"--data train={here / 'train.npz'} --data heldout={here / 'heldout.npz'}"
    return [
        f"geoprobe collapse {here / 'mlp'} --factory scripts.train_digits:mlp {data} "
        f"--weight-decay-w {WEIGHT_DECAY_W:g} --weight-decay-h {WEIGHT_DECAY_H:g}",
        f"geoprobe collapse {here / 'vit'} {data}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--mlp-steps", type=int, default=MLP_STEPS, help="steps of the MLP")
    parser.add_argument("--vit-steps", type=int, default=VIT_STEPS, help="steps of the ViT")
    parser.add_argument("--force", action="store_true", help="replace what is in the folder")
    options = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(options.threads)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    balanced, heldout = digits()
    trained_on = {"balanced": balanced, "long-tailed": long_tailed(balanced)}
    if options.out.exists() and any(options.out.iterdir()):
        if not options.force:
            parser.error(f"{options.out} is not empty; give another folder, or --force.")
        for name in trained_on:
            shutil.rmtree(options.out / name, ignore_errors=True)
    for name, train in trained_on.items():
        folder = options.out / name
        folder.mkdir(parents=True)
        np.savez(folder / "train.npz", x=train.x, y=train.y)
        np.savez(folder / "heldout.npz", x=heldout.x, y=heldout.y)
        print(_about(name, train), flush=True)
        _run(f"{name} mlp", train_mlp, train, heldout, options.mlp_steps, folder / "mlp")
        _run(f"{name} vit", train_vit, train, heldout, options.vit_steps, folder / "vit")
    print(f"lambda_W {WEIGHT_DECAY_W:g}, lambda_H {WEIGHT_DECAY_H:g}")
    print(f"{options.out} after {time.monotonic() - began:.0f} seconds")
    for name in trained_on:
        print(*_commands(options.out, name), sep="\n")


if __name__ == "__main__":
    main()
