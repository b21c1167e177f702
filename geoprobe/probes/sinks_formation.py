"""How sinks form: a token on its way through the MLP of the block from which on it is a sink.

Two directions are called that of the primary, and both are given. Part by part (MLP input, gate,
activation, up, product, output) it is what the primary itself has at the same place, as only that
exists among the neurons. Of an MLP's output it is also the primary's residual stream after the
block where the level begins: that is the direction which makes the token a sink, and by it is told
which MLP writes it first, and which one most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.measures.sinks import ALIGNED
from geoprobe.probes.base import Feed, Outcome, Subject
from geoprobe.probes.sinks_found import Found, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.layout import Layout

PARTS: Mapping[str, str] = {
    "input": "mlp.in",
    "gate": "mlp.gate",
    "activation": "mlp.act",
    "up": "mlp.up",
    "product": "neurons",
    "output": "mlp.out",
}
"""What a part of an MLP is called, and the kind of its site; without a gate, the activation is the
product, and there are neither gate nor activation."""

_MOST = 0.5
"""Share of a group's tokens that an MLP must write before it is said to write the group."""


@dataclass
class Group:
    """Tokens that become sinks in one block: the primary in one of its stages, or a level.

    Attributes:
        of: `primary` or `level`.
        begins: The block.
        lives: In how many blocks they are sinks.
        tokens: Which they are (n,).
        since: First block whose MLP may have written them: the one behind the span before.
        along: Signed cosine of each block's MLP output with the direction, up to `begins`; of one
            sign with that of the residual stream itself (n, begins + 1).
        lengths: Of that output's component in the direction, before any multiplier that the family
            has for what its blocks add (n, begins + 1).
        parts: Cosine with the primary at the same place, by part (n,).
    """

    of: str
    begins: int
    lives: int
    tokens: NDArray[np.int64]
    since: int
    along: NDArray[np.float32] = field(init=False)
    lengths: NDArray[np.float32] = field(init=False)
    parts: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.along = np.zeros((len(self.tokens), self.begins + 1), dtype=np.float32)
        self.lengths = np.zeros_like(self.along)

    def first(self) -> tuple[int, float] | None:
        """The block whose MLP output is the first along the direction, and for which share.

        It is the one that most tokens have first; None where fewer than half have any.
        """
        crossed = self.along[:, self.since :] > ALIGNED
        having = crossed.any(1)
        if having.mean() < _MOST:
            return None
        count = np.bincount(crossed[having].argmax(1))
        place = int(count.argmax())
        return self.since + place, float(count[place] / len(self.tokens))

    def most(self) -> int | None:
        """The block whose MLP writes most of the direction; None where none writes any."""
        written = self.lengths[:, self.since :].mean(0)
        return self.since + int(written.argmax()) if written.max() > 0 else None

    def finding(self) -> dict[str, Any]:
        """The group as a finding."""
        first, most = self.first(), self.most()
        along = self.along.mean(0, dtype=np.float64)
        return {
            "kind": "formation",
            "of": self.of,
            "l_start": self.begins,
            "lifetime": self.lives,
            "count": len(self.tokens),
            "cosine": {
                part: float(values.mean(dtype=np.float64)) for part, values in self.parts.items()
            },
            "output_along": float(along[self.begins]),
            "first": None
            if first is None
            else {"layer": first[0], "share": first[1], "cosine": float(along[first[0]])},
            "most": None
            if most is None
            else {
                "layer": most,
                "cosine": float(along[most]),
                "length": float(self.lengths[:, most].mean(dtype=np.float64)),
            },
        }


@dataclass
class Formation:
    """How the sinks of a checkpoint form.

    Attributes:
        groups: The primary's stages by depth, then levels, the most frequent first.
        missing: Why there is nothing, where sinks were found and nothing is said of them.
    """

    groups: list[Group]
    missing: str = ""

    def outcome(self) -> Outcome:
        """Findings, and each group's course over the blocks: mean cosine and length (2, blocks)."""
        found = Outcome(findings=[group.finding() for group in self.groups])
        for group in self.groups:
            course = np.stack([group.along.mean(0), group.lengths.mean(0)])
            found.arrays[f"sinks/formation/{group.of}-{group.begins}-{group.lives}"] = course
        if self.missing:
            found.findings.append(
                {"kind": "warning", "code": "no_formation", "message": self.missing}
            )
        return found


