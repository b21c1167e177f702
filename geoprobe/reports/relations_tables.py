"""Relation-specific neurons as tables for the terminal and the page; shares are in per cent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rich.cells import cell_len

from geoprobe.reports import words
from geoprobe.reports.parts import Table
from geoprobe.reports.relations import (
    FOUND_BY,
    NAME,
    NONE,
    RANDOM,
    SERIES,
    Measured,
    Row,
    has_relations,
    measured,
    names_of,
    newest,
    percent,
    plain,
    sizes_said,
    told_from,
)
from geoprobe.reports.subject import thinned

if TYPE_CHECKING:
    from geoprobe.runs.folder import Run

MOST_CHECKPOINTS = 24
MOST_BROKEN = 3
"""Broken facts of a relation that are shown."""
MOST_BEST = 4
"""Neurons of a relation that are named."""
MOST_SIZES = 12
"""Numbers of neurons that have a column; where relations differ in theirs, there may be more."""
_NAME = 18
"""Letters of a relation's name in the terminal."""
_PROMPT, _ANSWER, _REASON = 100, 40, 160
_UNKNOWN = "-"
_ELSEWHERE = (("versatility", "versatility"), ("interference", "relation_interference"))


def _cell(row: Row | None, *, error: bool = True) -> str:
    """A share in per cent with its error, no wider than it must be."""
    if row is None:
        return ""
    if row["value"] is None:
        return _UNKNOWN
    return _tight(row["value"], row["stderr"] if error else None)


def _share(value: float | None) -> str:
    return "" if value is None else words.number(100 * value)


def _whole(value: float | None) -> str:
    """A whole per cent."""
    return "" if value is None else f"{round(100 * value)}"


