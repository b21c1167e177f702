"""Relation-specific neurons where something is missing, different, long, or hostile."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import altair as alt
import pytest

from geoprobe.reports import html
from geoprobe.reports.html import write_charts, write_report
from geoprobe.reports.relations import names_of, newest, plain, summary
from geoprobe.reports.relations_frames import COURSES, MOST_PLACES, PARTS
from geoprobe.reports.relations_tables import (
    course_tables,
    neuron_tables,
    relation_tables,
)
from geoprobe.reports.subject import Subject
from tests.reports.browser import CHROMIUM, Browser
from tests.reports.factory import HOSTILE
from tests.reports.looking import charts_of, in_terminal, on_one_line, rows_of, values_of
from tests.reports.relations_factory import ELEVEN, RELATIONS, K, make_relations_run
from tests.reports.test_chromium import DRAWN, EMPTY
from tests.reports.test_html import Document
from tests.reports.test_relations import ALL, BROKEN, LEFT_OUT, NEURONS, column_of, sections_of

LONG = "a relation between things " * 10
NAMES = (HOSTILE, "two\nlines\x1b[31m\x07", "👩‍🚀 speaks 日本語", f"{LONG}one", f"{LONG}two")

LESS: dict[str, tuple[dict[str, Any], tuple[str, ...], Callable[[str], bool]]] = {
    "no perplexity": ({"perplexity": False}, ALL, lambda text: "perplexity" not in text),
    "no random": ({"draws": 0}, ALL, lambda text: "random" not in text),
    "one draw": ({"draws": 1}, ALL, lambda text: "at most" not in text and "random" in text),
    "no gates": ({"gates": False}, ALL, lambda text: "[80]" in text),
    "one relation": (
        {"relations": RELATIONS[:1]},
        tuple(name for name in ALL if name != "relations-overlap"),
        lambda text: "others" not in text and "Most specific" not in text,
    ),
    "one checkpoint": (
        {"steps": (None,), "early": 0},
        (*BROKEN, *NEURONS),
        lambda text: "over training" not in text and "One checkpoint." in text,
    ),
    "drops alone": (
        {"beside": False, "perplexity": False, "draws": 0, "ks": (K,)},
        ("relations-matrix", "relations-known", "relations-parts", "relations-course"),
        lambda text: "109,440" not in text and "[80]" in text,
    ),
    "early alone": (
        {"early": 3},
        ("relations-known", "relations-course"),
        lambda text: "No relation has enough known facts" in on_one_line(text) and "[" not in text,
    ),
    "one early checkpoint": (
        {"steps": (None,)},
        ("relations-known",),
        lambda text: "No relation has enough known facts" in on_one_line(text),
    ),
    "some undefined": (
        {"undefined": RELATIONS[1:2]},
        ALL,
        lambda text: "[-]" in text and "Undefined (-): no held-out fact is known." in text,
    ),
    "all undefined": (
        {"undefined": RELATIONS, "draws": 0},
        ("relations-known", "relations-overlap", "relations-where", "relations-course"),
        lambda text: (
            "Undefined (-): no held-out fact is known." in on_one_line(text)
            and "No drop is defined: no held-out fact is known." in on_one_line(text)
        ),
    ),
}


@pytest.mark.parametrize("case", LESS)
def test_what_is_missing_is_missed_by_nothing(tmp_path: Path, case: str) -> None:
    less, names, holds = LESS[case]
    run = make_relations_run(tmp_path / "run", **less)
    text = in_terminal(run)
    assert holds(text), text
    shown = charts_of(run)
    assert tuple(shown) == names
    for chart in shown.values():
        alt.Chart.from_dict(chart.spec)
        assert chart.marks > 0
    page = write_report([run], tmp_path / "r.html").read_text("utf-8")
    assert Document(page).attributes("div", "data-chart") == list(names)
    assert len(write_charts([run], tmp_path / "charts", "svg")) == len(names)
    for said in ("nan", "None", "undefined"):
        assert said not in text


def test_a_model_without_gates_has_two_kinds_of_neurons(tmp_path: Path) -> None:
    run = make_relations_run(tmp_path / "run", gates=False)
    shown = charts_of(run)
    assert {r["module"] for r in rows_of(shown["relations-where"], "neurons")} == {"up", "down"}
    parts = {r["part"] for r in rows_of(shown["relations-parts"])}
    assert parts == set(PARTS.values()) - {"gate only"}
    (caption,) = (
        c.caption
        for c in sections_of(run)["relation-neurons"].charts
        if c.name == "relations-parts"
    )
    assert "the gate" not in caption


def test_the_newest_checkpoint_with_neurons_is_shown_where_later_ones_have_none(
    tmp_path: Path,
) -> None:
    run = make_relations_run(tmp_path / "run", steps=(0, 8, 64, 512), late=1)
    assert newest(run).label == "step64"
    assert "step512 knows too few facts to look for neurons. step64: the model answers" in summary(
        Subject.of([run]), "net"
    )
    assert charts_of(run)["relations-matrix"].heading.startswith("Facts that break, % · step64")
    assert len(values_of(charts_of(run)["relations-course"], measure=COURSES["known"])) == 12


def test_sets_of_different_size_are_held_against_the_nearest_random_ones(tmp_path: Path) -> None:
    sizes = {RELATIONS[0]: 300, RELATIONS[1]: 420}
    run = make_relations_run(
        tmp_path / "run",
        steps=(None,),
        early=0,
        relations=RELATIONS[:2],
        k_of=sizes,
        select="lape",
        drawn_at=(30, 3000),
    )
    table = relation_tables(run)[0]
    assert table.title == "Relations, model: 300 to 420 neurons (of 109,440) off for each"
    assert column_of(table, "random") == ["1.7±2.1"] * 2
    neurons = neuron_tables(run)[0]
    assert column_of(neurons, "neurons") == ["300", "420"]
    assert "Found by low entropy over the relations" in neurons.note
    chart = charts_of(run)["relations-curve"]
    assert [r["k"] for r in rows_of(chart, kept=1)] == [300, 420]
    drawn = {r["k"]: r["value"] for r in rows_of(chart, line="random")}
    assert drawn == pytest.approx({30: 0.5, 360: 0.05 / 3, 3000: 0.5})
    # Of sets that were not chosen from all neurons chance says something else.
    pairs = rows_of(charts_of(run)["relations-overlap"], "pairs")
    assert {r["chance"] for r in pairs} == {None}


def test_given_neurons_are_said_to_be(tmp_path: Path) -> None:
    run = make_relations_run(tmp_path / "run", steps=(None,), early=0, source="other.json")
    assert "Found by average precision, given in other.json." in neuron_tables(run)[0].note


def test_many_checkpoints_are_thinned_where_one_steps_through_them(tmp_path: Path) -> None:
    run = make_relations_run(tmp_path / "run", steps=range(40), early=4, ks=(K,))
    control = next(c for c in sections_of(run)["relations"].controls if c.name == "place")
    labels = [o.label for o in control.options]
    assert len(labels) == MOST_PLACES
    assert (labels[0], labels[-1]) == ("step4", "step39")
    frame = html._parts(Subject.of([run]))[1]["relations_matrix"]
    assert frame["checkpoint"].n_unique() == MOST_PLACES
    course = rows_of(charts_of(run)["relations-course"], measure=COURSES["known"])
    assert len({r["checkpoint"] for r in course}) == 40
    assert "24 of 40 checkpoints." in in_terminal(run)
    assert len(course_tables(run)[0].heads) == 25


def test_short_names_are_one_line_and_no_two_alike() -> None:
    names = list(names_of(NAMES).values())
    assert len(set(names)) == len(NAMES)
    assert all(len(name) <= 36 and name.isprintable() for name in names)
    assert names[3].endswith("…")
    assert names[4].endswith(" (5)")
    assert list(names_of(["", "a", " a "]).values()) == ["#1", "a", "a (3)"]
    assert plain("\ud800 x\x00") == "? x?"


def test_a_relation_may_be_called_like_what_is_beside_it(tmp_path: Path) -> None:
    run = make_relations_run(tmp_path / "run", relations=("random neurons", "mean", "whole set"))
    rows = rows_of(charts_of(run)["relations-matrix"])
    assert [(r["row"], r["i"]) for r in rows if r["column"] == "mean"] == [
        *(("random neurons", 0), ("mean", 1), ("whole set", 2), ("(random neurons)", 3))
    ]
    assert [row[0] for row in course_tables(run)[1].rows] == [
        *("random neurons", "mean", "whole set", "(mean)")
    ]


def test_hostile_names_and_answers_stay_text(tmp_path: Path) -> None:
    texts = {}
    harmless_names = [f"x{i}" for i in range(len(NAMES))]
    for name, names, word in (("hostile", NAMES, HOSTILE), ("harmless", harmless_names, "x")):
        run = make_relations_run(
            tmp_path / name,
            name="net",
            relations=names,
            left_out={f"{word} left": word},
            text=f"{word} {word}" if name == "hostile" else "x",
        )
        file = write_report([run], tmp_path / f"{name}.html")
        texts[name] = file.read_text("utf-8")
        shown = in_terminal(run, width=100)
        assert "\x1b" not in shown
        assert "\x07" not in shown
    hostile, harmless = (Document(texts[name]) for name in ("hostile", "harmless"))
    assert [t for t, _ in hostile.elements] == [t for t, _ in harmless.elements]
    assert hostile.scripts[1:] == harmless.scripts[1:]
    said = "".join(hostile.text)
    assert HOSTILE in said
    assert "👩?🚀 speaks 日本語" in said
    pictures = hostile.attributes("img", "src")
    assert len(pictures) == len(ALL)
    for picture in pictures:
        if picture.startswith("data:image/svg+xml"):
            for element in ElementTree.fromstring(base64.b64decode(picture.split(",")[1])).iter():
                assert element.tag.split("}")[1] not in ("script", "img", "image", "foreignObject")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")
@pytest.mark.parametrize("dark", [False, True])
def test_every_choice_draws_something_and_quietly(tmp_path: Path, dark: bool) -> None:
    runs = [
        make_relations_run(tmp_path / "a", name="a", left_out=LEFT_OUT),
        make_relations_run(tmp_path / "b", name="b", relations=(*NAMES, *ELEVEN), early=0),
    ]
    with Browser(tmp_path / "profile") as browser:
        browser.open(write_report(runs, tmp_path / "r.html"), until=DRAWN, dark=dark)
        assert browser.evaluate(EMPTY) == []
        assert browser.complaints == []