def written(layout: Layout, layer: int) -> str:
    """The site of what a block's MLP adds to the residual stream."""
    added = f"mlp.add.{layer}"
    return added if added in layout.taps else f"mlp.out.{layer}"


def formation(subject: Subject, found: Found, stream: Stream) -> Formation:
    """One pass over the corpus.

    Args:
        subject: The model and the corpus.
        found: Its sinks.
        stream: What they were found in.
    """
    layout = subject.capture.layout
    ends = [0, *(last for _, last in found.spans)]
    groups = [
        Group("primary", first, last - first, found.at, since)
        for (first, last), since in zip(found.spans, ends, strict=False)
    ]
    groups += [
        Group("level", begins, lives, tokens, max(end for end in ends if end <= begins))
        for (begins, lives), tokens in found.members().items()
    ]
    if not groups:
        return Formation([])
    if "mlp.out.0" not in layout.taps:
        why = layout.missing.get("mlp.out", "its blocks have no MLP")
        return Formation([], f"How sinks form is not said of this {layout.family} model: {why}.")
    starts = sorted({group.begins for group in groups})
    inside = {
        site: (part, begins)
        for begins in {group.begins for group in groups if group.of == "level"}
        for part, kind in PARTS.items()
        if (site := f"{kind}.{begins}") in layout.taps
    }
    outputs = {written(layout, layer): layer for layer in range(starts[-1] + 1)}
    sites = {*inside, *outputs, *(f"block.{begins}" for begins in starts)}
    sought = found.is_sink()
    for feed in subject.feeds():
        batch = _Batch(feed, stream, sought, found.primary)
        if batch.rows.size:
            subject.capture.run(feed.inputs, sites, batch.observe)
            batch.add_to(groups, inside, outputs)
    return Formation(groups)


class _Batch:
    """Activations of the sinks of one batch, and of the primary of their sequences.

    Args:
        feed: The batch.
        stream: Tells which tokens it has.
        sought: Which tokens are sinks (tokens,).
        primary: Position of the primary.
    """

    def __init__(self, feed: Feed, stream: Stream, sought: NDArray[np.bool_], primary: int) -> None:
        rows, columns, tokens = [], [], []
        for row, item in enumerate(feed.index):
            places = stream.places(sought, int(item))
            rows.append(np.full(len(places), row))
            columns.append(places)
            tokens.append(stream.offsets[item] + places)
        self.rows: NDArray[np.int64] = np.concatenate(rows)
        self.tokens: NDArray[np.int64] = np.concatenate(tokens)
        self._at = torch.from_numpy(self.rows), torch.from_numpy(np.concatenate(columns))
        self._primary = primary
        self._of: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(self, site: str, x: Tensor) -> None:
        """Keeps the sinks' activations (n, d), and those of the primaries of their rows."""
        rows, columns = (at.to(x.device) for at in self._at)
        mine = x[rows, columns].float().cpu()
        self._of[site] = mine, x[rows, self._primary].float().cpu()

    def add_to(
        self,
        groups: Sequence[Group],
        inside: Mapping[str, tuple[str, int]],
        outputs: Mapping[str, int],
    ) -> None:
        """Fills in the tokens that this batch has of each group."""
        cosine = torch.nn.functional.cosine_similarity
        for group in groups:
            _, mine, at = np.intersect1d(
                group.tokens, self.tokens, assume_unique=True, return_indices=True
            )
            if not len(mine):
                continue
            own, primary = (x[at] for x in self._of[f"block.{group.begins}"])
            direction = torch.nn.functional.normalize(primary, dim=-1)
            sign = (own * direction).sum(-1).sign()
            for site, layer in outputs.items():
                if layer <= group.begins:
                    output = self._of[site][0][at]
                    group.along[mine, layer] = sign * cosine(output, direction, dim=-1)
                    group.lengths[mine, layer] = sign * (output * direction).sum(-1)
            for site, (part, begins) in inside.items():
                if group.of == "level" and begins == group.begins:
                    empty = np.zeros(len(group.tokens), dtype=np.float32)
                    found = group.parts.setdefault(part, empty)
                    own, primary = (x[at] for x in self._of[site])
                    found[mine] = cosine(own, primary, dim=-1)
