"""The sinks probe: what stands out in the residual stream, in one pass over the blocks' outputs.

Norms of every token, its alignment with each candidate for the primary sink, and the largest
activations. The study behind it (`sink_scores`) then asks the attention what these tokens get.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe import measures
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.measures import sinks as rules
from geoprobe.probes.base import Cost, Feed, Outcome, Plan, Survey
from geoprobe.probes.readings import evaluate, jackknifed
from geoprobe.probes.sinks_found import CANDIDATES, Found, Stream
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.layout import Layout
    from geoprobe.runs.reading import Key, Reading

NAME = "sinks"
PROBE_TEXTS = ("natural", "random", "repeat")
LARGEST = 3
"""Activations of a sequence that are given, in order of magnitude."""


@dataclass(frozen=True)
class SinksOptions:
    """What to measure.

    Attributes:
        probe_text: Texts that sink scores are measured on: the corpus (`natural`), tokens drawn
            uniformly (`random`), one drawn token repeated (`repeat`); the last two without BOS.
        eps: Sink score beyond which a head counts for the sink rate.
        levels_only: One pass: no scores, rates, masses and formation.
        causal: Take the sinks' component from the MLPs that write it, and measure what changes.
    """

    probe_text: tuple[str, ...] = ("natural",)
    eps: float = 0.3
    levels_only: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        for name in self.probe_text:
            if name not in PROBE_TEXTS:
                raise UsageError(f"--probe-text {name}: not one of {', '.join(PROBE_TEXTS)}.")
        if not 0 < self.eps < 1:
            raise UsageError(f"--eps {self.eps:g}: give a share of attention between 0 and 1.")
        if self.causal and self.levels_only:
            raise UsageError(
                "--causal edits the model and looks at its attention, which --levels-only leaves "
                "out; give one of them."
            )


Options = SinksOptions


def plan(options: SinksOptions) -> Plan:
    """The probe, and the study that drives the model with what it found."""
    from geoprobe.probes.sinks_emergence import emergence_findings
    from geoprobe.probes.sinks_study import SinksStudy

    study = SinksStudy(options)

    def make(survey: Survey) -> SinksProbe:
        study.probe = SinksProbe(survey)
        return study.probe

    return Plan(
        probe=make,
        study=study,
        check=_check,
        series=emergence_findings,
        cost=lambda survey: _cost(options, survey),
    )


def _check(layout: Layout) -> None:
    """Makes sure that a model has blocks and reads tokens.

    Raises:
        UsageError: It has not.
    """
    if not layout.depth or not layout.vocabulary:
        raise UsageError(
            "sinks are sought among the tokens of a text after every block, and this "
            f"{layout.family} network {'reads no text' if layout.depth else 'has no known blocks'}."
        )


def _cost(options: SinksOptions, survey: Survey) -> list[Cost]:
    tokens, depth = int(survey.lengths.sum()), survey.layout.depth
    watching = 2.0 * tokens * depth * survey.layout.width * (CANDIDATES + 2)
    # Each text once with its attention, which is up to two passes' work; how sinks form; and for
    # --causal the model as it is and, of two sinks or so, edited twice.
    passes = 0 if options.levels_only else 2 * len(set(options.probe_text)) + 1
    edited = 5 if options.causal else 0
    return [
        Cost(
            memory=tokens * depth * 5,
            watching=watching,
            passes=passes + 2 * edited,
            heads=edited,
        )
    ]


_MANY, _SAMPLED = 8192, 1024
"""From so many numbers on, the median is sought between two of a sample of about so many."""


@dataclass
class _Largest:
    """The largest activation of a block so far."""

    magnitude: float = 0.0
    value: float = 0.0
    sequence: int = 0
    position: int = 0
    dimension: int = 0


@dataclass
class SinksProbe:
    """Watches every block's output.

    Args:
        survey: What is known before the first batch.
    """

    survey: Survey
    name: str = NAME
    found: Found | None = None
    _largest: dict[int, _Largest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths, depth = self.survey.lengths, self.survey.layout.depth
        self.stream = Stream(depth, lengths)
        self._top = np.zeros((depth, len(lengths), LARGEST))
        self._median = np.zeros((depth, len(lengths)))

    def sites(self) -> Sequence[str]:
        """Every block, whichever sites others measure."""
        return [f"block.{i}" for i in range(self.survey.layout.depth)]

    def pilot_sites(self) -> Sequence[str]:
        """None."""
        return ()

    def pilot(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Never called."""

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Adds one block's output (batch, time, d)."""
        layer = int(site.split(".")[1])
        x = activations.float()
        self.stream.add(layer, x, feed)
        if feed.padded:
            x = x * feed.mask[..., None]
        width, magnitudes = x.shape[-1], x.abs()
        # The largest numbers are those of the tokens that have the largest.
        tokens = magnitudes.amax(-1).topk(min(LARGEST, x.shape[1]), dim=1).indices
        items = torch.arange(len(x), device=x.device)[:, None]
        top = magnitudes[items, tokens].flatten(1).topk(LARGEST, dim=1)
        self._median[layer, feed.index] = medians(magnitudes.flatten(1), feed.lengths * width)
        values = top.values.cpu().numpy()
        self._top[layer, feed.index] = values
        row = int(values[:, 0].argmax())
        if values[row, 0] > self._largest.setdefault(layer, _Largest()).magnitude:
            place = int(top.indices[row, 0])
            position, dimension = int(tokens[row, place // width]), place % width
            self._largest[layer] = _Largest(
                float(values[row, 0]),
                float(x[row, position, dimension]),
                int(feed.index[row]),
                position,
                dimension,
            )

    def finish(self) -> Outcome:
        """Norms of the primary, its stages, the largest activations.

        Raises:
            CheckpointError: Activations are NaN or infinite.
        """
        stream = self.stream
        for layer, norms in enumerate(stream.norms):
            if not np.isfinite(norms).all():
                raise CheckpointError(
                    f"the activations after block {layer} are NaN or infinite on this text, so no "
                    "sinks were sought; a wider --dtype may help."
                )
        self.found = found = stream.find()
        outcome = Outcome()
        everyone = np.arange(len(stream.lengths))
        for layer, norms in enumerate(stream.norms):
            site = f"block.{layer}"
            keys: dict[str, Key] = {"position": found.primary}
            of_primary = norms[found.at].astype(np.float64)
            outcome.readings.append(
                reading("primary_norm", site, keys, measures.primary_norm, of_primary, found.having)
            )
            for k in range(LARGEST):
                top = self._top[layer, :, k]
                outcome.readings.append(
                    reading(
                        *("massive_activation", site, {"k": k + 1}),
                        *(measures.massive_activation, top, everyone),
                    )
                )
        outcome.arrays = {
            f"{NAME}/candidate_norms": found.candidates,
            f"{NAME}/median_norm": found.median,
            f"{NAME}/median_activation": self._median.mean(1),
        }
        outcome.findings = self._findings(found)
        return outcome

    def _findings(self, sinks: Found) -> list[dict[str, Any]]:
        primary, ids = sinks.primary, self.stream.ids
        tokens = Counter(ids[sinks.at].tolist()).most_common(3)
        found: list[dict[str, Any]] = [
            {
                "kind": "primary",
                "position": primary,
                "token_ids": [token for token, _ in tokens],
                "shares": [count / len(sinks.at) for _, count in tokens],
                "spans": [list(span) for span in sinks.spans],
                "secondary": int(sinks.secondary.sum()),
            }
        ]
        for stage in sinks.stages:
            inside = slice(stage.start, stage.end)
            found.append(
                {
                    "kind": "stage",
                    "position": primary,
                    "layer_start": stage.start,
                    "layer_end": stage.end,
                    "peak_norm": stage.peak,
                    "peak_ratio": float((sinks.norm[inside] / sinks.median[inside]).max()),
                }
            )
        for layer, largest in sorted(self._largest.items()):
            middle = float(self._median[layer].mean())
            if rules.is_massive(largest.magnitude, middle):
                token = ids[self.stream.offsets[largest.sequence] + largest.position]
                found.append(
                    {
                        "kind": "massive",
                        "layer": layer,
                        "dimension": largest.dimension,
                        "position": largest.position,
                        "token_id": int(token),
                        "value": largest.value,
                        "ratio": largest.magnitude / middle if middle else None,
                    }
                )
        return found


def medians(numbers: Tensor, counts: NDArray[np.int64]) -> NDArray[np.floating]:
    """Median of the first so many numbers of each row; the lower one of two.

    On a processor NumPy's partition is six times as fast as torch's median; from an accelerator the
    way to NumPy takes longer than all else.

    Args:
        numbers: Rows (n, d).
        counts: How many of each row count (n,).
    """
    if numbers.device.type != "cpu":
        return medians_in_place(numbers, counts)
    rows, found, threads = numbers.numpy(), np.empty(len(numbers)), torch.get_num_threads()

    def some(first: int) -> None:
        for i in range(first, len(rows), threads):
            found[i] = _median(rows[i], int(counts[i]))

    # Many rows a thread: to hand each over by itself takes as long as its median.
    with ThreadPoolExecutor(threads) as pool:  # NumPy lets go of Python's lock
        list(pool.map(some, range(threads)))
    return found


def _median(row: NDArray[np.floating], n: int) -> np.floating:
    """The lower median of the first n; most of many numbers are only counted (Floyd and Rivest)."""
    row, middle = row[:n], (n - 1) // 2
    if n >= _MANY:
        # An odd step, so that it is not always the same coordinates.
        sample = np.sort(row[:: (n // _SAMPLED) | 1])
        low, high = sample[int(0.45 * len(sample))], sample[int(0.55 * len(sample))]
        below = int(np.count_nonzero(row < low))
        near = np.compress((row >= low) & (row <= high), row)
        if below <= middle < below + len(near):
            row, middle = near, middle - below
    found: np.floating = np.partition(row, middle)[middle]
    return found


def medians_in_place(numbers: Tensor, counts: NDArray[np.int64]) -> NDArray[np.floating]:
    """The same where the numbers are."""
    if (counts < numbers.shape[1]).any():
        ends = torch.from_numpy(counts).to(numbers.device)[:, None]
        beyond = torch.arange(numbers.shape[1], device=numbers.device) >= ends
        numbers = numbers.masked_fill(beyond, torch.nan)
    return np.asarray(numbers.nanmedian(1).values.cpu().numpy())


def reading(
    name: str,
    site: str,
    keys: Mapping[str, Key],
    measure: Callable[..., float],
    values: NDArray[np.float64],
    sequences: NDArray[np.int64],
    *more: NDArray[np.float64],
) -> Reading:
    """A reading with the jackknife over groups of sequences.

    Args:
        name: Name of the measure.
        site: Where it is from.
        keys: What else it depends on.
        measure: Gives the value of arrays whose first axis is the sequences.
        values: One or more numbers a sequence (n, ...).
        sequences: Index of each sequence in the corpus (n,).
        *more: Further arrays for `measure`, of the same first axis.
    """
    groups = sequences % GROUPS
    value = evaluate(measure, values, *more)
    left_out = []
    if not isinstance(value, str):
        for group in np.unique(groups):
            kept = groups != group
            left_out.append(evaluate(measure, values[kept], *(m[kept] for m in more)))
    return jackknifed(NAME, name, site, keys, value, left_out, len(values))
