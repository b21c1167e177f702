"""Every measure has a full card, and reading it imports nothing heavy."""

import re
import subprocess
import sys

import pytest

from geoprobe import measures
from geoprobe.errors import UsageError
from geoprobe.measures.registry import card, cards, register

NAMES = {
    "rankme", "alpha", "alpha_r2", "alpha_r2_13_100", "participation_ratio",
    "participation_ratio_corrected", "nesum", "stable_rank", "isoscore", "top1_share",
    "rankme_corrected", "rankme_headless", "intrinsic_dim", "intrinsic_dim_ml", "matrix_entropy",
    "ablation_loss", "ablation_accuracy",
}  # fmt: skip


def test_every_measure_of_section_1_has_a_card() -> None:
    assert set(cards()) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_cards_are_full(name: str) -> None:
    known = card(name)
    assert known.name == name
    for field in ("title", "symbol", "formula", "unit", "source"):
        assert getattr(known, field).strip(), field
    assert next(iter(known.conventions)) == "exact"
    assert known.pitfalls
    if known.section == "spectrum":
        assert known.function is getattr(measures, name)
    else:
        assert known.function is None


@pytest.mark.parametrize("name", sorted(NAMES - {"top1_share"}))
def test_bibtex_is_well_formed(name: str) -> None:
    text = card(name).bibtex
    entries = re.findall(r"^@(?:article|inproceedings)\{\w+,$", text, flags=re.MULTILINE)
    assert entries
    assert text.count("{") == text.count("}")
    assert text.count("  title = ") == text.count("  author = ") == len(entries)
    assert len(re.findall(r"^  year = \{\d{4}\}", text, flags=re.MULTILINE)) == len(entries)


COLLAPSE = {
    "nc1", "nc1_quotient", "cdnv", "separation", "nc2_equinorm", "nc2_equiangular", "nc2_etf",
    "nc2_etf_floor", "nc2_uniformity", "nc3_duality", "nc3_cosine", "nc4_mismatch",
    "separation_decay", "separation_decay_r2", "geometry_distance", "gof_distance",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COLLAPSE))
def test_cards_of_collapse_are_full(name: str) -> None:
    known = card(name)
    assert known.section == "collapse"
    for field in ("title", "formula", "unit", "source", "pitfalls", "bibtex"):
        assert getattr(known, field), field
    assert known.bibtex.count("{") == known.bibtex.count("}")
    assert known.bibtex.count("  title = ") == known.bibtex.count("  author = ") == 1
    assert known.function is getattr(measures, name, None)


def test_every_measure_that_collapse_gives_has_a_card() -> None:
    from geoprobe.probes.collapse_heads import _HEAD_MEASURES
    from geoprobe.probes.collapse_readings import LAYER_MEASURES

    assert {*LAYER_MEASURES, *_HEAD_MEASURES} <= COLLAPSE
    assert {n for n, c in cards().items() if c.section == "collapse"} == COLLAPSE


def test_conventions_of_a_card_are_those_of_the_function() -> None:
    import numpy as np

    values = np.arange(1, 600) ** -1.0
    for name in ("rankme", "alpha", "alpha_r2", "alpha_r2_13_100"):
        known = card(name)
        assert known.function is not None
        for convention in known.conventions:
            assert known.function(values, convention)
        with pytest.raises(UsageError, match="no convention"):
            known.function(values, "other")


def test_an_unknown_measure_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="rankme"):
        card("rank_me")
    with pytest.raises(ValueError, match="registered twice"):
        register(card("rankme"))


def test_reading_cards_imports_no_numpy() -> None:
    code = (
        "import sys; from geoprobe.measures.registry import cards; assert cards(); "
        "print(sorted({'numpy', 'scipy', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_cards_of_a_section_stand_together() -> None:
    sections = [card.section for card in measures.cards().values()]
    changes = [s for i, s in enumerate(sections) if i == 0 or sections[i - 1] != s]
    assert changes[0] == "spectrum"
    assert len(changes) == len(set(changes))
