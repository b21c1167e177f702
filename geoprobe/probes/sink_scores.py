"""What attention pays to sinks: scores, rates and masses, and the table of sink levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe import measures
from geoprobe.data.corpus import Corpus
from geoprobe.measures import sinks as rules
from geoprobe.probes.base import Feed, Outcome, Subject
from geoprobe.probes.sinks import NAME, SinksOptions, reading
from geoprobe.probes.sinks_found import CANDIDATES, TRACED, Found, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.attention import Attention
    from geoprobe.runs.reading import Key

_SETS = ("first", "primary", "all")
_LEARNED = 1e-3
"""Share of a row that is missing before a learned sink is told; rounding is far below."""

_FREQUENT = 5
"""Tokens of a level that are named."""


def scores(
    attends: Attention | None, subject: Subject, options: SinksOptions, found: Found, stream: Stream
) -> Outcome:
    """What the sinks of one checkpoint get, and its levels.

    Args:
        attends: Attention of the model; None to ask none.
        subject: The model and the corpus.
        options: What to measure.
        found: The sinks of the corpus.
        stream: What they were found in.
    """
    outcome = Outcome()
    of_levels: Mapping[tuple[int, int], list[float]] = {}
    if attends is not None:
        for text in options.probe_text:
            taken = _Taken(attends, text, found, stream)
            taken.take(_feeds(subject, text, stream.lengths))
            outcome.add(taken.outcome(options.eps))
            of_levels = of_levels or taken.level_scores
    outcome.findings += _level_findings(found, stream, of_levels)
    return outcome


def _feeds(subject: Subject, text: str, lengths: NDArray[np.int64]) -> Iterator[Feed]:
    """Batches of one of the texts; those that are made have as many and as long sequences."""
    if text == "natural":
        return subject.feeds()
    vocabulary = subject.capture.layout.vocabulary
    draw = np.random.default_rng(subject.seed)
    longest = int(lengths.max())
    ids = draw.integers(0, vocabulary, (len(lengths), 1 if text == "repeat" else longest))
    ids = np.broadcast_to(ids, (len(lengths), longest))
    return subject.feeds(Corpus.from_ids(list(ids), pad_id=0, source=text))


class _Taken:
    """Scores and masses of one text.

    Args:
        attends: Attention of the model.
        text: Name of the text.
        found: The sinks of the natural text.
        stream: What they were found in.
    """

    def __init__(self, attends: Attention, text: str, found: Found, stream: Stream) -> None:
        self._attends = attends
        self._text = text
        self._found = found
        self._stream = stream
        self._natural = text == "natural"
        self._scores: list[list[NDArray[np.float64]]] = [[] for _ in range(attends.depth)]
        self._mass: list[list[NDArray[np.float64]]] = [[] for _ in range(attends.depth)]
        self._outside: list[NDArray[np.float64]] = []
        self._index: list[NDArray[np.int64]] = []
        self.level_scores: dict[tuple[int, int], list[float]] = {}
        self._levels_of: dict[int, list[tuple[tuple[int, int], list[int]]]] = {}
        for level, tokens in found.members().items() if self._natural else ():
            for token in tokens.tolist():
                layers = found.attended(token, level[0])
                self._levels_of.setdefault(token, []).append((level, layers))
        self._strip: NDArray[np.float32] | None = None

    def take(self, feeds: Iterator[Feed]) -> None:
        """Runs every batch."""
        for feed in feeds:
            self._batch(feed)

    def _batch(self, feed: Feed) -> None:
        real = feed.mask.bool()
        batch, time = real.shape
        first = min(CANDIDATES, time)
        columns = torch.zeros(batch, time, first + len(_SETS) + 1, device=real.device)
        columns[:, range(first), range(first)] = 1.0
        sets = self._sets(feed, time).to(real.device)
        columns[:, :, first : first + len(_SETS)] = sets
        columns[:, :, -1] = 1.0
        traced = self._traced(feed)
        if traced:
            own = torch.zeros(batch, time, TRACED, device=real.device)
            for row, positions in traced.items():
                for slot, position in enumerate(positions):
                    own[row, position, slot] = 1.0
            columns = torch.cat([columns, own], dim=-1)
        at = torch.arange(time, device=real.device)
        # Queries of each candidate: those from it on; of each set: those outside; of the rows: all.
        asks = [real & (at >= k) for k in range(first)]
        asks += [real & (sets[:, :, s] == 0) for s in range(len(_SETS))] + [real]
        queries = torch.stack(asks, dim=-1).double()
        counts = queries.sum(1)
        self._outside.append(counts[:, first:].cpu().numpy())
        self._index.append(feed.index)

        def seen(layer: int, mass: Tensor) -> None:
            mass = mass.to(queries.device)  # layers may be on several devices
            sums = torch.einsum("bhqn,bqn->bhn", mass[..., : queries.shape[-1]].double(), queries)
            scores = sums[..., :first] / counts[:, None, :first].clamp(min=1)
            scores[(counts[:, None, :first] == 0).expand_as(scores)] = torch.nan
            padded = np.full((*scores.shape[:2], CANDIDATES), np.nan)
            padded[..., :first] = scores.cpu().numpy()
            self._scores[layer].append(padded)
            self._mass[layer].append(sums[..., first:].cpu().numpy())
            if self._natural and 0 in feed.index:
                self._show(layer, feed, mass[..., first + len(_SETS) - 1])
            for row, positions in traced.items():
                self._trace(layer, feed, row, positions, mass[row, :, :, queries.shape[-1] :])

        self._attends.run(feed.inputs, columns, seen)

    def _secondary(self, sequence: int) -> NDArray[np.int64]:
        """Positions of the secondary sinks of a sequence."""
        return self._stream.places(self._found.secondary, sequence)

    def _sets(self, feed: Feed, time: int) -> Tensor:
        """Which keys are in each set (batch, time, sets)."""
        sets = torch.zeros(len(feed.index), time, len(_SETS))
        sets[:, 0, 0] = 1.0
        if self._found.primary < time:
            sets[:, self._found.primary, 1:] = 1.0
        if self._natural:
            for row, item in enumerate(feed.index):
                sets[row, self._secondary(int(item)), 2] = 1.0
        return sets

    def _traced(self, feed: Feed) -> dict[int, NDArray[np.int64]]:
        """Row of the batch -> positions of secondary sinks whose scores are taken."""
        if not self._natural:
            return {}
        found = {row: self._secondary(int(item)) for row, item in enumerate(feed.index)}
        return {row: positions[:TRACED] for row, positions in found.items() if len(positions)}

    def _trace(
        self, layer: int, feed: Feed, row: int, positions: NDArray[np.int64], mass: Tensor
    ) -> None:
        """Adds the mean score over heads, in the blocks of its life, of each secondary sink."""
        start, length = self._stream.offsets[feed.index[row]], int(feed.lengths[row])
        for slot, position in enumerate(positions):
            for level, layers in self._levels_of[int(start + position)]:
                if layer in layers:
                    score = float(mass[:, int(position) : length, slot].double().mean())
                    self.level_scores.setdefault(level, []).append(score)

    def _show(self, layer: int, feed: Feed, mass: Tensor) -> None:
        """Keeps what each token of the first sequence pays to its sinks, averaged over heads."""
        row = int(np.flatnonzero(feed.index == 0)[0])
        length = int(feed.lengths[row])
        if self._strip is None:
            self._strip = np.zeros((self._attends.depth, length), dtype=np.float32)
        self._strip[layer] = mass[row, :, :length].float().mean(0).cpu().numpy()

    def outcome(self, eps: float) -> Outcome:
        """Readings of every layer and head, and of the whole model."""
        found = Outcome()
        index = np.concatenate(self._index)
        outside = np.concatenate(self._outside)
        scores = np.stack([np.concatenate(layer) for layer in self._scores], axis=1)
        masses = np.stack([np.concatenate(layer) for layer in self._mass], axis=1)
        rate = partial(_rate, eps=eps)

        def add(name: str, site: str, keys: dict[str, Key], measure: Any, *of: Any) -> None:
            keys = {"text": self._text, **keys}
            kept = ~np.isnan(of[0].reshape(len(index), -1)).any(1)
            values, *more = (values[kept] for values in of)
            found.readings.append(reading(name, site, keys, measure, values, index[kept], *more))

        for k in range(CANDIDATES):
            if not np.isnan(scores[..., k]).all():
                add("sink_rate", "model", {"position": k}, rate, scores[..., k])
        learned = outside[:, -1][:, None, None] - masses[..., -1]
        sets = dict(zip(_SETS, np.moveaxis(masses[..., : len(_SETS)], -1, 0), strict=True))
        queries = dict(zip(_SETS, outside[:, : len(_SETS)].T, strict=True))
        if not self._natural:
            del sets["all"]
        if learned.max() > _LEARNED * outside[:, -1].max():
            sets["learned"], queries["learned"] = learned, outside[:, -1]
        for layer, head in np.ndindex(scores.shape[1:3]):
            site = f"attention.{layer}"
            for k in dict.fromkeys((0, self._found.primary)):
                keys: dict[str, Key] = {"position": k, "head": head}
                of_head = scores[:, layer, head, k]
                add("sink_score", site, keys, measures.sink_score, of_head)
                add("sink_rate", site, keys, rate, of_head)
            for name, mass in sets.items():
                keys = {"set": name, "head": head}
                add(
                    "sink_mass", site, keys, measures.sink_mass, mass[:, layer, head], queries[name]
                )
        if self._strip is not None:
            found.arrays[f"{NAME}/strip"] = self._strip
            ids = self._stream.ids[: self._strip.shape[1]].tolist()
            found.findings.append({"kind": "strip", "token_ids": ids})
        taken = ~np.isnan(scores)
        sums, counts = np.where(taken, scores, 0).sum(0), taken.sum(0)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        found.arrays[f"{NAME}/{self._text}/scores"] = means
        return found


def _rate(scores: NDArray[np.float64], eps: float) -> float:
    return measures.sink_rate(scores, eps)


def _level_findings(
    found: Found, stream: Stream, scores: Mapping[tuple[int, int], list[float]]
) -> list[dict[str, Any]]:
    """The levels, most frequent first."""
    depth = len(stream.norms)
    findings = []
    for (begins, lives), at in found.members().items():
        frequent = Counter(stream.ids[at].tolist()).most_common(_FREQUENT)
        score = scores.get((begins, lives))
        findings.append(
            {
                "kind": "level",
                "l_start": begins,
                "lifetime": lives,
                "count": len(at),
                "share": stream.having(at) / len(stream.lengths),
                "token_ids": [token for token, _ in frequent],
                "token_counts": [n for _, n in frequent],
                "mean_norm": float(stream.norms[:, at][found.alive(at, begins)].mean()),
                "sink_score": float(np.mean(score)) if score else None,
                "authors": rules.is_secondary(lives, depth, "authors"),
                "depth": rules.is_secondary(lives, depth, "depth"),
            }
        )
    return findings
