"""Synthetic runs of relation-specific neurons, as `geoprobe relations` would leave them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geoprobe.runs.folder import Run
from geoprobe.runs.reading import Reading

RELATIONS = ("country capital", "country currency", "person father")
ELEVEN = (
    *("company CEO", "company headquarters", "country capital city", "country currency"),
    *("country language", "landmark on continent", "person father", "person mother"),
    *("person plays instrument", "product by company", "star constellation"),
)
K, TOTAL, PROMPTS = 400, 109_440, 60
KS = (10, 50, 200, K)
PARTS = {"gate": 0.5, "up": 0.25, "down": 0.125}
"""What of the own drop one kind of neurons alone does."""
TESTED = 20


def own(i: int, factor: float = 1.0) -> float:
    """Share of the own facts that break."""
    return (0.8 - 0.0625 * (i % 11)) * factor


def other(i: int, j: int, factor: float = 1.0) -> float:
    """Share of relation j's facts that break with i's neurons off."""
    return 0.03125 * ((2 * i + j) % 5) * factor


def random(j: int, draw: int) -> float:
    """The same with random neurons off."""
    return (0.0, 0.01, 0.04)[(draw + j * j) % 3]


def make_relations_run(
    path: Path,
    *,
    name: str = "models/net",
    steps: Sequence[int | None] = (0, 8, 64),
    relations: Sequence[str] = RELATIONS,
    left_out: Mapping[str, str] | None = None,
    early: int = 1,
    late: int = 0,
    draws: int = 3,
    drawn_at: Sequence[int] = (),
    gates: bool = True,
    perplexity: bool = True,
    beside: bool = True,
    undefined: Sequence[str] = (),
    ks: Sequence[int] = KS,
    k_of: Mapping[str, int] | None = None,
    blocks: int = 4,
    text: str = "Paris",
    select: str = "ap",
    source: str = "",
) -> Run:
    """A run whose drops double from checkpoint to checkpoint.

    Args:
        path: Where.
        name: Of the series.
        steps: Of the checkpoints.
        relations: Those with neurons.
        left_out: Further ones, and why they have none.
        early: So many first checkpoints know no facts.
        late: So many last ones know none again.
        draws: Of random neurons; 0 leaves them out.
        drawn_at: Further sizes of random sets, which break half of the facts.
        gates: Whether the model has them.
        perplexity: Whether that was measured.
        beside: Whether there is more than the drops: overlap, cumulativity, precision, neurons,
            facts.
        undefined: Relations whose drops are undefined.
        ks: Sizes that are tried of a set.
        k_of: Neurons of each relation, where they differ.
        blocks: Of the model.
        text: Answers, and ends of prompts.
        select: How neurons were found.
        source: The file that they were given in; empty where they were found here.
    """
    labels = [f"step{step}" if step is not None else "model" for step in steps]
    entries = [
        {"label": label, "step": step, "tokens": None, "stage": None, "fingerprint": ""}
        for label, step in zip(labels, steps, strict=True)
    ]
    header = {
        "schema": "geoprobe.run/1",
        "command": "relations",
        "options": {"probes": ["relations"], "seed": 0},
        "corpus": {"source": "synthetic", "sequences": 100},
        "environment": {"dtype": "float32", "libraries": {}},
        "series": {"arguments": [name], "checkpoints": entries},
    }
    sizes = {r: (k_of or {}).get(r, K) for r in relations}
    with Run.create(path, header) as run:
        for index, entry in enumerate(entries):
            label = str(entry["label"])
            knows = early <= index < len(entries) - late
            factor = 2.0 ** (index - len(entries) + 1 + late)
            told = _Told(label, sizes, factor, text)
            told.facts(left_out or {}, knows=knows)
            if knows:
                told.drops(ks, undefined, gates)
                told.random(draws, drawn_at)
                told.others(undefined)
                if perplexity:
                    told.perplexity(draws)
                if beside:
                    told.beside(ks, gates, blocks, select, source)
            run.write_checkpoint(entry, told.readings, told.findings, {})
        if len(entries) > 1 and beside:
            run.write_findings(_series(relations, labels, early, late))
    return run


class _Told:
    """Readings and findings of one checkpoint."""

    def __init__(self, label: str, sizes: Mapping[str, int], factor: float, text: str) -> None:
        self.label, self.sizes, self.factor, self.text = label, sizes, factor, text
        self.some = list(sizes)
        self.k = round(sum(sizes.values()) / len(sizes)) if sizes else K
        self.readings: list[Reading] = []
        self.findings: list[dict[str, Any]] = []

    def read(
        self,
        measure: str,
        value: float | None,
        n: int = TESTED,
        convention: str = "exact",
        stderr: float | None = None,
        reason: str = "",
        **keys: str | int,
    ) -> None:
        keys = {key.rstrip("_"): key_value for key, key_value in keys.items()}
        self.readings.append(
            Reading(
                *(self.label, "relations", measure, "model", keys),
                *(value, stderr, n, convention, reason),
            )
        )

    def find(self, kind: str, **more: Any) -> None:
        self.findings.append({"kind": kind, "checkpoint": self.label, **more})

    def facts(self, left_out: Mapping[str, str], *, knows: bool) -> None:
        few = "0 of its subjects are known, and 10 are needed"
        reasons = {**dict.fromkeys(self.some, "" if knows else few), **left_out}
        for i, (relation, why) in enumerate(reasons.items()):
            known = 3 * i % 5 if why else 45 - i
            self.read("known", known / PROMPTS, PROMPTS, stderr=0.05, relation=relation)
            counts = {"facts": 40, "prompts": PROMPTS, "known_prompts": known}
            counts |= {"known_subjects": known // 2, "unknown": PROMPTS - known}
            counts |= {"detection": 0 if why else known - TESTED, "evaluation": TESTED}
            k = 0 if why else self.sizes[relation]
            self.find("relation", relation=relation, **counts, k=k, left_out=why)
            if not why:
                self.read("accuracy", 0.5, PROMPTS, relation=relation, deactivated="none")

    def drops(self, ks: Sequence[int], undefined: Sequence[str], gates: bool) -> None:
        for i, off in enumerate(self.some):
            k = self.sizes[off]
            for j, relation in enumerate(self.some):
                value = own(i, self.factor) if i == j else other(i, j, self.factor)
                missing = relation in undefined
                for convention, net in (("known", 0.0), ("all", 0.0625)):
                    self.read(
                        "accuracy_drop",
                        None if missing else value - net,
                        convention=convention,
                        stderr=None if missing else 0.05,
                        reason="no held-out fact is known" if missing else "",
                        deactivated=off,
                        relation=relation,
                        k=k,
                        module="all",
                    )
            parts = {m: v for m, v in PARTS.items() if gates or m != "gate"}
            alone = [(k, module, share) for module, share in parts.items()]
            alone += [(size, "all", size / K) for size in ks if size != k]
            for size, module, share in alone if off not in undefined else []:
                self.read(
                    *("accuracy_drop", own(i, self.factor) * share),
                    convention="known",
                    stderr=0.05,
                    deactivated=off,
                    relation=off,
                    k=size,
                    module=module,
                )

    def random(self, draws: int, further: Sequence[int]) -> None:
        for j, relation in enumerate(self.some if draws else []):
            values = [random(j, draw) for draw in range(draws)]
            at = {"relation": relation, "k": self.k}
            for draw, value in enumerate(values):
                self.read("accuracy_drop_random", value, convention="known", **at, draw=draw)
            mean = sum(values) / len(values)
            self.read("accuracy_drop_random", mean, convention="known", stderr=0.003, **at)
            for k in further:
                at = {"relation": relation, "k": k}
                self.read("accuracy_drop_random", 0.5, convention="known", **at)

    def others(self, undefined: Sequence[str]) -> None:
        many = len(self.some)
        for i, off in enumerate(self.some if many > 1 else []):
            drops = [
                other(i, j, self.factor)
                for j, relation in enumerate(self.some)
                if j != i and relation not in undefined
            ]
            if not drops:
                continue
            for measure, value in (
                ("versatility", sum(drops) / len(drops)),
                ("relation_interference", 0.03125),
            ):
                self.read(measure, value, many - 1, deactivated=off, k=self.sizes[off])

    def perplexity(self, draws: int) -> None:
        self.read("perplexity", 20.0, 5000, stderr=0.4, deactivated="none")
        for i, off in enumerate(self.some):
            self.read("perplexity", 20.0 + i / 2, 5000, stderr=0.4, deactivated=off)
        if draws:
            self.read("perplexity", 20.1, 5000, stderr=0.4, deactivated="random")

    def beside(self, ks: Sequence[int], gates: bool, blocks: int, select: str, source: str) -> None:
        for i, relation in enumerate(self.some):
            k = self.sizes[relation]
            for j in range(i + 1, len(self.some)):
                value = 0.0625 * ((i + j) % 4)
                self.read("overlap", value, k, relation=relation, with_=self.some[j], k=k)
            for smaller, larger in itertools.pairwise(ks):
                at = {"relation": relation, "smaller": smaller, "k": larger}
                why = "no fact breaks between them" if smaller == ks[0] else ""
                self.read("cumulativity", None if why else 0.75, reason=why, **at)
            for labels, value in (("true", 0.75 + i / 64), ("shuffled", 0.5)):
                at = {"relation": relation, "k": k, "labels": labels}
                self.read("average_precision", value, **at)
            parts = [m for m in PARTS if gates or m != "gate"]
            counts = {
                m: [(p + 1) * (b + i) % 50 for b in range(blocks)] for p, m in enumerate(parts)
            }
            best = [{"site": f"mlp.up.{b}", "unit": b + 17, "score": 1.0} for b in range(10)]
            self.find("relation_neurons", relation=relation, modules=counts, best=best)
            facts = [
                {
                    "prompt": f"{relation} of {place} is {self.text}",
                    "object": self.text,
                    "before": f" {self.text}",
                    "after": "" if place == 0 else f" a city {place}",
                }
                for place in range(5)
            ]
            self.find("broken_facts", relation=relation, broken=12, of=TESTED, facts=facts)
        path = source or f"relations/{self.label}/neurons.json"
        self.find("neurons_file", path=path, select=select, neurons=TOTAL)


def _series(
    relations: Sequence[str], labels: Sequence[str], early: int, late: int
) -> list[dict[str, Any]]:
    """All is shared with the newest checkpoint of any, half of it one before."""
    newest = len(labels) - 1 - late
    return [
        {
            "kind": "relation_series",
            "relation": relation,
            "newest": labels[newest],
            "appears": labels[early] if early <= newest else None,
            "checkpoints": [
                {
                    "checkpoint": label,
                    "shared": 2.0 ** (index - newest) if early <= index <= newest else None,
                    "jaccard": 0.25 if early <= index <= newest else None,
                    "chance": K / (2 * TOTAL - K),
                }
                for index, label in enumerate(labels)
            ],
        }
        for relation in relations
    ]
