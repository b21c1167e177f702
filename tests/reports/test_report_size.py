"""How a report stays one small file: numbers packed without loss of what is promised, and thinned.

`python -m benchmarks report` writes the report of a run of full size.
"""

from __future__ import annotations

import base64
import gc
import json
import math
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import report as benchmark
from geoprobe.reports import (
    collapse_frames,
    embed,
    html,
    painter,
    pictures,
    superposition_frames,
    theme,
    thinning,
)
from geoprobe.reports.html import render, write_report
from geoprobe.reports.parts import filled, rows
from geoprobe.reports.subject import Subject
from geoprobe.reports.thinning import fewer_steps, kept_readings
from tests.reports.browser import Browser
from tests.reports.factory import HOSTILE, make_run
from tests.reports.test_chromium import DRAWN, EMPTY
from tests.reports.test_html import Document, _columns, _data

numbers = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 9.99996, 0.99999999, 1e-300, -1e300, 5e-324, 123456.5]),
    st.floats(-1e300, 1e300),
    st.floats(0.5, 2.0),
)


def _unpacked(frame: pl.DataFrame, digits: dict[str, int]) -> dict[str, list[Any]]:
    blob = embed.Blob()
    document = {"tables": {"t": embed.dense(frame, blob, digits)}}
    table = embed.unpacked(embed.packed(document, blob))["tables"]["t"]
    assert table["rows"] == frame.height
    return _columns(table)


# --- packed tables -----------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None, HOSTILE]),
            st.sampled_from([None, 0, 7, -3]),
            st.integers(0, 5),
            st.sampled_from([None, 0.5, 1e9]),
            numbers,
        ),
        max_size=60,
    ),
    st.integers(1, 6),
)
def test_packed_tables_keep_all_but_the_last_digits(table: list[Any], digits: int) -> None:
    schema = {"site": pl.String, "k": pl.Int64, "index": pl.Int64, "x": pl.Float64}
    frame = pl.DataFrame(table, schema={**schema, "value": pl.Float64}, orient="row")
    found = _unpacked(frame, {"value": digits})
    for name in schema:
        assert found[name] == frame[name].to_list()
    for got, want in zip(found["value"], frame["value"].to_list(), strict=True):
        if want is None:
            assert got is None
        else:
            tolerance = 0.500001 * 10.0 ** (1 - digits)
            assert math.isclose(got, want, rel_tol=tolerance, abs_tol=0)


def test_packed_numbers_are_the_nearest_of_so_many_digits() -> None:
    values = np.random.default_rng(0).normal(size=5000) * 10.0 ** np.arange(-9, 11).repeat(250)
    frame = pl.DataFrame({"site": [str(i % 7) for i in range(5000)], "value": values})
    for digits in (2, 4, 6):
        got = _unpacked(frame, {"value": digits})["value"]
        assert got == [float(f"{value:.{digits - 1}e}") for value in values]


def test_an_empty_table_is_packed_too() -> None:
    frame = pl.DataFrame(schema={"run": pl.String, "value": pl.Float64})
    assert _unpacked(frame, {"value": 4}) == {"run": [], "value": []}
    assert _unpacked(frame.drop("run"), {"value": 4}) == {"value": []}


