"""The section and the terminal tables of neural collapse, on runs with planted values."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoprobe.reports import html, tables
from geoprobe.reports.collapse import class_names, collapse_tables, summary
from geoprobe.reports.collapse_frames import MOST_CELLS, collapse_frames
from geoprobe.reports.html import write_report
from geoprobe.reports.parts import Filled
from geoprobe.reports.subject import Subject
from geoprobe.reports.words import with_error
from geoprobe.runs.folder import Run
from tests.reports.factory import COLLAPSED, HEADS, HOSTILE, NULL, make_collapse_run, make_run
from tests.reports.looking import charts_of, in_terminal, on_one_line, rows_of, values_of
from tests.reports.test_html import Document

IMBALANCE = [200, 100, 50, 25, 20, 15, 12, 10, 8, 5]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_collapse_run(
        tmp_path_factory.mktemp("series") / "run", counts=IMBALANCE, predicted=True, floor=0.3
    )


@pytest.fixture(scope="module")
def charts(series: Run) -> dict[str, Filled]:
    return charts_of(series)


@pytest.fixture(scope="module")
def page(series: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([series], tmp_path_factory.mktemp("page") / "r.html").read_text("utf-8")


def test_the_charts_are_these(charts: dict[str, Filled]) -> None:
    assert list(charts) == [
        *("collapse-nc1", "collapse-nc2", "collapse-depth", "collapse-cosines"),
        *("collapse-norms-means", "collapse-norms-rows"),
    ]


def test_the_course_has_each_data_set_the_null_and_the_floor(charts: dict[str, Filled]) -> None:
    nc1, nc2 = charts["collapse-nc1"], charts["collapse-nc2"]
    for chart, measures in (
        (nc1, ("nc1", "nc1_quotient", "cdnv")),
        (nc2, ("nc2_equinorm", "nc2_equiangular", "nc2_etf")),
    ):
        for measure in measures:
            newest = COLLAPSED[measure]
            for data, factor in (("train", 1), ("heldout", 2)):
                given = {"measure": measure, "data": data, "line": "given"}
                values = [newest * factor * 2**k for k in (3, 2, 1, 0)]
                assert values_of(chart, **given) == pytest.approx(values, rel=1e-4)
                assert [r["site"] for r in rows_of(chart, **given)] == ["penultimate"] * 4
                null = {**given, "line": "permuted"}
                assert values_of(chart, **null) == pytest.approx([newest * NULL] * 4, rel=1e-4)
    for measure in ("nc3_duality", "nc4_mismatch"):
        given = {"measure": measure, "data": "train", "line": "given"}
        assert values_of(nc2, **given) == [HEADS[measure]] * 4
    assert values_of(nc2, data="train", line="floor") == [0.3] * 4
    assert {r["measure"] for r in rows_of(nc2, line="floor")} == {"nc2_etf"}
    (onset,) = rows_of(nc1, "onset")
    assert (onset["x0"], onset["x1"], onset["data"]) == (8, 64, "train")
    assert nc1.sizes == "n = 200"


def test_depth_has_every_site_and_the_fitted_law(charts: dict[str, Filled]) -> None:
    chart = charts["collapse-depth"]
    given = {"measure": "separation", "data": "train", "line": "given"}
    assert [r["site"] for r in rows_of(chart, **given)] == [
        *("block.0", "block.1", "block.2", "penultimate")
    ]
    assert values_of(chart, **given) == [32, 16, 8, 4]
    fit = rows_of(chart, data="train", line="fit")
    assert [r["site"] for r in fit] == ["block.0", "block.1", "block.2"]
    assert [r["value"] for r in fit] == pytest.approx([32, 16, 8], rel=1e-4)
    assert [r["said"] for r in fit] == ["x 0.500, R² 1.00", None, None]
    assert {r["checkpoint"] for r in rows_of(chart)} == {"step512"}


def test_cosines_stand_against_their_target(charts: dict[str, Filled]) -> None:
    chart = charts["collapse-cosines"]
    cells = rows_of(chart, "cosines")
    assert len(cells) == 100
    assert {r["shown"] for r in cells} == {"train"}
    for cell in cells:
        same = cell["row"] == cell["column"]
        assert cell["cosine"] == pytest.approx(1 if same else -1 / 9 + 0.0625, abs=1e-3)
        assert cell["beyond"] == pytest.approx(10 / 9 if same else 0.0625, abs=1e-3)
    (target,) = rows_of(chart, "target")
    assert target["target"] == pytest.approx(-1 / 9)
    assert target["said"] == "target -0.111; 0.100 from it on average over 10 classes"
    assert "collapse-angles" not in charts


def test_many_classes_have_a_histogram_and_fewer_cells_with_more_checkpoints(
    tmp_path: Path,
) -> None:
    names = [f"word{i}" for i in range(60)]
    one = make_collapse_run(
        tmp_path / "one", steps=(None,), data=("text",), classes=names, tokens=True
    )
    shown = charts_of(one)
    assert len(rows_of(shown["collapse-cosines"], "cosines")) == 50**2
    assert "'word0'" in {r["row"] for r in rows_of(shown["collapse-cosines"], "cosines")}
    (target,) = rows_of(shown["collapse-cosines"], "target")
    assert target["said"].endswith("over 60 classes; the 50 largest are shown")
    (bar,) = rows_of(shown["collapse-angles"], "angles")
    assert bar["pairs"] == 50 * 49 // 2
    assert bar["low"] <= -1 / 59 + 0.0625 <= bar["high"]
    long = make_collapse_run(
        tmp_path / "long", steps=tuple(range(40)), data=("text",), classes=names
    )
    cells = collapse_frames(Subject.of([long]))["collapse_cosines"]
    assert cells.height == 40 * 31**2 <= MOST_CELLS


def test_norms_stand_beside_those_predicted(charts: dict[str, Filled]) -> None:
    norms = [3 - 2 * i / 9 for i in range(10)]
    for of, given, predicted in (
        ("means", [n + 0.5 for n in norms], [n + 0.75 for n in norms]),
        ("rows", [n / 4 for n in norms], [n / 8 for n in norms]),
    ):
        chart = charts[f"collapse-norms-{of}"]
        for line, want in (("given", given), ("predicted", predicted)):
            rows = rows_of(chart, "norms", line=line)
            assert [r["norm"] for r in rows] == pytest.approx(want, rel=1e-4)
            assert [r["rows"] for r in rows] == IMBALANCE


def test_norms_are_centred_without_a_prediction_and_absent_where_classes_are_even(
    tmp_path: Path,
) -> None:
    uneven = make_collapse_run(tmp_path / "a", steps=(None,), counts=IMBALANCE)
    rows = rows_of(charts_of(uneven)["collapse-norms-means"], "norms")
    assert [r["norm"] for r in rows][:1] == [3.0]
    assert {r["line"] for r in rows} == {"given"}
    even = charts_of(make_collapse_run(tmp_path / "b", steps=(None,)))
    assert set(even) == {"collapse-depth", "collapse-cosines"}


def test_a_classifier_that_is_absent_is_told_with_the_reason(tmp_path: Path) -> None:
    why = "the model has no classifier (it gives features)"
    run = make_collapse_run(tmp_path / "run", steps=(0, 8), absent=why)
    measures = {r["measure"] for r in rows_of(charts_of(run)["collapse-nc2"])}
    assert measures == {"nc2_equinorm", "nc2_equiangular", "nc2_etf"}
    said = f"NC3 and NC4 are absent: {why}."
    section = next(s for s in html._parts(Subject.of([run]))[0] if s.name == "collapse")
    assert next(c for c in section.charts if c.name == "collapse-nc2").caption.endswith(said)
    (line,) = (t for t in section.tables if not t.rows)
    assert line.note.startswith(said)
    assert said in on_one_line(in_terminal(run))
    assert "undefined" not in summary(Subject.of([run]), "net")


def test_the_terminal_has_the_values_and_the_findings(series: Run) -> None:
    text = in_terminal(series)
    assert max(map(len, text.splitlines())) <= 100
    for measure, value in COLLAPSED.items():
        assert with_error(value, value / 100).replace(" ± ", "±") in text, measure
        assert with_error(8 * value, 8 * value / 100).replace(" ± ", "±") in text, measure
        assert f"{NULL * value:.3g}" in text, measure
    for value in (*HEADS.values(), 0.11):
        assert with_error(value, value / 100).replace(" ± ", "±") in text
    flat = on_one_line(text)
    for said in (
        "NC1 by site, step512, train: 445 rows in 10 classes",
        "NC1 by site, step512, heldout",
        "train: collapse begins between step8 and step64.",
        "heldout: nc1_quotient falls from 2 to 0.25",
        "threshold of minority collapse is 4.5 samples",
        "Separation over the layers: x 0.5000 ± 0.0050 a layer, R² 1.00.",
        "When collapse begins was not found.",
    ):
        assert said in flat
    # A null for each table of sites and each course.
    assert sum(line.startswith("permuted ") for line in text.splitlines()) == 6


def test_a_narrow_console_leaves_out_errors_before_it_cuts_names(series: Run) -> None:
    text = in_terminal(series, width=60)
    course = text.split("Collapse over training, train, penultimate (errors need more")[1]
    row = next(line for line in course.splitlines() if line.startswith("step512"))
    assert row.split() == ["step512", "0.5000", "0.1250", "0.6000", "0.7000", "0.1250"]


def test_a_deep_model_is_thinned_in_the_terminal_alone(tmp_path: Path) -> None:
    sites = [*(f"block.{i}" for i in range(30)), "penultimate"]
    run = make_collapse_run(tmp_path / "run", steps=(None,), data=("train",), sites=sites)
    text = in_terminal(run)
    assert "8 of 31 sites; the report has all." in text
    assert "block.7 " not in text
    whole = next(t for t in collapse_tables(run) if t.title.startswith("NC1"))
    assert [row[0] for row in whole.rows][::2] == sites
    assert list(whole.muted) == list(range(1, 62, 2))


def test_the_summary_and_the_large_figures_have_values_with_nulls(series: Run, page: str) -> None:
    said = summary(Subject.of([series]), "net")
    assert said.startswith("4 checkpoints, step 0 to 512. step512, train, 10 classes: NC1 0.5000 ±")
    assert "(1.50 with permuted labels)" in said
    assert "(1.80, floor 0.300)" in said
    assert "RankMe" not in said
    figures = page.split('<dl class="figures">')[1].split("</dl>")[0]
    assert figures.count("permuted labels") == 4
    assert "0.5000<small> ± 0.0050</small><small> · permuted labels 1.50</small>" in figures


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    texts = {}
    for name, word in (("hostile", HOSTILE), ("harmless", "x")):
        run = make_collapse_run(
            tmp_path / name,
            name="net",
            steps=(None,),
            data=(word.replace("/", "|"), "b"),
            classes=[f"{word}{i}" for i in range(10)],
            counts=IMBALANCE,
        )
        texts[name] = write_report([run], tmp_path / f"{name}.html").read_text("utf-8")
        assert "\x1b" not in in_terminal(run)
    hostile, harmless = (Document(texts[name]) for name in ("hostile", "harmless"))
    assert [t for t, _ in hostile.elements] == [t for t, _ in harmless.elements]
    assert hostile.scripts[1:] == harmless.scripts[1:]
    assert HOSTILE.replace("/", "|") in "".join(hostile.text)


def test_names_of_classes_are_told_apart() -> None:
    assert class_names({"classes": ["a\n b", "c", "c"]}) == ["a b", "c (2)", "c (3)"]
    twins = {"token_ids": [5, 7], "tokens_text": [" the", " the"]}
    assert class_names(twins) == ["' the' (1)", "' the' (2)"]
    assert class_names({"token_ids": [5, 7]}) == ["'#5'", "'#7'"]


def test_the_same_run_gives_the_same_bytes(series: Run, page: str, tmp_path: Path) -> None:
    again = write_report([Run.open(series.path)], tmp_path / "2.html")
    assert again.read_text("utf-8") == page


def test_beside_a_run_of_ranks_neither_takes_from_the_other(series: Run, tmp_path: Path) -> None:
    rank = make_run(tmp_path / "rank", name="ranked", steps=(0, 8, 64, 512), blocks=1)
    alone, both = charts_of(rank), charts_of(rank, series)
    assert set(both) == set(alone) | set(charts_of(series))
    for name, before in alone.items():
        assert both[name].marks == before.marks, name
        assert both[name].heading == before.heading
        for table in {"readings", "spectra"} & set(before.spec["datasets"]):
            columns = ("measure", "site", "checkpoint", "value", "share")
            rows = [
                [[r.get(column) for column in columns] for r in rows_of(shown, table)]
                for shown in (before, both[name])
            ]
            assert rows[0] == rows[1]
    assert {r["shown"] for r in rows_of(both["collapse-cosines"], "cosines")} == {"net: train"}
    subject = Subject.of([rank, series])
    assert subject.sites == Subject.of([rank]).sites
    assert summary(subject, "net") == summary(Subject.of([series]), "net")
    assert not any("conventions" in said for said in tables.page(subject).differences)
    titles = [t.title for s in html._parts(subject)[0] for t in s.tables]
    assert titles[0].startswith("net: NC1 by site, step512, train")
    for name, before in alone.items():
        specs = [{**shown.spec, "datasets": {}} for shown in (before, both[name])]
        assert specs[0] == specs[1]
