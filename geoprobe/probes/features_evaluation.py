"""Runs autoencoders over activations as they come by, and keeps sums of their codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.errors import CheckpointError
from geoprobe.probes.features_readings import GIVEN, Measured
from geoprobe.statistics import GROUPS
from geoprobe.statistics.codes import GroupedCodes, levels_of
from geoprobe.statistics.moments import GroupedMoments

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.autoencoders.autoencoder import Autoencoder
    from geoprobe.probes.base import Feed

_CODES = 2**21
"""Codes held at a time: 8 MiB, near the processor, whatever the batch and the autoencoder are."""

Sinks = Callable[["Feed"], "Tensor"]
"""True where a real token is a sink (batch, time)."""


@dataclass(frozen=True)
class Member:
    """An autoencoder at a site.

    Attributes:
        site: The site.
        name: What readings call it.
        autoencoder: Its weights, where the model runs.
        seed: Its seed where it was trained here.
    """

    site: str
    name: str
    autoencoder: Autoencoder
    seed: int | None = None


def rows_of(
    activations: Tensor, feed: Feed, sinks: Sinks | None
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.bool_]]:
    """The real tokens of a batch, in single precision.

    Args:
        activations: Of a site (batch, time, d).
        feed: The batch, as it is at this site.
        sinks: The rule for sinks, if there is one.

    Returns:
        Rows (m, d), the item of each one in the corpus (m,), and whether it is a sink's (m,).
    """
    x = activations.float()
    mask = feed.mask.bool()
    items = np.repeat(feed.index, feed.lengths)
    sink = np.zeros(len(items), dtype=bool)
    if sinks is not None:
        sink = sinks(feed)[mask].cpu().numpy()
    return (x[mask] if feed.padded else x.flatten(0, 1)), items, sink


def those(rows: Tensor, kept: NDArray[np.bool_]) -> Tensor:
    """The rows (m, d) that are kept (m,); as they are where all of them are."""
    return rows if kept.all() else rows[torch.from_numpy(kept).to(rows.device)]


@dataclass
class Evaluation:
    """Sums of the codes of several autoencoders, over one pass.

    Args:
        members: The autoencoders.
        items: Number of items that are fed.
        seed: Seed of the order of sequences for the curve by sample size.
        sinks: The rule for sinks, if there is one.
        of: Whose activations these are.
        only: Items that are looked at, which the autoencoders were not trained on; None is all.
        spread: Also keep each site's covariance, without sinks, for the Gaussian null.
        device: Where sums live.
    """

    members: Sequence[Member]
    items: int
    seed: int = 0
    sinks: Sinks | None = None
    of: str = GIVEN
    spread: bool = False
    only: NDArray[np.int64] | None = None
    device: torch.device | str = "cpu"
    moments: dict[str, GroupedMoments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._at: dict[str, list[tuple[Member, GroupedCodes]]] = {}
        curve = self.of == GIVEN and self.only is None
        levels = levels_of(self.items, self.seed) if curve else None
        self._levels = levels
        for member in self.members:
            coder = member.autoencoder
            sums = GroupedCodes(
                coder.width,
                coder.features,
                GROUPS,
                levels=0 if levels is None or member.seed else int(levels.max()) + 1,
                device=self.device,
            )
            self._at.setdefault(member.site, []).append((member, sums))
            if self.spread and member.site not in self.moments:
                self.moments[member.site] = GroupedMoments(coder.width, 1, device=self.device)

    def sites(self) -> list[str]:
        """Sites to watch."""
        return list(self._at)

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Adds one site's activations (batch, time, d)."""
        rows, items, sink = rows_of(activations, feed, self.sinks)
        if self.only is not None:
            kept = np.isin(items, self.only)
            rows, items, sink = those(rows, kept), items[kept], sink[kept]
        if self.spread:
            self.moments[site].update(those(rows, ~sink), 0)
        self.add(site, rows, items, sink)

    def add(
        self,
        site: str,
        rows: Tensor,
        items: NDArray[np.int64],
        sink: NDArray[np.bool_],
    ) -> None:
        """Adds rows (m, d) of a site, each one's item (m,), and whether it is a sink's (m,)."""
        cells = 2 * (items % GROUPS) + sink
        levels = None if self._levels is None else np.where(sink, -1, self._levels[items])
        for member, sums in self._at[site]:
            step = max(64, _CODES // member.autoencoder.features)
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                codes, found = member.autoencoder.apply(rows[part])
                sums.update(
                    rows[part],
                    codes,
                    found,
                    cells[part],
                    None if levels is None else levels[part],
                )

    def measured(self) -> list[Measured]:
        """The finished sums.

        Raises:
            CheckpointError: Activations are NaN or infinite.
        """
        found = []
        for site, several in self._at.items():
            for member, sums in several:
                if not np.isfinite(sums.sums().total):
                    raise CheckpointError(
                        f"the activations at {site} are NaN or infinite on this text, so that its "
                        "effective features were not measured; a wider --dtype may help."
                    )
                found.append(
                    Measured(
                        site,
                        member.name,
                        member.seed,
                        sums,
                        member.autoencoder.norms().double().cpu().numpy(),
                        self.of,
                        self.only is not None,
                        ("in",) if self.sinks is None else ("in", "out"),
                    )
                )
        return found


def by_site(members: Sequence[Member]) -> Mapping[str, list[Member]]:
    """Autoencoders by their site."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.site, []).append(member)
    return found
