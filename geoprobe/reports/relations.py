"""What a run says of relation-specific neurons: its readings by name, and a few sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from geoprobe.reports import collapse, features, sinks, superposition, words

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

NAME = "relations"
SERIES = "relation_series"
NONE, RANDOM, WHOLE = "none", "random", "all"
"""What is deactivated where it is no relation's neurons; and the whole set of them."""
KNOWN, NET = "known", "all"
"""Conventions: facts that the model knew and that break; the same less those that become right."""
MODULES = ("gate", "up", "down")
"""Of a set only the neurons of one kind; models without gates lack the first."""
MOST_LETTERS = 36
"""Of a relation's name on axes and in tables."""
_OF_SETS = (
    *("accuracy_drop", "accuracy_drop_random", "cumulativity"),
    *("overlap", "average_precision"),
)
"""Measures that a checkpoint may have for several numbers of neurons."""
FOUND_BY = {"ap": "average precision", "lape": "low entropy over the relations"}


class At(NamedTuple):
    """What a reading is of; `more` is the draw, the smaller k, the other relation or the labels."""

    measure: str
    relation: str = ""
    deactivated: str = ""
    k: int = 0
    module: str = ""
    convention: str = ""
    more: str = ""


Row = dict[str, Any]


class Random(NamedTuple):
    """Drops of one relation with as many random neurons off."""

    mean: float
    spread: float | None
    """Standard deviation over the draws; None of a single one."""
    least: float
    most: float
    draws: int


