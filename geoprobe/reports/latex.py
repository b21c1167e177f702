"""A table of readings for a paper: LaTeX with booktabs and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError
from geoprobe.measures.bibtex import entries
from geoprobe.measures.registry import cards
from geoprobe.reports.crosstab import Asked, Crosstab, crosstab
from geoprobe.reports.latex_words import comment, escape, number, symbol
from geoprobe.reports.subject import series_name

if TYPE_CHECKING:
    from geoprobe.runs.folder import Run

MISSING = "--"
_NO_ERROR = "no standard error: "
_HEADS = {"checkpoint": "checkpoint", "site": "site", "measure": "measure"}


def latex(
    run: Run,
    asked: Asked | None = None,
    *,
    caption: str | None = None,
    label: str | None = None,
    bibtex: bool = False,
) -> str:
    r"""A run's readings as a table.

    Args:
        run: The run.
        asked: Rows, columns, and what is fixed.
        caption: LaTeX of the caption; None makes one that says what is fixed.
        label: Key for references; None makes one of the series' name.
        bibtex: Add the BibTeX entries of the measures' sources behind `\endinput`, where LaTeX
            does not read them.

    Returns:
        A `table` environment, with comment lines above it that say where the numbers come from.

    Raises:
        UsageError: A cell would be ambiguous, or caption or label would break the document.
    """
    table = crosstab(run, asked or Asked())
    notes = _Notes()
    body = _body(table, notes)
    sources = _sources(table)
    name = series_name(run)
    key = label if label is not None else "tab:" + (re.sub(r"[^A-Za-z0-9.-]+", "-", name) or "run")
    if re.search(r"[^\w:.+/ -]", key, re.ASCII) or not key.strip():
        raise UsageError(f"--label {key}: letters, digits and :.+-/_ only.")
    lines = [
        *_origin(run, table, list(sources)),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(run, table) if caption is None else _checked(caption)}}}",
        rf"\label{{{key}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.column_names)}}}",
        *body,
        r"\end{tabular}",
        *notes.lines(),
        r"\end{table}",
    ]
    if bibtex and sources:
        lines += ["", r"\endinput", "", "\n\n".join(sources.values())]
    text = "\n".join(lines) + "\n"
    if not text.isascii():
        hint = "some names have letters beyond ASCII: XeLaTeX and LuaLaTeX set them"
        text = f"{comment(hint)}\n{text}"
    return text


class _Notes:
    """Reasons under a table, each once, with a letter."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, reason: str) -> str:
        """The mark of a reason; nothing where there is none."""
        if not reason:
            return ""
        place = len(self._marks)
        letters = "abcdefghijklmnopqrstuvwxyz"
        new = letters[place % 26] * (place // 26 + 1)
        return _raised(self._marks.setdefault(reason, new))

    def lines(self) -> list[str]:
        """The notes, as paragraphs below the table."""
        if not self._marks:
            return []
        said = [f"{_raised(mark)}~{escape(reason)}." for reason, mark in self._marks.items()]
        return ["", r"\medskip", r"\footnotesize", "\\\\\n".join(said)]


def _raised(mark: str) -> str:
    return rf"\textsuperscript{{{mark}}}"


def _body(table: Crosstab, notes: _Notes) -> list[str]:
    heads = [escape(_HEADS.get(table.rows, table.rows))]
    whole = {}  # why a column has no errors at all
    for column in table.column_names:
        its = [table.cells.get((row, column)) for row in table.row_names]
        reasons = {_why_no_error(cell) for cell in its if cell and cell["value"] is not None}
        whole[column] = next(iter(reasons)) if len(reasons) == 1 else ""
        heads.append(_head(table, column) + notes.mark(whole[column]))
    lines = [r"\toprule", _row(heads), r"\midrule"]
    for row in table.row_names:
        cells = [_symbol(row, table) if table.rows == "measure" else escape(row)]
        cells += [_cell(table.cells.get((row, c)), whole[c], notes) for c in table.column_names]
        lines.append(_row(cells))
    return [*lines, r"\bottomrule"]


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(reading: Mapping[str, Any] | None, known: str, notes: _Notes) -> str:
    if reading is None:
        return MISSING + notes.mark("no reading with what is fixed")
    shown = number(reading["value"], reading["stderr"])
    if shown is None:
        return MISSING + notes.mark(reading["reason"])
    why = _why_no_error(reading)
    return shown + (notes.mark(why) if why != known else "")


def _why_no_error(reading: Mapping[str, Any]) -> str:
    """Why a value has no standard error; nothing where it has one."""
    if reading["stderr"] is not None or not reading["reason"]:
        return ""
    return _NO_ERROR + str(reading["reason"]).removeprefix(_NO_ERROR)


def _head(table: Crosstab, column: str) -> str:
    return _symbol(column, table) if table.columns == "measure" else escape(column)


def _symbol(measure: str, table: Crosstab) -> str:
    """The symbol of a measure; its name where two of the table share one."""
    known = cards()
    if measure not in known or not known[measure].symbol:
        return escape(measure)
    mine = known[measure].symbol
    others = [known[m].symbol for m in table.measures if m in known and m != measure]
    return escape(measure) if mine in others else symbol(mine)


def _shared(table: Crosstab) -> tuple[dict[str, str], list[tuple[list[str], dict[str, str]]]]:
    """What all columns have fixed to the same, and what some of them have besides."""
    columns = list(table.fixed.values())
    common = {k: v for k, v in columns[0].items() if all(c.get(k) == v for c in columns)}
    rest: list[tuple[list[str], dict[str, str]]] = []
    for name, its in table.fixed.items():
        own = {k: v for k, v in its.items() if k not in common}
        alike = next((names for names, known in rest if known == own), None)
        if alike is not None:
            alike.append(name)
        elif own:
            rest.append(([name], own))
    return common, rest


def _said(fixed: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fixed.items())


def _caption(run: Run, table: Crosstab) -> str:
    """Whose numbers these are, and under which choices."""
    common, rest = _shared(table)
    text = escape(series_name(run))
    if "measure" not in (table.rows, table.columns):
        text = f"{_symbol(table.measures[0], table)} of {text}"
    if common:
        text += f": {escape(_said(common))}"
    text += "."
    for names, its in rest:
        text += f" {', '.join(_head(table, n) for n in names)}: {escape(_said(its))}."
    if any(cell["stderr"] is not None for cell in table.cells.values()):
        text += r" $\pm$ is one standard error."
    return text


def _origin(run: Run, table: Crosstab, keys: list[str]) -> list[str]:
    """Comment lines: what measured this, on what, under which convention, and who defined it."""
    header = run.header
    corpus, libraries = header["corpus"], header["environment"]["libraries"]
    used = {(c["measure"], c["convention"]) for c in table.cells.values()}
    by_convention: dict[str, list[str]] = {}
    for measure in table.measures:
        for name in sorted(c for m, c in used if m == measure):
            by_convention.setdefault(name, []).append(measure)
    common, rest = _shared(table)
    fixed = [f"{name}={value}" for name, value in common.items()]
    for names, its in rest:
        fixed.append(f"{', '.join(names)}: " + " ".join(f"{k}={v}" for k, v in its.items()))
    conventions = "; ".join(f"{name} ({', '.join(of)})" for name, of in by_convention.items())
    fed = f"{corpus.get('source', 'unknown')}, fingerprint {corpus.get('fingerprint', 'unknown')}"
    lines = [
        f"geoprobe {libraries.get('geoprobe', 'of unknown version')} {header['command']} of "
        f"{series_name(run)}",
        f"corpus: {fed}",
        f"convention: {conventions}",
        f"fixed: {'; '.join(fixed) or 'nothing'}",
        f"sources: {', '.join(keys) or 'none is published'}",
        r"needs \usepackage{booktabs}",
    ]
    return [comment(line) for line in lines]


def _sources(table: Crosstab) -> dict[str, str]:
    """BibTeX entries of the measures' sources by key, each once."""
    known = cards()
    return {
        key: entry
        for measure in table.measures
        if measure in known
        for key, entry in entries(known[measure].bibtex)
    }


def _checked(caption: str) -> str:
    """A caption that is LaTeX already and cannot break the table around it."""
    plain = re.sub(r"\\.", "", caption, flags=re.DOTALL)
    depth = 0
    for c in plain:
        depth += (c == "{") - (c == "}")
        if depth < 0:
            break
    if depth:
        raise UsageError(f"--caption {caption}: its braces are not balanced (it is LaTeX).")
    if "%" in plain or "\\" in plain or "\n\n" in caption:
        raise UsageError(
            f"--caption {caption}: an empty line, a % without a backslash and a backslash at the "
            "end break it."
        )
    return caption.strip()
