"""`GeoprobeCallback`: the geometry of a model while HF Trainer trains it.

    from geoprobe.integrations.trainer import GeoprobeCallback

    trainer = Trainer(..., callbacks=[GeoprobeCallback(text="corpus.jsonl", every=500)])

The readings go wherever the Trainer logs to, and all of them into the run `OUTPUT_DIR/geoprobe`.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from transformers.trainer_callback import TrainerCallback

from geoprobe.errors import GeoprobeError, UsageError
from geoprobe.integrations.undisturbed import undisturbed

if TYPE_CHECKING:
    from torch import nn

    from geoprobe.api import Run
    from geoprobe.runs.folder import Run as RunFolder

USUAL_LOGGED = ("rankme/final", "alpha/final", "sink_rate/model/position_0")
"""Globs over the readings that are logged where none are named."""
PREFIX, FOLDER = "geoprobe", "geoprobe"

_logger = logging.getLogger(__name__)


class GeoprobeCallback(TrainerCallback):
    """Measures the live model during a training, without a trace in what is trained.

    The model is measured as `geoprobe.measure` does it, in evaluation mode and without gradients;
    its weights, modes and buffers and all random numbers are left as they were, so a training gives
    the same weights with and without. Only the main process measures. A model whose weights are
    sharded over processes (FSDP, ZeRO-3, tensor parallelism) is not measured; measure its saved
    checkpoints. Nothing that goes wrong here ends a training: it is a warning, said once.

    Args:
        text: Files (.jsonl, .parquet, .txt) or documents; None is the built-in corpus.
        every: Steps between measurements; or `save` or `evaluate`, to measure when the Trainer
            does that. The model before the first step and after the last one is measured, too.
        probes: What is measured; a probe that the model does not have the parts for is left out.
        sites: Sites to measure, as `--sites` has them; None is the residual stream, which takes
            longer.
        log: Globs over the names of readings to log, or over the beginnings of names: `rankme`,
            `rankme/final`, `sink_rate/model/position_0`. A name is measure, site, and the keys that
            tell readings of a measure at a site apart. The run has all readings, logged or not.
        folder: The run folder; None is `geoprobe` in the Trainer's output folder. Where another
            training's readings are, `-2` is put behind it, and so on.
        batch_size: Sequences a batch; None is the Trainer's own for evaluation.
        tokenizer: The model's tokenizer; None is the Trainer's `processing_class`.
        **options: As `geoprobe.measure` has them: `sequences`, `length`, `tokens`, `layers`, ...
    """

    def __init__(
        self,
        text: str | Path | Sequence[str | Path] | None = None,
        every: int | Literal["save", "evaluate"] = 500,
        probes: Sequence[str] = ("spectrum", "sinks"),
        sites: str | None = "final",
        *,
        log: Sequence[str] = USUAL_LOGGED,
        folder: str | Path | None = None,
        batch_size: int | None = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> None:
        if every not in ("save", "evaluate") and (not isinstance(every, int) or every < 1):
            raise UsageError(
                f"GeoprobeCallback(every={every!r}): give a number of steps, 'save' or 'evaluate'."
            )
        self.every = every
        self.log = (log,) if isinstance(log, str) else tuple(log)
        self.folder = None if folder is None else Path(folder)
        self.batch_size = batch_size
        self.tokenizer = tokenizer
        self.options: dict[str, Any] = {
            "probes": tuple(probes),
            "sites": sites,
            "where_possible": True,
            **options,
        }
        if text is not None:
            several = [text] if isinstance(text, str | Path) else list(text)
            self.options["text"] = tuple(str(item) for item in several)
        from geoprobe.job import make_job

        self._plans = make_job(self.options).plans  # a mistake is told here, not hours later
        self._begin(0)

    def _begin(self, step: int) -> None:
        """A training begins, or goes on from a step."""
        self._began_at = step
        self._measured_at: int | None = None
        self._run_folder: Path | None = None
        self._own_tokenizer: Any = None
        self._said: set[str] = set()

    # Events

    def on_train_begin(self, args: Any, state: Any, control: Any, **what: Any) -> None:
        """Measures the model as it is before the first step."""
        self._begin(state.global_step)
        if state.global_step == 0:
            self._measure(args, state, control, what)

    def on_step_end(self, args: Any, state: Any, control: Any, **what: Any) -> None:
        """Measures every so many steps, and after the last one."""
        due = isinstance(self.every, int) and state.global_step % self.every == 0
        # Not at the event of the end: some integrations have closed their logs by then.
        if due or control.should_training_stop or state.global_step >= state.max_steps:
            self._measure(args, state, control, what)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **what: Any) -> None:
        """Measures where a training ends before its last step."""
        if control.should_training_stop:
            self._measure(args, state, control, what)

    def on_save(self, args: Any, state: Any, control: Any, **what: Any) -> None:
        """Measures what was saved."""
        if self.every == "save":
            self._measure(args, state, control, what)

    def on_evaluate(self, args: Any, state: Any, control: Any, **what: Any) -> None:
        """Measures what was evaluated."""
        # Evaluations outside a training have no place in its run.
        if self.every == "evaluate" and 0 < state.global_step <= state.max_steps:
            self._measure(args, state, control, what)

    # Inside

    def _measure(self, args: Any, state: Any, control: Any, what: Mapping[str, Any]) -> None:
        """Measures and logs, once a step; errors are said and forgotten."""
        if not state.is_world_process_zero or self._measured_at == state.global_step:
            return
        self._measured_at = state.global_step
        try:
            start = time.perf_counter()
            run = self._measured(args, state.global_step, what)
            values = logged(run.readings.to_dicts(), self.log)
            if not values:
                self._say(f"No reading is logged: none has a value and is in {list(self.log)}.")
            values[f"{PREFIX}/seconds"] = round(time.perf_counter() - start, 3)
            _log(values, state, control)
        except Exception as error:
            kind = type(error).__name__
            self._say(str(error) if isinstance(error, GeoprobeError) else f"{kind}: {error}", kind)

    def _measured(self, args: Any, step: int, what: Mapping[str, Any]) -> Run:
        """Measures the live model, and keeps the readings as a checkpoint of the training's run.

        Raises:
            UsageError: The model cannot be measured.
        """
        from geoprobe.api import measure

        if why := _why_not(what["model"]):
            raise UsageError(f"{why}; measure the saved checkpoints instead.")
        model = _unwrapped(what["model"])
        # A copy: reading a text sets how a tokenizer cuts and pads.
        if self._own_tokenizer is None:
            given = what.get("processing_class") if self.tokenizer is None else self.tokenizer
            self._own_tokenizer = copy.deepcopy(_for_options(given, self.options))
        batch_size = self.batch_size or args.per_device_eval_batch_size
        with undisturbed(model):
            run = measure(
                model=model,
                tokenizer=self._own_tokenizer,
                batch_size=batch_size,
                command="trainer",
                **self.options,
            )
        self._keep(run, self.folder or Path(args.output_dir) / FOLDER, step)
        return run

    def _keep(self, measured: Run, folder: Path, step: int) -> None:
        """Adds what was measured to the training's run.

        Raises:
            UsageError: It cannot be written.
        """
        from geoprobe.runs.folder import REPLICATES
        from geoprobe.survey import series_findings

        label = f"step-{step}"
        entry = {**measured.checkpoints[0], "label": label, "step": step}
        arrays = measured.arrays(measured.labels[0])
        arrays.pop(REPLICATES, None)  # the readings have them
        readings = [replace(one, checkpoint=label) for one in measured.measured(measured.labels[0])]
        findings = [{**finding, "checkpoint": label} for finding in measured.findings]
        with self._training_run(measured.header, folder, entry) as run:
            run.write_checkpoint(entry, readings, findings, arrays)
            run.write_findings(series_findings(run, self._plans))

    def _training_run(
        self, header: Mapping[str, Any], folder: Path, entry: Mapping[str, Any]
    ) -> RunFolder:
        """The training's run with one more checkpoint in its series.

        Raises:
            UsageError: It cannot be written.
        """
        from geoprobe.runs.folder import Run as RunFolder

        def create(path: Path, last: int) -> RunFolder:
            # Of a training that went back to a checkpoint, steps beyond that one are another's.
            earlier = [
                known
                for known in _series(path)
                if known["step"] <= last and known["label"] != entry["label"]
            ]
            series = {"arguments": [], "checkpoints": [*earlier, dict(entry)]}
            return RunFolder.create(path, {**header, "series": series})

        if self._run_folder is not None:
            return create(self._run_folder, int(entry["step"]))
        if self._began_at > 0 and _series(latest := _latest(folder)):
            try:
                run = create(latest, self._began_at)
            except UsageError as error:  # measured otherwise: by other options, or elsewhere
                why = str(error).partition(" Give another")[0].removeprefix("--out ")
                self._say(f"{why} The readings go on in another folder.")
            else:
                self._run_folder = latest
                return run
        self._run_folder = _unused(folder)
        return create(self._run_folder, int(entry["step"]))

    def _say(self, message: str, kind: str | None = None) -> None:
        """Warns, once of a kind; by logging, as warnings can be made errors."""
        if (kind or message) not in self._said:
            self._said.add(kind or message)
            _logger.warning("geoprobe: %s The training goes on.", _ended(message))


def logged(readings: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> dict[str, float]:
    """The values to log of a table of readings, by the names that they are logged under.

    Args:
        readings: Rows of `Run.readings`.
        patterns: Globs over the names, or over their first parts.

    Returns:
        Name -> value, of readings that have one: `geoprobe/MEASURE/SITE`, and the keys in which
        readings of that measure at that site differ.
    """
    from geoprobe.runs.reading import COLUMNS

    named = [name for name in readings[0] if name not in COLUMNS] if readings else []
    named.append("convention")
    groups: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for reading in readings:
        groups.setdefault((reading["measure"], reading["site"]), []).append(reading)
    found: dict[str, float] = {}
    for (measure, site), alike in groups.items():
        telling = [key for key in named if len({row[key] for row in alike}) > 1]
        for row in alike:
            parts = [f"{key}_{row[key]}" for key in telling if row[key] is not None]
            # The letters that every logger takes in a name.
            name = re.sub(r"[^\w./-]", "_", "/".join([measure, site, *parts]), flags=re.ASCII)
            if row["value"] is not None and any(
                fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")
                for pattern in patterns
            ):
                found[f"{PREFIX}/{name}"] = float(row["value"])
    return found


def _log(values: dict[str, float], state: Any, control: Any) -> None:
    """Logs as the Trainer does, so that whatever it reports to gets the values.

    A callback is not told its Trainer; it is among the callers. Its class's own method, as those of
    subclasses do more: some begin new averages of what they log.
    """
    from transformers import Trainer

    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and getattr(caller, "state", None) is state:
            break
        frame = frame.f_back
    else:
        state.log_history.append({**values, "step": state.global_step})
        return
    # Logging clears the wish to log that this step may have of its own.
    wished = control.should_log
    Trainer.log(caller, values)
    control.should_log = wished


def _unwrapped(model: Any) -> nn.Module:
    """The module itself, whatever data parallelism, compilation or adapters put around it."""
    from accelerate.utils import extract_model_from_parallel

    model = extract_model_from_parallel(model, keep_torch_compile=False)
    # Adapters sit in the base model's own layers.
    found: nn.Module = model.get_base_model() if hasattr(model, "peft_config") else model
    return found


def _why_not(model: nn.Module) -> str:
    """Why a model cannot be measured by one process while it is trained; empty where it can."""
    # Running one of these on its own would wait for the other processes, for ever.
    if any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    ) or any(
        type(weight).__name__ == "DTensor" or hasattr(weight, "ds_id")
        for weight in model.parameters()
    ):
        return "The model's weights are sharded over processes"
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return "What is trained is a prompt, and not in the layers that are measured"
    return ""


def _for_options(tokenizer: Any, options: Mapping[str, Any]) -> Any:
    """The tokenizer of a processor of texts and images, where text is fed."""
    if options.get("images"):
        return getattr(tokenizer, "image_processor", tokenizer)
    return getattr(tokenizer, "tokenizer", tokenizer)


def _series(folder: Path) -> list[dict[str, Any]]:
    """Entries of the checkpoints of a run that may be there."""
    from geoprobe.runs.folder import Run as RunFolder

    if not (folder / "run.json").is_file():
        return []
    found: list[dict[str, Any]] = RunFolder.open(folder).header["series"]["checkpoints"]
    return found


def _numbered(folder: Path, number: int) -> Path:
    return folder if number == 1 else folder.with_name(f"{folder.name}-{number}")


def _unused(folder: Path) -> Path:
    """The folder, or the first with a number behind it that is not there or empty."""
    number = 1
    while (found := _numbered(folder, number)).exists() and any(found.iterdir()):
        number += 1
    return found


def _latest(folder: Path) -> Path:
    """The last of the folders with a number behind them that are runs."""
    number = 1
    while (_numbered(folder, number + 1) / "run.json").is_file():
        number += 1
    return _numbered(folder, number)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