@dataclass(frozen=True)
class Measured:
    """One checkpoint.

    Attributes:
        label: Of the checkpoint.
        rows: Its readings.
        findings: What it found, beside readings.
    """

    label: str
    rows: Mapping[At, Row]
    findings: Sequence[Mapping[str, Any]]

    @cached_property
    def about(self) -> dict[str, Mapping[str, Any]]:
        """How many facts of each relation there are, and what became of them."""
        return {str(f["relation"]): f for f in self.of("relation")}

    @cached_property
    def relations(self) -> list[str]:
        """All of them, in the order given."""
        known = (at.relation for at in self.rows if at.measure == "known")
        return list(dict.fromkeys([*self.about, *known]))

    @cached_property
    def found(self) -> list[str]:
        """Those whose neurons were found and deactivated."""
        return [r for r in self.relations if self.drop(r, r) is not None]

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Those that were not, and why."""
        return {r: str(f["left_out"]) for r, f in self.about.items() if f.get("left_out")}

    @cached_property
    def neurons(self) -> int | None:
        """How many the model has in all."""
        return next((int(f["neurons"]) for f in self.of("neurons_file")), None)

    def chance(self, one: str, other: str) -> float | None:
        """Jaccard index of two such sets of neurons drawn from all."""
        sizes = self.k(one), self.k(other)
        if not self.neurons or not all(sizes) or not self.from_all:
            return None
        both = sizes[0] * sizes[1] / self.neurons
        return both / (sum(sizes) - both)

    @property
    def from_all(self) -> bool:
        """Whether neurons were chosen from all of the model's."""
        return all(f.get("select") == "ap" for f in self.of("neurons_file"))

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Findings of a kind."""
        return [f for f in self.findings if f["kind"] == kind]

    def finding(self, kind: str, relation: str) -> Mapping[str, Any] | None:
        """That of one relation."""
        return next((f for f in self.of(kind) if f["relation"] == relation), None)

    def row(self, measure: str, relation: str = "", **more: Any) -> Row | None:
        """A reading, with a value or without; None where there is none."""
        return self.rows.get(At(measure, relation, **more))

    def k(self, relation: str) -> int:
        """How many neurons a relation has; 0 where none were looked for."""
        return int(self.about.get(relation, {}).get("k") or 0)

    def drop(
        self,
        deactivated: str,
        relation: str,
        convention: str = KNOWN,
        module: str = WHOLE,
        k: int | None = None,
    ) -> Row | None:
        """What deactivating some neurons of one relation does to the facts of another."""
        k = self.k(deactivated) if k is None else k
        return self.rows.get(At("accuracy_drop", relation, deactivated, k, module, convention))

    def others(self, deactivated: str) -> dict[str, float]:
        """Drops of the other relations, where they are defined."""
        rows = {r: self.drop(deactivated, r) for r in self.found if r != deactivated}
        return {
            r: float(row["value"])
            for r, row in rows.items()
            if row is not None and row["value"] is not None
        }

    def ks(self, relation: str) -> list[int]:
        """Sizes of the set that were tried."""
        whole = At("accuracy_drop", relation, relation, 0, WHOLE, KNOWN)
        return sorted(at.k for at in self.rows if at._replace(k=0) == whole)

    @cached_property
    def _draws(self) -> dict[tuple[str, int], dict[str, float]]:
        found: dict[tuple[str, int], dict[str, float]] = {}
        for at, row in self.rows.items():
            if at.measure == "accuracy_drop_random" and row["value"] is not None:
                found.setdefault((at.relation, at.k), {})[at.more] = float(row["value"])
        return found

    @cached_property
    def drawn(self) -> list[tuple[str, int]]:
        """Relations, and sizes of random sets that were tried on their facts."""
        return list(self._draws)

    def _like(self, relation: str) -> int:
        """The size of random sets nearest to a relation's own; one for all where these differ."""
        sizes = [k for one, k in self._draws if one == relation]
        return min(sizes, key=lambda k: abs(k - self.k(relation)), default=0)

    def random(self, relation: str, k: int | None = None) -> Random | None:
        """What as many random neurons do to a relation's facts."""
        drawn = dict(self._draws.get((relation, self._like(relation) if k is None else k), {}))
        mean = drawn.pop("", None)
        values = list(drawn.values()) or ([] if mean is None else [mean])
        if not values:
            return None
        return Random(
            fmean(values) if mean is None else mean,
            stdev(values) if len(values) > 1 else None,
            min(values),
            max(values),
            len(drawn) or 1,
        )

    def random_overall(self) -> Random | None:
        """The same of all relations: the spread is that of a draw's mean over them."""
        each = [found for r in self.found if (found := self.random(r)) is not None]
        if not each:
            return None
        by_draw: dict[str, list[float]] = {}
        for relation in self.found:
            for draw, value in self._draws.get((relation, self._like(relation)), {}).items():
                if draw:
                    by_draw.setdefault(draw, []).append(value)
        means = [fmean(values) for values in by_draw.values()]
        return Random(
            fmean(r.mean for r in each),
            stdev(means) if len(means) > 1 else None,
            min(r.least for r in each),
            max(r.most for r in each),
            len(means) or 1,
        )

    def perplexity(self, deactivated: str) -> float | None:
        """How many times that of the whole model the text's perplexity is."""
        whole = self.row("perplexity", deactivated=NONE)
        row = self.row("perplexity", deactivated=deactivated)
        if row is None or whole is None or not row["value"] or not whole["value"]:
            return None
        return float(row["value"] / whole["value"])

    def answered(self, relation: str) -> tuple[int, int]:
        """Prompts that the model answers, of how many."""
        about, row = self.about.get(relation, {}), self.row("known", relation)
        if about.get("prompts") is not None and about.get("known_prompts") is not None:
            return int(about["known_prompts"]), int(about["prompts"])
        if row is None or row["value"] is None:
            return 0, 0
        return round(row["value"] * row["n"]), int(row["n"])


def has_relations(run: Run) -> bool:
    """Whether neurons of relations were looked for."""
    return bool(run.labels) and (run.readings["probe"] == NAME).any()


def measured(run: Run, labels: Iterable[str] | None = None) -> dict[str, Measured]:
    """Checkpoints by label, in the order of the series; all where none are named."""
    wanted = set(run.labels if labels is None else labels)
    rows: dict[str, dict[At, Row]] = {label: {} for label in run.labels if label in wanted}
    frame = run.readings.filter(pl.col("probe") == NAME, pl.col("checkpoint").is_in(list(wanted)))
    for row in frame.to_dicts():
        further = (row.get(key) for key in ("draw", "smaller", "with", "labels"))
        # One convention is all that other measures have.
        convention = row["convention"] if row["measure"] == "accuracy_drop" else ""
        at = At(
            row["measure"],
            row.get("relation") or "",
            row.get("deactivated") or "",
            int(row.get("k") or 0) if row["measure"] in _OF_SETS else 0,
            row.get("module") or "",
            convention,
            next((str(value) for value in further if value is not None), ""),
        )
        rows[row["checkpoint"]].setdefault(at, row)
    findings: dict[str, list[Mapping[str, Any]]] = {label: [] for label in rows}
    for finding in run.findings:
        if finding.get("checkpoint") in findings:
            findings[str(finding["checkpoint"])].append(finding)
    return {label: Measured(label, rows[label], findings[label]) for label in rows}


