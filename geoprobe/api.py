"""The Python face: `geoprobe.measure`, `geoprobe.open`, and the run they give."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.job import USUAL_SEQUENCES, Job, Options, find_ready, make_job
from geoprobe.runs.folder import Run as RunFolder

if TYPE_CHECKING:
    from torch import nn

    from geoprobe.data.inputs import Inputs
    from geoprobe.planning import Estimate
    from geoprobe.probes.base import Progress

_LIBRARIES = ("geoprobe", "torch", "transformers", "nnsight", "numpy", "scipy", "pillow")


class Run(RunFolder):
    """A run folder that can also show itself."""

    def __repr__(self) -> str:
        done, failed = len(self.labels), len(self.failed)
        return (
            f"<geoprobe run {str(self.path)!r}: {done} checkpoint{'s' * (done != 1)} measured"
            + (f", {failed} failed>" if failed else ">")
        )

    def report(self, path: str | Path) -> Path:
        """Writes the self-contained HTML report.

        Args:
            path: The file to write.
        """
        from geoprobe.reports.html import write_report

        return Path(write_report([self], Path(path)) or path)

    def charts(self, directory: str | Path, image: str = "png") -> list[Path]:
        """Writes each chart as an image (`png` or `svg`)."""
        from geoprobe.reports.html import write_charts

        return list(write_charts([self], Path(directory), image))


def measure(
    series: str | Path | Sequence[str | Path] | None = None,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    fresh: bool = False,
    select: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    command: str = "measure",
    **options: Any,
) -> Run:
    """Measures a series of checkpoints, or one live module.

    Args:
        series: `demo`, checkpoint folders, folders of them, .gguf files, models of the hub.
        model: A live module to measure instead of a series: one of transformers, or any other, fed
            with `data`.
        tokenizer: The module's tokenizer, or image processor where `images` is given; for a series
            the folder of one to use instead of the checkpoints' own.
        out: The run folder; None makes a temporary one that lives as long as the result.
        fresh: Start over where the folder holds another run.
        select: Which checkpoints: `pattern`, `every`, `log_spaced`, `last`, `revisions`, `base`.
        progress: Told how far the loop is.
        command: Recorded in the run.
        **options: Fields of `Options` and of the probes' own options (`tokens`, `conventions`,
            `drop_sinks`, `skip`, `ablate`); single values stand for one-element tuples. `data` may
            be an array too.

    Returns:
        The run. `run.failed` names checkpoints that could not be measured.

    Raises:
        UsageError: An option or the input is wrong.
    """
    if (series is None) == (model is None):
        raise UsageError("Give either a series or model=..., one of the two.")
    if series is not None and tokenizer is not None:
        options["tokenizer"] = str(tokenizer)
    arguments = [str(series)] if isinstance(series, str | Path) else [str(s) for s in series or ()]
    job = make_job(
        options,
        out=out,
        fresh=fresh,
        progress=progress,
        command=command,
        arguments=arguments,
    )
    if model is not None:
        return _measure_module(model, tokenizer, job)
    return _measure_series(arguments, job, select or {})


def _run_of(job: Job, corpus: Inputs, device: Any, series: dict[str, Any]) -> Run:
    """The run, new or resumed."""
    from geoprobe.data.corpus import is_file_name
    from geoprobe.placement import statistics_memory

    recorded = {f.name: getattr(job.options, f.name) for f in fields(job.options)}
    recorded |= job.plan_options
    for plan in job.plans:
        recorded |= plan.recorded
    recorded.pop("device")  # recorded with the environment
    recorded.pop("evict")
    recorded["text"] = [
        Path(item).name if is_file_name(item) else f"a document of {len(item)} characters"
        for item in job.options.text
    ]
    for name in ("images", "data"):
        value = getattr(job.options, name)
        if value is not None:
            recorded[name] = _shown_data(value)
    header = _header(job.command, recorded, corpus.describe(), series)
    header["environment"] |= {"device": str(device), "dtype": job.options.dtype}
    header["chosen"] = {
        "batch_size": job.options.batch_size,  # none: chosen with the first model
        "statistics_memory": statistics_memory(device),
    }
    return _create(job.out, header, job.fresh)


def _shown_data(value: Any) -> Any:
    """What was fed, as a run records it: names of files without their folders."""
    if isinstance(value, str | Path):
        name, equals, path = str(value).partition("=")
        return f"{name}={Path(path).name}" if equals and "/" not in name else Path(value).name
    if isinstance(value, Mapping):
        return {str(name): _shown_data(item) for name, item in value.items()}
    if isinstance(value, list | tuple) and all(isinstance(v, str | Path) for v in value):
        return [_shown_data(item) for item in value]
    return "an array"


def open_run(path: str | Path) -> Run:
    """Opens a run folder.

    Raises:
        UsageError: It is not one.
    """
    return Run.open(Path(path))


def plan(
    series: str | Path | Sequence[str | Path],
    *,
    select: Mapping[str, Any] | None = None,
    accelerator: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Estimate:
    """Estimates what `measure` would take, from configs alone; loads no weights.

    Args:
        series: As `measure` has it.
        select: Which checkpoints, as `measure` has it.
        accelerator: Name of an accelerator to estimate for besides this machine.
        progress: Told what is left out.
        **options: As `measure` has them.

    Raises:
        UsageError: An option or the input is wrong.
    """
    import numpy as np

    from geoprobe.machines import ACCELERATORS
    from geoprobe.placement import statistics_memory
    from geoprobe.planning import estimate

    if accelerator is not None and accelerator not in ACCELERATORS:
        raise UsageError(f"--accelerator {accelerator}: known are {', '.join(ACCELERATORS)}.")
    arguments = [str(series)] if isinstance(series, str | Path) else [str(s) for s in series]
    job = make_job(options, progress=progress, arguments=arguments)
    ready = find_ready(arguments, job, select or {})
    asked = job.options
    corpus: Inputs | None = None
    try:
        corpus = ready.corpora(ready.measurable[-1])
        lengths = corpus.lengths
    except UsageError as error:
        if asked.is_fed or asked.tokenizer or "tokenizer" not in str(error):
            raise
        # Without a tokenizer: full sequences, as the built-in corpus has them.
        ready.fetcher.small(ready.measurable[-1])
        lengths = np.full(asked.sequences or USUAL_SEQUENCES, asked.length)
    return estimate(
        ready.measurable,
        job.plans,
        corpus,
        lengths=lengths,
        batch=asked.batch_size,
        memory=statistics_memory(ready.device),
        device=ready.device,
        dtype=ready.dtype,
        layers=asked.layers,
        sites=asked.sites,
        accelerator=accelerator,
        trust_remote_code=asked.trust_remote_code,
        factory=asked.factory,
    )


def _measure_series(arguments: list[str], job: Job, select: Mapping[str, Any]) -> Run:
    try:
        ready = find_ready(arguments, job, select)
    except CheckpointError as error:
        if job.out is None or not (Path(job.out) / "run.json").is_file():
            raise
        # Their weights may have been deleted on purpose, after they were measured (`--evict`).
        raise CheckpointError(
            f"{error}. What was measured before is kept: `geoprobe report {job.out}` shows it."
        ) from error
    import torch

    from geoprobe.entries import checkpoint_entry
    from geoprobe.models.series import to_download
    from geoprobe.survey import Settings, survey_series

    options, found, measurable = job.options, ready.found, ready.measurable
    device, dtype = ready.device, ready.dtype
    corpora, fetcher = ready.corpora, ready.fetcher
    corpus = corpora(measurable[0])
    series = {
        "arguments": [Path(a).name if Path(a).exists() else a for a in arguments],
        "checkpoints": [checkpoint_entry(c, "") for c in found.checkpoints],
    }
    with _run_of(job, corpus, device, series) as run:
        if (download := to_download([c for c in measurable if not run.has(c.label)])) is not None:
            job.progress.note(download)
        chosen = run.header["chosen"]
        settings = Settings(
            corpus_for=corpora,
            fetcher=fetcher,
            plans=job.plans,
            batch_size=chosen["batch_size"],
            memory=chosen["statistics_memory"],
            device=device,
            dtype=dtype,
            seed=options.seed,
            layers=options.layers,
            sites=options.sites,
            trust_remote_code=options.trust_remote_code,
            factory=options.factory,
            device_map=options.device_map,
        )
        torch.manual_seed(options.seed)
        survey_series(found.checkpoints, settings, run, job.progress)
    return run


def _measure_module(model: nn.Module, tokenizer: Any, job: Job) -> Run:
    import numpy as np

    from geoprobe.entries import describe_model
    from geoprobe.models.capture import Capture
    from geoprobe.models.factory import describe
    from geoprobe.models.families import FAMILIES
    from geoprobe.models.layout import find_layout
    from geoprobe.models.loading import Loaded, module_fingerprint
    from geoprobe.models.selfcheck import self_check
    from geoprobe.room import with_room
    from geoprobe.survey import measure_model

    if tokenizer is None and job.options.data is None:
        raise UsageError(
            "measure(model=...) needs tokenizer=... as well, to make token ids of text, an image "
            "processor where images=... is given, or data=... to feed as it is."
        )
    weights = next(model.parameters(), None)
    if weights is None:
        raise UsageError(
            f"measure(model=...): the {type(model).__name__} has no parameters; give a network "
            "that was trained, or its activations to geoprobe.spectrum."
        )
    if any(p.is_meta for p in model.parameters()):
        raise UsageError(
            "measure(model=...): some of its weights are on no device (meta) or offloaded; a live "
            "module must hold its weights. Give its folder with device_map='auto' instead."
        )
    dtype = str(weights.dtype).removeprefix("torch.")
    for name, given, own in (
        ("dtype", job.options.dtype, dtype),
        ("device", job.options.device or str(weights.device), str(weights.device)),
        ("device_map", job.options.device_map, None),
    ):
        if given not in (own, getattr(Options, name)):
            raise UsageError(
                f"measure(model=..., {name}={given!r}): a live module is measured as it is, in "
                f"{own}; leave {name} out, or move the module first."
            )
    family = getattr(getattr(model, "config", None), "model_type", None)
    row = FAMILIES.get(str(family))
    name = type(model).__name__
    known = row is not None or job.options.data is None
    sources = replace(job.sources(), tokenizer="" if tokenizer is not None else None)
    sources.check(row.reads if row is not None else None, str(family) if known else name)
    corpus = sources.with_(tokenizer, row.reads if row is not None else None)
    job = replace(job, options=replace(job.options, dtype=dtype))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        layout = find_layout(model) if known else describe(model, corpus.batch(np.arange(1)), name)
        entry = {
            "label": "model",
            "step": None,
            "tokens": None,
            "stage": None,
            "fingerprint": module_fingerprint(model),
            "corpus": corpus.fingerprint,
            "model": describe_model(layout),
        }
        series = {"arguments": [], "checkpoints": [entry]}
        with _run_of(job, corpus, weights.device, series) as run:
            if run.is_done(entry):
                return run
            if run.has("model"):
                raise UsageError(
                    f"{run.path} holds readings of other weights; give another out, or fresh=True."
                )
            capture = Capture(model, layout)
            self_check(capture)
            outcome, batch_size = with_room(
                partial(
                    measure_model,
                    Loaded(model, layout, in_place=False),
                    capture,
                    corpus,
                    job.plans,
                    seed=job.options.seed,
                    memory=run.header["chosen"]["statistics_memory"],
                    layers=job.options.layers,
                    sites=job.options.sites,
                    progress=job.progress,
                    folder=partial(run.beside, "model"),
                    key=f"{entry['fingerprint']} {corpus.fingerprint}",
                ),
                capture,
                corpus,
                run.header["chosen"]["batch_size"],
                job.progress,
            )
            if job.options.batch_size is None:
                run.choose(batch_size=batch_size)
            outcome = outcome.named("model")
            run.write_checkpoint(entry, outcome.readings, outcome.findings, outcome.arrays)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return run


def _create(out: str | Path | None, header: dict[str, Any], fresh: bool) -> Run:
    if out is not None:
        return Run.create(Path(out), header, fresh=fresh)
    temporary = tempfile.TemporaryDirectory(prefix="geoprobe-")
    run = Run.create(Path(temporary.name) / "run", header)
    run.keep_alive = temporary
    return run


def _header(
    command: str, options: Mapping[str, Any], corpus: Mapping[str, Any], series: Mapping[str, Any]
) -> dict[str, Any]:
    """run.json: what must be the same for a run to be resumed, and the series."""
    return {
        "command": command,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        "corpus": dict(corpus),
        "environment": {
            "python": platform.python_version(),
            "libraries": {name: _version(name) for name in _LIBRARIES},
        },
        "series": dict(series),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def measure_features(
    features: Any,
    *,
    conventions: Sequence[str] = ("exact",),
    skip: Sequence[str] = (),
    seed: int = 0,
    out: str | Path | None = None,
    fresh: bool = False,
) -> Run:
    """Measures the spectrum of activations that someone already has.

    Args:
        features: Rows (n, d): an array or tensor, a mapping from site to such, or the path of a
            .npy or .safetensors file (each 2-D tensor is a site).
        conventions: Conventions of rankme and alpha.
        skip: Measures to leave out.
        seed: Seed of whatever is drawn.
        out: The run folder; None makes a temporary one that lives as long as the result.
        fresh: Start over where the folder holds another run.

    Returns:
        A run with one checkpoint named `features`.

    Raises:
        UsageError: The file cannot be read, or the features are not a matrix of finite numbers.
    """
    from geoprobe.data.features import read_features
    from geoprobe.probes.spectrum import SpectrumOptions, measure_rows

    options = SpectrumOptions(conventions=tuple(conventions), skip=tuple(skip))
    matrices, digest = read_features(features)
    outcome = measure_rows(matrices, options, seed).named("features")
    entry = {
        "label": "features",
        "step": None,
        "tokens": None,
        "stage": None,
        "fingerprint": digest,
    }
    header = _header(
        "rank --features",
        {"conventions": list(conventions), "skip": list(skip), "seed": seed},
        {"source": "features", "fingerprint": digest},
        {"arguments": [], "checkpoints": [entry]},
    )
    header["environment"] |= {"device": "cpu", "dtype": "float64"}
    with _create(out, header, fresh) as run:
        if not run.is_done(entry):
            run.write_checkpoint(entry, outcome.readings, outcome.findings, outcome.arrays)
    return run
