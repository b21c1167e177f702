"""The charts of a report, as Altair builds them, and the sections they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geoprobe.reports.charts.ablation import ablation
from geoprobe.reports.charts.attention import attention_sinks
from geoprobe.reports.charts.check import check
from geoprobe.reports.charts.collapse import class_means, collapse
from geoprobe.reports.charts.features import features
from geoprobe.reports.charts.layers import heatmap, layers, profile, sinks
from geoprobe.reports.charts.relations import relations
from geoprobe.reports.charts.spectra import spectra
from geoprobe.reports.charts.superposition import superposition
from geoprobe.reports.charts.training import others, training
from geoprobe.reports.parts import Section, Tables
from geoprobe.reports.spectra import Spectra
from geoprobe.reports.subject import Subject

if TYPE_CHECKING:
    from geoprobe.checks.verdict import Verdict

__all__ = ["of_spectra", "sections"]


def of_spectra(subject: Subject, gathered: Spectra) -> tuple[list[Section], list[Section]]:
    """The sections of spectra: those of the leading measures, and those of all others."""
    if not subject.measures:
        return [], []
    ranked = subject.ranked
    course = [training(ranked), heatmap(ranked)] if ranked.is_series else [layers(ranked)]
    return (
        _shown([*course, spectra(ranked, gathered), sinks(ranked)]),
        _shown([others(ranked), profile(ranked)]),
    )


def sections(
    subject: Subject,
    spectral: tuple[list[Section], list[Section]],
    tables: Tables,
    verdict: Verdict | None = None,
) -> list[Section]:
    """All sections that the runs have readings for, the most telling first.

    Args:
        subject: The runs.
        spectral: Their sections of spectra.
        tables: Behind all other sections.
        verdict: What a check found.
    """
    found = [collapse(subject, tables), class_means(subject, tables)]
    found += [*features(subject, tables), *superposition(subject, tables)]
    found += relations(subject, tables)
    found += [attention_sinks(subject, tables), ablation(subject)]
    leading, others = spectral
    checked = check(verdict, tables)  # its words are shown without charts, too
    return [*([] if checked is None else [checked]), *leading, *_shown(found), *others]


def _shown(found: Sequence[Section | None]) -> list[Section]:
    return [section for section in found if section is not None and section.charts]
