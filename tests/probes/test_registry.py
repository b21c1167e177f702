"""Choosing probes and studies by name, and their options."""

from __future__ import annotations

import pytest

from geoprobe.errors import UsageError
from geoprobe.probes.registry import choose_plans


def test_single_values_stand_for_tuples_and_none_for_the_default() -> None:
    plans, settled = choose_plans(("spectrum",), {"tokens": "all", "ablate": 10, "skip": None})
    assert settled["tokens"] == ("all",)
    assert settled["ablate"] == (10,)
    assert settled["skip"] == ()
    assert settled["conventions"] == ("exact",)
    assert [plan.study is None for plan in plans] == [True, False]


def test_a_study_alone() -> None:
    plans, settled = choose_plans((), {"ablate": [10, 50]})
    assert len(plans) == 1
    assert settled == {"ablate": (10, 50)}


@pytest.mark.parametrize(
    ("probes", "options", "says"),
    [
        (("spectra",), {}, "no probe named 'spectra'.*spectrum"),
        (("spectrum",), {"token": "all"}, "no option 'token'.*Did you mean tokens"),
        (("spectrum",), {"tokens": "middle"}, "--tokens middle: not one of last, first, mean, all"),
        (("spectrum",), {"tokens": ()}, "--tokens is empty"),
        (("spectrum",), {"conventions": "li"}, "--convention li: not one of exact"),
        (("spectrum",), {"skip": "rank"}, "--skip rank: not one of .*rankme"),
        (("spectrum",), {"ablate": 0}, "--ablate 0: give numbers from 1"),
    ],
)
def test_mistakes_are_sentences(
    probes: tuple[str, ...], options: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        choose_plans(probes, options)