def with_neurons(run: Run) -> list[int]:
    """Places of the checkpoints that have any: early ones of a series know too few facts."""
    frame = run.readings.filter(pl.col("probe") == NAME, pl.col("measure") == "accuracy_drop")
    return sorted(frame["index"].unique().to_list())


def newest(run: Run) -> Measured:
    """The newest checkpoint with neurons, or the newest where none has any."""
    label = run.labels[[len(run.labels) - 1, *with_neurons(run)][-1]]
    return measured(run, [label])[label]


def plain(text: object, most: int | None = None) -> str:
    """Hostile text in one line of letters that a picture may hold, and no longer than that."""
    line = " ".join(str(text).split()).encode("utf-8", "replace").decode()
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if most is None or len(line) <= most else f"{line[: most - 1].rstrip()}…"


def names_of(relations: Sequence[str], most: int = MOST_LETTERS) -> dict[str, str]:
    """A short name for each relation, no two alike."""
    found: dict[str, str] = {}
    taken = set()
    for place, relation in enumerate(relations, start=1):
        name = plain(relation, most) or f"#{place}"
        if name in taken:
            tail = f" ({place})"
            name = plain(relation, most - len(tail)) + tail
        taken.add(name)
        found[relation] = name
    return found


def told_from(names: Collection[str], label: str) -> str:
    """A label of what is no relation, though one may have that name."""
    while label in names:
        label = f"({label})"
    return label


def percent(value: float | None, error: float | None = None) -> str:
    """`53.2 ± 4.1` of a share; the sign is the caller's."""
    return words.with_error(
        None if value is None else 100 * value, None if error is None else 100 * error
    )


class Overall(NamedTuple):
    """Means over the relations."""

    own: float
    error: float | None
    """Standard error of that, as of independent facts."""
    others: float | None
    random: Random | None


def overall(here: Measured) -> Overall | None:
    """Means over the relations; None where no drop is defined."""
    own = [row for r in here.found if (row := here.drop(r, r)) and row["value"] is not None]
    if not own:
        return None
    errors = [row["stderr"] for row in own if row["stderr"] is not None]
    error = sum(e**2 for e in errors) ** 0.5 / len(own) if len(errors) == len(own) else None
    others = [fmean(drops.values()) for r in here.found if (drops := here.others(r))]
    return Overall(
        fmean(row["value"] for row in own),
        error,
        fmean(others) if others else None,
        here.random_overall(),
    )


def specificity(here: Measured) -> dict[str, tuple[float, float]]:
    """Drop of the own facts and mean drop of the others', the most specific relation first."""
    found = {}
    for relation in here.found:
        row, others = here.drop(relation, relation), here.others(relation)
        if row is not None and row["value"] is not None and others:
            found[relation] = (float(row["value"]), fmean(others.values()))
    return dict(sorted(found.items(), key=lambda item: item[1][1] - item[1][0]))


def sizes_said(here: Measured) -> str:
    """`3,000 neurons (0.36 % of 835,584)`: how many a relation has."""
    sizes = sorted({here.k(r) for r in here.found})
    if not sizes:
        return ""
    said = words.count(sizes[0], "neuron")
    if len(sizes) > 1:
        said = f"{sizes[0]:,} to {words.count(sizes[-1], 'neuron')}"
    if not here.neurons:
        return said
    share = "" if len(sizes) > 1 else f"{words.number(100 * sizes[0] / here.neurons, 2)} % "
    return f"{said} ({share}of {here.neurons:,})"


def random_said(found: Random) -> str:
    """`0.40 ± 0.12 % over 5 draws, at most 2.0 %`."""
    said = f"{percent(found.mean, found.spread)} %"
    if found.draws < 2:
        return said
    return f"{said} over {found.draws} draws, at most {percent(found.most)} %"


