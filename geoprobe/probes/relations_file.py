"""Neurons of relations as a file, to be given to another checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.errors import UsageError
from geoprobe.runs.files import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.models.layout import Layout
    from geoprobe.probes.relations_units import Units

SCHEMA = "geoprobe.neurons/1"
NAME = "neurons.json"


@dataclass(frozen=True)
class Neurons:
    """Neurons of relations, wherever they were found.

    Attributes:
        sets: Relation to its neurons as (site, unit), the most specific first.
        subjects: Relation to the subjects by which they were found.
        family: The model's.
        select: How they were chosen.
        source: The file, for people.
    """

    sets: Mapping[str, Sequence[tuple[str, int]]]
    subjects: Mapping[str, Sequence[str]]
    family: str
    select: str
    source: str

    def fingerprint(self) -> str:
        """SHA-256 of the neurons and the subjects, whatever file they are in."""
        text = json.dumps([self.sets, self.subjects], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, layout: Layout) -> None:
        """Makes sure that a model has these neurons.

        Raises:
            UsageError: It has not.
        """
        for relation, neurons in self.sets.items():
            for site, unit in neurons:
                if site not in layout.taps or unit >= layout.width_of(site):
                    raise UsageError(
                        f"--neurons {self.source}: {relation} has unit {unit} of {site}, which "
                        f"this {layout.family} model has not; give neurons of the same "
                        "architecture."
                    )

    def numbers(self, units: Units) -> dict[str, NDArray[np.int64]]:
        """Relation to the numbers of its neurons."""
        return {
            relation: np.array(
                [units.part(site).start + unit for site, unit in neurons], dtype=np.int64
            )
            for relation, neurons in self.sets.items()
        }


def write_neurons(
    folder: Path,
    sets: Mapping[str, NDArray[np.int64]],
    scores: Mapping[str, NDArray[np.float64]],
    subjects: Mapping[str, Sequence[str]],
    units: Units,
    layout: Layout,
    select: str,
) -> None:
    """Writes the file, one neuron a line."""
    lines = []
    for relation in sets:
        rows = [
            json.dumps([*units.place(int(n)), float(score)])
            for n, score in zip(sets[relation], scores[relation], strict=True)
        ]
        lines.append(f"  {json.dumps(relation)}: [\n   " + ",\n   ".join(rows) + "\n  ]")
    head = {
        "schema": SCHEMA,
        "family": layout.family,
        "select": select,
        "depth": layout.depth,
        "neurons": len(units),
        "subjects": {relation: list(subjects[relation]) for relation in sets},
    }
    text = (
        json.dumps(head, indent=1)[:-2] + ',\n "relations": {\n' + ",\n".join(lines) + "\n }\n}\n"
    )
    write_whole(folder / NAME, text)


def read_neurons(path: str | Path) -> Neurons:
    """Reads the file.

    Raises:
        UsageError: It is not there, or is no such file.
    """
    where = f"--neurons {path}"
    file = Path(path)
    if file.is_dir() and (file / NAME).is_file():
        file = file / NAME
    try:
        found: Any = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{where} cannot be read ({error}); give the {NAME} of a run of relations."
        ) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"{where} is no {SCHEMA} file; give the {NAME} of a run of relations.")
    try:
        sets = {
            relation: [(_text(row[0]), _unit(row[1])) for row in rows]
            for relation, rows in found["relations"].items()
        }
        subjects = {
            relation: [_text(one) for one in found["subjects"][relation]] for relation in sets
        }
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{where} is damaged: each of `relations` has rows of a site and a unit, and each has "
            "its `subjects`; write it anew with geoprobe relations."
        ) from error
    for relation, neurons in sets.items():
        if not neurons or len(set(neurons)) < len(neurons):
            raise UsageError(
                f"{where}: {relation} has no neurons, or one of them twice; write it anew."
            )
    if not sets:
        raise UsageError(f"{where} has no relations; write it anew with geoprobe relations.")
    family, select = str(found.get("family")), str(found.get("select"))
    return Neurons(sets, subjects, family, select, Path(path).name)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _unit(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value
