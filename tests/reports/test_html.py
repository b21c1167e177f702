"""The HTML report: complete, safe, and the same bytes for the same run."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import altair as alt
import polars as pl
import pytest

from geoprobe.errors import UsageError
from geoprobe.reports import embed, html, theme
from geoprobe.reports.charts.common import bounds
from geoprobe.reports.html import write_charts, write_report
from geoprobe.reports.parts import filled
from geoprobe.reports.subject import Subject
from geoprobe.runs.folder import Run
from tests.reports.factory import HOSTILE, make_run


def _texts(svg: str) -> list[str]:
    """Texts of a picture in the order drawn."""
    return [t.text or "" for t in ElementTree.fromstring(svg).iter() if t.tag.endswith("}text")]


class Document(HTMLParser):
    """Elements with their attributes, and the text of scripts, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._inside: str = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text.append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [str(a[name]) for t, a in self.elements if t == tag and name in a]


def _report(tmp_path: Path, *runs: Run) -> str:
    return write_report(runs, tmp_path / "report.html").read_text("utf-8")


def _data(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="text/plain" id="geoprobe-data">([^<]*)</script>', text)
    assert found is not None
    return embed.unpacked(found[1])


def _columns(table: dict[str, Any]) -> dict[str, list[Any]]:
    """What the page's script reads of a table."""
    return {
        name: column["values"]
        if "values" in column
        else [None if code is None else column["levels"][code] for code in column["codes"]]
        for name, column in table["columns"].items()
    }


def _full(path: Path, **more: Any) -> Run:
    return make_run(
        path,
        tokens=("last", "all"),
        sinks=("in", "out"),
        conventions=("exact", "li2025"),
        ablate=(10, 50),
        failed={"step9999": "step9999: the weights are truncated."},
        warn="last tokens: 1024 rows for 128 dimensions",
        blocks=3,
        steps=(0, 4, 16, 64, 256),
        **more,
    )


KINDS = {
    "series": lambda p: [_full(p / "a")],
    "one": lambda p: [make_run(p / "a", steps=(None,), blocks=3, ablate=(10,))],
    "features": lambda p: [
        make_run(
            p / "a",
            name="",
            steps=(None,),
            labels=["features"],
            sites=("my layer", "other"),
            tokens=("all",),
            command="rank --features",
        )
    ],
    "one site": lambda p: [make_run(p / "a", steps=(0, 1, 2), sites=("final",))],
    "two": lambda p: [
        make_run(p / "a", name="left", steps=(0, 4, 64), blocks=2),
        make_run(p / "b", name="right", steps=(0, 4, 64, 512), blocks=3, seed=1),
    ],
    "series and one": lambda p: [
        make_run(p / "a", name="left", steps=(0, 4, 64), blocks=2),
        make_run(p / "b", name="right", steps=(None,), blocks=3, sinks=("in", "out")),
    ],
    "unordered": lambda p: [
        make_run(p / "a", steps=(None, None, None), labels=["x", "y", "z"], blocks=2)
    ],
    "failed": lambda p: [make_run(p / "a", steps=(), failed={"step1": "step1: NaN weights."})],
    "empty": lambda p: [make_run(p / "a", steps=())],
}


@pytest.fixture(scope="module", params=KINDS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return KINDS[request.param](tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def text(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> str:
    return _report(tmp_path_factory.mktemp("report"), *runs)


def test_every_reading_is_in_the_file_as_it_was_measured(runs: list[Run], text: str) -> None:
    columns = _columns(_data(text)["tables"]["readings"])
    start = 0
    for run in runs:
        frame = run.readings
        for name in frame.columns:
            got = columns[name][start : start + frame.height]
            want = frame[name].to_list()
            if name == "k":  # a run without it has a column of text
                assert [str(v) for v in got] == [str(v) for v in want]
            else:
                assert got == want, name
        start += frame.height
    assert start == len(columns["run"])


def test_every_chart_validates_and_stands_as_a_picture_without_scripts(
    runs: list[Run], text: str
) -> None:
    subject = Subject.of(runs)
    parts, tables = html._parts(subject)
    names = []
    for section in parts:
        for chart in section.charts:
            shown = filled(chart, section, tables, subject)
            alt.Chart.from_dict(shown.spec)
            assert shown.marks > 0, chart.name
            names.append(chart.name)
    assert len(names) == len(set(names))
    document = Document(text)
    pictures = document.attributes("img", "src")
    assert len(pictures) == len(names)
    assert document.attributes("div", "data-chart") == names
    assert all(
        p.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for p in pictures
    )


def test_the_same_runs_give_the_same_bytes(runs: list[Run], text: str, tmp_path: Path) -> None:
    again = [Run.open(run.path) for run in runs]
    file = write_report(again, tmp_path / "elsewhere" / "report.html")
    assert file.read_text("utf-8") == text


def test_another_process_and_another_folder_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_report([_full(tmp_path / "a")], tmp_path / "1.html").read_bytes()
    _full(tmp_path / "moved")
    code = (
        "import sys; from pathlib import Path\n"
        "from geoprobe.runs.folder import Run\n"
        "from geoprobe.reports.html import write_report\n"
        "write_report([Run.open(Path(sys.argv[1]))], sys.argv[2])\n"
        "bad = {'torch', 'transformers'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    arguments = [str(tmp_path / "moved"), str(tmp_path / "2.html")]
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert (tmp_path / "2.html").read_bytes() == first


def test_the_file_asks_for_nothing_and_runs_only_its_own_scripts(
    text: str,
) -> None:
    document = Document(text)
    for tag, attributes in document.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert str(value).startswith(("#", "data:")), (tag, value)
    assert "@import" not in text
    assert not re.search(
        r"url\(", Path(html.__file__).with_name("templates").joinpath("report.css").read_text()
    )
    (policy,) = [
        str(a["content"])
        for t, a in document.elements
        if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    _, packed, script = document.scripts
    # The charts' script is packed: the other one, which may run, makes a script of it.
    bundle = gzip.decompress(base64.b64decode(packed)).decode()
    assert bundle == theme.script_bundle()
    allowed = [embed.script_hash(one) for one in (bundle, script)]
    assert policy.split("script-src ")[1].split(";")[0].split() == allowed
    # Every link leads somewhere.
    ids = {str(a["id"]) for _, a in document.elements if "id" in a}
    links = [h for h in document.attributes("a", "href") if h.startswith("#")]
    assert {link[1:] for link in links} <= ids
    assert len(ids) == len([1 for _, a in document.elements if "id" in a])


@pytest.mark.parametrize("several", [False, True])
def test_hostile_text_stays_text(tmp_path: Path, several: bool) -> None:
    hostile = make_run(
        tmp_path / "a",
        name=HOSTILE.replace("/", "\\/"),
        labels=[f"{i}{HOSTILE}" for i in range(3)],
        steps=(0, 10, 100),
        sites=("embed", HOSTILE, "final"),
        conventions=("exact",),
        warn=HOSTILE,
        failed={f"f{HOSTILE}": HOSTILE},
        sinks=("in", "out"),
        command=HOSTILE,
    )
    plain = make_run(tmp_path / "b", name="plain", steps=(0, 10, 100), blocks=1)
    others = [plain] if several else []
    text = _report(tmp_path, hostile, *others)
    reference = _report(
        tmp_path,
        make_run(
            tmp_path / "c",
            name="x",
            labels=["0x", "1x", "2x"],
            steps=(0, 10, 100),
            sites=("embed", "x", "final"),
            warn="x",
            failed={"fx": "x"},
            sinks=("in", "out"),
            command="x",
        ),
        *others,
    )
    document, harmless = Document(text), Document(reference)
    # The same elements as with a harmless name: nothing of it became markup.
    assert [t for t, _ in document.elements] == [t for t, _ in harmless.elements]
    assert len(document.scripts) == len(harmless.scripts) == 3
    assert document.scripts[1:] == harmless.scripts[1:]
    assert HOSTILE in "".join(document.text)
    for chart in document.attributes("img", "src"):
        if chart.startswith("data:image/svg+xml"):
            for element in ElementTree.fromstring(base64.b64decode(chart.split(",")[1])).iter():
                assert element.tag.split("}")[1] not in ("script", "img", "image", "foreignObject")
                assert not any(name.startswith("on") for name in element.attrib)
    assert _data(text)["tables"]["readings"]["columns"]["site"]["levels"][1] == HOSTILE


def test_the_bundle_is_there_once_and_small_enough(tmp_path: Path) -> None:
    text = _report(tmp_path, make_run(tmp_path / "a", steps=(0, 1), blocks=1))
    packed = embed.packed_text(theme.script_bundle())
    assert text.count(packed) == 1
    assert len(packed) < 450_000
    assert len(text) < 1_000_000


def test_failures_and_warnings_are_shown_with_their_reasons(tmp_path: Path) -> None:
    text = " ".join(Document(_report(tmp_path, _full(tmp_path / "a"))).text)
    assert "step9999: the weights are truncated." in text
    assert "last tokens: 1024 rows for 128 dimensions" in text
    assert "Dropped as sinks: positions 0" in text


def test_the_newest_checkpoint_is_in_a_table_that_needs_no_scripts(tmp_path: Path) -> None:
    run = _full(tmp_path / "a")
    text = " ".join(Document(_report(tmp_path, run)).text)
    newest = run.readings.filter(pl.col("checkpoint") == "step256")
    from geoprobe.reports.words import with_error

    for value, stderr in newest.select("value", "stderr").iter_rows():
        assert with_error(value, stderr) in text


def test_undefined_readings_say_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=(0, 1), width=30, blocks=1)
    undefined = run.readings.filter(pl.col("value").is_null())
    assert undefined.height
    text = _report(tmp_path, run)
    document = Document(text)
    titles = document.attributes("td", "title")
    assert set(undefined["reason"]) & set(titles)


def test_a_picture_is_svg_up_to_500_marks_and_png_above() -> None:
    spec = alt.Chart(alt.InlineData([{"a": 1}])).mark_point().encode(x="a:Q").to_dict()
    assert theme.picture(spec, marks=500, width=100).startswith("data:image/svg+xml;")
    png = theme.picture(spec, marks=501, width=100)
    assert base64.b64decode(png.split(",")[1]).startswith(b"\x89PNG")


def test_pictures_follow_the_readers_dark_paper(tmp_path: Path) -> None:
    spec = alt.Chart(alt.InlineData([{"a": 1}])).mark_point().encode(x="a:Q").to_dict()
    svg = theme.svg(spec, 100)
    drawn = svg.split("</style>")[1]
    for name in ("soft", "line", "grid"):
        assert theme.LIGHT[name] in drawn
        assert f'"{theme.LIGHT[name]}"' in svg.split("</style>")[0]


def test_runs_that_differ_in_what_was_fed_are_said_to(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", name="left", steps=(0, 1), blocks=1)
    two = make_run(tmp_path / "b", name="right", steps=(0, 1), blocks=1, conventions=("li2025",))
    text = " ".join(Document(_report(tmp_path, one, two)).text)
    assert "The runs differ in their conventions (left: exact; right: li2025): compare" in text
    assert '["' not in text
    assert "The runs differ in their corpus" not in text


def test_the_numbers_of_each_run_are_a_row_of_their_own(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", name="left", steps=(0, 1), blocks=1)
    two = make_run(tmp_path / "b", name="right", steps=(0, 1), blocks=1)
    text = _report(tmp_path, one, two)
    rows = re.findall(r'<p class="figures-of">(\w+)</p>\s*<dl class="figures">', text)
    assert rows == ["left", "right"]
    alone = _report(tmp_path, one)
    assert alone.count('<dl class="figures">') == 1
    assert '<p class="figures-of">' not in alone


def test_error_bands_of_dimensions_and_shares_end_at_zero(tmp_path: Path) -> None:
    values = [
        ("rankme", 2.0, 3.0),
        ("top1_share", 0.1, 0.2),
        ("participation_ratio_corrected", -4.0, 3.0),
        ("alpha", 0.5, 1.0),
        ("rankme", 9.0, 1.0),
        ("rankme", 2.0, None),
    ]
    rows = [{"i": i, "measure": m, "value": v, "stderr": s} for i, (m, v, s) in enumerate(values)]
    chart = bounds(alt.Chart(alt.InlineData(rows))).mark_text()
    drawn = chart.encode(x=alt.X("i:O", axis=None), text=alt.Text("lo:Q", format=".1f")).properties(
        width=400
    )
    assert _texts(theme.svg(drawn.to_dict(), 400)) == ["0.0", "0.0", "−4.0", "−1.5", "7.0", "2.0"]


@pytest.mark.parametrize("several", [False, True])
def test_long_names_of_checkpoints_are_short_on_axes_and_whole_in_tooltips(
    tmp_path: Path, several: bool
) -> None:
    names = [f"my-organisation-experiment-with-a-long-name-{i}" for i in range(4)]
    runs = [
        make_run(tmp_path / str(i), steps=(None,) * 4, labels=names, blocks=1, phases=False)
        for i in range(1 + several)
    ]
    subject = Subject.of(runs)
    parts, tables = html._parts(subject)
    charts = {c.name: filled(c, s, tables, subject).spec for s in parts for c in s.charts}
    for name in ("heatmap",) if several else ("heatmap", "others", "training-rankme"):
        labels = [t for t in _texts(theme.svg(charts[name], 900)) if t.startswith("my-org")]
        assert labels[0] == "my-org…name-0"
        assert set(labels) <= {f"my-org…name-{i}" for i in range(4)}
        assert '{"field": "checkpoint", "title": "checkpoint"' in json.dumps(charts[name])


@pytest.mark.parametrize("image", ["png", "svg"])
def test_charts_are_written_as_images(tmp_path: Path, image: str) -> None:
    run = make_run(tmp_path / "a", steps=(0, 4, 64), blocks=1, ablate=(5,))
    files = write_charts([run], tmp_path / "new" / "folder", image)
    assert [f.stem for f in files][:3] == ["training-rankme", "training-alpha", "heatmap"]
    for file in files:
        start = b"\x89PNG" if image == "png" else b"<svg"
        assert file.read_bytes().startswith(start)
        assert file.suffix == f".{image}"


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=())
    with pytest.raises(UsageError, match="at least one run"):
        write_report([], tmp_path / "x.html")
    with pytest.raises(UsageError, match="png or svg"):
        write_charts([run], tmp_path, "gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([run], tmp_path / "file" / "x.html")


def test_packed_data_has_no_character_that_html_knows() -> None:
    document = {"a": [HOSTILE, "\u2028", "é", 1.5, None], "b": {"c": "</script>"}}
    text = embed.packed(document)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    assert embed.unpacked(text) == json.loads(json.dumps(document))
