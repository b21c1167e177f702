"""A plain reader of the LaTeX tables that geoprobe writes, for tests."""

from __future__ import annotations

import re
from typing import NamedTuple

_SPELLED = {
    r"\textbackslash{}": "\\",
    r"\textasciicircum{}": "^",
    r"\textasciitilde{}": "~",
    r"\textasciigrave{}": "`",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\char34{}": '"',
}
_MARK = re.compile(r"\\textsuperscript\{([a-z]+)\}")


class Table(NamedTuple):
    """A table as it stands on paper.

    Attributes:
        heads: Heads of the columns, the rows' first.
        rows: Their names and cells.
        notes: Mark -> sentence.
        caption: LaTeX of the caption.
    """

    heads: list[str]
    rows: dict[str, list[str]]
    notes: dict[str, str]
    caption: str


def unescape(text: str) -> str:
    """What a reader of the paper sees of an escaped name, mathematics left as it is."""
    out, rest = "", text
    while rest:
        for spelled, sign in _SPELLED.items():
            if rest.startswith(spelled):
                out, rest = out + sign, rest[len(spelled) :]
                break
        else:
            if rest[0] == "\\":
                out, rest = out + rest[1], rest[2:]
            else:
                out, rest = out + (rest[0] if rest[0] not in "{}" else ""), rest[1:]
    return out


def check_syntax(text: str) -> None:
    """Balanced braces, mathematics closed on its line, environments closed, rows of one width."""
    body = text.split("\n\\endinput\n")[0]
    lines = [line for line in body.splitlines() if not line.startswith("%")]
    assert all("%" not in re.sub(r"\\.", "", line) for line in lines)
    depth = 0
    for c in re.sub(r"\\.", "", "\n".join(lines)):
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\$", line)) % 2 == 0, line
    assert re.findall(r"\\begin\{(\w+)\}", body) == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", body) == ["tabular", "table"]
    columns = re.search(r"\\begin\{tabular\}\{(l?r*)\}", body)
    assert columns
    for line in lines[lines.index(r"\toprule") : lines.index(r"\bottomrule")]:
        if line not in (r"\toprule", r"\midrule"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
            assert line.endswith(r" \\")
            assert not line.startswith(("[", "*"))  # would be read as an argument


def read(text: str) -> Table:
    """Takes a table apart, once its syntax is checked."""
    check_syntax(text)
    lines = text.splitlines()
    top, rule, end = (lines.index(rf"\{name}rule") for name in ("top", "mid", "bottom"))
    cells = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in lines[top + 1 : end]]
    assert rule == top + 2
    rows = {unescape(row[0]): row[1:] for row in cells[2:]}
    assert len(rows) == len(cells) - 2
    notes = dict(re.findall(r"^\\textsuperscript\{([a-z]+)\}~(.*?)(?:\\\\)?$", text, re.MULTILINE))
    caption = next(line for line in lines if line.startswith(r"\caption{"))
    return Table(cells[0], rows, notes, caption)


def numbers(cell: str) -> tuple[float | None, float | None, str]:
    """Value, standard error and mark of a cell."""
    mark = _MARK.search(cell)
    shown = _MARK.sub("", cell)
    if shown == "--":
        return None, None, mark[1] if mark else ""
    power = re.fullmatch(r"\$\((.*)\) \\times 10\^\{(-?\d+)\}\$", shown)
    scale = 10.0 ** int(power[2]) if power else 1.0
    parts = (power[1] if power else shown.strip("$")).split(r" \pm ")
    values = [float(re.sub(r" \\times 10\^\{(-?\d+)\}", r"e\1", p)) * scale for p in parts]
    return values[0], values[1] if len(values) > 1 else None, mark[1] if mark else ""
