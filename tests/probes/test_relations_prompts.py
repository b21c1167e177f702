"""What counts as an answer, and how subjects are divided."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.probes.relations_prompts import Prompt, is_right, matches, split


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        (" Paris", "Paris", True),
        (" Paris, the", "Paris", True),
        (" “Paris”.", "Paris", True),
        ("\n\nParis", "Paris", True),
        (" Addis", "Addis Ababa", False),  # less than half of it
        (" Addis A", "Addis Ababa", True),
        (" 19", "1946", True),
        (" 1", "1946", False),
        (" 1945", "1946", False),
        (" paris", "Paris", False),
        (" London", "Paris", False),
        (" the Paris", "Paris", False),
        ("", "Paris", False),
        (" ...", "Paris", False),
        (" (D.C", "D.C.", True),
        ("Tōkyō", "Tōkyō", True),
        ("Paris", "", False),
    ],
)
def test_an_answer_is_the_beginning_of_the_object_or_the_other_way_round(
    answer: str, wanted: str, right: bool
) -> None:
    assert matches(answer, wanted) is right


_SHORT = st.text("ab. !", max_size=5)


@given(_SHORT, _SHORT)
def test_the_rule_in_other_words(answer: str, wanted: str) -> None:
    bare, right = (re.sub(r"^\W+|\W+$", "", text) for text in (answer, wanted))
    begins = right.startswith(bare) or bare.startswith(right)
    long_enough = len(bare) >= len(right) / 2
    assert matches(answer, wanted) == bool(bare and right and begins and long_enough)


class _Words:
    """A tokenizer whose tokens are letters."""

    eos_token_id = -1

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids))


def test_each_accepted_answer_is_held_against_as_many_tokens_as_it_has() -> None:
    prompt = Prompt("r", "s", "t", (1,), (("abcdef", 6), ("xy", 2)))
    assert prompt.count == 6
    spelt = [ord(letter) for letter in "xyzzzz"]
    assert is_right(prompt, spelt, _Words())
    assert is_right(prompt, [ord(letter) for letter in "abcdef"], _Words())
    assert not is_right(prompt, [ord(letter) for letter in "abzdef"], _Words())


def _prompts(subjects: int = 24, templates: int = 2, relations: int = 2) -> list[Prompt]:
    return [
        Prompt(f"r{r}", f"s{s}", f"t{t} s{s}", (1, 2), (("o", 1),))
        for r in range(relations)
        for t in range(templates)
        for s in range(subjects)
    ]


@given(st.data())
def test_subjects_that_find_never_judge(data: st.DataObject) -> None:
    prompts = _prompts()
    known = np.array(data.draw(st.lists(st.booleans(), min_size=96, max_size=96)))
    most = data.draw(st.integers(1, 40))
    found = split(prompts, known, seed=data.draw(st.integers(0, 9)), held_out=most, min_known=4)
    assert list(found) == ["r0", "r1"]
    for name, one in found.items():
        parts = [{prompts[i].subject for i in part} for part in (one.detection, one.evaluation)]
        assert not parts[0] & parts[1]
        assert not parts[0] & {prompts[i].subject for i in one.unknown}
        subjects = {
            p.subject for p, k in zip(prompts, known, strict=True) if k and p.relation == name
        }
        assert bool(one.left_out) == (len(subjects) < 4)
        everything = [*one.detection, *one.evaluation]
        assert all(prompts[i].relation == name for i in [*everything, *one.unknown])
        assert known[everything].all()
        assert not known[one.unknown].any()
        # Every known prompt has its place, unless the judging ones are full.
        assert len(parts[1]) <= max(1, len(subjects) // 2)
        assert len(one.evaluation) <= max(most, 2)
        assert len(one.unknown) <= len(one.evaluation)
        if not one.left_out:
            assert one.evaluation.size
            assert parts[0] | parts[1] == subjects


def test_a_subject_has_the_same_place_in_relations_of_the_same_subjects() -> None:
    found = split(_prompts(), np.ones(96, bool), seed=1, held_out=50, min_known=4)
    first, second = found["r0"], found["r1"]
    assert np.array_equal(first.evaluation + 48, second.evaluation)
    other = split(_prompts(), np.ones(96, bool), seed=2, held_out=50, min_known=4)
    assert not np.array_equal(first.evaluation, other["r0"].evaluation)


def test_the_held_out_prompts_are_at_most_so_many() -> None:
    found = split(_prompts(), np.ones(96, bool), seed=1, held_out=7, min_known=4)["r0"]
    assert len(found.evaluation) == 6  # three subjects of two prompts
    assert len(found.detection) == 42


def test_subjects_that_found_neurons_elsewhere_do_not_judge_them() -> None:
    used = {"r0": [f"s{i}" for i in range(20)], "r1": [f"s{i}" for i in range(24)]}
    found = split(_prompts(), np.ones(96, bool), seed=1, held_out=50, min_known=4, used=used)
    prompts = _prompts()
    assert {prompts[i].subject for i in found["r0"].evaluation} == {f"s{i}" for i in range(20, 24)}
    assert "found by all of these" in found["r1"].left_out


def test_the_reason_says_the_counts() -> None:
    known = np.zeros(96, bool)
    known[[0, 1, 24]] = True
    found = split(_prompts(), known, seed=1, held_out=50, min_known=10)["r0"]
    assert "3 of 48 prompts, of 2 of 24 subjects" in found.left_out
    assert "at least 10" in found.left_out
