"""What was asked for, settled: options, the probes' plans, the series that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.errors import CheckpointError, UsageError
from geoprobe.probes.base import SILENT
from geoprobe.probes.registry import choose_plans, settle

if TYPE_CHECKING:
    from geoprobe.corpora import Corpora, Sources
    from geoprobe.data.corpus import Corpus
    from geoprobe.models.hub import Fetcher
    from geoprobe.models.series import Checkpoint, Series
    from geoprobe.probes.base import Plan, Progress

USUAL_SEQUENCES = 1024
"""Sequences, images or items where no number is asked for."""

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""accelerate's ways to spread a model."""


@dataclass(frozen=True)
class Options:
    """On what and how; the same words as the command line's options.

    What a probe can be told besides is in its own module (`SpectrumOptions`, `AblationOptions`).

    Attributes:
        probes: Names of one-pass probes.
        text: Files (.jsonl, .parquet, .txt), or strings that are one document each; none is the
            demo series' own text for `demo`, and the built-in corpus for everything else.
        images: A folder of image files, for models that read images.
        data: A .npy file, or a .npz or .safetensors file with an array `x`, that is fed as it is:
            the main input of the model, items first. For probes of labelled data what
            `geoprobe.data.examples.read_examples` reads: one set or several, with names.
        factory: `package.module:function` that builds the network whose weights the series has.
        field: Field of a .jsonl or .parquet document that holds its text.
        label_field: Field that holds its label.
        sequences: At most this many sequences, images or items (of each set of labelled data);
            None is 1024, and all of labelled data.
        length: Tokens a sequence at most.
        batch_size: Sequences a batch; None chooses.
        layers: Block numbers (`0,-1`, `::4`), or None for all.
        sites: Site names (`embed,final`), or None for all.
        device: Where to run (`cpu`, `cuda`, `mps`); None is the best there is.
        device_map: Spread the model over all devices there are, and what does not fit over main
            memory and disk, by accelerate (`auto`, `balanced`, `balanced_low_0`, `sequential`).
        dtype: Precision of the weights.
        seed: Seed of whatever is drawn.
        tokenizer: Folder of a tokenizer (of an image processor, for images) to use instead of the
            checkpoints' own.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        evict: Delete weights downloaded from the hub as soon as they are measured.
        where_possible: Leave out, with a warning, probes that a model does not have the parts for.
    """

    probes: tuple[str, ...] = ("spectrum",)
    text: tuple[str, ...] = ()
    images: str | None = None
    data: Any = None
    factory: str | None = None
    field: str = "text"
    label_field: str = "label"
    sequences: int | None = None
    length: int = 128
    batch_size: int | None = None
    layers: str | None = None
    sites: str | None = None
    device: str | None = None
    device_map: str | None = None
    dtype: str = "float32"
    seed: int = 0
    tokenizer: str | None = None
    trust_remote_code: bool = False
    evict: bool = False
    where_possible: bool = False

    def __post_init__(self) -> None:
        for name, least in (("sequences", 2), ("length", 2), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise UsageError(f"--{name.replace('_', '-')} {value}: give at least {least}.")
        fed = {"--text": self.text, "--images": self.images, "--data": self.data is not None}
        if len(given := [option for option, value in fed.items() if value]) > 1:
            raise UsageError(f"{' and '.join(given)}: give one of them.")
        if self.device_map is not None:
            self._check_device_map()

    def _check_device_map(self) -> None:
        if self.device_map not in DEVICE_MAPS:
            raise UsageError(
                f"--device-map {self.device_map}: not one of {', '.join(DEVICE_MAPS)}."
            )
        for option, given in (("--device", self.device), ("--factory", self.factory)):
            if given is not None:
                raise UsageError(
                    f"--device-map {self.device_map} and {option} {given}: give one of them; the "
                    "map places models of transformers on all devices there are."
                )

    @property
    def is_fed(self) -> bool:
        """Whether text, images or data were given."""
        return bool(self.text or self.images or self.data is not None)

    @property
    def usual_tokens(self) -> tuple[str, ...]:
        """Token choices where none are named.

        The last token has seen all of a text, the first of an image is its CLS token; a vector is
        its own mean, and the mean of a map is what a classifier pools.
        """
        return ("mean",) if self.data is not None else ("first",) if self.images else ("last",)


def make_job(
    options: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    command: str = "plan",
    arguments: Sequence[str] = (),
) -> Job:
    """Settles options, given by name; those that are not of `Options` are the probes'.

    What is usual for the demo series depends on the `arguments` that stand for the series.
    """
    shared = {f.name for f in fields(Options)}
    settled = settle(Options, {n: v for n, v in options.items() if n in shared})
    rest = {n: v for n, v in options.items() if n not in shared}
    usual = {"tokens": settled.usual_tokens}
    if list(arguments) == ["demo"]:
        from geoprobe.data.demo_series import demo_facts_folder

        usual["facts"] = (str(demo_facts_folder()),)
    plans, settled_rest = choose_plans(settled.probes, rest, usual)
    if settled.where_possible:
        plans = [replace(plan, optional=True) for plan in plans]
    if settled.sequences is None and (settled.data is None or _data_of(plans) != "labelled"):
        settled = replace(settled, sequences=USUAL_SEQUENCES)
    return Job(settled, plans, settled_rest, out, fresh, progress or SILENT, command)


def _data_of(plans: Sequence[Plan]) -> str:
    """What data that is given is read as: with all that one of the probes wants of it."""
    return next((plan.data for plan in plans if plan.data != "items"), "items")


@dataclass(frozen=True)
class Job:
    """What `measure` was asked for, settled."""

    options: Options
    plans: list[Plan]
    plan_options: dict[str, Any]
    out: str | Path | None
    fresh: bool
    progress: Progress
    command: str

    def tokenise(self, tokenizer: Any) -> Corpus:
        """The corpus with a tokenizer."""
        from geoprobe.data.corpus import build_corpus

        return build_corpus(
            tokenizer,
            self.options.text or None,
            field=self.options.field,
            sequences=self.options.sequences,
            length=self.options.length,
        )

    def sources(self) -> Sources:
        """What there is to feed.

        Raises:
            UsageError: The images or the data are not there.
        """
        from geoprobe.corpora import Sources

        options = self.options
        images: tuple[Path, ...] = ()
        data = examples = None
        if options.images:
            from geoprobe.data.images import image_files

            images = image_files(options.images, options.sequences)
        if options.data is not None:
            kind = _data_of(self.plans)
            if kind == "items":
                from geoprobe.data.arrays import read_array

                data = read_array(options.data, options.sequences)
            else:
                from geoprobe.data.examples import read_examples

                examples = read_examples(
                    options.data,
                    field=options.field,
                    label_field=options.label_field,
                    most=options.sequences,
                    labelled=kind == "labelled",
                )
        return Sources(
            self.tokenise,
            images,
            f"images in {Path(options.images or '').resolve().name}",
            data,
            options.tokenizer,
            options.trust_remote_code,
            examples,
            options.length,
        )


@dataclass(frozen=True)
class Ready:
    """A series that was found, and what its checkpoints are measured with."""

    found: Series
    measurable: list[Checkpoint]
    corpora: Corpora
    fetcher: Fetcher
    device: Any
    dtype: Any


def find_ready(arguments: list[str], job: Job, select: Mapping[str, Any]) -> Ready:
    """Finds the series that arguments stand for.

    Raises:
        UsageError: An argument or an option is wrong.
        CheckpointError: None of its checkpoints can be measured.
    """
    from geoprobe.models.series import find_series

    found = find_series(arguments, **select, factory=bool(job.options.factory))
    for label, message in found.skipped:
        job.progress.note(f"{label}: {message}")
    measurable = [c for c in found.checkpoints if not c.incomplete]
    if not measurable:
        raise CheckpointError(
            "No checkpoint can be measured: "
            + "; ".join(f"{c.label}: {c.incomplete}" for c in found.checkpoints)
            + "."
        )
    from geoprobe.corpora import Corpora
    from geoprobe.models.hub import Fetcher

    options = job.options
    if arguments == ["demo"] and not options.is_fed:
        from geoprobe.data.demo_series import demo_text_path

        options = replace(options, text=(str(demo_text_path()),))
    fetcher = Fetcher(evict=options.evict)
    corpora = Corpora(replace(job, options=options).sources(), fetcher)
    return Ready(
        found,
        measurable,
        corpora,
        fetcher,
        device_named(options.device),
        dtype_named(options.dtype),
    )


def device_named(name: str | None) -> Any:
    """The device of a name; the best there is for None.

    Raises:
        UsageError: This machine does not have it.
    """
    import torch

    from geoprobe.statistics.memory import out_of_memory

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        if out_of_memory(error):
            raise UsageError(
                f"--device {name}: its memory is full (of another program, or of this one); free "
                "it, or give another device or cpu."
            ) from error
        raise UsageError(
            f"--device {name}: this machine has no such device; leave it out or give cpu."
        ) from error
    return device


def dtype_named(name: str) -> Any:
    """The precision of a name.

    Raises:
        UsageError: There is none of this name.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise UsageError(f"--dtype {name}: not one of {', '.join(known)}.")
    return known[name]