def test_few_readings_are_exact_and_many_have_the_digits_that_are_said() -> None:
    frame = pl.DataFrame({"site": ["a", "a"], "value": [1 / 3, None], "stderr": [1 / 7, 2e-9]})
    assert embed.digits_of(embed.MOST_EXACT) is None
    digits = [embed.digits_of(n) for n in (embed.MOST_EXACT + 1, 250_001, 10**7)]
    assert digits == [(6, 3), (4, 2), (4, 2)]
    blob = embed.Blob()
    plain = _columns(embed.readings_columns(frame, blob))
    assert plain == {name: frame[name].to_list() for name in plain}
    assert blob.bytes() == b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "MOST_EXACT", 1)
        table = embed.readings_columns(frame, blob)
        packed = embed.packed({"tables": {"t": table}}, blob)
    found = _columns(embed.unpacked(packed)["tables"]["t"])
    assert found == {"site": ["a", "a"], "value": [0.333333, None], "stderr": [0.143, 2e-9]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a small run passes."""
    monkeypatch.setattr(embed, "MOST_EXACT", 1)
    monkeypatch.setattr(embed, "DIGITS", ((10**9, 4, 2),))
    monkeypatch.setattr(embed, "MOST_PLAIN", 1)


@pytest.mark.usefixtures("small")
def test_the_page_reads_packed_tables_as_python_does(browser: Browser, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", steps=(0, 4, 64), blocks=1, width=30, ablate=(5,), sinks=("in", "out")
    )
    file = write_report([run], tmp_path / "r.html")
    columns = _columns(_data(file.read_text("utf-8"))["tables"]["readings"])
    assert any(value is None for value in columns["value"])  # an undefined reading is there
    browser.open(file, until=DRAWN)
    shown: list[list[str]] = []
    table = "document.querySelector('#table-of-readings')"
    heads = browser.evaluate(f"[...{table}.querySelectorAll('thead th')].map(t => t.textContent)")
    while True:
        shown += browser.evaluate(
            f"[...{table}.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => "
            "c.textContent))"
        )
        if browser.evaluate(f"{table}.querySelector('[data-page=\"1\"]').disabled"):
            break
        browser.evaluate(f"{table}.querySelector('[data-page=\"1\"]').click()")
    assert len(shown) == run.readings.height
    for name in ("checkpoint", "measure", "site", "sinks", "k", "mode", "n", "reason"):
        got = [row[heads.index(name)] for row in shown]
        assert got == ["" if v is None else str(v) for v in columns[name]], name
    for name in ("value", "stderr"):
        got = [row[heads.index(name)] for row in shown]
        assert [float(v) if v else None for v in got] == columns[name]
    assert browser.evaluate(EMPTY) == []
    assert browser.complaints == []


# --- thinned tables ----------------------------------------------------------------------------


def _readings(runs: int, checkpoints: int, heads: int) -> pl.DataFrame:
    """One measure of a model, one of each head, and one by that name of none."""
    return pl.DataFrame(
        [
            {"run": f"run {r}", "index": i, "measure": m, "head": h, "value": float(i)}
            for r in range(runs)
            for i in range(checkpoints)
            for m, h in [("rankme", None), ("mass", None), *(("mass", h) for h in range(heads))]
        ],
        schema_overrides={"head": pl.Int64},
    )


def test_all_readings_are_kept_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = _readings(1, 60, 30)
    assert kept_readings(frame, ["head"]) == thinning.Kept(frame, "")
    monkeypatch.setattr(thinning, "MOST_READINGS", frame.height)
    assert kept_readings(frame, ["head"]).table is frame


@pytest.mark.parametrize("runs", [1, 2])
def test_large_kinds_are_kept_for_some_checkpoints_of_each_run(
    monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    frame = _readings(runs, 60, 30)
    monkeypatch.setattr(thinning, "MOST_READINGS", runs * (60 * 2 + 24 * 30))
    kept = kept_readings(frame, ["head"])
    assert kept.table.height == thinning.MOST_READINGS
    assert f"{kept.table.height:,} of {frame.height:,} readings are here" in kept.said
    assert "of mass those of 24 checkpoints" in kept.said
    assert "others" not in kept.said
    assert kept.table.filter(pl.col("head").is_null()).height == runs * 60 * 2
    for name in frame["run"].unique():
        of_heads = kept.table.filter(pl.col("head").is_not_null(), run=name)
        steps = of_heads["index"].unique().sort().to_list()
        assert (steps[0], steps[-1], len(steps)) == (0, 59, 24)
        assert max(np.diff(steps)) - min(np.diff(steps)) <= 1
    # In the order in which they were.
    assert kept.table.equals(frame.join(kept.table, on=frame.columns, how="semi", nulls_equal=True))


def test_where_that_is_not_enough_all_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = _readings(1, 200, 30)
    monkeypatch.setattr(thinning, "MOST_READINGS", 400)
    kept = kept_readings(frame, ["head"])
    assert kept.table.height <= 400
    assert "of mass those of 6 checkpoints, of others those of 75 checkpoints" in kept.said
    assert kept.table.filter(measure="rankme").height == 75


def test_what_a_page_leaves_out_is_said_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", steps=tuple(range(40)), blocks=1)
    whole = render(Subject.of([run]))
    assert "To keep this file small" not in whole
    monkeypatch.setattr(thinning, "MOST_READINGS", run.readings.height // 2)
    monkeypatch.setattr(embed, "MOST_EXACT", 1)
    text = render(Subject.of([run]))
    kept = _data(text)["tables"]["readings"]["rows"]
    assert kept <= run.readings.height // 2
    words = " ".join(Document(text).text)
    assert f"{kept:,} of {run.readings.height:,} readings are here; of " in words
    assert "Values have 6 significant digits here, and standard errors 3." in words
    assert f"The {kept} readings are in this file" in words


def test_long_tables_are_stepped_through_at_some_checkpoints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = benchmark.make_scan_run(tmp_path / "run", 30, 2, 2)
    subject = Subject.of([run])
    parts, tables = html._parts(subject)
    assert fewer_steps(parts, tables) == (parts, tables)
    monkeypatch.setattr(thinning, "MOST_STEPPED", tables["sink_strip"].height - 1)
    fewer, cut = fewer_steps(parts, tables)
    long = {name for name, frame in tables.items() if frame.height > thinning.MOST_STEPPED}
    assert "sink_strip" in long
    for name, frame in tables.items():
        if name in ("readings", "superposition_values") or name not in long:
            assert cut[name].equals(frame), name  # the course of training needs them all
        else:
            steps = cut[name]["index"].unique().sort().to_list()
            assert (steps[0], steps[-1], len(steps)) == (0, 29, 24), name
    before, after = (next(p for p in s if p.name == "attention-sinks") for s in (parts, fewer))
    (control,) = (c for c in after.controls if c.name == "place")
    assert (control.chosen.label, control.position) == (run.labels[-1], 23)
    assert "24 of 30 checkpoints can be stepped to" in after.charts[0].caption
    assert len(after.charts) == len(before.charts)
    # There is something to see at every step.
    strip = next(c for c in after.charts if c.name == "sink-strip")
    counts = cut["sink_strip"].group_by("index").len()["len"]
    assert len(rows(strip, after, cut, {})["strip"]) == counts[0] == counts.min() == counts.max()


# --- pictures ----------------------------------------------------------------------------------


def _png(picture: str) -> np.ndarray:
    data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def _chart(colours: int) -> dict[str, Any]:
    data = [{"a": i % 40, "b": i // 40, "c": i / colours} for i in range(colours)]
    chart = alt.Chart(alt.InlineData(data)).mark_rect()
    colour = alt.Color("c:Q", scale=alt.Scale(scheme="viridis"))
    spec: dict[str, Any] = chart.encode(x="a:O", y="b:O", color=colour).to_dict()
    return spec


@pytest.mark.parametrize("colours", [4, 1000])
def test_a_png_is_the_same_to_the_eye_and_smaller(colours: int) -> None:
    whole = theme.picture(_chart(colours), marks=501, width=300)
    lean = pictures.lean(whole)
    assert len(lean) < 0.6 * len(whole)
    difference = np.abs(_png(lean) - _png(whole))
    assert difference.max() <= 16
    assert difference.mean() < 1
    white = (_png(whole) == 255).all(axis=2)
    assert (_png(lean)[white] == 255).all()


def test_an_svg_draws_the_same_and_is_smaller() -> None:
    from vl_convert import svg_to_png

    spec = _chart(40)
    spec["title"] = ' class="x" opacity="1" 1.23456 & <b>'
    whole = theme.picture(spec, marks=40, width=300)
    lean = pictures.lean(whole)
    assert len(lean) < 0.8 * len(whole)
    texts = [base64.b64decode(p.split(",")[1]).decode() for p in (whole, lean)]
    assert "1.23456 &amp; &lt;b&gt;" in texts[1]
    assert "prefers-color-scheme:dark" in texts[1]
    drawn = [
        np.asarray(Image.open(BytesIO(svg_to_png(text))).convert("RGBA")).astype(int)
        for text in texts
    ]
    assert drawn[0].shape == drawn[1].shape
    assert np.abs(drawn[0] - drawn[1]).max() <= 2  # a thousandth of a pixel


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], int]]:
    """Charts of every probe of a scan, with the width of their pictures."""
    run = benchmark.make_scan_run(tmp_path_factory.mktemp("run") / "run", 5, 3, 2)
    subject = Subject.of([run])
    parts, tables = html._parts(subject)
    return {
        chart.name: (filled(chart, section, tables, subject).spec, chart.width)
        for section in parts
        for chart in section.charts
    }


def test_a_picture_is_the_same_without_what_it_does_not_show(
    monkeypatch: pytest.MonkeyPatch, shown: dict[str, tuple[dict[str, Any], int]]
) -> None:
    assert len(shown) > 20
    lean = {name: theme.svg(*chart) for name, chart in shown.items()}
    for spec, _ in shown.values():
        seen = theme._seen(spec)
        assert "tooltip" in json.dumps(spec)
        assert "tooltip" not in json.dumps(seen)
        assert len(json.dumps(seen)) < 0.9 * len(json.dumps(spec))
    monkeypatch.setattr(theme, "_seen", lambda spec: spec)
    for name, chart in shown.items():
        assert theme.svg(*chart) == lean[name], name


def test_pngs_are_drawn_without_layers_to_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, shown: dict[str, tuple[dict[str, Any], int]]
) -> None:
    for name in ("spectra", "superposition-depth", "collapse-nc2", "heatmap"):
        spec, width = shown[name]
        plain, fast = [], theme.picture(spec, marks=501, width=width)
        with monkeypatch.context() as patch:
            patch.setattr(theme, "_without_layer", lambda shape: shape[0])
            patch.setattr(theme, "_HIDDEN", re.compile("(?!)"))
            plain = theme.picture(spec, marks=501, width=width)
        difference = np.abs(_png(fast) - _png(plain))
        assert difference.max() <= 16, name
        assert difference.mean() < 0.1, name


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ('<path d="M0" stroke="#000" opacity="0.3"/>', "stroke-opacity"),
        ('<path fill="#000" stroke-width="2" opacity="0.3"/>', "fill-opacity"),
        ('<path fill="#000" stroke="#000" opacity="0.3"/>', None),
        ('<path fill="#000" fill-opacity="0.5" opacity="0.3"/>', None),
        ('<path d="M0" opacity="0.3"/>', None),
    ],
)
def test_only_shapes_of_one_colour_lose_their_layer(tag: str, wanted: str | None) -> None:
    changed = tag if wanted is None else tag.replace(" opacity", f" {wanted}")
    assert theme._SHAPE.sub(theme._without_layer, tag) == changed


def test_any_other_picture_stays_as_it_is() -> None:
    assert pictures.lean("data:,x") == "data:,x"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    stream = BytesIO()
    noise.save(stream, "png")
    foreign = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    assert pictures.lean(foreign) == foreign


# --- time --------------------------------------------------------------------------------------


def test_the_collector_is_as_before_also_after_a_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", steps=(0, 1), blocks=1)
    collecting = []
    monkeypatch.setattr(html, "render", lambda *given: collecting.append(gc.isenabled()) or "")
    write_report([run], tmp_path / "r.html")
    assert (collecting, gc.isenabled()) == ([False], True)
    monkeypatch.setattr(html, "render", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report([run], tmp_path / "r.html")
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            write_report([run], tmp_path / "r.html")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_some_rows_tell_where_a_table_is_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embed, "MOST_PLAIN", 1)
    draw = np.random.default_rng(0)
    walk = np.cumsum(draw.normal(0, 0.001, (200, 30)), 0) + 5
    many = pl.DataFrame(
        {
            "index": np.repeat(np.arange(200), 30),
            "site": [f"block.{i}" for i in range(30)] * 200,
            "value": walk.reshape(-1),
        }
    )
    few = pl.DataFrame({"index": [0] * 6000, "value": [0.5, 0.25] * 3000})
    for frame, dense in ((many, True), (few, False)):
        for tried in (10, 100, 10**6):
            monkeypatch.setattr(embed, "TRIED", tried)
            blob = embed.Blob()
            assert ("what" in embed.chart_columns(frame, blob, 10)) == dense
            assert bool(blob.bytes()) == dense


# --- growth ------------------------------------------------------------------------------------


def _scaled(patch: pytest.MonkeyPatch, checkpoints: int) -> None:
    """Limits in the same proportion to a run of so many checkpoints as theirs to one of 150."""
    share = checkpoints / 150
    patch.setattr(embed, "MOST_EXACT", 1)
    patch.setattr(embed, "DIGITS", ((10**9, *embed.DIGITS[-1][1:]),))
    patch.setattr(embed, "MOST_PLAIN", 400)
    patch.setattr(thinning, "MOST_READINGS", int(600_000 * share))
    patch.setattr(thinning, "LADDER", ((round(24 * share), 0),))
    patch.setattr(thinning, "MOST_STEPPED", int(40_000 * share))
    patch.setattr(thinning, "MOST_STEPS", round(24 * share))
    patch.setattr(collapse_frames, "MOST_CELLS", int(40_000 * share))
    patch.setattr(collapse_frames, "MOST_POINTS", int(20_000 * share))
    patch.setattr(superposition_frames, "MOST_BARS", int(60_000 * share))


def test_a_report_of_150_checkpoints_and_33_layers_stays_below_5_mb(tmp_path: Path) -> None:
    """Pictures and words of a short run, and its growth with a longer one.

    The benchmark writes the long one: 4.4 MB.
    """
    sizes = {}
    for checkpoints in (12, 25):
        run = benchmark.make_scan_run(tmp_path / str(checkpoints), checkpoints, 33, 32)
        with pytest.MonkeyPatch.context() as patch:
            _scaled(patch, checkpoints)
            if checkpoints == 25:  # only data grow; pictures take long
                patch.setattr(painter, "LEAST_BYTES", 10**9)
                patch.setattr(painter, "picture", lambda drawing: "data:,")
            sizes[checkpoints] = benchmark.weighed(render(Subject.of([run])))
    growth = (sizes[25]["data"] - sizes[12]["data"]) / 13
    fixed = sizes[12]["size"] - sizes[12]["data"]
    assert 5_000 < growth < 20_000, sizes
    assert fixed + sizes[12]["data"] + (150 - 12) * growth < benchmark.MOST_BYTES, sizes


def test_what_is_drawn_early_is_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a page has fewer readings, and fewer checkpoints to step to."""
    run = benchmark.make_scan_run(tmp_path / "run", 12, 6, 8)
    monkeypatch.setattr(thinning, "MOST_READINGS", run.readings.height // 2)
    monkeypatch.setattr(thinning, "LADDER", ((6, 6),))
    monkeypatch.setattr(thinning, "MOST_STEPPED", 100)
    monkeypatch.setattr(thinning, "MOST_STEPS", 5)
    monkeypatch.setattr(painter, "LEAST_BYTES", 10**9)
    monkeypatch.setattr(painter, "picture", lambda drawing: "data:,")
    begun: list[dict[str, painter.Drawing]] = []
    begin = painter.Painter.begin
    monkeypatch.setattr(
        painter.Painter, "begin", lambda self, given: begun.append(given) or begin(self, given)
    )
    page = render(Subject.of([run]))
    assert "readings are here" in page
    assert "checkpoints can be stepped to" in page
    early, all_ = begun
    assert {"training-rankme", "heatmap", "spectra", "others", "profile"} <= early.keys()
    assert early.keys() < all_.keys()
    assert early == {name: all_[name] for name in early}
    assert page.count('<img src="data:,"') == len(all_)


def test_readings_of_full_size_fit(tmp_path: Path) -> None:
    wanted = list(benchmark.whats(33, 32))
    draw = np.random.default_rng(0)
    values, errors = benchmark._wander(draw, wanted, 150)
    keys = sorted({name for what in wanted for name in what.keys})
    error = [what.error for what in wanted]
    frame = pl.concat(
        pl.DataFrame(
            {
                "run": "run",
                "checkpoint": f"step-{index}",
                "index": index,
                "x": float(index),
                "measure": [what.measure for what in wanted],
                "site": [what.site for what in wanted],
                **{
                    key: [None if (k := w.keys.get(key)) is None else str(k) for w in wanted]
                    for key in keys
                },
                "value": values[index],
                "stderr": np.where(error, errors[index], np.nan),
                "n": [what.n for what in wanted],
                "convention": [what.convention for what in wanted],
            },
            schema_overrides=dict.fromkeys(keys, pl.String),
        ).with_columns(pl.col("stderr").fill_nan(None))
        for index in range(150)
    )
    assert frame.height > 1_200_000
    kept = kept_readings(frame, keys)
    assert kept.table.height <= thinning.MOST_READINGS
    blob = embed.Blob()
    packed = embed.packed({"tables": {"readings": embed.readings_columns(kept.table, blob)}}, blob)
    # Two and a half bytes a reading, its error and its place included.
    assert len(packed) < 2.8 * kept.table.height
