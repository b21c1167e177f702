"""The LaTeX table, read back and compared with the readings; hostile names; sentences."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.measures.registry import cards
from geoprobe.reports.crosstab import MAIN, Asked, crosstab
from geoprobe.reports.latex import latex
from geoprobe.reports.latex_words import escape, number, symbol
from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading
from tests.reports.factory import HOSTILE, make_collapse_run, make_run
from tests.reports.features_factory import make_features_run
from tests.reports.reading_latex import check_syntax, numbers, read, unescape
from tests.reports.relations_factory import make_relations_run
from tests.runs.example import entry, header


def small_run(path: Path, *readings: Reading, labels: tuple[str, ...] = ("a", "b")) -> Run:
    """A run of given readings."""
    with Run.create(path, header(*labels)) as run:
        for step, label in enumerate(labels):
            mine = [r for r in readings if r.checkpoint == label]
            run.write_checkpoint(entry(label, step), mine, [], {})
    return run


def agrees(cell: str, reading: dict[str, Any]) -> None:
    """Whether a cell is its reading, to the digits that it shows."""
    value, stderr, mark = numbers(cell)
    if reading["value"] is None:
        assert value is None
        assert mark
        return
    assert value is not None
    step = max(reading["stderr"] or 0, abs(reading["value"]) * 1e-3)
    assert abs(value - reading["value"]) <= 0.51 * step + 1e-300
    if reading["stderr"]:
        assert stderr == pytest.approx(reading["stderr"], rel=0.34)


def test_a_series_by_checkpoint_is_its_readings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tokens=("last", "all"), sinks=("in", "out"))
    table = read(latex(run))
    assert table.heads == ["checkpoint", "RankMe", r"$\alpha$", "R$^{2}$", "PR"]
    assert list(table.rows) == run.labels
    frame = run.readings.filter(site="final", tokens="last", sinks="in", convention="exact")
    for label, cells in table.rows.items():
        for measure, cell in zip(MAIN["spectrum"], cells, strict=True):
            agrees(cell, frame.filter(checkpoint=label, measure=measure).row(0, named=True))


def test_one_checkpoint_by_site_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(7,), conventions=("li2025", "exact"))
    table = read(latex(run, Asked(measures=("alpha", "rankme_headless"))))
    assert list(table.rows) == run.sites
    assert table.heads == ["site", r"$\alpha$", "RankMe$_{-k}$"]
    frame = run.readings.filter(convention="exact")
    for site, cells in table.rows.items():
        for measure, cell in zip(("alpha", "rankme_headless"), cells, strict=True):
            agrees(cell, frame.filter(site=site, measure=measure).row(0, named=True))


def test_measures_are_rows_and_any_two_dimensions_make_a_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(1, 2), tokens=("last", "all"))
    turned = read(latex(run, Asked(rows="measure")))
    assert turned.heads == ["measure", *run.labels]
    assert next(iter(turned.rows)) == "RankMe"
    both = read(
        latex(
            run,
            Asked(
                rows="site",
                columns="tokens",
                measures=("rankme",),
                where={"checkpoint": ("step1",), "site": ("final", "embed")},
            ),
        )
    )
    assert both.heads == ["site", "last", "all"]
    assert list(both.rows) == ["embed", "final"]
    frame = run.readings.filter(checkpoint="step1", measure="rankme")
    for site, cells in both.rows.items():
        for tokens, cell in zip(("last", "all"), cells, strict=True):
            agrees(cell, frame.filter(site=site, tokens=tokens).row(0, named=True))
    assert "RankMe of pebble" in both.caption


def test_what_is_fixed_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(1, 2))
    asked = Asked(measures=("rankme", "rankme_headless"), where={"site": ("block.3",)})
    text = latex(run, asked)
    assert "pebble: site block.3, convention exact, tokens last, sinks in." in text
    assert "RankMe$_{-k}$: k 10." in text
    assert text.startswith("% geoprobe 0.1.0 rank of pebble\n% corpus: synthetic, fingerprint ccc")
    assert "% convention: exact (rankme, rankme_headless)\n" in text
    assert "; rankme_headless: k=10\n" in text


@pytest.mark.parametrize("make", [make_collapse_run, make_features_run, make_relations_run])
def test_every_kind_of_run_has_a_table_of_its_own(tmp_path: Path, make: Any) -> None:
    run = make(tmp_path / "run")
    table = read(latex(run))
    assert len(table.rows) > 1
    found = crosstab(run, Asked())
    assert set(found.measures) <= {m for names in MAIN.values() for m in names}
    for (row, column), reading in found.cells.items():
        agrees(list(table.rows.values())[found.row_names.index(row)][
            found.column_names.index(column)], reading)  # fmt: skip


def test_a_null_never_stands_for_a_value(tmp_path: Path) -> None:
    run = make_collapse_run(tmp_path / "run")
    assert "permuted" in run.readings["labels"].to_list()
    assert all(cell["labels"] != "permuted" for cell in crosstab(run, Asked()).cells.values())


def test_missing_values_have_their_reasons_once(tmp_path: Path) -> None:
    run = small_run(
        tmp_path / "run",
        Reading("a", "p", "rankme", "final", value=1.0, stderr=0.1, n=3),
        Reading("a", "p", "alpha", "final", reason="3 ranks, and 20 are needed"),
        Reading("b", "p", "alpha", "final", value=2.0, reason="no standard error: one group"),
        Reading("a", "p", "nesum", "final", value=4.0, reason="no standard error: one group"),
        Reading("b", "p", "nesum", "final", value=5.0, reason="no standard error: one group"),
    )
    table = read(latex(run, Asked(measures=("rankme", "alpha", "nesum"))))
    marks = {name: [numbers(cell)[2] for cell in cells] for name, cells in table.rows.items()}
    said = {mark: unescape(note) for mark, note in table.notes.items()}
    assert said[marks["a"][1]] == "3 ranks, and 20 are needed."
    assert said[marks["b"][0]] == "no reading with what is fixed."
    assert sorted(said.values()) == [
        "3 ranks, and 20 are needed.",
        "no reading with what is fixed.",
        "no standard error: one group.",
    ]
    # A column none of which has an error says so in its head, not in its cells.
    assert marks["a"][2] == marks["b"][2] == ""
    assert "textsuperscript" in table.heads[3]


def test_an_ambiguous_cell_is_a_sentence_with_the_keys_and_their_values(tmp_path: Path) -> None:
    each = [
        Reading("a", "p", "sink_mass", "final", {"head": head, "set": kind}, value=1.0, stderr=0.1)
        for head in range(10)
        for kind in ("x,y", "z")
    ]
    run = small_run(tmp_path / "run", *each)
    with pytest.raises(UsageError) as error:
        latex(run, Asked(rows="checkpoint", measures=("sink_mass",)))
    said = str(error.value)
    assert "head (0, 1, 2, 3, 4, 5, 6, 7 and 2 more); set (x,y, z)" in said
    assert "--where head=0" in said
    fixed = read(latex(run, Asked(rows="head", where={"set": ("x,y",)})))
    assert list(fixed.rows) == [str(head) for head in range(10)]


def test_readings_of_the_whole_are_taken_where_no_row_is_lost(tmp_path: Path) -> None:
    parts = [
        Reading(label, "sinks", "sink_rate", site, {"head": head}, value=v, stderr=0.1)
        for label in ("a", "b")
        for site, head, v in (("model", None, 5.0), ("model", 0, 1.0), ("attention.0", 0, 2.0))
        if head is not None or site == "model"
    ]
    whole = [
        Reading(r.checkpoint, r.probe, r.measure, r.site, {}, value=r.value, stderr=0.1)
        if r.value == 5.0
        else r
        for r in parts
    ]
    run = small_run(tmp_path / "run", *whole)
    found = crosstab(run, Asked())
    assert {cell["value"] for cell in found.cells.values()} == {5.0}
    with pytest.raises(UsageError, match="fix head"):
        crosstab(run, Asked(rows="site", measures=("sink_rate",)))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(rows="layer"), "--rows layer: not a dimension of this run (checkpoint, site,"),
        (Asked(columns="layer"), "--columns layer: not a dimension"),
        (Asked(rows="site", columns="site"), "give two dimensions"),
        (Asked(measures=("rankmi",)), "--measures rankmi: not in this run"),
        (Asked(where={"site": ("block.99",)}), "--site block.99: no reading has it; site is"),
        (Asked(where={"tokens": ("all",)}), "--where tokens=all: no reading has it; tokens is"),
        (Asked(where={"colour": ("red",)}), "--where colour=...: the readings have no such key"),
        (Asked(where={"checkpoint": ("x",)}), "--checkpoint x: no reading has it"),
        (Asked(rows="k", where={"k": ("10",)}), "name some with --measures"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_sentence(tmp_path: Path, asked: Asked, words: str) -> None:
    run = make_run(tmp_path / "run", steps=(1, 2))
    with pytest.raises(UsageError) as error:
        latex(run, asked)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_readings_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint has been measured"):
        latex(make_run(tmp_path / "run", steps=()))


NASTY = (
    HOSTILE,
    r"\input{/etc/passwd}",
    "}}\\end{document}",
    "50% & more_of #1 $x^2$ ~ {a}",
    "[2ex]",
    "* ``quoted'' -- ?` !` \"x\"",
    "a\nb\r% not a comment\u2028\u202e",
    "&&&",
    "\\\\",
)


def test_hostile_names_are_set_as_they_are_read(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        name=NASTY[1],
        labels=NASTY,
        steps=range(len(NASTY)),
        sites=["final", *NASTY[:3]],
    )
    for asked in (Asked(), Asked(columns="site"), Asked(rows="measure")):
        text = latex(run, asked)
        check_syntax(text)
        assert not any(word in text for word in (r"\input", r"\end{document}", "\r", "\u202e"))
    table = read(latex(run))
    shown = ["".join(c if c.isprintable() else "?" for c in " ".join(n.split())) for n in NASTY]
    assert list(table.rows) == shown


@given(st.text())
def test_any_name_is_read_back(name: str) -> None:
    escaped = escape(name)
    shown = "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))
    if not re.search(r"[^\x00-\x7f]", shown):
        assert unescape(escaped) == shown
    check_syntax(
        "\\begin{table}\n\\begin{tabular}{lr}\n\\toprule\n"
        + f"{escaped or 'x'} & 1 \\\\\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
    )
    assert not re.search(r"--|''|``|[?!]`", escaped)


@given(
    st.floats(-1e307, 1e307),
    st.none() | st.floats(1e-300, 1e300, allow_nan=False),
)
def test_any_number_is_read_back(value: float, stderr: float | None) -> None:
    shown = number(value, stderr)
    assert shown is not None
    assert len(shown) < 60
    agrees(shown, {"value": value, "stderr": stderr})


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (12.34, 0.41, r"$12.3 \pm 0.4$"),
        (12.34, 0.14, r"$12.34 \pm 0.14$"),
        (382, 142, r"$380 \pm 140$"),
        (65003, 75514, r"$(7 \pm 8) \times 10^{4}$"),
        (1.234e6, 2e4, r"$(1.23 \pm 0.02) \times 10^{6}$"),
        (1e-5, 3e-6, r"$(1.0 \pm 0.3) \times 10^{-5}$"),
        (-0.004, 0.1, r"$0.00 \pm 0.10$"),
        (576, None, "$576$"),
        (0.41834, None, "$0.4183$"),
        (-3.2e-7, None, r"$-3.200 \times 10^{-7}$"),
        (0.0, 0.0, "$0$"),
        (1 / 3, 1e-17, r"$0.3333333 \pm 1 \times 10^{-17}$"),
    ],
)
def test_digits_are_those_that_the_error_warrants(
    value: float, stderr: float | None, shown: str
) -> None:
    assert number(value, stderr) == shown


def test_symbols_of_all_cards_are_latex() -> None:
    assert symbol("λ₁/Σλ") == r"$\lambda_{1}$/$\Sigma\lambda$"
    assert symbol("Sink_k^eps") == r"Sink$_{k}^{\epsilon}$"
    assert symbol("NC2 norms") == "NC2 norms"
    assert symbol("RankMe_-k") == "RankMe$_{-k}$"
    for card in cards().values():
        found = symbol(card.symbol)
        assert found.isascii(), card.symbol
        assert found.count("$") % 2 == 0
        assert found.count("{") == found.count("}")
        assert not re.search(r"(?<!\\)[_^&#%](?!\{)", found), found


def test_two_measures_of_one_symbol_are_told_apart(tmp_path: Path) -> None:
    same = [m.name for m in cards().values() if m.symbol == cards()["separation"].symbol]
    readings = [
        Reading("a", "p", m, "final", value=1.0, stderr=0.1) for m in ("separation", "rankme")
    ]
    assert same == ["separation"]
    run = small_run(tmp_path / "run", *readings, labels=("a",))
    asked = Asked(rows="checkpoint", measures=("separation", "rankme"))
    assert read(latex(run, asked)).heads == ["checkpoint", "D", "RankMe"]


def test_sources_come_once_and_latex_does_not_read_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(1, 2))
    text = latex(run, Asked(measures=("rankme", "alpha", "nesum")), bibtex=True)
    table, _, rest = text.partition("\n\\endinput\n")
    assert "\\endinput" not in rest
    keys = re.findall(r"^@\w+\{(\w+),", rest, re.MULTILINE)
    assert len(keys) == len(set(keys)) > 3
    assert f"% sources: {', '.join(keys)}\n" in table
    assert "@" not in table
    read(text)


def test_caption_and_label_are_the_authors_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(1, 2))
    text = latex(run, caption=r"The \emph{main} result, 5\% off.", label="tab:main_2")
    assert r"\caption{The \emph{main} result, 5\% off.}" in text
    assert r"\label{tab:main_2}" in text
    check_syntax(text)
    for caption in ("{", "}{", "a } b", "50 % of it", "a\n\nb", "\\"):
        with pytest.raises(UsageError, match="--caption"):
            latex(run, caption=caption)
    for label in ("", "a}b", "50%", "a\\b", "x_{1}", "é"):
        with pytest.raises(UsageError, match="--label"):
            latex(run, label=label)


def test_letters_beyond_ascii_are_announced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", labels=("модель", "b"), steps=(1, 2))
    assert latex(run).startswith("% some names have letters beyond ASCII")
    assert "модель" in read(latex(run)).rows


def test_the_table_of_a_probe_that_nobody_knows(tmp_path: Path) -> None:
    readings = [
        Reading(label, "mine", m, "final", value=float(i), stderr=0.1)
        for i, m in enumerate(("one_a", "two", "three", "four", "five"))
        for label in ("a", "b")
    ]
    run = small_run(tmp_path / "run", *readings)
    assert read(latex(run)).heads == ["checkpoint", r"one\_a", "two", "three", "four"]
    assert "% sources: none is published" in latex(run)


def test_values_of_each_cell_are_one_reading(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tokens=("last", "all"), conventions=("exact", "li2025"))
    found = crosstab(run, Asked(measures=tuple(run.readings["measure"].unique())))
    for column in found.column_names:
        its = pl.DataFrame([c for (_, k), c in found.cells.items() if k == column], strict=False)
        assert its["tokens"].n_unique() == its["convention"].n_unique() == 1
        assert its["site"].unique().to_list() == ["final"]
    assert all(math.isfinite(c["value"] or 0) for c in found.cells.values())
