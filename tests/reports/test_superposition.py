"""The sections and the terminal tables of superposition, on runs with planted values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoprobe.measures.superposition import PLATEAUS
from geoprobe.reports import html, superposition_frames
from geoprobe.reports.html import write_charts, write_report
from geoprobe.reports.parts import Filled
from geoprobe.reports.subject import Subject
from geoprobe.reports.superposition import ACTIVATIONS, WEIGHTS, summary, superposition_tables
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading
from tests.reports.browser import CHROMIUM, Browser
from tests.reports.factory import HOSTILE, make_run
from tests.reports.features_factory import make_features_run
from tests.reports.looking import charts_of, in_terminal, on_one_line, rows_of, values_of
from tests.reports.test_chromium import DRAWN, EMPTY
from tests.reports.test_html import Document

MATRICES = ("embedding", "mlp.in.0", "mlp.in.1", "mlp.out.0", "mlp.out.1", "unembedding")
SITES = ("embed", "block.0", "block.1", "final", "neurons.0", "neurons.1")
GIVEN = {
    "dimensionality": 0.25,
    "dimensionality_sum": 25.0,
    "matrix_rank": 32.0,
    "interference": 0.04,
    "welch_bound": 0.0225,
    "coherence": 0.8,
    "row_norm": 1.5,
}
NULL = {"dimensionality": 0.3, "interference": 0.03125}
BASES = {"kurtosis": 4.0, "privileged_basis": 2.0}
ROTATED = {"kurtosis": 0.5, "privileged_basis": 1.25}


def make_superposition_run(
    path: Path,
    *,
    name: str = "models/net",
    steps: Sequence[int | None] = (0, 8, 64),
    matrices: Sequence[str] = MATRICES,
    sites: Sequence[str] = SITES,
    plateau: str = "",
    undefined: bool = False,
    pairs: Sequence[str] = (" the", " The"),
) -> Run:
    """A run as `geoprobe superposition` would leave it; of two digons, where a plateau is named."""
    labels = [f"step{step}" if step is not None else "model" for step in steps]
    entries = [
        {"label": label, "step": step, "tokens": None, "stage": None, "fingerprint": ""}
        for label, step in zip(labels, steps, strict=True)
    ]
    header = {
        "schema": "geoprobe.run/1",
        "command": "superposition",
        "options": {"probes": ["superposition"], "seed": 0},
        "corpus": {"source": "synthetic", "sequences": 100},
        "environment": {"dtype": "float32", "libraries": {}},
        "series": {"arguments": [name], "checkpoints": entries},
    }
    with Run.create(path, header) as run:
        for index, entry in enumerate(entries):
            readings: list[Reading] = []
            findings: list[dict[str, Any]] = []
            arrays: dict[str, np.ndarray] = {}
            factor = 2.0 ** (index - len(entries) + 1)
            for matrix in matrices:
                readings += _of_weights(matrix, factor, undefined)
                counts = np.zeros(200, dtype=np.int64)
                counts[[40, 41, 100]] = (50, 25, 25)
                arrays[f"superposition/{matrix}/dimensionality_counts"] = counts
                findings += _findings(matrix, matrix == plateau, pairs)
            for site in sites:
                readings += _of_activations(site, factor)
            at = {"checkpoint": entry["label"]}
            readings = [replace(r, checkpoint=str(entry["label"])) for r in readings]
            run.write_checkpoint(entry, readings, [{**f, **at} for f in findings], arrays)
    return run


def _of_weights(matrix: str, factor: float, undefined: bool) -> list[Reading]:
    found = []
    for rows, values in (("given", GIVEN), ("gaussian", NULL)):
        for measure, value in values.items():
            missing = undefined and measure in ("interference", "coherence")
            planted = value * factor if measure == "dimensionality" and rows == "given" else value
            found.append(
                Reading(
                    *("", "superposition", measure, matrix, {"of": "weights", "rows": rows}),
                    *(None if missing else planted, None, 100),
                    reason="fewer than two rows are not zero" if missing else "of the weights",
                )
            )
    if matrix.startswith("mlp.in"):
        keys = {"of": "weights", "rows": "given"}
        found.append(Reading("", "superposition", "in_out_cosine", matrix, keys, -0.125, None, 100))
    for convention, value in (("raw", 2.25), ("unit_rows", 3.125)):
        keys = {"of": "weights", "rows": "given"}
        for measure, own in (("frobenius_psi", value), ("dimensions_per_feature", 1 / value)):
            found.append(
                Reading("", "superposition", measure, matrix, keys, own, None, 100, convention)
            )
    return found


def _of_activations(site: str, factor: float) -> list[Reading]:
    found = []
    for basis, values in (("given", BASES), ("rotated", ROTATED)):
        for measure, value in values.items():
            keys = {"of": "activations", "tokens": "all", "basis": basis}
            own = value * factor if basis == "given" else value
            error = abs(own) / 100 if basis == "given" else None
            found.append(Reading("", "superposition", measure, site, keys, own, error, 5000))
    return found


def _findings(matrix: str, gathers: bool, pairs: Sequence[str]) -> list[dict[str, Any]]:
    tokens = {"token_ids": [3, 5], "tokens_text": list(pairs)} if "embedding" in matrix else {}
    found = [{"kind": "closest", "site": matrix, "cosine": 0.8, "rows": [3, 5], **tokens}]
    if gathers:
        found.append(
            {
                "kind": "plateau",
                "site": matrix,
                "plateau": "digon",
                "dimensionality": 0.5,
                "share": 0.25,
                "message": f"{matrix}: 25% of 100 features have within 0.02 of 0.5 dimensions.",
            }
        )
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("series") / "run"
    return make_superposition_run(path, plateau="mlp.out.1")


@pytest.fixture(scope="module")
def charts(series: Run) -> dict[str, Filled]:
    return charts_of(series)


@pytest.fixture(scope="module")
def page(series: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([series], tmp_path_factory.mktemp("page") / "r.html").read_text("utf-8")


ALL = (
    *("superposition-features", "superposition-depth", "superposition-course"),
    *("bases-depth", "bases-course"),
)


def test_the_charts_are_these(charts: dict[str, Filled]) -> None:
    assert tuple(charts) == ALL


def test_the_histogram_is_of_the_matrix_where_features_gather(charts: dict[str, Filled]) -> None:
    chart = charts["superposition-features"]
    bars = rows_of(chart, "bars")
    # Of a hundred features bins are wider: four of the run's 200 in one.
    assert [(r["low"], r["high"], r["features"]) for r in bars] == [
        *((0.2, 0.22, 75), (0.5, 0.52, 25))
    ]
    assert {r["site"] for r in bars} == {"mlp.out.1"}
    assert {r["what"]: r["value"] for r in rows_of(chart, "means")} == {
        "mean": 0.25,
        "mean of Gaussian rows": 0.3,
    }
    assert [(r["value"], r["said"]) for r in rows_of(chart, "gathered")] == [(0.5, "25 % here")]
    assert chart.heading == "Dimensions of each feature · mlp.out.1 · step64"


def test_every_plateau_is_named(charts: dict[str, Filled]) -> None:
    chart = charts["superposition-features"]
    named = {r["value"]: r["name"] for r in rows_of(chart, "plateaus")}
    assert set(named) == set(PLATEAUS.values())
    assert named[2 / 5] == "2/5 pentagon"
    drawn = str(chart.spec["layer"])
    assert all(name in drawn for name in named.values())


def test_matrices_stand_by_layer_with_nulls_and_bounds(charts: dict[str, Filled]) -> None:
    chart = charts["superposition-depth"]
    assert {r["kind"] for r in rows_of(chart)} == {"embedding", "unembedding", "mlp.in", "mlp.out"}
    places = [r["place"] for r in rows_of(chart, measure=WEIGHTS["dimensionality"], line="given")]
    assert places == ["embedding", "0", "1", "0", "1", "unembedding"]
    for measure, line, want in (
        ("dimensionality", "given", 0.25),
        ("dimensionality", "null", 0.3),
        ("dimensionality_sum", "given", 25.0),
        ("dimensionality_sum", "bound", 32.0),
        ("interference", "null", 0.03125),
        ("interference", "bound", 0.0225),
        ("coherence", "given", 0.8),
        ("coherence", "bound", math.sqrt(0.0225)),
    ):
        found = values_of(chart, site="mlp.out.1", measure=WEIGHTS[measure], line=line)
        assert found == [pytest.approx(want)], (measure, line)
    assert {r["checkpoint"] for r in rows_of(chart)} == {"step64"}
    x = chart.spec["spec"]["layer"][0]["encoding"]["x"]
    assert x["sort"] == ["embedding", "0", "1", "unembedding"]


def test_bases_stand_by_layer_with_the_rotated_ones(charts: dict[str, Filled]) -> None:
    chart = charts["bases-depth"]
    assert {r["kind"] for r in rows_of(chart)} == {"residual stream", "neurons"}
    for measure, want in BASES.items():
        at = {"site": "neurons.1", "measure": ACTIVATIONS[measure]}
        assert values_of(chart, **at, line="given") == [want]
        assert [r["stderr"] for r in rows_of(chart, **at, line="given")] == [want / 100]
        assert values_of(chart, **at, line="null") == [ROTATED[measure]]


def test_one_matrix_and_one_site_over_training(charts: dict[str, Filled]) -> None:
    course = charts["superposition-course"]
    assert {r["site"] for r in rows_of(course)} == {"mlp.out.1"}
    mean = {"measure": WEIGHTS["dimensionality"], "line": "given"}
    assert values_of(course, **mean) == [0.0625, 0.125, 0.25]
    bases = charts["bases-course"]
    assert {r["site"] for r in rows_of(bases)} == {"neurons.1"}
    assert values_of(bases, measure=ACTIVATIONS["kurtosis"], line="given") == [1, 2, 4]


def test_the_tables_are_by_kind(series: Run) -> None:
    titles = [t.title for t in superposition_tables(series)]
    assert titles == [
        "Features in the rows of the weights, step64",
        "Features in the rows of mlp.in, step64",
        "Features in the rows of mlp.out, step64",
        "Coordinates of the activations, step64",
        "Superposition over training: weights mlp.out.1 and activations neurons.1",
    ]
    single, inputs, outputs, bases, course = superposition_tables(series)
    assert [row[0] for row in single.rows] == ["embedding", "unembedding"]
    row = inputs.rows[-1]
    want = ["mlp.in.1", "0.250", "0.300", "25.0", "32", "0.0400", "0.0312", "0.0225", "0.800"]
    assert row[:9] == want
    assert row[9:] == ["1.50", "-0.125", "2.25", "3.12", "3 and 5"]
    assert "cos(in, out)" not in outputs.heads
    assert single.rows[0][-1] == "' the' and ' The'"
    assert "mlp.out.1: 25% of 100 features" in outputs.note
    assert bases.rows[-1] == ["neurons.1", "4.000±0.040", "0.500", "2.000±0.020", "1.25"]
    assert [row[0] for row in course.rows] == ["step0", "step8", "step64"]
    assert [row[1] for row in course.rows] == ["0.0625", "0.125", "0.250"]


def test_the_terminal_fits_80_columns_and_says_no_rankme(series: Run) -> None:
    text = in_terminal(series, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "RankMe" not in text
    assert "closest" not in text
    assert "mlp.out.1: 25% of 100 features" in on_one_line(text)


def test_the_headline_has_dimensions_and_bases_with_their_nulls(series: Run, page: str) -> None:
    assert summary(Subject.of([series]), "net") == (
        "3 checkpoints, step 0 to 64. step64: a feature has 0.250 dimensions on average in "
        "mlp.out.1 (0.300 of Gaussian rows) and 0.250 on average in embedding (0.300 of Gaussian "
        "rows); the top 1 % of coordinates of neurons.1 have 2.000 ± 0.020 times the variance of "
        "random ones (1.25 by chance); features gather at plateaus in 1 matrix."
    )
    figures = page.split('<dl class="figures">')[1].split("</dl>")[0]
    assert "4.000<small> ± 0.040</small><small> · rotated 0.500</small>" in figures
    assert "<small> · Gaussian rows 0.300</small>" in figures


def test_undefined_readings_are_told_and_drawn_nowhere(tmp_path: Path) -> None:
    run = make_superposition_run(tmp_path / "run", undefined=True)
    chart = charts_of(run)["superposition-depth"]
    drawn = {r["measure"] for r in rows_of(chart, line="given")}
    assert not {WEIGHTS["interference"], WEIGHTS["coherence"]} & drawn
    assert "Undefined (-): fewer than two rows are not zero." in on_one_line(in_terminal(run))
    write_report([run], tmp_path / "r.html")


def test_one_checkpoint_and_weights_or_activations_alone(tmp_path: Path) -> None:
    weights = make_superposition_run(
        tmp_path / "w", steps=(None,), sites=(), matrices=("fc1.weight", "fc2.weight.T")
    )
    shown = charts_of(weights)
    assert tuple(shown) == ("superposition-features", "superposition-depth")
    assert {r["kind"] for r in rows_of(shown["superposition-depth"])} == {"weights"}
    assert {r["place"] for r in rows_of(shown["superposition-depth"])} == {
        *("fc1.weight", "fc2.weight.T")
    }
    assert "0.250 dimensions on average in fc2.weight.T" in summary(Subject.of([weights]), "net")
    alone = make_superposition_run(tmp_path / "a", steps=(None,), matrices=(), sites=("block.0",))
    assert tuple(charts_of(alone)) == ("bases-depth",)
    assert "coordinates of block.0" in summary(Subject.of([alone]), "net")
    for run in (weights, alone):
        in_terminal(run)
        write_charts([run], tmp_path / f"charts-{run.path.name}", "svg")


def test_too_many_bars_leave_the_newest_checkpoint(
    series: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superposition_frames, "MOST_BARS", 20)
    chart = charts_of(series)["superposition-features"]
    assert {r["checkpoint"] for r in rows_of(chart, "bars")} == {"step64"}
    section = next(s for s in html._parts(Subject.of([series]))[0] if s.name == "superposition")
    assert "place" not in section.charts[0].sources["bars"].controls
    assert chart.heading.endswith("newest checkpoint")


def test_a_deep_model_is_thinned_in_the_terminal_alone(tmp_path: Path) -> None:
    run = make_superposition_run(
        tmp_path / "run",
        steps=(None,),
        matrices=[f"mlp.out.{i}" for i in range(30)],
        sites=[f"neurons.{i}" for i in range(30)],
    )
    text = in_terminal(run)
    assert "8 of 30 matrices; the report has all." in text
    assert "22 more sites in the report." in text
    assert len(superposition_tables(run)[0].rows) == 30
    axis = charts_of(run)["superposition-depth"].spec["spec"]["layer"][0]["encoding"]["x"]["axis"]
    assert len(axis["values"]) <= 8


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    texts = {}
    for name, word in (("hostile", HOSTILE), ("harmless", "x")):
        word = word.replace("/", "|")
        run = make_superposition_run(
            tmp_path / name,
            name="net",
            matrices=("embedding", word),
            sites=(word, "block.0"),
            plateau=word,
            pairs=(word, word),
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
    features = make_features_run(tmp_path / "features", name="featured")
    other = make_superposition_run(tmp_path / "b", name="b", matrices=("embedding", "mlp.out.0"))
    both = charts_of(rank, features, series, other)
    assert set(both) == set(charts_of(rank)) | set(charts_of(features)) | set(ALL)
    for name in ("superposition-depth", "superposition-course", "bases-depth", "bases-course"):
        assert {r["run"] for r in rows_of(both[name])} == {"net"}, name
    subject = Subject.of([rank, features, series, other])
    assert summary(subject, "net") == summary(Subject.of([series]), "net")
    for name, section in ((s.name, s) for s in html._parts(subject)[0]):
        if name in ("superposition", "bases"):
            (control,) = (c for c in section.controls if c.name == "run")
            assert [o.value for o in control.options] == ["net", "b"]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")
def test_every_choice_draws_something_and_quietly(tmp_path: Path) -> None:
    runs = [
        make_superposition_run(tmp_path / "s", name="s", steps=(0, 8), plateau="mlp.out.1"),
        make_features_run(tmp_path / "f", name="f", steps=(0, 8)),
    ]
    with Browser(tmp_path / "profile") as browser:
        browser.open(write_report(runs, tmp_path / "r.html"), until=DRAWN)
        assert browser.evaluate(EMPTY) == []
        assert browser.complaints == []
