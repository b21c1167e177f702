"""Sections and terminal tables of relation-specific neurons, on runs with planted values."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pytest

from geoprobe.reports import html, tables, theme
from geoprobe.reports.html import write_report
from geoprobe.reports.parts import Filled, Section, Table
from geoprobe.reports.relations import summary
from geoprobe.reports.relations_frames import COURSES, PARTS
from geoprobe.reports.relations_tables import (
    MOST_BROKEN,
    course_tables,
    neuron_tables,
    relation_tables,
    terminal_tables,
)
from geoprobe.reports.subject import Subject
from geoprobe.runs.folder import Run
from tests.reports.factory import make_run
from tests.reports.features_factory import make_features_run
from tests.reports.looking import charts_of, in_terminal, rows_of, values_of
from tests.reports.relations_factory import (
    ELEVEN,
    KS,
    PROMPTS,
    RELATIONS,
    TESTED,
    TOTAL,
    K,
    make_relations_run,
    other,
    own,
    random,
)
from tests.reports.test_html import Document

WHY = "4 of its subjects are known, and 10 are needed"
LEFT_OUT = {"star constellation": WHY}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("series") / "run"
    return make_relations_run(path, left_out=LEFT_OUT)


@pytest.fixture(scope="module")
def charts(series: Run) -> dict[str, Filled]:
    return charts_of(series)


@pytest.fixture(scope="module")
def page(series: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([series], tmp_path_factory.mktemp("page") / "r.html").read_text("utf-8")


BROKEN = ("relations-matrix", "relations-known")
NEURONS = ("relations-curve", "relations-parts", "relations-overlap", "relations-where")
ALL = (*BROKEN, *NEURONS, "relations-course")


def sections_of(*runs: Run) -> dict[str, Section]:
    return {s.name: s for s in html._parts(Subject.of(runs))[0]}


def column_of(table: Table, head: str) -> list[str]:
    return [row[list(table.heads).index(head)] for row in table.rows]


def test_the_charts_are_these_and_valid(charts: dict[str, Filled]) -> None:
    assert tuple(charts) == ALL
    for name, chart in charts.items():
        alt.Chart.from_dict(chart.spec)
        assert chart.marks > 0, name


def test_the_matrix_has_every_drop_of_the_newest_checkpoint(charts: dict[str, Filled]) -> None:
    chart = charts["relations-matrix"]
    for i, off in enumerate(RELATIONS):
        for j, relation in enumerate(RELATIONS):
            want = own(i) if i == j else other(i, j)
            (row,) = rows_of(chart, row=off, column=relation)
            assert (row["value"], row["own"], row["n"]) == (want, int(i == j), TESTED)
            assert row["said"] == str(round(100 * want))
            assert (row["i"], row["j"], row["stderr"]) == (i, j, 0.05)
    last = rows_of(chart, row="random neurons")
    assert [r["i"] for r in last] == [len(RELATIONS)] * 3
    means = [sum(random(j, d) for d in range(3)) / 3 for j in range(3)]
    assert [r["value"] for r in last] == pytest.approx(means)
    assert {r["checkpoint"] for r in rows_of(chart)} == {"step64"}
    assert chart.heading == "Facts that break, % · step64 · of the facts it knew"
    assert chart.sizes == f"n = {TESTED}"


def test_both_ways_to_count_can_be_chosen_and_checkpoints_with_neurons(series: Run) -> None:
    controls = {c.name: c for c in sections_of(series)["relations"].controls}
    assert [o.value for o in controls["convention"].options] == ["known", "all"]
    assert controls["convention"].initial == "known"
    assert [o.label for o in controls["place"].options] == ["step8", "step64"]
    frame = html._parts(Subject.of([series]))[1]["relations_matrix"]
    net = frame.filter((frame["convention"] == "all") & (frame["checkpoint"] == "step64"))
    assert net["value"].min() == -0.0625
    assert set(net.filter(net["value"] < 0)["said"]) == {"−6", "−3"}
    # The whole is the same at all checkpoints, that colours can be compared.
    colour = sections_of(series)["relations"].charts[0].spec["layer"][0]["encoding"]["color"]
    assert colour["scale"]["domain"] == [0, 0.8]


def test_numbers_stand_in_cells_that_are_wide_enough(charts: dict[str, Filled]) -> None:
    spec = charts["relations-matrix"].spec
    numbers = ["80", "74", "68"]
    for width, drawn in ((400, numbers), (50, [])):
        root = ElementTree.fromstring(theme.svg(spec, width))
        texts = [e for e in root.iter() if e.tag.endswith("}text") and e.text in numbers]
        sizes = [e.attrib.get("font-size", "") for e in texts]
        assert [e.text for e, s in zip(texts, sizes, strict=True) if s != "0px"] == drawn


def test_what_the_model_knows_is_told_of_those_left_out_too(charts: dict[str, Filled]) -> None:
    chart = charts["relations-known"]
    assert values_of(chart, state="measured") == [45 / PROMPTS, 44 / PROMPTS, 43 / PROMPTS]
    (left,) = rows_of(chart, state="left out")
    assert (left["relation"], left["value"], left["n"]) == ("star constellation", 4 / 60, 60)


def test_the_curve_has_every_size_with_its_error(charts: dict[str, Filled]) -> None:
    chart = charts["relations-curve"]
    for i, relation in enumerate(RELATIONS):
        rows = sorted(rows_of(chart, line="own", relation=relation), key=lambda r: int(r["k"]))
        assert [r["k"] for r in rows] == list(KS)
        assert [r["value"] for r in rows] == pytest.approx([own(i) * k / K for k in KS])
        assert [r["kept"] for r in rows] == [0, 0, 0, 1]
        for row in rows:
            assert row["lo"] == pytest.approx(max(0, row["value"] - 0.1))
            assert row["hi"] == pytest.approx(row["value"] + 0.1)
            assert row["at"] == pytest.approx(row["k"], rel=0.08)
    # Set apart, but by no more than a small part of the axis.
    at = [r["at"] for r in rows_of(chart, line="own", k=K)]
    assert len(set(at)) == len(RELATIONS)
    assert 0 < math.log(max(at) / min(at)) < 0.05 * math.log(K / KS[0])
    (drawn,) = rows_of(chart, line="random")
    assert (drawn["k"], drawn["value"]) == (K, pytest.approx(0.05 / 3))


def test_each_kind_of_neuron_stands_beside_all_and_random_ones(charts: dict[str, Filled]) -> None:
    chart = charts["relations-parts"]
    for i, relation in enumerate(RELATIONS):
        rows = {r["part"]: r for r in rows_of(chart, relation=relation)}
        assert list(rows) == list(PARTS.values())
        for part, share in (("gate", 0.5), ("up", 0.25), ("down", 0.125), ("all", 1)):
            assert rows[PARTS[part]]["value"] == own(i) * share
        assert rows[PARTS["gate"]]["neurons"] == sum((b + i) % 50 for b in range(4))
        assert rows[PARTS["all"]]["neurons"] == K
        drawn = rows[PARTS["random"]]
        assert (drawn["lo"], drawn["hi"]) == (0, 0.04)


def test_the_overlap_has_both_halves_and_what_chance_gives(
    series: Run, charts: dict[str, Filled]
) -> None:
    rows = rows_of(charts["relations-overlap"], "pairs")
    found = {(r["row"], r["column"]): r["value"] for r in rows}
    a, b, c = RELATIONS
    half = {(a, b): 0.0625, (a, c): 0.125, (b, c): 0.1875}
    assert found == half | {pair[::-1]: value for pair, value in half.items()}
    chance = K / (2 * TOTAL - K)
    assert [r["chance"] for r in rows] == pytest.approx([chance] * 6)
    section = sections_of(series)["relation-neurons"]
    (caption,) = (c.caption for c in section.charts if c.name == "relations-overlap")
    assert caption.endswith(f"By chance: {100 * chance:.2g} %.")


def test_neurons_are_counted_by_block_and_module(charts: dict[str, Filled]) -> None:
    rows = rows_of(charts["relations-where"], "neurons", relation=RELATIONS[1], module="down")
    assert [(r["block"], r["neurons"]) for r in rows] == [(0, 3), (1, 6), (2, 9), (3, 12)]
    # Nothing is in the first block, and that is no mark.
    rows = rows_of(charts["relations-where"], "neurons", relation=RELATIONS[0], module="up")
    assert [(r["block"], r["neurons"]) for r in rows] == [(1, 2), (2, 4), (3, 6)]


def test_the_course_begins_where_there_are_facts_enough(charts: dict[str, Filled]) -> None:
    chart = charts["relations-course"]
    for i, relation in enumerate(RELATIONS):
        at = {"relation": relation, "line": "given"}
        known = rows_of(chart, measure=COURSES["known"], **at)
        assert [r["x"] for r in known] == [0, 8, 64]
        assert [r["value"] for r in known[1:]] == [(45 - i) / 60] * 2
        drops = rows_of(chart, measure=COURSES["drop"], **at)
        assert [(r["x"], r["value"]) for r in drops] == [(8, own(i, 0.5)), (64, own(i))]
        shared = rows_of(chart, measure=COURSES["shared"], **at)
        assert [(r["x"], r["value"]) for r in shared] == [(8, 0.5), (64, 1.0)]
    chance = values_of(chart, line="chance", measure=COURSES["shared"])
    assert chance == [pytest.approx(K / TOTAL)] * 6
    assert len(values_of(chart, relation="star constellation")) == 3


def test_the_table_has_every_relation_beside_others_and_random(series: Run) -> None:
    found, left_out, _ = relation_tables(series)
    assert found.title == "Relations, step64: 400 neurons (0.37 % of 109,440) off for each"
    assert dict(zip(found.heads, found.rows[0], strict=True)) == {
        "relation": "country capital",
        "known": "45 of 60",
        "tested on": "20",
        "own": "80.0±5.0",
        "others": "4.69",
        "largest": "6.25 (person father)",
        "random": "1.7±2.1",
        "at most": "4.00",
        "versatility": "4.69",
        "interference": "3.12",
        "perplexity": "x 1.00",
    }
    assert column_of(found, "own") == ["80.0±5.0", "73.8±5.0", "67.5±5.0"]
    assert column_of(found, "perplexity") == ["x 1.00", "x 1.02", "x 1.05"]
    assert "(20.0 before); x 1.01 with random neurons off" in found.note
    assert left_out.rows == [["star constellation", "4 of 60", WHY]]


def test_a_few_broken_facts_are_shown_and_the_rest_counted(series: Run) -> None:
    *_, broken = relation_tables(series)
    assert len(broken.rows) == MOST_BROKEN * len(RELATIONS)
    first, second = broken.rows[:2]
    prompt = "country capital of 0 is Paris"
    assert first == ["country capital", "12 of 20", prompt, "Paris", "Paris", "(nothing)"]
    assert second[1] == ""
    assert second[-1] == "a city 1"
    assert broken.note.endswith("27 more facts broke.")


def test_how_neurons_were_found_and_what_they_do_together(series: Run) -> None:
    found, curve = neuron_tables(series)
    assert dict(zip(found.heads, found.rows[1], strict=True)) == {
        "relation": "country currency",
        "neurons": "400",
        "found on": "24",
        "AP of the last": "0.766",
        "shuffled": "0.500",
        "since": "step8",
        "the first ones": "mlp.up.0:17 (1.00), mlp.up.1:18 (1.00), mlp.up.2:19 (1.00), "
        "mlp.up.3:20 (1.00)",
    }
    assert "Found by average precision; all are in relations/step64/neurons.json" in found.note
    sizes = ["10", "50", "200", "400"]
    assert curve.heads == ["relation", *sizes, "10 → 50", "50 → 200", "200 → 400"]
    drops = ["2.0±5.0", "10.0±5.0", "40.0±5.0", "80.0±5.0"]
    assert curve.rows[0] == ["country capital", *drops, "-", "75.0", "75.0"]
    assert curve.note.endswith("Undefined (-): no fact breaks between them.")


def test_the_course_is_a_table_of_whole_per_cent(series: Run) -> None:
    known, drops = course_tables(series)
    assert known.heads == ["relation", "step0", "step8", "step64"]
    assert known.rows[0] == ["country capital", "0", "75", "75"]
    assert known.rows[-1] == ["mean", "3", "57", "57"]
    assert drops.heads == ["relation", "step8", "step64"]
    assert drops.rows == [
        *(["country capital", "40", "80"], ["country currency", "37", "74"]),
        *(["person father", "34", "68"], ["star constellation", "", ""], ["mean", "37", "74"]),
    ]
    assert list(drops.muted) == [4]


def _grid(text: str, title: str) -> dict[str, list[str]]:
    """Cells of a table of the terminal by the number of its row."""
    lines = text.split(title)[1].split("\n\n")[0].splitlines()[3:]
    rows = {}
    for line in lines:
        name, *cells = re.split(r"\s{2,}|\s(?=\[)", line.strip())
        if cells:
            rows[name.split(" ")[0]] = cells
    return rows


def test_the_terminal_has_the_matrix_with_the_own_drops_in_brackets(tmp_path: Path) -> None:
    relations = (*ELEVEN, "university city", "word synonym")
    run = make_relations_run(tmp_path / "run", relations=relations, steps=(None,), early=0)
    text = in_terminal(run, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "of 2)" not in text
    rows = _grid(text, "Facts that break, %, model")
    for i in range(13):
        want = [f"{round(100 * other(i, j))}" for j in range(13)]
        want[i] = f"[{round(100 * own(i))}]"
        assert rows[f"#{i + 1}"] == want
    assert rows["random"] == ["2"] * 13
    # Every number belongs to a name.
    assert all(f"#{i + 1} {name}"[:18] in text for i, name in enumerate(relations))


@pytest.mark.parametrize("width", [70, 50])
def test_a_narrow_terminal_has_it_in_parts(tmp_path: Path, width: int) -> None:
    run = make_relations_run(tmp_path / "run", relations=ELEVEN, steps=(None,), early=0)
    found = [t for t in terminal_tables(run, width) if t.title.startswith("Facts that break")]
    assert len(found) > 1
    assert found[1].title == f"Facts that break, %, model (2 of {len(found)})"
    assert [h.strip() for t in found for h in t.heads[1:]] == [f"#{i + 1}" for i in range(11)]
    sizes = [len(t.heads) for t in found]
    assert max(sizes) - min(sizes) <= 2
    for table in found:
        widths = [max(map(len, cells)) for cells in zip(table.heads, *table.rows, strict=True)]
        assert sum(widths) + len(widths) - 1 <= width
    assert [bool(t.note) for t in found] == [False] * (len(found) - 1) + [True]
    whole = in_terminal(run, width=80)
    assert max(map(len, whole.splitlines())) <= 80
    assert "(1 of" not in whole


def test_the_terminal_says_known_random_left_out_and_the_course(series: Run) -> None:
    text = in_terminal(series, width=100)
    row = next(line for line in text.splitlines() if line.startswith("#1 country capital  "))
    assert row.split()[3:] == [
        *("45", "of", "60", "80.0±5.0", "4.69", "6.25", "1.7±2.1", "4.00", "x", "1.00")
    ]
    assert f"Left out, #4 star constellation: {WHY}" in text
    assert "versatility" not in text
    lines = text.splitlines()
    start = lines.index("Own facts that break, %, over training")
    assert [line.split() for line in lines[start + 3 : start + 5]] == [
        *(["step8", "40", "37", "34", "37"], ["step64", "80", "74", "68", "74"])
    ]
    assert "RankMe" not in text


def test_the_headline_is_the_own_drop_against_others_and_random(series: Run, page: str) -> None:
    assert summary(Subject.of([series]), "net") == (
        "3 checkpoints, step 0 to 64. step64: the model answers 136 of 240 prompts about 4 "
        "relations (3.3 % of them at step0). With a relation's own 400 neurons (0.37 % of "
        "109,440) off, 73.8 ± 2.9 % of its known facts break and 6.77 % of those of the other "
        "relations; with as many random neurons off 1.7 ± 1.2 % over 3 draws, at most 4.00 % "
        "(means of 3 relations). Most specific: country capital (own 80.0 %, others 4.69 %); "
        "least: person father (own 67.5 %, others 6.25 %). 1 relation was left out."
    )
    figures = page.split('<dl class="figures">')[1].split("</dl>")[0]
    for shown in (
        "56.7 %<small> · 136 of 240</small>",
        "73.8<small> ± 2.9 %</small>",
        "6.77 %<",
        "1.67 %<small> · at most 4.00 %</small>",
    ):
        assert shown in figures
    assert summary(Subject.of([series]), "net") in " ".join(Document(page).text)


def test_the_same_run_gives_the_same_bytes(series: Run, page: str, tmp_path: Path) -> None:
    again = write_report([Run.open(series.path)], tmp_path / "2.html")
    assert again.read_text("utf-8") == page


def test_every_chart_has_its_static_picture(page: str) -> None:
    for name in ALL:
        figure = page.split(f'<figure id="figure-{name}">')[1].split("</figure>")[0]
        assert '<img src="data:image/' in figure


def test_several_runs_are_chosen_and_leave_each_other_alone(series: Run, tmp_path: Path) -> None:
    rank = make_run(tmp_path / "rank", name="ranked", steps=(0, 8, 64), blocks=1)
    features = make_features_run(tmp_path / "features", name="featured")
    b = make_relations_run(tmp_path / "b", name="b", relations=ELEVEN[2:5], steps=(None,), early=0)
    both = charts_of(rank, features, series, b)
    assert set(both) == set(charts_of(rank)) | set(charts_of(features)) | set(ALL)
    for name in ALL:
        (table,) = both[name].spec["datasets"]
        assert {r["run"] for r in rows_of(both[name], table)} == {"net"}, name
    subject = Subject.of([rank, features, series, b])
    assert summary(subject, "net") == summary(Subject.of([series]), "net")
    assert "RankMe of final" in summary(subject, "ranked")
    assert "psi is" in summary(subject, "featured")
    sections = {s.name: s for s in html._parts(subject)[0]}
    for name in ("relations", "relation-neurons", "relations-course"):
        (control,) = (c for c in sections[name].controls if c.name == "run")
        assert [o.value for o in control.options] == ["net", "b"]
    places = next(c for c in sections["relations"].controls if c.name == "place")
    assert [dict(o.at or {}) for o in places.options] == [{"net": 1, "b": 0}, {"net": 2, "b": 0}]
    titles = [t.title for t in sections["relations"].tables]
    assert titles[0].startswith("net: Relations, step64")
    assert "b: Facts that broke, model" in titles
    assert tables.page(subject).figures[-1][0] == "b"


def test_a_run_of_several_probes_has_all_their_sentences(tmp_path: Path, series: Run) -> None:
    both = make_features_run(tmp_path / "both", name="both", steps=(0, 8, 64))
    for entry in both.checkpoints:
        label = str(entry["label"])
        merged = both.path / "checkpoints" / f"{label}.json"
        mine = (series.path / "checkpoints" / f"{label}.json").read_text("utf-8")
        merged.write_text(_merged(merged.read_text("utf-8"), mine), "utf-8")
    said = summary(Subject.of([Run.open(both.path)]), "both")
    assert "psi is 2.000 ± 0.020" in said
    assert "73.8 ± 2.9 % of its known facts break" in said
    assert said.count("3 checkpoints, step 0 to 64.") == 1


def _merged(one: str, other_one: str) -> str:
    first, second = json.loads(one), json.loads(other_one)
    for part in ("readings", "findings"):
        first[part] += second[part]
    return json.dumps(first)
