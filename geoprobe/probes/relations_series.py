"""Whether a relation's neurons stay the same over a series, and when they appear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.measures.relations import jaccard, jaccard_by_chance

if TYPE_CHECKING:
    from geoprobe.probes.base import Findings
    from geoprobe.runs.folder import Run

SHARED = 0.5
"""Share of the newest neurons from which on they count as there."""


def series(run: Run) -> Findings:
    """Each relation's neurons at every checkpoint, held against its newest ones.

    They appear at the first checkpoint from which on every one that has neurons of the relation has
    half or more of the newest ones. Nothing is said where neurons were given: they are the same
    everywhere.

    Args:
        run: The run so far.

    Returns:
        A finding for each relation that has neurons at two checkpoints.
    """
    if len(run.labels) < 2 or run.header["options"].get("neurons") is not None:
        return []
    sets: dict[str, dict[str, Any]] = {}
    for label in run.labels:
        for name, array in run.arrays(label).items():
            if name.startswith("relations/") and name.endswith("/neurons"):
                relation = name.removeprefix("relations/").removesuffix("/neurons")
                sets.setdefault(relation, {})[label] = array
    totals = {int(f["neurons"]) for f in run.findings if f["kind"] == "neurons_file"}
    found = []
    for relation, by_label in sets.items():
        newest = list(by_label)[-1]
        if len(by_label) < 2 or len(totals) > 1:
            continue
        rows = [
            _row(label, by_label.get(label), by_label[newest], max(totals, default=0))
            for label in run.labels
        ]
        there = [row for row in rows if row["shared"] is not None]
        at = len(there) - 1
        while at > 0 and there[at - 1]["shared"] >= SHARED:
            at -= 1
        found.append(
            {
                "kind": "relation_series",
                "relation": relation,
                "newest": newest,
                # By the newest alone, every neuron appears at the end.
                "appears": there[at]["checkpoint"] if at < len(there) - 1 else None,
                "checkpoints": rows,
            }
        )
    return found


def _row(label: str, here: Any, newest: Any, total: int) -> dict[str, Any]:
    if here is None:
        return {"checkpoint": label, "shared": None, "jaccard": None, "chance": None}
    return {
        "checkpoint": label,
        "shared": len(np.intersect1d(here, newest)) / len(newest),
        "jaccard": jaccard(here, newest),
        "chance": jaccard_by_chance(len(here), len(newest), total) if total else None,
    }
