"""Measures a model and checks it against a baseline or another model, or makes a baseline."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.checks.comparing import compare, floors_between
from geoprobe.checks.expectations import read_expectations
from geoprobe.checks.sides import HALF, NUMERICS, Side, read_baseline, side_of, write_baseline
from geoprobe.errors import CheckpointError, UsageError
from geoprobe.probes.base import SILENT
from geoprobe.probes.registry import scan_options

if TYPE_CHECKING:
    from geoprobe.api import Run
    from geoprobe.checks.verdict import Verdict
    from geoprobe.probes.base import Progress

_FILES = ("text", "images", "data", "sae", "facts", "neurons", "factory", "tokenizer", "weights")
"""Options that name files: a baseline has no paths, so these are given anew."""
_HALF_DTYPE = "bfloat16"


@dataclass(frozen=True)
class Checked:
    """What a check did.

    Attributes:
        verdict: The comparison; None where there was nothing to compare with.
        run: What was measured now.
        side: The same, as a baseline has it.
        written: The baseline that was written; None where none was.
    """

    verdict: Verdict | None
    run: Run
    side: Side
    written: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 not comparable; 0 where a baseline was written."""
        return 0 if self.verdict is None or self.written else self.verdict.exit_code


def check(
    series: str | Path | Sequence[str | Path] | None = None,
    *,
    baseline: str | Path | None = None,
    against: str | Path | None = None,
    update: bool = False,
    unpaired: bool = False,
    config: str | Path | None = None,
    model: Any = None,
    out: str | Path | None = None,
    select: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Checked:
    """Measures a model, or reads a run, and says whether its geometry moved.

    Args:
        series: As `measure` has it, or the folder of a run; of a series the newest checkpoint.
        baseline: The baseline file; options that it was measured with and that are not given are
            taken from it.
        against: Another model to compare with instead.
        update: Write the baseline.
        unpaired: Compare by standard errors alone: the texts differ on purpose.
        config: A .toml file of expectations; None looks for geoprobe.toml and pyproject.toml.
        model: A live module instead of a series, with `tokenizer=`.
        out: The folder of the run; None is a temporary one.
        select: Which checkpoints, as `measure` has it.
        progress: Told how far it is.
        **options: As `measure` has them; `probes` are spectrum, sinks, collapse and superposition,
            where the model has what they need, if nothing else is said, and of sinks their levels;
            `levels_only=False` measures attention, too.

    Raises:
        UsageError: An option, the baseline or the expectations are wrong.
        CheckpointError: The model could not be measured.
    """
    if (baseline is None) == (against is None):
        raise UsageError("check: give --baseline FILE, or --against MODEL; one of the two.")
    if update and against is not None:
        raise UsageError("--update writes the baseline, and --against has none; leave it out.")
    file = None if baseline is None else Path(baseline)
    folder = _as_run(series)
    before = None
    if file is not None and (file.exists() or not update):
        before = read_baseline(file)
        if folder is None:
            options = {**_of_baseline(before, options, update=update), **options}
    expectations = read_expectations(None if config is None else Path(config))
    tell = progress or SILENT
    now = _Subject(series, model, select or {}, options, tell)
    if folder is not None:
        if update:
            raise UsageError(
                f"--update measures the model anew to find its numerical floor, and {folder} is a "
                "run; give the model."
            )
        from geoprobe.api import open_run

        run = open_run(folder)
    else:
        run = now.measured(out)
    side = side_of(run)
    if len(run.labels) > 1:
        tell.note(f"Of {len(run.labels)} checkpoints the newest is checked: {run.labels[-1]}.")
    if against is not None:
        other = _Subject(str(against), None, {}, options, tell)
        before = other.side(other.measured())
    if update:
        assert file is not None
        side = now.side(run)
        verdict = None if before is None else compare(before, side, expectations, unpaired=unpaired)
        write_baseline(file, side)
        return Checked(verdict, run, side, file)
    assert before is not None
    return Checked(compare(before, side, expectations, unpaired=unpaired), run, side)


@dataclass(frozen=True)
class _Subject:
    """What is measured for one side of a check, and how."""

    series: Any
    model: Any
    select: Mapping[str, Any]
    options: Mapping[str, Any]
    progress: Progress

    def measured(self, out: str | Path | None = None, **changed: Any) -> Run:
        """A fresh measurement, with some options otherwise.

        Raises:
            CheckpointError: The newest checkpoint could not be measured.
        """
        from geoprobe.api import measure

        given = {**self.options, **changed}
        run = measure(
            self.series,
            out=out,
            fresh=True,
            select=self.select,
            progress=self.progress,
            command="check",
            **{"model": self.model, **scan_options(given.get("probes") or ()), **given},
        )
        if run.failed:
            raise CheckpointError("; ".join(run.failed.values()))
        return run

    def side(self, run: Run) -> Side:
        """What a run measured, with what other numerics do to it: other batches, half precision."""
        found = side_of(run)
        batch = int(run.header["chosen"]["batch_size"] or 1)
        other = max(1, batch // 3) if batch > 1 else 2
        for what, changed in ((NUMERICS, {"batch_size": other}), (HALF, {"dtype": _HALF_DTYPE})):
            if what == HALF and run.header["environment"]["dtype"] == _HALF_DTYPE:
                continue
            told = ", ".join(f"{k} {v}" for k, v in changed.items())
            self.progress.note(f"Measuring again for the floor ({told}).")
            if self.model is not None and what == HALF:
                import torch

                changed = {"model": copy.deepcopy(self.model).to(torch.bfloat16), "dtype": None}
            try:
                again = self.measured(None, **changed)
            except (CheckpointError, UsageError) as error:
                self.progress.note(f"No floor of {what.replace('_', ' ')}: {error}")
                continue
            found = found.with_floors(what, floors_between(found, side_of(again)))
        return found


def _of_baseline(before: Side, given: Mapping[str, Any], *, update: bool) -> dict[str, Any]:
    """Options that a baseline was measured with, and that are not given anew.

    Raises:
        UsageError: It was measured with files that are not given.
    """
    known = before.header["options"]
    for name in _FILES:
        if known.get(name) and not given.get(name) and not update:
            raise UsageError(
                f"The baseline was measured with --{name} {_shown(known[name])}; give the same."
            )
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in known.items()
        if name not in _FILES and value not in (None, [], {})
    }


def _shown(value: Any) -> str:
    several = value if isinstance(value, list) else [value]
    return ", ".join(str(v.get("name", "...")) if isinstance(v, dict) else str(v) for v in several)


def _as_run(series: Any) -> Path | None:
    """The folder of a run, where that is what was given."""
    several = [series] if isinstance(series, str | Path) else list(series or ())
    if len(several) != 1:
        return None
    folder = Path(several[0])
    return folder if (folder / "run.json").is_file() else None
