"""From a finished sample to readings: which measures the spectrum gives, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from geoprobe import measures
from geoprobe.errors import UsageError
from geoprobe.measures.estimate import Undefined, standard_error
from geoprobe.probes.base import Outcome
from geoprobe.runs.reading import Key, Reading
from geoprobe.statistics import GROUPS
from geoprobe.statistics.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from geoprobe.statistics.moments import Pair, Sample

T = TypeVar("T")
NAME = "spectrum"
Tokens = Literal["last", "first", "mean", "all"]
TOKENS: tuple[Tokens, ...] = get_args(Tokens)
MEASURES = tuple(name for name, card in measures.cards().items() if card.section == NAME)
CONVENTIONS = ("exact", "li2025", "garrido2023", "reptrix0.1", "stringer")

HEADLESS_K = 10
"""Directions that rankme_headless drops."""


INTRINSIC_ROWS = 4096
"""Rows behind the nearest-neighbour dimension, drawn by the seed."""


@dataclass(frozen=True)
class SpectrumOptions:
    """What to measure.

    Attributes:
        tokens: Token choices: the last real token of a sequence, its first (an encoder's CLS), the
            mean over it, or all tokens.
        conventions: Conventions of rankme and alpha.
        drop_sinks: Also give every reading without the sink tokens.
        skip: Measures to leave out; `matrix_entropy` and `intrinsic_dim` are the costly ones.
    """

    tokens: tuple[Tokens, ...] = ("last",)
    conventions: tuple[str, ...] = ("exact",)
    drop_sinks: bool = False
    skip: tuple[str, ...] = ()

    @property
    def neighbours(self) -> bool:
        """Whether any nearest-neighbour dimension is wanted."""
        return not {"intrinsic_dim", "intrinsic_dim_ml"} <= set(self.skip)

    def __post_init__(self) -> None:
        for given, known, option in (
            (self.tokens, TOKENS, "--tokens"),
            (self.conventions, CONVENTIONS, "--convention"),
            (self.skip, MEASURES, "--skip"),
        ):
            if not given and option != "--skip":
                raise UsageError(f"{option} is empty; give one or more of {', '.join(known)}.")
            for name in given:
                if name not in known:
                    raise UsageError(f"{option} {name}: not one of {', '.join(known)}.")


class _kept(Generic[T]):  # noqa: N801  used as a decorator
    """A property that is computed once for each instance.

    `functools.cached_property` holds one lock for all instances before Python 3.12, which would
    put the eigenproblems of different threads one after another.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        value = self._compute(instance)
        instance.__dict__[self._name] = value  # found there from now on, before this descriptor
        return value


@dataclass(frozen=True)
class View:
    """One sample with some groups left out (or none), and its spectra, each computed once."""

    sample: Sample
    without: tuple[int, ...] = ()

    @property
    def least(self) -> int:
        """Fewest rows for a value; two rows span one line, so a part of a sample needs three."""
        return 3 if self.without else 2

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.sample.count(self.without)

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.sample.width

    @_kept
    def _second_moments(self) -> Pair:
        return self.sample.second_moments(self.without)

    @_kept
    def eigenvalues(self) -> NDArray[np.float64]:
        """Covariance eigenvalues, descending."""
        return measures.eigenvalues(self._second_moments[0])[: min(self.n, self.d)]

    @_kept
    def uncentred_eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues of E[x xᵀ], descending."""
        return measures.eigenvalues(self._second_moments[1])[: min(self.n, self.d)]

    @property
    def uncentred_trace(self) -> float:
        """Trace of E[x xᵀ]."""
        return float(np.trace(self._second_moments[1]))

    @property
    def uncentred_top(self) -> float:
        """Largest eigenvalue of E[x xᵀ]."""
        return measures.top_eigenvalue(self._second_moments[1])

    @_kept
    def unit_eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues of the second moment of L2-normalised rows, descending."""
        return measures.eigenvalues(self.sample.unit_rows(self.without))


def _r2(r2: Callable[..., float], convention: str) -> Callable[[View], float]:
    return lambda view: r2(view.eigenvalues, convention)


@dataclass(frozen=True)
class Entry:
    """One reading that the probe gives: its measure, convention, keys and how to compute it."""

    measure: str
    compute: Callable[[View], float]
    convention: str = "exact"
    k: int | None = None

    def uncorrected(self) -> tuple[str, str]:
        """Measure and convention of what this entry is the corrected form of."""
        return self.measure.removesuffix("_corrected"), self.convention


def _from_rows(view: View) -> float:
    raise TypeError("computed from rows, not from a spectrum")


NEIGHBOUR_ENTRIES = (
    Entry("intrinsic_dim", _from_rows),
    Entry("intrinsic_dim_ml", _from_rows),
)


def entries(options: SpectrumOptions) -> list[Entry]:
    """The spectral readings in their order: adding a measure is one line here."""
    found: list[Entry] = []
    for convention in options.conventions:
        found += _conventional(convention)
    found += [
        Entry("participation_ratio", lambda v: measures.participation_ratio(v.eigenvalues)),
        Entry(
            "participation_ratio_corrected",
            lambda v: measures.participation_ratio_corrected(v.eigenvalues, v.n),
        ),
        Entry("nesum", lambda v: measures.nesum(v.eigenvalues)),
        Entry("stable_rank", lambda v: measures.stable_rank(v.uncentred_trace, v.uncentred_top)),
        Entry("isoscore", lambda v: measures.isoscore(v.eigenvalues, v.d)),
        Entry("top1_share", lambda v: measures.top1_share(v.eigenvalues)),
        Entry(
            "rankme_headless",
            lambda v: measures.rankme_headless(v.eigenvalues, HEADLESS_K),
            k=HEADLESS_K,
        ),
        Entry(
            "matrix_entropy",
            lambda v: measures.matrix_entropy(v.unit_eigenvalues, v.n, v.d),
        ),
    ]
    return [entry for entry in found if entry.measure not in options.skip]


def half_entries(options: SpectrumOptions) -> list[Entry]:
    """The readings that correct RankMe by its values on the two halves of the groups."""
    if "rankme_corrected" in options.skip:
        return []
    return [
        replace(entry, measure="rankme_corrected")
        for entry in entries(options)
        if entry.measure == "rankme"
    ]


def _conventional(convention: str) -> list[Entry]:
    """RankMe and alpha under one convention, where it defines them."""
    found = []
    if convention == "garrido2023":
        return [
            Entry(
                "rankme",
                lambda v: measures.rankme(v.uncentred_eigenvalues, convention, n=v.n),
                convention,
            )
        ]
    if convention != "stringer":
        found.append(
            Entry("rankme", lambda v: measures.rankme(v.eigenvalues, convention, n=v.n), convention)
        )
    found.append(
        Entry("alpha", lambda v: measures.alpha(v.eigenvalues, convention).alpha, convention)
    )
    for name, r2 in (
        ("alpha_r2", measures.alpha_r2),
        ("alpha_r2_13_100", measures.alpha_r2_13_100),
    ):
        found.append(Entry(name, _r2(r2, convention), convention))
    return found


class Column(NamedTuple):
    """What one part of a sample gives.

    Attributes:
        values: Each entry's value, or why it has none.
        eigenvalues: The spectrum of the whole sample; None for a part.
    """

    values: list[float | Undefined]
    eigenvalues: NDArray[np.float64] | None


class Readings:
    """Collects the readings of one checkpoint, with the value of each without each group.

    Args:
        options: What to measure.
    """

    def __init__(self, options: SpectrumOptions) -> None:
        self.options = options
        self.outcome = Outcome()

    def add(
        self, sample: Sample, site: str, keys: Mapping[str, Key], *, why_no_groups: str = ""
    ) -> None:
        """Adds every spectral reading of one sample.

        Args:
            sample: Finished moments.
            site: Where they are from.
            keys: Keys of the readings.
            why_no_groups: Why the sample's groups were not kept apart, if so.
        """
        groups = [] if why_no_groups else sample.groups()
        groups = groups if len(groups) > 1 else []
        n = sample.count()
        table = entries(self.options)
        if n < 2:
            too_few = Undefined(f"{n} rows; a spectrum needs at least 2")
            for entry in [*table, *half_entries(self.options)]:
                self._add(entry, site, keys, too_few, [], n, "")
            return
        halves_table = half_entries(self.options)
        halves = [tuple(g for g in groups if g % 2 == odd) for odd in (0, 1)]
        jobs = [((), table), *(((g,), table) for g in groups)]
        jobs += [(half, halves_table) for half in halves if groups and halves_table]
        columns = list(in_threads(lambda job: _column(sample, *job), jobs))
        of_full, *of_groups = (column.values for column in columns[: 1 + len(groups)])
        of_halves = [column.values for column in columns[-2:]]
        for row, entry in enumerate(table):
            replicates = [(g, column[row]) for g, column in zip(groups, of_groups, strict=True)]
            self._add(entry, site, keys, of_full[row], replicates, n, why_no_groups)
        for row, entry in enumerate(halves_table):
            plain = of_full[[(e.measure, e.convention) for e in table].index(entry.uncorrected())]
            corrected = _corrected(plain, [column[row] for column in of_halves], bool(groups))
            self._add(entry, site, keys, corrected, [], n, "halves have no groups to leave out")
        if (spectrum := columns[0].eigenvalues) is not None:
            self.outcome.arrays[spectrum_name(site, keys)] = spectrum

    def add_neighbours(
        self,
        rows: NDArray[np.floating],
        groups: NDArray[np.int64],
        site: str,
        keys: Mapping[str, Key],
        *,
        dtype: str,
    ) -> None:
        """Adds the nearest-neighbour dimensions of rows (n, d) in groups (n,).

        `dtype` names the precision that the rows were computed in, which says how near to each
        other the copies of one point can lie.
        """
        n = len(rows)
        theta: list[float | Undefined]
        replicates: list[list[tuple[int, float]]] = [[], []]
        try:
            both = measures.two_nn(rows, groups, n_groups=GROUPS, computed_in=dtype)
            n = both.n
            theta = [both.fit, both.ml]
            replicates = [
                list(enumerate(values))
                for values in (both.fit_replicates, both.ml_replicates)
                if values is not None
            ]
        except Undefined as undefined:
            theta = [undefined, undefined]
        for entry, value, left_out in zip(NEIGHBOUR_ENTRIES, theta, replicates, strict=True):
            if entry.measure not in self.options.skip:
                self._add(entry, site, keys, value, left_out, n, "")

    def _add(
        self,
        entry: Entry,
        site: str,
        keys: Mapping[str, Key],
        theta: float | Undefined,
        replicates: Sequence[tuple[int, float | Undefined]],
        n: int,
        why_no_error: str,
    ) -> None:
        values = np.full(GROUPS, np.nan)
        for group, replicate in replicates:
            if not isinstance(replicate, Undefined):
                values[group] = replicate
        stderr: float | None = None
        if isinstance(theta, Undefined):
            value, reason = None, theta.reason
        else:
            value, reason = theta, ""
            error = standard_error(value, list(values))
            stderr = error.value
            if stderr is None:
                reason = f"no standard error: {why_no_error or error.reason}"
        self.outcome.readings.append(
            Reading(
                checkpoint="",
                probe=NAME,
                measure=entry.measure,
                site=site,
                keys={**keys, **({} if entry.k is None else {"k": entry.k})},
                value=value,
                stderr=stderr,
                n=n,
                convention=entry.convention,
                reason=reason,
                replicates=tuple(values.tolist()) if len(replicates) else (),
            )
        )

    def extend(self, other: Readings) -> None:
        """Adds what another collector has."""
        self.outcome.readings += other.outcome.readings
        self.outcome.arrays |= other.outcome.arrays

    def finish(self) -> Outcome:
        """Everything added."""
        return self.outcome


def spectrum_name(site: str, keys: Mapping[str, Key]) -> str:
    """Name of the array of a site's eigenvalues."""
    return f"{NAME}/{site}/{keys['tokens']}/{keys['sinks']}/eigenvalues"


def _corrected(
    full: float | Undefined, halves: Sequence[float | Undefined], grouped: bool
) -> float | Undefined:
    """2 * full - mean of the halves, or why there is none."""
    if isinstance(full, Undefined):
        return full
    if not grouped:
        return Undefined("the rows are in one group and have no halves")
    known = [half for half in halves if not isinstance(half, Undefined)]
    if len(known) < len(halves):
        return Undefined("a half of the rows has no value")
    return measures.rankme_corrected(full, known)


def _column(sample: Sample, without: tuple[int, ...], table: Sequence[Entry]) -> Column:
    """Every entry of a sample without some groups, and the spectrum."""
    view = View(sample, without)
    values: list[float | Undefined] = []
    for entry in table:
        try:
            if view.n < view.least:
                raise Undefined(f"{view.n} rows; at least {view.least} are needed")
            values.append(float(entry.compute(view)))
        except Undefined as undefined:
            values.append(undefined)
    with suppress(Undefined):
        return Column(values, None if without else view.eigenvalues)
    return Column(values, None)
