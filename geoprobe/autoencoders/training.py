"""Trains autoencoders on activations that stream by: early stop, best weights, resumable.

Activations come in chunks that fit into memory, each shuffled anew; the order is a function of the
seed, epoch and chunk, so a training that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.stack import Losses, Stack, autoencoder
from geoprobe.errors import CheckpointError
from geoprobe.measures.features import effective_features

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from geoprobe.autoencoders.recipe import Recipe

_EVALUATED = 1024
"""Held-out samples evaluated at a time."""
_BETTER = 1e-3
"""Share by which the loss on held-out samples must fall to count as progress."""
_NOTHING = (
    "there is nothing to train an autoencoder on: every token of this text is an attention sink; "
    "give longer sequences, or --train-sinks."
)


class Source(Protocol):
    """Where activations come from, for several sites of one width at once."""

    def chunks(self, epoch: int, skip: int = 0) -> Iterator[list[Tensor]]:
        """Samples (n, d) of every site, chunk by chunk, from chunk `skip` of an epoch on."""
        ...

    def held_out(self) -> Iterator[list[Tensor]]:
        """Samples (n, d) of every site that are never trained on."""
        ...


@dataclass(frozen=True)
class Rows:
    """Samples that are in memory already.

    Attributes:
        train: Samples of every site (n, d).
        test: Those that are never trained on.
    """

    train: Sequence[Tensor]
    test: Sequence[Tensor]

    def chunks(self, epoch: int, skip: int = 0) -> Iterator[list[Tensor]]:
        """All of them, once."""
        if not skip:
            yield list(self.train)

    def held_out(self) -> Iterator[list[Tensor]]:
        """All of them."""
        yield list(self.test)


@dataclass(frozen=True)
class Length:
    """How long a training goes on.

    Attributes:
        samples: Samples at most.
        patience: Evaluations without progress after which it stops; 0 never stops early.
        every: Samples between evaluations.
    """

    samples: int = 500_000
    patience: int = 3
    every: int = 50_000


@dataclass(frozen=True)
class Point:
    """What is known at one evaluation.

    Attributes:
        samples: Samples trained on.
        loss: Mean loss over the steps since the evaluation before (K,).
        held_out: Loss on held-out samples (K,).
        explained: Explained variance of held-out samples (K,).
        l0: Active features of a held-out sample (K,).
        dead: Share of features that are active on no held-out sample (K,).
        effective: Effective features of the held-out samples (K,); 0 where none is active.
    """

    samples: int
    loss: list[float]
    held_out: list[float]
    explained: list[float]
    l0: list[float]
    dead: list[float]
    effective: list[float]


@dataclass
class _State:
    """Where a training is."""

    samples: int = 0
    epoch: int = 0
    chunk: int = 0
    evaluated: int = 0
    best: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    best_at: list[int] = field(default_factory=list)
    history: list[Point] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    summed: int = 0


@dataclass(frozen=True)
class Trained:
    """One autoencoder, and how it came about.

    Attributes:
        autoencoder: The best weights, of activations as they are.
        site: Number of its site in the source.
        seed: Its seed.
        history: Evaluations, of this member alone, as `Point` has them.
        best_at: Samples after which the best weights were had.
        stopped: Samples it was trained on.
    """

    autoencoder: Autoencoder
    site: int
    seed: int
    history: list[dict[str, float]]
    best_at: int
    stopped: int


class Training:
    """Autoencoders of all sites and seeds of one width, trained together.

    Args:
        source: Where activations come from.
        recipe: What is minimised.
        length: How long.
        sites: Names of the source's sites; what is drawn for one does not depend on the others.
        width: Their width d.
        seeds: Seeds of each site's autoencoders.
        device: Where they are trained.
        state: File to keep the state in, so that it can be resumed; None keeps none.
        key: What the state belongs to: one that was kept for another is not taken up.
        progress: Called with samples trained on, samples at most, loss, active features, and the
            share of dead ones.
        save_every: Samples between two times that the state is kept.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        length: Length,
        *,
        sites: Sequence[str],
        width: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        state: Path | None = None,
        key: str = "",
        progress: Callable[[int, int, float, float, float], None] = lambda *_: None,
        save_every: int = 100_000,
    ) -> None:
        self.source, self.recipe, self.length = source, recipe, length
        self.sites = tuple(sites)
        self.site_of = [site for site in range(len(sites)) for _ in seeds]
        self.seeds = [seed for _ in sites for seed in seeds]
        self.stack = Stack(recipe, width, self.seeds, device)
        self.device = device
        self.mean = torch.zeros(len(sites), 1, width, device=device)
        self.scale = torch.ones(len(sites), 1, 1, device=device)
        self._best = {name: value.clone() for name, value in self.stack.weights().items()}
        self._file, self._key, self._save_every = state, key, save_every
        self._tell = progress
        members = len(self.seeds)
        self._at = _State(
            best=[float("inf")] * members,
            progress=[float("inf")] * members,
            stale=[0] * members,
            stopped=[0] * members,
            best_at=[0] * members,
            sums=[0.0] * members,
        )
        self._resumed = self._load()
        self._saved = self._at.samples

    def run(self) -> list[Trained]:
        """Trains until nothing gets better, or so many samples were seen.

        Raises:
            CheckpointError: Losses are NaN or infinite, or there are no samples.
        """
        at, length = self._at, self.length
        if not self._resumed:
            self._standardise()
        while self._goes_on():
            for chunk in self.source.chunks(at.epoch, at.chunk):
                self._train_on(chunk)
                at.chunk += 1
                if at.samples - at.evaluated >= length.every:
                    self._evaluate()
                self._keep()
                if not self._goes_on():
                    break
            else:
                if not at.samples:
                    raise CheckpointError(_NOTHING)
                at.epoch, at.chunk = at.epoch + 1, 0
        if at.evaluated < at.samples or not at.history:
            self._evaluate()
        self._keep(last=True)
        return [self._trained(member) for member in range(len(self.seeds))]

    def _goes_on(self) -> bool:
        """Whether there are samples left for a step, and a member that still gets better."""
        at = self._at
        left = self.length.samples - at.samples
        return (left >= self.recipe.batch or not at.samples) and not all(at.stopped)

    def _standardise(self) -> None:
        """Mean and scale of the first chunk, by which all of them are standardised."""
        if not self.recipe.standardise:
            return
        first = next((rows for rows in self.source.chunks(0) if len(rows[0]) > 1), None)
        if first is None:
            raise CheckpointError(_NOTHING)
        for site, rows in enumerate(first):
            exact = rows.double()
            # Without a bias in the decoder, it is around 0 that activations are reconstructed.
            mean = exact.mean(0) if self.recipe.biased else torch.zeros_like(exact[0])
            scale = float((exact - mean).square().mean().sqrt())
            if not scale < float("inf"):
                raise CheckpointError("activations are NaN or infinite; a wider --dtype may help.")
            self.mean[site, 0] = mean.float()
            self.scale[site] = scale if scale > 0 else 1.0

    def _samples(self, rows: Sequence[Tensor], index: Tensor) -> Tensor:
        """Samples of every member (K, batch, d), standardised; `index` is (K, batch)."""
        found = torch.stack([rows[site][index[m]] for m, site in enumerate(self.site_of)]).to(
            self.device, torch.float32
        )
        if self.recipe.standardise:
            found = (found - self.mean[self.site_of]) / self.scale[self.site_of]
        return found

    def _train_on(self, rows: Sequence[Tensor]) -> None:
        at, batch = self._at, self.recipe.batch
        count = len(rows[0])
        if not count:
            return
        orders = []
        for site, seed in zip(self.site_of, self.seeds, strict=True):
            mixed = _mixed(seed, self.sites[site], at.epoch, at.chunk)
            draw = torch.Generator().manual_seed(mixed)
            orders.append(torch.randperm(count, generator=draw))
        order = torch.stack(orders).to(rows[0].device)
        batch = min(batch, count)
        totals: list[Losses] = []
        for start in range(0, count - batch + 1, batch):
            if at.samples and at.samples + batch > self.length.samples:
                break
            totals.append(self.stack.step(self._samples(rows, order[:, start : start + batch])))
            at.samples += batch
            if len(totals) % 50 == 0:
                self._say(totals[-1])
        if not totals:
            return
        summed = torch.stack([part.loss for part in totals]).double().sum(0)
        if not bool(torch.isfinite(summed).all()):
            raise CheckpointError(
                "the training of an autoencoder diverged: its loss is NaN or infinite; give a "
                "smaller --lr, or a wider --dtype."
            )
        at.sums = [a + float(b) for a, b in zip(at.sums, summed, strict=True)]
        at.summed += len(totals)
        self._say(totals[-1])

    def _say(self, losses: Losses) -> None:
        dead = float((self.stack.silent >= min(self.recipe.dead_after, 10_000)).float().mean())
        self._tell(
            self._at.samples,
            self.length.samples,
            float(losses.loss.mean()),
            float(losses.l0.mean()),
            dead,
        )

    def _evaluate(self) -> None:
        """Losses on held-out samples; the weights of members that are better than ever are kept."""
        at, stack = self._at, self.stack
        members = len(self.seeds)
        loss, residual, l0 = (torch.zeros(members, dtype=torch.float64) for _ in range(3))
        first = torch.zeros(len(self.mean), stack.width, dtype=torch.float64)
        second = torch.zeros(len(self.mean), dtype=torch.float64)
        mass = torch.zeros(members, stack.features, device=self.device)
        cuts = torch.zeros(members, device=self.device)
        count = 0
        for rows in self.source.held_out():
            for start in range(0, len(rows[0]), _EVALUATED):
                index = torch.arange(start, min(start + _EVALUATED, len(rows[0])))
                x = self._samples(rows, index.to(rows[0].device).expand(members, -1))
                part = stack.evaluate(x, mass, cuts)
                for total, value in zip((loss, residual, l0), part, strict=True):
                    total += value.double().cpu() * len(index)
                own = x[:: members // len(self.mean)].double().cpu()  # of each site's first seed
                first += own.sum(1)
                second += own.square().sum((1, 2))
                count += len(index)
        if not count:
            raise CheckpointError("there is no text left to hold out; give more --sequences.")
        stack.cutoff.copy_(cuts / count)
        spread = (second - first.square().sum(1) / count).clamp_min(1e-30)
        explained = 1 - residual / spread[self.site_of]
        means = [total / max(1, at.summed) for total in at.sums]
        held = (loss / count).tolist()
        at.history.append(
            Point(
                at.samples,
                means,
                held,
                explained.tolist(),
                (l0 / count).tolist(),
                (mass == 0).float().mean(1).double().cpu().tolist(),
                [effective_features(m) if m.any() else 0.0 for m in mass.double().cpu().numpy()],
            )
        )
        at.sums, at.summed, at.evaluated = [0.0] * members, 0, at.samples
        for member, value in enumerate(held):
            if at.stopped[member]:
                continue  # it waits for the others
            if value < at.best[member]:
                at.best[member], at.best_at[member] = value, at.samples
                for name, weight in stack.weights().items():
                    self._best[name][member] = weight[member]
            if value < at.progress[member] * (1 - _BETTER):
                at.progress[member], at.stale[member] = value, 0
            else:
                at.stale[member] += 1
                if at.stale[member] == self.length.patience:
                    at.stopped[member] = at.samples

    def _trained(self, member: int) -> Trained:
        site, stopped = self.site_of[member], self._at.stopped[member] or self._at.samples
        found = autoencoder(
            self.recipe,
            {name: value[member].clone() for name, value in self._best.items()},
            self.mean[site, 0],
            self.scale[site, 0, 0],
        )
        history = [
            {
                "samples": point.samples,
                "loss": point.loss[member],
                "held_out": point.held_out[member],
                "explained": point.explained[member],
                "l0": point.l0[member],
                "dead": point.dead[member],
                "effective": point.effective[member],
            }
            for point in self._at.history
            if point.samples <= stopped
        ]
        best_at = self._at.best_at[member]
        return Trained(found, site, self.seeds[member], history, best_at, stopped)

    def _keep(self, *, last: bool = False) -> None:
        """Writes the state beside its place and renames it, so that it is whole or absent."""
        at = self._at
        since = at.samples - self._saved
        if self._file is None or since < (1 if last else self._save_every):
            return
        from safetensors.torch import save_file

        tensors = {f"now.{name}": value for name, value in self.stack.state().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        tensors |= {"mean": self.mean, "scale": self.scale}
        told = {**vars(at), "history": [vars(point) for point in at.history]}
        part = self._file.with_name(self._file.name + ".part")
        save_file(
            {name: value.detach().contiguous().cpu() for name, value in tensors.items()},
            part,
            {"key": self._key, "at": json.dumps(told)},
        )
        part.replace(self._file)
        self._saved = at.samples

    def _load(self) -> bool:
        """Takes up a state that was kept; whether there was one."""
        if self._file is None or not self._file.is_file():
            return False
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file, "pt") as opened:
                about: dict[str, Any] = opened.metadata() or {}
                if about.get("key") != self._key:
                    return False
                told = json.loads(about["at"])
                tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        except (OSError, ValueError, KeyError, SafetensorError):
            return False  # damaged: training begins anew
        told["history"] = [Point(**point) for point in told["history"]]
        self._at = _State(**told)
        now = {n.removeprefix("now."): v for n, v in tensors.items() if n.startswith("now.")}
        self.stack.load(now)
        for name, value in self._best.items():
            value.copy_(tensors[f"best.{name}"])
        self.mean.copy_(tensors["mean"])
        self.scale.copy_(tensors["scale"])
        return True


def _mixed(*parts: int | str) -> int:
    """One seed of several numbers and names."""
    digest = hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big")


def train_rows(
    rows: Tensor,
    recipe: Recipe,
    *,
    samples: int = 500_000,
    patience: int = 3,
    seeds: Sequence[int] = (0,),
    held_out: float = 0.1,
) -> list[Trained]:
    """Trains autoencoders on activations that are in memory.

    Args:
        rows: Activations (n, d), in any order.
        recipe: What is minimised.
        samples: Samples at most; each row is seen once an epoch.
        patience: Evaluations (one an epoch, or one in 50,000 samples) without progress after which
            it stops; 0 trains to the end. The best weights are given in any case.
        seeds: One autoencoder each.
        held_out: Share of rows that decides which weights are best.

    Returns:
        One for each seed.
    """
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=draw)
    test = max(1, int(held_out * len(rows)))
    source = Rows([rows[order[test:]]], [rows[order[:test]]])
    length = Length(samples, patience, min(50_000, len(rows) - test))
    return Training(
        source, recipe, length, sites=["rows"], width=rows.shape[1], seeds=seeds, device=rows.device
    ).run()
