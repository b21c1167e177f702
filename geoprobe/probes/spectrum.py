"""The spectrum probe: RankMe, alpha-ReQ and their kin at every site, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoprobe.errors import UsageError
from geoprobe.probes.base import Feed, Outcome, Plan, Survey
from geoprobe.probes.pooling import token_means
from geoprobe.probes.sinks_rule import SinkRule
from geoprobe.probes.spectral import INTRINSIC_ROWS, NAME, Readings, SpectrumOptions, Tokens
from geoprobe.probes.spectral_cost import choose_groups, spectrum_cost
from geoprobe.probes.spectral_phases import phase_findings
from geoprobe.statistics import GROUPS
from geoprobe.statistics.moments import GroupedMoments, Rows, Sample
from geoprobe.statistics.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.runs.reading import Key, Reading

ENDS = ("first", "last")
"""Token choices of one token a sequence."""

LEAST_ROWS_PER_DIMENSION = 5
"""Below this n/d the finite-sample bias of RankMe is large enough to warn about."""

__all__ = ["SpectrumOptions", "SpectrumProbe", "finite_sample_warnings", "measure_rows"]


Options = SpectrumOptions


def plan(options: SpectrumOptions) -> Plan:
    """The probe, and the phases it finds in a series."""
    return Plan(
        probe=lambda survey: SpectrumProbe(options, survey),
        series=phase_findings,
        cost=lambda survey: spectrum_cost(options, survey),
    )


@dataclass
class _SiteState:
    """Statistics of one site: rows by name, moments by name, and the rows for neighbours."""

    rows: dict[str, Rows]
    moments: dict[str, GroupedMoments]
    drawn: Rows | None


class _Drawn:
    """The tokens that are searched for neighbours: at most `INTRINSIC_ROWS` of all, by the seed.

    Args:
        lengths: Number of tokens of every item (n,).
        seed: The seed.
    """

    def __init__(self, lengths: NDArray[np.int64], seed: int) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        total = int(self._offsets[-1])
        draw = np.random.default_rng(seed)
        self.index = np.sort(
            draw.choice(total, size=min(INTRINSIC_ROWS, total), replace=False, shuffle=False)
        )
        self.group = (np.searchsorted(self._offsets, self.index, side="right") - 1) % GROUPS
        self.dropped = np.zeros(len(self.index), dtype=bool)

    def within(self, feed: Feed) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Batch row, time and slot of the drawn tokens that a batch holds."""
        batch, time, slot = [], [], []
        for row, item in enumerate(feed.index):
            first, last = self._offsets[item], self._offsets[item + 1]
            slots = np.arange(*np.searchsorted(self.index, [first, last]))
            batch.append(np.full(len(slots), row))
            time.append(self.index[slots] - first)
            slot.append(slots)
        return np.concatenate(batch), np.concatenate(time), np.concatenate(slot)


