"""The charts of a report, as Altair builds them, and the sections they stand in."""

from __future__ import annotations

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

__all__ = ["sections"]


def sections(
    subject: Subject, gathered: Spectra, tables: Tables, verdict: Verdict | None = None
) -> list[Section]:
    """All sections that the runs have readings for, the most telling first."""
    found: list[Section | None] = []
    ranked = subject.ranked
    if subject.measures:
        if ranked.is_series:
            found += [training(ranked), heatmap(ranked)]
        else:
            found.append(layers(ranked))
        found += [spectra(ranked, gathered), sinks(ranked)]
    found += [collapse(subject, tables), class_means(subject, tables)]
    found += [*features(subject, tables), *superposition(subject, tables)]
    found += relations(subject, tables)
    found += [attention_sinks(subject, tables), ablation(subject)]
    if subject.measures:
        found += [others(ranked), profile(ranked)]
    shown = [section for section in found if section is not None and section.charts]
    checked = check(verdict, tables)
    return shown if checked is None else [checked, *shown]