def relations_summary(run: Run) -> str:
    """A few sentences on the newest checkpoint that knows facts, and where the series began."""
    here = newest(run)
    last = run.labels[-1]
    parts = []
    if here.label != last:
        parts.append(f"{last} knows too few facts to look for neurons.")
    known, prompts = _answered(here)
    relations = words.count(len(here.relations), "relation")
    parts.append(
        f"{here.label}: the model answers {known:,} of {words.count(prompts, 'prompt')} about "
        f"{relations}{_began(run, here)}."
    )
    parts += _broken_said(here)
    if here.left_out:
        verb = "was" if len(here.left_out) == 1 else "were"
        parts.append(f"{words.count(len(here.left_out), 'relation')} {verb} left out.")
    return " ".join(parts)


def _answered(here: Measured) -> tuple[int, int]:
    each = [here.answered(r) for r in here.relations]
    return sum(known for known, _ in each), sum(prompts for _, prompts in each)


def _began(run: Run, here: Measured) -> str:
    """` (0 % of them at step0)`."""
    first = run.labels[0]
    if first == here.label:
        return ""
    known, prompts = _answered(measured(run, [first])[first])
    return f" ({words.number(100 * known / prompts, 2)} % of them at {first})" if prompts else ""


def _broken_said(here: Measured) -> list[str]:
    means = overall(here)
    if means is None:
        why = next((str(r["reason"]) for one in here.found if (r := here.drop(one, one))), "")
        undefined = f"No drop is defined: {plain(why)}."
        few = "No relation has enough known facts to look for its neurons."
        return [undefined if here.found else few]
    many = len(here.found) > 1
    own = f"{percent(means.own, means.error)} %"
    said = f"With the relation's {sizes_said(here)} off, {own} of its known facts break"
    if many:
        said = f"With a relation's own {sizes_said(here)} off, {own} of its known facts break"
    if means.others is not None:
        said += f" and {percent(means.others)} % of those of the other relations"
    if means.random is not None:
        said += f"; with as many random neurons off {random_said(means.random)}"
    told = [f"{said}{f' (means of {len(here.found)} relations)' if many else ''}."]
    ranks = specificity(here)
    if len(ranks) > 1:
        names = names_of(here.relations)
        ends = [
            f"{names[relation]} (own {percent(ranks[relation][0])} %, others "
            f"{percent(ranks[relation][1])} %)"
            for relation in (next(iter(ranks)), next(reversed(ranks)))
        ]
        told.append(f"Most specific: {ends[0]}; least: {ends[1]}.")
    return told


def summary(subject: Subject, name: str) -> str:
    """What happened to one model, the neurons of its relations included."""
    run = subject.runs[name]
    if not has_relations(run):
        return superposition.summary(subject, name)
    said = relations_summary(run)
    others = (
        *(sinks.has_sinks, collapse.has_collapse),
        *(features.has_features, superposition.has_superposition),
    )
    if any(has(run) for has in others) or words.series_values(subject, name, "rankme"):
        return f"{superposition.summary(subject, name)} {said}"
    return words.summary(subject, name, said)


def relations_figures(subject: Subject, name: str) -> list[dict[str, str]]:
    """Facts known, and how many break, in large type."""
    run = subject.runs[name]
    if not has_relations(run):
        return []
    here = newest(run)
    known, prompts = _answered(here)
    found = []
    if prompts:
        share = f"{words.number(100 * known / prompts)} %"
        found.append(_figure("known", "Prompts answered", share, note=f"{known:,} of {prompts:,}"))
    means = overall(here)
    if means is None:
        return found
    own, _, error = percent(means.own, means.error).partition(" ± ")
    pair = (own, f"{error} %") if error else (f"{own} %", "")
    found.append(_figure("accuracy_drop", "Facts that break, own neurons off", *pair))
    if means.others is not None:
        others = f"{percent(means.others)} %"
        found.append(_figure("versatility", "Other relations' facts", others))
    if means.random is not None:
        drawn, most = (f"{percent(v)} %" for v in (means.random.mean, means.random.most))
        note = f"at most {most}"
        found.append(_figure("accuracy_drop_random", "Random neurons off", drawn, note=note))
    return found


def _figure(
    measure: str, title: str, value: str, stderr: str = "", note: str = ""
) -> dict[str, str]:
    figure = {"measure": measure, "title": title, "value": value, "stderr": stderr}
    return {**figure, "reason": "", "null": "", "note": note}
