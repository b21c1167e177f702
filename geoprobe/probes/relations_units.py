"""The neurons of a model: output units of the gate, up and down projections of every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.models.layout import kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.layout import Layout

MODULES = {"gate": "mlp.gate", "up": "mlp.up", "down": "mlp.out"}
"""Projections, in order, and the sites that are their outputs."""


@dataclass(frozen=True)
class Units:
    """All neurons, numbered block by block, in each the gate's, then up's, then down's.

    Attributes:
        sites: Sites in this order.
        starts: Number of the first neuron of each, and how many there are (sites + 1,).
    """

    sites: tuple[str, ...]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, layout: Layout) -> Units:
        """The neurons of a model."""
        kinds = (f"{kind}.{i}" for i in range(layout.depth) for kind in MODULES.values())
        sites = tuple(site for site in kinds if site in layout.taps)
        widths = [layout.width_of(site) for site in sites]
        return cls(sites, np.concatenate([[0], np.cumsum(widths)]).astype(np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def part(self, site: str) -> slice:
        """The numbers of a site's neurons."""
        i = self.sites.index(site)
        return slice(int(self.starts[i]), int(self.starts[i + 1]))

    def place(self, neuron: int) -> tuple[str, int]:
        """A neuron's site and its unit there."""
        i = int(np.searchsorted(self.starts, neuron, side="right")) - 1
        return self.sites[i], neuron - int(self.starts[i])

    def by_site(self, neurons: NDArray[np.int64]) -> dict[str, Tensor]:
        """Neurons as units of their sites."""
        ordered = np.sort(neurons)
        bounds = np.searchsorted(ordered, self.starts)
        return {
            site: torch.from_numpy(ordered[a:b] - self.starts[i])
            for i, site in enumerate(self.sites)
            if (a := bounds[i]) < (b := bounds[i + 1])
        }

    def modules(self, neurons: NDArray[np.int64]) -> NDArray[np.str_]:
        """Which projection each neuron is of: `gate`, `up` or `down`."""
        names = {site: name for name, site in MODULES.items()}
        mine = np.array([names[kind_of(site)] for site in self.sites])
        found: NDArray[np.str_] = mine[self._at(neurons)]
        return found

    def counts(self, neurons: NDArray[np.int64], depth: int) -> dict[str, list[int]]:
        """Number of neurons of each projection in each block."""
        at = self._at(neurons)
        each = dict(zip(self.sites, np.bincount(at, minlength=len(self.sites)), strict=True))
        return {
            name: [int(each[f"{kind}.{i}"]) for i in range(depth)]
            for name, kind in MODULES.items()
            if f"{kind}.0" in each
        }

    def closing(self) -> Sequence[str]:
        """Sites whose units close the neurons of the MLP: the gates, or up where there are none."""
        gates = [site for site in self.sites if kind_of(site) == MODULES["gate"]]
        return gates or [site for site in self.sites if kind_of(site) == MODULES["up"]]

    def closing_neurons(self) -> NDArray[np.int64]:
        """Numbers of the neurons of these sites."""
        parts = map(self.part, self.closing())
        return np.concatenate([np.arange(part.start, part.stop) for part in parts])

    def _at(self, neurons: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.searchsorted(self.starts, neurons, side="right") - 1
        return found