def _shown(columns: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {head: cells for head, cells in columns.items() if any(cells)}


def _table(
    title: str,
    columns: Mapping[str, Sequence[str]],
    left: Collection[str],
    note: Iterable[str] = (),
    muted: Sequence[int] = (),
) -> Table:
    """A table of its columns, less the empty ones."""
    kept = _shown(columns)
    places = [place for place, head in enumerate(kept) if head in left]
    rows = [list(cells) for cells in zip(*kept.values(), strict=True)]
    return Table(title, list(kept), places, rows, " ".join(filter(None, note)), muted)


def relation_tables(run: Run) -> list[Table]:
    """The newest checkpoint by relation, those left out, and the facts that broke."""
    if not has_relations(run):
        return []
    here = newest(run)
    names = names_of(here.relations)
    found = []
    if here.found:
        found.append(_by_relation(here, names, brief=False))
    if here.left_out:
        found.append(_left_out(here, names))
    if here.of("broken_facts"):
        found.append(_broken(here, names))
    return [table for table in found if table.rows]


def neuron_tables(run: Run) -> list[Table]:
    """What sets of neurons do together, and the best of them."""
    if not has_relations(run):
        return []
    here = newest(run)
    names = names_of(here.relations)
    found = [_found(run, here, names)] if here.found else []
    curve = _curve(here, names)
    return [*found, *([curve] if curve is not None else [])]


def course_tables(run: Run) -> list[Table]:
    """Known prompts and own drops by checkpoint."""
    return list(_course(run, None)) if has_relations(run) and len(run.labels) > 1 else []


def terminal_tables(run: Run, width: int) -> list[Table]:
    """The newest checkpoint by relation, its matrix, and the course of training.

    Args:
        run: The run.
        width: Columns of the console; what is wider is shown in parts.
    """
    if not has_relations(run):
        return []
    here = newest(run)
    found = []
    if here.found:
        found.append(_by_relation(here, _numbered(here.relations), brief=True))
        found += _matrix(here, width)
    if len(run.labels) > 1:
        found += _course(run, width)
    return found


def left_out_lines(run: Run) -> list[str]:
    """Which relations have no neurons in the newest checkpoint, and why."""
    if not has_relations(run):
        return []
    here = newest(run)
    names = _numbered(here.relations)
    return [
        f"Left out, {names[relation]}: {plain(reason, _REASON)}"
        for relation, reason in here.left_out.items()
    ]


def _numbered(relations: Sequence[str]) -> dict[str, str]:
    """`#3 capital`: where columns have only the number."""
    names = names_of(relations, _NAME)
    return {r: f"#{place} {name}" for place, (r, name) in enumerate(names.items(), start=1)}


def _number_of(name: str) -> str:
    return name.split(" ")[0]


def _by_relation(here: Measured, names: Mapping[str, str], *, brief: bool) -> Table:
    """What breaks without a relation's neurons, beside what breaks without others."""
    some = here.found
    others = {r: here.others(r) for r in some}
    largest = {r: max(o, key=lambda j: o[j]) if o else None for r, o in others.items()}
    drawn = [here.random(r) for r in some]
    draws = max((found.draws for found in drawn if found), default=0)
    factors = [here.perplexity(r) for r in some]
    columns: dict[str, list[str]] = {
        "relation": [names[r] for r in some],
        "known": [_counted(here, r) for r in some],
        "tested on": [] if brief else [_about(here, r, "evaluation") for r in some],
        "own": [_cell(here.drop(r, r)) for r in some],
        "others": [_share(fmean(o.values()) if o else None) for o in others.values()],
        "largest": [
            ""
            if j is None
            else _share(others[r][j]) + ("" if brief or not others[r][j] else f" ({names[j]})")
            for r, j in largest.items()
        ],
        "random": [_tight(f.mean, f.spread) if f else "" for f in drawn],
        "at most": [_share(f.most) if f and draws > 1 else "" for f in drawn],
    }
    for head, measure in () if brief else _ELSEWHERE:
        columns[head] = [_cell(here.row(measure, deactivated=r), error=False) for r in some]
    columns["perplexity"] = ["" if f is None else f"x {words.number(f)}" for f in factors]
    title = f"Relations, {here.label}: {sizes_said(here)} off for each"
    return _table(title, columns, ("relation",), _notes(here, columns, draws))


def _counted(here: Measured, relation: str) -> str:
    known, prompts = here.answered(relation)
    return f"{known:,} of {prompts:,}"


def _about(here: Measured, relation: str, key: str) -> str:
    count = here.about.get(relation, {}).get(key)
    return "" if count is None else f"{count:,}"


def _tight(value: float, error: float | None) -> str:
    return percent(value, error).replace(" ± ", "±")


def _notes(here: Measured, columns: Mapping[str, Sequence[str]], draws: int) -> Iterator[str]:
    """What the columns are, and what is missing in them."""
    kept = _shown(columns)
    yield (
        "known: prompts that the model answers. own: per cent of the relation's known facts, held "
        "out, that break when its own neurons are off."
    )
    if "others" in kept:
        yield "others, largest: the same of the other relations' facts, mean and largest."
    if "random" in kept:
        spread = f", mean ± standard deviation over {draws} draws, and the largest"
        yield f"random: own facts that break with as many random neurons off{spread * (draws > 1)}."
    if "versatility" in kept:
        yield (
            "versatility: mean over the other relations of what breaks; interference: of what "
            "becomes right, on balance."
        )
    if "perplexity" in kept:
        row, factor = here.row("perplexity", deactivated=NONE), here.perplexity(RANDOM)
        of = "" if row is None else f" ({words.number(row['value'])} before)"
        random = "" if factor is None else f"; x {words.number(factor)} with random neurons off"
        yield f"perplexity: of the text, times what it was{of}{random}."
    yield from _undefined(here.drop(r, r) for r in here.found)


def _undefined(rows: Iterable[Row | None]) -> Iterator[str]:
    """Why values are missing, each reason once."""
    reasons = (r["reason"] for r in rows if r is not None and r["value"] is None)
    for why in dict.fromkeys(plain(reason, _REASON) for reason in reasons):
        yield f"Undefined (-): {why}."


def _left_out(here: Measured, names: Mapping[str, str]) -> Table:
    some = here.left_out
    columns = {
        "relation": [names[r] for r in some],
        "known": [_counted(here, r) for r in some],
        "why": [plain(reason, _REASON) for reason in some.values()],
    }
    return _table(f"Left out, {here.label}", columns, ("relation", "why"))


def _broken(here: Measured, names: Mapping[str, str]) -> Table:
    heads = ("relation", "broke", "prompt", "right answer", "before", "now")
    columns: dict[str, list[str]] = {head: [] for head in heads}
    more = []
    for finding in here.of("broken_facts"):
        relation = str(finding["relation"])
        name = names.get(relation) or plain(relation)
        facts = finding.get("facts") or []
        broken = int(finding["broken"])
        for place, fact in enumerate(facts[:MOST_BROKEN]):
            cells = (
                name,
                "" if place else f"{broken:,} of {finding['of']:,}",
                plain(fact.get("prompt", ""), _PROMPT),
                *(plain(fact.get(key, ""), _ANSWER) for key in ("object", "before", "after")),
            )
            for head, cell in zip(heads, cells, strict=True):
                columns[head].append(cell or "(nothing)" if head in ("before", "now") else cell)
        if broken > min(MOST_BROKEN, len(facts)):
            more.append(broken - min(MOST_BROKEN, len(facts)))
    rest = f"{words.count(sum(more), 'more fact')} broke." if more else ""
    note = "What the model says before and after the neurons of the fact's own relation are off."
    title = f"Facts that broke, {here.label}"
    return _table(title, columns, ("relation", *heads[2:]), (note, rest))


def _curve(here: Measured, names: Mapping[str, str]) -> Table | None:
    """What breaks with ever more neurons off, and whether it takes all of them together."""
    together: dict[str, dict[int, Row]] = {}
    for at, row in here.rows.items():
        if at.measure == "cumulativity":
            together.setdefault(at.relation, {})[int(float(at.more))] = row
    some = here.found
    ks = sorted({k for r in some for k in here.ks(r)})
    if len(ks) < 2:
        return None
    columns = {"relation": [names[r] for r in some]}
    if len(ks) <= MOST_SIZES:
        columns |= {f"{k:,}": [_cell(here.drop(r, r, k=k)) for r in some] for k in ks}
    steps = {(smaller, row["k"]) for found in together.values() for smaller, row in found.items()}
    for smaller in sorted({smaller for smaller, _ in steps}):
        ends = sorted({k for start, k in steps if start == smaller})
        to = f"{ends[0]:,}" if len(ends) == 1 else "the next"
        rows = [together.get(r, {}).get(smaller) for r in some]
        columns[f"{smaller:,} → {to}"] = [_cell(row, error=False) for row in rows]
    note = ["Per cent of the own facts that break with so many neurons off."]
    if steps:
        note.append(
            "Arrows, cumulativity: of the facts that break with the larger number and not with the "
            "smaller, the per cent that the added neurons alone leave right."
        )
    note += _undefined(row for found in together.values() for row in found.values())
    return _table(f"How many neurons it takes, {here.label}", columns, ("relation",), note)


def _found(run: Run, here: Measured, names: Mapping[str, str]) -> Table:
    """How neurons were found, and the first of them."""
    some = here.found
    columns = {
        "relation": [names[r] for r in some],
        "neurons": [f"{here.k(r):,}" for r in some],
        "found on": [_about(here, r, "detection") for r in some],
        "AP of the last": [_precision(here, r, "true") for r in some],
        "shuffled": [_precision(here, r, "shuffled") for r in some],
        "since": _appears(run, some),
        "the first ones": [_first(here, r) for r in some],
    }
    kept = _shown(columns)
    notes = []
    for finding in here.of("neurons_file"):
        by = FOUND_BY.get(str(finding.get("select")), plain(finding.get("select"), _ANSWER))
        path = plain(finding.get("path") or "")
        own = path.startswith(f"{NAME}/")
        where = f"; all are in {path} of the run" if own else f", given in {path}" * bool(path)
        notes.append(f"Found by {by}{where}.")
    if "AP of the last" in kept:
        beside = " (with shuffled labels: the null)" * ("shuffled" in kept)
        notes.append(
            "AP: average precision of a neuron in telling the relation's prompts from others, of "
            f"the last one of the set{beside}."
        )
    if "the first ones" in kept:
        notes.append("the first ones: site:unit, and the score that they were chosen by.")
    if "since" in kept:
        notes.append(
            "since: the checkpoint from which on half or more of these neurons are the relation's."
        )
    left = ("relation", "since", "the first ones")
    return _table(f"How they were found, {here.label}", columns, left, notes)


def _precision(here: Measured, relation: str, labels: str) -> str:
    row = here.row("average_precision", relation, k=here.k(relation), more=labels)
    if row is None:
        return ""
    return _UNKNOWN if row["value"] is None else words.number(row["value"])


def _first(here: Measured, relation: str) -> str:
    finding = here.finding("relation_neurons", relation) or {}
    return ", ".join(
        f"{plain(b['site'], _ANSWER)}:{b['unit']}"
        + ("" if b.get("score") is None else f" ({words.number(b['score'])})")
        for b in (finding.get("best") or [])[:MOST_BEST]
    )


def _appears(run: Run, relations: Sequence[str]) -> list[str]:
    """The checkpoint that each relation's neurons first appear at."""
    found = {f["relation"]: f.get("appears") for f in run.findings if f["kind"] == SERIES}
    return [plain(found[r], _NAME) if found.get(r) is not None else "" for r in relations]


def _grid(
    title: str,
    head: str,
    rows: Mapping[str, Sequence[str]],
    columns: Sequence[str],
    width: int | None,
    note: str = "",
    muted: Sequence[int] = (),
) -> Iterator[Table]:
    """Numbers in narrow columns: in as many tables as the width asks for, evenly."""
    first = max(cell_len(text) for text in (head, *rows))
    each = [1 + max(map(len, cells)) for cells in zip(columns, *rows.values(), strict=True)]
    many = len(columns)
    for parts in range(1, many + 1):
        size = -(-many // parts)
        slices = [slice(start, start + size) for start in range(0, many, size)]
        if width is None or all(first + sum(each[some]) <= width for some in slices):
            break
    for part, some in enumerate(slices, start=1):
        yield Table(
            title + (f" ({part} of {len(slices)})" if len(slices) > 1 else ""),
            [head, *columns[some]],
            [0],
            [[name, *cells[some]] for name, cells in rows.items()],
            note if part == len(slices) else "",
            muted,
        )


def _matrix(here: Measured, width: int) -> Iterator[Table]:
    """Whole per cent of the known facts that break; a relation's own in brackets."""
    some, names = here.found, _numbered(here.relations)
    rows: dict[str, list[str]] = {}
    for off in some:
        cells = []
        for relation in some:
            row = here.drop(off, relation)
            said = "" if row is None else _whole(row["value"]) or _UNKNOWN
            cells.append(f"[{said}]" if relation == off else f"{said} ")
        rows[names[off]] = cells
    drawn = [here.random(r) for r in some]
    muted = []
    if any(drawn):
        muted.append(len(rows))
        rows["random neurons"] = ["" if d is None else f"{_whole(d.mean)} " for d in drawn]
    columns = [f"{_number_of(names[r])} " for r in some]
    title = f"Facts that break, %, {here.label}"
    note = "Rows: whose neurons are off. Columns: whose facts. In brackets: a relation's own."
    return _grid(title, "neurons off", rows, columns, width, note, muted)


def _course(run: Run, width: int | None) -> Iterator[Table]:
    """Prompts that are known and own facts that break; one row a checkpoint in the terminal."""
    labels = [run.labels[i] for i in thinned(len(run.labels), MOST_CHECKPOINTS)]
    every = measured(run, labels)
    relations = list(dict.fromkeys(r for here in every.values() for r in here.relations))
    checkpoints = names_of(labels, _NAME)
    left_out = len(run.labels) - len(labels)
    note = f"{len(labels)} of {len(run.labels)} checkpoints." if left_out else ""
    known, own = {}, {}
    for label, here in every.items():
        rows = [here.row("known", r) for r in relations]
        known[checkpoints[label]] = [*map(_of, rows), _mean(rows)]
        drops = [here.drop(r, r) if r in here.found else None for r in relations]
        if any(drops):
            own[checkpoints[label]] = [*map(_of, drops), _mean(drops)]
    for title, by_checkpoint in (
        ("Prompts that the model answers, %, over training", known),
        ("Own facts that break, %, over training", own),
    ):
        if by_checkpoint and width is not None:
            heads = [*(_number_of(name) for name in _numbered(relations).values()), "mean"]
            yield from _grid(title, "checkpoint", by_checkpoint, heads, width, note)
        elif by_checkpoint:
            some = names_of(relations).values()
            names = [*some, told_from(some, "mean")]
            by_relation = dict(zip(names, zip(*by_checkpoint.values(), strict=True), strict=True))
            columns = list(by_checkpoint)
            yield from _grid(title, "relation", by_relation, columns, None, note, [len(relations)])


def _of(row: Row | None) -> str:
    return "" if row is None else _whole(row["value"]) or _UNKNOWN


def _mean(rows: Sequence[Row | None]) -> str:
    values = [row["value"] for row in rows if row is not None and row["value"] is not None]
    return _whole(fmean(values)) if values else ""
