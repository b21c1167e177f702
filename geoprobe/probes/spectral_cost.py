"""What the spectrum probe needs: memory and floating-point operations, site by site."""

from __future__ import annotations

from geoprobe.measures.intrinsic import BLOCK
from geoprobe.probes.base import Cost, Survey
from geoprobe.probes.spectral import INTRINSIC_ROWS, SpectrumOptions
from geoprobe.statistics import GROUPS

_WORKING_MATRICES = 6
"""Square float64 matrices that a thread holds while it makes a site's readings."""

_SEARCHED_BLOCKS = 3
"""Blocks of float32 distances that a search for neighbours holds."""


def choose_groups(options: SpectrumOptions, survey: Survey) -> tuple[int, str]:
    """As many jackknife groups as the memory for statistics allows, and why not all of them."""
    if "all" not in options.tokens:
        return GROUPS, ""
    one = sum(8 * survey.layout.width_of(s) ** 2 for s in survey.sites) * _matrices(options)
    groups = next((g for g in (GROUPS, 4, 2) if g * one <= survey.memory), 1)
    if groups == GROUPS:
        return groups, ""
    return groups, (
        f"{GROUPS} jackknife groups would take {GROUPS * one / 2**30:.1f} GiB"
        f" of the {survey.memory / 2**30:.1f} GiB for statistics"
    )


def spectrum_cost(options: SpectrumOptions, survey: Survey) -> list[Cost]:
    """What each site needs.

    A symmetric product of n rows in d dimensions is counted as the 4/3 n d² operations that its
    upper blocks take, an eigenvalue problem as 4/3 m³ (reduction to tridiagonal form; Golub and
    Van Loan, section 8.3), a search for neighbours among r rows as its 2 r² d products.
    """
    groups, _ = choose_groups(options, survey)
    return [_site(options, survey, site, groups) for site in survey.sites]


def _matrices(options: SpectrumOptions) -> int:
    """Second moments of all tokens at a site: plain and of unit rows, in and out of sinks."""
    return (1 + ("matrix_entropy" not in options.skip)) * (1 + options.drop_sinks)


def _site(options: SpectrumOptions, survey: Survey, site: str, groups: int) -> Cost:
    d, sequences = survey.layout.width_of(site), len(survey.lengths)
    tokens = int(survey.lengths_at(site).sum())
    views = 1 + options.drop_sinks
    entropy = "matrix_entropy" not in options.skip
    memory, working, watching, reading = 0, 8 * _WORKING_MATRICES * d * d, 0.0, 0.0
    for choice in options.tokens:
        n, kept_apart = (tokens, groups) if choice == "all" else (sequences, GROUPS)
        m = min(n, d)
        if choice == "all":
            memory += 8 * d * d * _matrices(options) * groups
            watching += 4 / 3 * n * d * d * (1 + entropy)
        else:
            kept = 4 if choice == "mean" else survey.dtype.itemsize
            memory += n * d * kept * (views if choice == "mean" else 1)
            reading += views * (2.0 * n * n * d if n < d else 4 / 3 * n * d * d * 2)
        # Whole, without each group, and two halves without the unit rows.
        parts = 1 + (kept_apart if kept_apart > 1 else 0)
        halves = 2 if kept_apart > 1 and "rankme_corrected" not in options.skip else 0
        raw = "garrido2023" in options.conventions
        reading += views * 4 / 3 * m**3 * (parts * (1 + entropy + raw) + halves)
        if options.neighbours:
            r = min(INTRINSIC_ROWS, n)
            reading += views * 2.0 * r * r * d
            memory += r * d * survey.dtype.itemsize if choice == "all" else 0
            search = _SEARCHED_BLOCKS * 4 * min(BLOCK, r) * r + 8 * r * d
            working = max(working, search)
    return Cost(site, memory, working, watching, reading)