class SpectrumProbe:
    """Keeps the second moments (or the rows, where they are fewer) of every site.

    Args:
        options: What to measure.
        survey: What is known before the first batch.
    """

    name = NAME

    def __init__(self, options: SpectrumOptions, survey: Survey) -> None:
        self.options = options
        self.survey = survey
        self._sites = tuple(survey.sites)
        if options.drop_sinks and (survey.times or not survey.layout.vocabulary):
            raise UsageError(
                "--drop-sinks tells sinks by their position and token id, and what is fed here has "
                "no token ids; leave it out."
            )
        self._rule = SinkRule(survey) if options.drop_sinks else None
        self._n = len(survey.lengths)
        self._groups, self._why_fewer = choose_groups(options, survey)
        drawn: dict[int | None, _Drawn] = {}
        for site in self._sites:
            time = survey.times.get(site)
            if time not in drawn:
                drawn[time] = _Drawn(survey.lengths_at(site), survey.seed)
        self._drawn = {site: drawn[survey.times.get(site)] for site in self._sites}
        self._end_dropped = {end: np.zeros(self._n, dtype=bool) for end in ENDS}
        self._sink_mask: tuple[NDArray[np.int64], Tensor] | None = None
        self._computed_in = "float32"
        # Before the pass: made between two activations, what stays would tear the heap apart.
        self._state = {s: self._room(s) for s in self._sites}

    @property
    def _entropy(self) -> bool:
        return "matrix_entropy" not in self.options.skip

    def sites(self) -> Sequence[str]:
        """Sites to watch."""
        return self._sites

    def pilot_sites(self) -> Sequence[str]:
        """Every block, whichever sites are measured: the sink rule is one for the model."""
        if self._rule is None:
            return ()
        return [s for s in self.survey.layout.sites if s.startswith("block.")]

    def pilot(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Shows the pilot batch to the sink rule."""
        if self._rule is not None:
            self._rule.watch(site, activations, feed)

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Adds one site's activations (batch, time, d) to its statistics."""
        state = self._state[site]
        self._computed_in = str(activations.dtype).removeprefix("torch.")
        sinks = self._sinks(feed)
        for end in ENDS:
            if end in self.options.tokens:
                at = torch.from_numpy(_position(end, feed)).to(activations.device)
                state.rows[end].take(activations, at, feed.index)
        if "mean" in self.options.tokens:
            state.rows["mean"].update(*token_means(activations, feed, None))
            if sinks is not None:
                state.rows["mean/out"].update(*token_means(activations, feed, sinks))
        if "all" in self.options.tokens:
            self._observe_all(site, activations, feed, sinks)

    def _room(self, site: str) -> _SiteState:
        """Room for one site's statistics."""
        survey, tokens = self.survey, self.options.tokens
        width = survey.layout.width_of(site)
        out = self._rule is not None
        means = ["mean", *(["mean/out"] if out else [])] if "mean" in tokens else []
        moments = ["kept", *(["sinks"] if out else [])] if "all" in tokens else []
        kept = torch.promote_types(survey.dtype, torch.float32)
        device = survey.statistics_on
        return _SiteState(
            rows={end: Rows(self._n, width, survey.dtype) for end in ENDS if end in tokens}
            | {name: Rows(self._n, width, kept) for name in means},
            moments={
                name: GroupedMoments(width, self._groups, unit_rows=self._entropy, device=device)
                for name in moments
            },
            drawn=Rows(len(self._drawn[site].index), width, survey.dtype)
            if moments and self.options.neighbours
            else None,
        )

    def _observe_all(
        self, site: str, activations: Tensor, feed: Feed, sinks: Tensor | None
    ) -> None:
        state = self._state[site]
        keep = feed.mask.bool() if feed.padded else None
        for group in np.unique(feed.index % self._groups):
            members = torch.from_numpy(np.flatnonzero(feed.index % self._groups == group))
            part = activations if len(members) == len(feed.index) else activations[members]
            if sinks is not None:
                dropped = sinks[members]
                state.moments["sinks"].update(part[dropped], int(group))
                real = ~dropped if keep is None else keep[members] & ~dropped
                rows = part[real]
            else:
                rows = part.flatten(0, 1) if keep is None else part[keep[members]]
            state.moments["kept"].update(rows, int(group))
        if state.drawn is not None:
            batch, time, slot = self._drawn[site].within(feed)
            state.drawn.update(activations[batch, time], slot)

    def _sinks(self, feed: Feed) -> Tensor | None:
        """The frozen rule's mask for a batch, computed once for all its sites."""
        if self._rule is None:
            return None
        if not self._rule.frozen:
            self._rule.freeze()
        if self._sink_mask is None or self._sink_mask[0] is not feed.index:
            mask = self._rule.mask(feed)
            self._sink_mask = (feed.index, mask)
            host = mask.cpu().numpy()
            for end, dropped in self._end_dropped.items():
                dropped[feed.index] = host[np.arange(len(host)), _position(end, feed)]
            for drawn in {id(d): d for d in self._drawn.values()}.values():
                batch, time, slot = drawn.within(feed)
                drawn.dropped[slot] = host[batch, time]
        return self._sink_mask[1].to(feed.mask.device)

    def finish(self) -> Outcome:
        """All readings, the spectra and the warnings."""
        readings = Readings(self.options)
        for part in in_threads(self._read, self._sites):
            readings.extend(part)
        outcome = readings.finish()
        if self._rule is not None:
            outcome.findings.append(self._rule.finding())
        if 1 < self._groups < GROUPS:
            outcome.findings.append(
                {
                    "kind": "warning",
                    "code": "fewer_groups",
                    "tokens": "all",
                    "message": f"all tokens: the standard errors are over {self._groups} groups "
                    f"instead of {GROUPS}, as {self._why_fewer}; measure fewer sites for more.",
                }
            )
        widths = {site: self.survey.layout.width_of(site) for site in self._sites}
        outcome.findings += finite_sample_warnings(outcome.readings, widths)
        return outcome

    def _read(self, site: str) -> Readings:
        """The readings of one site, whose statistics are given up for them."""
        readings = Readings(self.options)
        for tokens in self.options.tokens:
            for sinks in ("in", "out") if self._rule is not None else ("in",):
                keys = {"tokens": tokens, "sinks": sinks}
                why = self._why_fewer if tokens == "all" and self._groups == 1 else ""
                readings.add(self._sample(site, tokens, sinks), site, keys, why_no_groups=why)
                if self.options.neighbours:
                    rows, groups = self._neighbour_rows(site, tokens, sinks)
                    readings.add_neighbours(rows, groups, site, keys, dtype=self._computed_in)
        del self._state[site]
        return readings

    def _sample(self, site: str, tokens: Tokens, sinks: str) -> Sample:
        state = self._state[site]
        if tokens == "all":
            kept = state.moments["kept"]
            if sinks == "in" and "sinks" in state.moments:
                whole = GroupedMoments(
                    kept.width, kept.n_groups, unit_rows=self._entropy, device=kept.device
                )
                whole.merge(kept)
                whole.merge(state.moments["sinks"])
                return whole
            return kept
        if tokens == "mean":
            rows = state.rows["mean/out" if sinks == "out" else "mean"]
            return rows.sample(np.ones(self._n, dtype=bool), GROUPS)
        keep = ~self._end_dropped[tokens] if sinks == "out" else np.ones(self._n, dtype=bool)
        return state.rows[tokens].sample(keep, GROUPS)

    def _neighbour_rows(
        self, site: str, tokens: Tokens, sinks: str
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        state = self._state[site]
        if tokens == "all":
            assert state.drawn is not None
            drawn = self._drawn[site]
            dropped = drawn.dropped if sinks == "out" else np.zeros_like(drawn.dropped)
            keep = np.flatnonzero(~dropped)
            return state.drawn.values[keep].double().numpy(), drawn.group[keep]
        rows = state.rows["mean/out" if (tokens, sinks) == ("mean", "out") else tokens]
        index = np.flatnonzero(rows.present)
        if sinks == "out" and tokens in ENDS:
            index = index[~self._end_dropped[tokens][index]]
        index = _draw_rows(index, self.survey.seed)
        return rows.values[index].double().numpy(), index % GROUPS


def _position(end: str, feed: Feed) -> NDArray[np.int64]:
    """Where the first or the last token of each sequence is."""
    return feed.lengths - 1 if end == "last" else np.zeros_like(feed.lengths)


def measure_rows(
    matrices: Mapping[str, NDArray[np.floating]], options: SpectrumOptions, seed: int
) -> Outcome:
    """The same readings of rows (n, d) that someone already has, one matrix a site."""
    readings = Readings(options)
    warnings: list[dict[str, object]] = []
    for site, matrix in matrices.items():
        rows = torch.from_numpy(np.ascontiguousarray(matrix))
        store = Rows(rows.shape[0], rows.shape[1], rows.dtype)
        store.update(rows, np.arange(len(rows)))
        keys = {"tokens": "all", "sinks": "in"}
        readings.add(store.sample(np.ones(len(rows), dtype=bool), GROUPS), site, keys)
        if options.neighbours:
            index = _draw_rows(np.arange(len(rows)), seed)
            readings.add_neighbours(
                matrix[index], index % GROUPS, site, keys, dtype=str(matrix.dtype)
            )
        mine = [r for r in readings.outcome.readings if r.site == site]
        warnings += [
            {**warning, "message": f"{site}, {warning['message']}"}
            for warning in finite_sample_warnings(mine, {site: rows.shape[1]})
        ]
    outcome = readings.finish()
    outcome.findings += warnings
    return outcome


def finite_sample_warnings(
    readings: Sequence[Reading], widths: Mapping[str, int]
) -> list[dict[str, object]]:
    """A warning for each token choice and width of sites with too few rows for its dimensions."""
    found: list[dict[str, object]] = []
    rows: dict[tuple[Key, int], int] = {}
    for reading in readings:
        if not reading.measure.startswith("intrinsic_dim"):  # on at most 4,096 rows by design
            at = (reading.keys["tokens"], widths[reading.site])
            rows[at] = min(reading.n, rows.get(at, reading.n))
    for (tokens, width), n in rows.items():
        if n < LEAST_ROWS_PER_DIMENSION * width:
            found.append(
                {
                    "kind": "warning",
                    "code": "finite_sample",
                    "tokens": tokens,
                    "message": (
                        f"{tokens} tokens: {n} rows for {width} dimensions (n/d = {n / width:.2g}, "
                        f"below {LEAST_ROWS_PER_DIMENSION}): RankMe and its kin are biased low; "
                        "compare only runs of the same size, or give more rows (--sequences)."
                    ),
                }
            )
    return found


def _draw_rows(index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most `INTRINSIC_ROWS` of the rows, by the seed, in order."""
    if len(index) <= INTRINSIC_ROWS:
        return index
    draw = np.random.default_rng(seed)
    return np.sort(draw.choice(index, size=INTRINSIC_ROWS, replace=False))
