"""The sections and the terminal tables of effective features, on runs with planted values."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoprobe.reports import html, tables
from geoprobe.reports.features import POOR, QUALITY, features_tables
from geoprobe.reports.features_frames import TRAINING
from geoprobe.reports.html import write_charts, write_report
from geoprobe.reports.parts import Filled
from geoprobe.reports.subject import Subject
from geoprobe.reports.superposition import summary
from geoprobe.runs.folder import Run
from tests.reports.factory import HOSTILE, make_run
from tests.reports.features_factory import EXACT, NAME, RECOVERED, SITES, make_features_run
from tests.reports.looking import charts_of, in_terminal, on_one_line, rows_of, values_of
from tests.reports.test_html import Document


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_features_run(tmp_path_factory.mktemp("series") / "run")


@pytest.fixture(scope="module")
def charts(series: Run) -> dict[str, Filled]:
    return charts_of(series)


@pytest.fixture(scope="module")
def page(series: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([series], tmp_path_factory.mktemp("page") / "r.html").read_text("utf-8")


ALL = (
    *("features-depth", "features-course", "features-quality"),
    *("features-curve", "features-training"),
)


def test_the_charts_are_these(charts: dict[str, Filled]) -> None:
    assert tuple(charts) == ALL


def test_psi_by_site_is_the_seeds_mean_without_sinks_beside_its_nulls(
    charts: dict[str, Filled],
) -> None:
    chart = charts["features-depth"]
    assert {r["site"] for r in rows_of(chart)} == set(SITES)
    assert values_of(chart, line="this model") == [0.5, 1.0, 2.0]
    assert [r["stderr"] for r in rows_of(chart, line="this model")] == [0.005, 0.01, 0.02]
    assert values_of(chart, line="random model") == [3.0] * 3
    assert values_of(chart, line="Gaussian data") == [1.25] * 3
    assert {r["checkpoint"] for r in rows_of(chart)} == {"step64"}
    assert {(r["convention"], r["n"]) for r in rows_of(chart)} == {("codes", 900)}
    assert chart.heading == f"psi by site · {NAME} · step64 · sinks dropped"


def test_psi_over_training_is_of_the_last_site(charts: dict[str, Filled]) -> None:
    chart = charts["features-course"]
    assert values_of(chart, line="this model") == [0.5, 1.0, 2.0]
    assert {r["site"] for r in rows_of(chart)} == {"final"}
    assert [r["x"] for r in rows_of(chart, line="this model")] == [0, 8, 64]
    assert len(values_of(chart, line="random model")) == 3


def test_sinks_and_the_convention_can_be_chosen(series: Run) -> None:
    subject = Subject.of([series])
    parts, _ = html._parts(subject)
    section = next(s for s in parts if s.name == "features")
    options = {c.name: [o.value for o in c.options] for c in section.controls}
    assert options["sinks"] == ["out", "in"]
    assert options["convention"] == ["codes", "decoder_norm"]
    assert options["site"] == list(SITES)
    assert options["place"] == ["0", "1", "2"]
    initial = {c.name: c.initial for c in section.controls}
    assert (initial["sinks"], initial["convention"]) == ("out", "codes")
    assert (initial["site"], initial["place"]) == ("final", "2")


def test_quality_stands_beside_f(charts: dict[str, Filled]) -> None:
    chart = charts["features-quality"]
    assert {r["measure"] for r in rows_of(chart)} == set(QUALITY.values())
    given = {"line": "this model", "site": "final"}
    for measure, want in (
        *(("effective_features", 200.0), ("saturation", 0.99)),
        *EXACT.items(),
        *((f"loss_recovered {a}", v) for a, v in RECOVERED.items()),
    ):
        (value,) = values_of(chart, measure=QUALITY[measure], **given)
        assert value == pytest.approx(want), measure


def test_the_curve_and_the_training_are_of_the_newest_checkpoint(
    charts: dict[str, Filled],
) -> None:
    curve = rows_of(charts["features-curve"], "curve", site="final")
    assert [(r["samples"], r["value"]) for r in curve] == [(100, 50), (200, 90), (400, 100)]
    training = charts["features-training"]
    for seed in ("0", "1"):
        rows = rows_of(training, "training", site="final", seed=seed)
        held = [r for r in rows if r["measure"] == TRAINING["held_out"]]
        assert [(r["samples"], r["value"]) for r in held] == [
            *((100, 8), (200, 4)),
            (300, pytest.approx(8 / 3, rel=1e-4)),
        ]
        assert [r["kept"] for r in held] == [0, 1, 0]


def test_the_table_has_all_sites_and_the_course(series: Run) -> None:
    newest, course = features_tables(series)
    assert newest.title == (
        f"Effective features by site, step64, {NAME}, sinks dropped: 900 samples"
    )
    last = dict(zip(newest.heads, newest.rows[-1], strict=True))
    assert last == {
        "site": "final",
        "of D": "400",
        "F": "200.0±2.0",
        "psi": "2.000±0.020",
        "random": "3.00",
        "Gaussian": "1.25",
        "L0": "40.00±0.40",
        "expl. var.": "0.8000±0.0080",
        "dead": "0.125",
        "loss rec.": "0.940±0.010",
        "against zeros": "0.970±0.010",
        "F half / F": "0.990",
    }
    assert [row[0] for row in course.rows] == ["step0", "step8", "step64"]
    assert course.rows[-1][1] == "2.000±0.020"
    assert not newest.muted


def test_the_terminal_has_the_values_and_fits_80_columns(series: Run) -> None:
    text = in_terminal(series, width=80)
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.startswith("final"))
    want = ["200", "2.000±0.020", "3.00", "1.25", "40.0", "0.800", "0.125", "0.940"]
    assert row.split()[1:] == want
    assert "RankMe" not in text
    assert text.count("2.000±0.020") == 2


def test_the_headline_is_psi_with_its_error_and_its_nulls(series: Run, page: str) -> None:
    said = summary(Subject.of([series]), "net")
    assert said == (
        "3 checkpoints, step 0 to 64. step64, final: psi is 2.000 ± 0.020 effective features per "
        "dimension (random model 3.00, Gaussian data 1.25); F = 200 of 400, explained variance "
        "0.800."
    )
    figures = page.split('<dl class="figures">')[1].split("</dl>")[0]
    assert "2.000<small> ± 0.020</small>" in figures
    assert "<small> · random model 3.00, Gaussian data 1.25</small>" in figures
    assert "permuted" not in figures


@pytest.mark.parametrize(("gaussian", "near"), [(2.03, True), (2.05, False)])
def test_a_psi_that_is_not_apart_from_a_null_is_said(
    tmp_path: Path, gaussian: float, near: bool
) -> None:
    run = make_features_run(tmp_path / "run", gaussian=gaussian)
    said = summary(Subject.of([run]), "net")
    told = "psi is within two standard errors of that of Gaussian data."
    assert said.endswith(told) == near
    assert ("within" in said) == near


def test_what_explains_too_little_is_set_back_and_hollow(tmp_path: Path) -> None:
    run = make_features_run(tmp_path / "run", poor=("final",))
    newest, course = features_tables(run)
    assert list(newest.muted) == [2]
    assert f"explained variance under {POOR:g}" in newest.note
    assert list(course.muted) == [0, 1, 2]
    chart = charts_of(run)["features-depth"]
    assert [r["poor"] for r in rows_of(chart, line="this model")] == [0, 0, 1]
    assert {r["poor"] for r in rows_of(chart, line="random model")} == {0}
    section = next(s for s in html._parts(Subject.of([run]))[0] if s.name == "features")
    assert "Hollow: explained variance under 0.5" in section.charts[0].caption
    assert summary(Subject.of([run]), "net").endswith("-0.300, so that it means little.")
    text = write_report([run], tmp_path / "r.html").read_text("utf-8")
    assert text.count('<tr class="muted">') == 4


def test_undefined_readings_are_told_and_drawn_nowhere(tmp_path: Path) -> None:
    run = make_features_run(tmp_path / "run", undefined=("final", "block.0"))
    chart = charts_of(run)["features-depth"]
    assert {r["site"] for r in rows_of(chart, line="this model")} == {"block.1"}
    flat = on_one_line(in_terminal(run))
    assert "Undefined (-): no feature is ever active." in flat
    assert "psi is undefined: no feature is ever active." in flat
    write_report([run], tmp_path / "r.html")
    whole = make_features_run(tmp_path / "whole", undefined=SITES, nulls=())
    assert "features-depth" not in charts_of(whole)
    write_report([whole], tmp_path / "w.html")
    assert "psi is undefined" in on_one_line(in_terminal(whole))


def test_one_checkpoint_one_site_and_nothing_beside(tmp_path: Path) -> None:
    run = make_features_run(
        tmp_path / "run",
        steps=(None,),
        sites=("penultimate",),
        seeds=1,
        sinks=("in",),
        nulls=(),
        recovered=False,
        trained=False,
    )
    shown = charts_of(run)
    assert tuple(shown) == ("features-depth", "features-quality", "features-curve")
    assert values_of(shown["features-depth"]) == [2.0 * 1.01 * 1.5]
    assert shown["features-depth"].heading == f"psi by site · {NAME} · model"
    (table,) = features_tables(run)
    assert table.title.endswith(f"model, {NAME}: 1,000 samples")
    assert not {"random", "Gaussian", "loss rec."} & set(table.heads)
    said = summary(Subject.of([run]), "net")
    assert "(random" not in said
    section = next(s for s in html._parts(Subject.of([run]))[0] if s.name == "features")
    assert "No null was measured." in section.charts[0].caption
    assert {c.name for c in section.controls} == {"convention"}
    write_charts([run], tmp_path / "charts", "svg")


def test_loaded_ones_have_no_seed_and_are_chosen_where_a_site_has_several(tmp_path: Path) -> None:
    saes = {"block.0": ["16k", "65k"], "final": ["16k"]}
    run = make_features_run(tmp_path / "run", sites=("block.0", "final"), saes=saes)
    section = next(s for s in html._parts(Subject.of([run]))[0] if s.name == "features")
    (control,) = (c for c in section.controls if c.name == "shown")
    assert control.label == "Autoencoder"
    assert [o.value for o in control.options] == ["16k", "65k"]
    shown = charts_of(run)
    assert values_of(shown["features-depth"], line="this model") == [1.0, 2.0]
    assert "features-training" not in shown
    newest, *courses = features_tables(run)
    assert [row[:2] for row in newest.rows] == [
        *(["block.0", "16k"], ["block.0", "65k"]),
        ["final", "16k"],
    ]
    # Loss recovered is of all tokens: loaded ones are for sinks, too.
    assert "loss recovered against the site's mean, sinks kept." in newest.note
    assert "0.940±0.010" in newest.rows[0]
    assert [t.title for t in courses] == ["Effective features over training, final, 16k"]


def test_ones_of_different_names_one_a_site_are_shown_together(tmp_path: Path) -> None:
    saes = {site: [f"{site}.hook"] for site in SITES}
    run = make_features_run(tmp_path / "run", saes=saes)
    shown = charts_of(run)["features-depth"]
    assert values_of(shown, line="this model") == [0.5, 1.0, 2.0]
    assert shown.heading == "psi by site · one a site · step64 · sinks dropped"
    assert [r["sae"] for r in rows_of(shown, line="this model")] == [saes[s][0] for s in SITES]


def test_many_sites_are_thinned_in_the_terminal_and_coloured_by_depth(tmp_path: Path) -> None:
    sites = [*(f"block.{i}" for i in range(30)), "final"]
    run = make_features_run(tmp_path / "run", steps=(None,), sites=sites)
    text = in_terminal(run, width=80)
    assert "23 more in the report." in text
    assert len(features_tables(run)[0].rows) == 31
    curve = charts_of(run)["features-curve"].spec["layer"][0]["encoding"]["color"]
    assert curve["field"] == "order"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    texts = {}
    for name, word in (("hostile", HOSTILE), ("harmless", "x")):
        word = word.replace("/", "|")
        saes = {"block.0": [word, f"{word}2"], f"neurons.{word}": [word]}
        run = make_features_run(
            tmp_path / name, name="net", sites=tuple(saes), saes=saes, undefined=("block.0",)
        )
        texts[name] = write_report([run], tmp_path / f"{name}.html").read_text("utf-8")
        assert "\x1b" not in in_terminal(run)
    hostile, harmless = (Document(texts[name]) for name in ("hostile", "harmless"))
    assert [t for t, _ in hostile.elements] == [t for t, _ in harmless.elements]
    assert hostile.scripts[1:] == harmless.scripts[1:]
    assert HOSTILE.replace("/", "|") in "".join(hostile.text)


def test_the_same_run_gives_the_same_bytes(series: Run, page: str, tmp_path: Path) -> None:
    again = write_report([Run.open(series.path)], tmp_path / "2.html")
    assert again.read_text("utf-8") == page


def test_every_chart_has_its_static_picture(page: str) -> None:
    for name in ALL:
        figure = page.split(f'<figure id="figure-{name}">')[1].split("</figure>")[0]
        assert '<img src="data:image/' in figure


def test_several_runs_are_chosen_and_leave_each_other_alone(series: Run, tmp_path: Path) -> None:
    rank = make_run(tmp_path / "rank", name="ranked", steps=(0, 8, 64), blocks=1)
    other = make_features_run(tmp_path / "b", name="b", steps=(0, 64), sinks=("in",))
    both = charts_of(rank, series, other)
    assert set(both) == set(charts_of(rank)) | set(ALL)
    assert values_of(both["features-depth"], line="this model") == [0.5, 1.0, 2.0]
    assert {r["run"] for r in rows_of(both["features-depth"])} == {"net"}
    subject = Subject.of([rank, series, other])
    assert summary(subject, "net") == summary(Subject.of([series]), "net")
    assert "RankMe of final" in summary(subject, "ranked")
    section = next(s for s in html._parts(subject)[0] if s.name == "features")
    (control,) = (c for c in section.controls if c.name == "shown")
    assert (control.label, [o.value for o in control.options]) == ("Run", ["net", "b"])
    # A run that cannot tell sinks is there under either choice.
    frame = html._parts(subject)[1]["features_values"]
    assert set(frame.filter(frame["run"] == "b")["sinks"]) == {"in", "out"}
    titles = [t.title for s in html._parts(subject)[0] for t in s.tables]
    assert titles[0].startswith("net: Effective features by site, step64")
    assert tables.page(subject).figures[-1][0] == "b"
