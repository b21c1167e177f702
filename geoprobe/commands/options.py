"""Options that every measuring verb shares: the same words everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from geoprobe.errors import UsageError

_MEASURE, _TEXT, _SERIES, _COMPUTE, _OUTPUT = (
    "What is measured",
    "What is fed",
    "Which checkpoints",
    "How it runs",
    "Output",
)

SeriesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SERIES...",
        help="demo, a checkpoint folder, a folder of checkpoints, several of these, a .gguf "
        "file, or a model of the hub: org/name or org/name@revision.",
        show_default=False,
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        help="last (the last real token of a sequence), first (its first: CLS), mean, all; or "
        "several: last,all. Default: last; first of images; mean of --data.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        "--convention",
        help="exact, li2025, garrido2023, reptrix0.1, stringer; or several: exact,li2025. "
        "Default: exact.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
DropSinks = Annotated[
    bool,
    typer.Option(
        "--drop-sinks",
        help="Also measure without attention-sink tokens: the primary sink and tokens along its "
        "direction, as `geoprobe sinks` finds them, on the first sequences; by position and id.",
        rich_help_panel=_MEASURE,
    ),
]
Ablate = Annotated[
    str | None,
    typer.Option(
        "--ablate",
        help="Next-token loss with the K top directions of `final` removed, and alone kept: 10,50.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Skip = Annotated[
    str | None,
    typer.Option(
        "--skip",
        help="Leave out the costly ones: matrix_entropy,intrinsic_dim.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Text = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        help="Text to measure on, repeatable: .jsonl and .parquet (a document is a sequence) or "
        ".txt (packed). Default: the built-in corpus.",
        rich_help_panel=_TEXT,
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="Folder of image files, for models that read images; patches are tokens.",
        rich_help_panel=_TEXT,
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Array fed as it is, items first: .npy, or x in .npz or .safetensors.",
        rich_help_panel=_TEXT,
        show_default=False,
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--factory",
        help="package.module:function that builds the network whose weights SERIES has "
        "(.safetensors, .pt); its sites are its modules' paths.",
        rich_help_panel=_SERIES,
        show_default=False,
    ),
]
Field = Annotated[
    str,
    typer.Option("--field", help="Field with the text in .jsonl/.parquet.", rich_help_panel=_TEXT),
]
Sequences = Annotated[
    int,
    typer.Option("--sequences", help="At most N sequences, images, items.", rich_help_panel=_TEXT),
]
Length = Annotated[
    int, typer.Option("--length", help="Tokens a sequence at most.", rich_help_panel=_TEXT)
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Folder of a tokenizer (for images, of an image processor), where the checkpoints "
        "have none.",
        rich_help_panel=_TEXT,
        show_default=False,
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        help="Regular expression with groups named stage, step, tokens or epoch that orders the "
        "checkpoints' names.",
        rich_help_panel=_SERIES,
        show_default=False,
    ),
]
Every = Annotated[
    int, typer.Option("--every", help="Every K-th checkpoint.", rich_help_panel=_SERIES)
]
LogSpaced = Annotated[
    int | None,
    typer.Option(
        "--log-spaced",
        help="N checkpoints evenly spaced in log step.",
        rich_help_panel=_SERIES,
        show_default=False,
    ),
]
Last = Annotated[
    int | None,
    typer.Option("--last", help="The last N only.", rich_help_panel=_SERIES, show_default=False),
]
Revisions = Annotated[
    str | None,
    typer.Option(
        "--revisions",
        help="Branches and tags of a model of the hub, by a glob: 'step*'.",
        rich_help_panel=_SERIES,
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Model that adapters are for, or whose config.json bare state dicts (.pt, .ckpt) "
        "follow. Default: what the adapter says, the config.json in a folder above.",
        rich_help_panel=_SERIES,
        show_default=False,
    ),
]
Evict = Annotated[
    bool,
    typer.Option(
        "--evict",
        help="Delete weights downloaded from the hub as soon as they are measured.",
        rich_help_panel=_SERIES,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="Sequences a batch. Default: 4,096 tokens, or what memory holds.",
        rich_help_panel=_COMPUTE,
        show_default=False,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help="Blocks to measure, as in 0,-1 or ::4. Default: all.",
        rich_help_panel=_COMPUTE,
        show_default=False,
    ),
]
Sites = Annotated[
    str | None,
    typer.Option(
        "--sites",
        help="Sites to measure: embed, block.3, final, attention.3, mlp.in.3, mlp.gate.3, "
        "mlp.up.3, neurons.3, mlp.out.3; without a number in every block. Module paths with "
        "--factory; * stands for anything. Default: embed, block, final.",
        rich_help_panel=_COMPUTE,
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda or mps. Default: cuda if there is one.",
        rich_help_panel=_COMPUTE,
        show_default=False,
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        help="Spread a model that no device holds over all of them, main memory and disk, as "
        "accelerate does: auto, balanced, balanced_low_0, sequential.",
        rich_help_panel=_COMPUTE,
        show_default=False,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Precision of the model (statistics are float64): float32, bfloat16, float16.",
        rich_help_panel=_COMPUTE,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", help="Seed of whatever is drawn.", rich_help_panel=_COMPUTE)
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with a checkpoint. Only for checkpoints you trust.",
        rich_help_panel=_COMPUTE,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Run folder. Default: geoprobe-runs/<name of the series>.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start over if the folder has a run.", rich_help_panel=_OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON document on stdout, everything else on stderr.",
        rich_help_panel=_OUTPUT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No table, no progress.", rich_help_panel=_OUTPUT)
]


def words(text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated list, each once."""
    return tuple(dict.fromkeys(w.strip() for w in text.split(",") if w.strip())) if text else ()


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """The whole numbers of a comma-separated list.

    Raises:
        UsageError: Something else is in it.
    """
    try:
        return tuple(int(word) for word in words(text))
    except ValueError:
        raise UsageError(f"{option} {text}: give whole numbers, as in 10,50.") from None


_WHICH = ("pattern", "every", "log_spaced", "last", "revisions", "base")
_LISTS = {
    "tokens": "tokens",
    "convention": "conventions",
    "skip": "skip",
    "probe_text": "probe_text",
    "nulls": "nulls",
    "weights": "weights",
}
"""Parameters that are comma-separated lists, and the options that they are."""
_OTHERWISE = (
    *("series", "text", "images", "data", "ablate", "cumulative", "probes", "accelerator"),
    *("out", "fresh", "json", "quiet", *_WHICH, *_LISTS),
)
"""Parameters that are not handed on as they are."""


def which(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `find_series` among a verb's parameters, by name."""
    return {name: given[name] for name in _WHICH}


def asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a measuring verb's parameters, by name, ask of `geoprobe.measure`.

    Raises:
        UsageError: One of them is not what it should be.
    """
    from geoprobe.data.corpus import file_names

    found = {
        "select": which(given),
        "text": file_names(given["text"]) if given["text"] else None,
        # What was not asked for is left to the default, if a probe has such an option at all.
        **{
            name: value
            for name, value in given.items()
            if name not in _OTHERWISE and value is not None and value is not False
        },
    }
    for name in ("images", "data"):
        value = given.get(name)
        if isinstance(value, list):
            found[name] = [str(item) for item in value]
        elif value is not None:
            found[name] = str(value)
    for option, name in _LISTS.items():
        if given.get(option) is not None:
            found[name] = words(given[option])
    for name in ("ablate", "cumulative"):
        if given.get(name) is not None:
            found[name] = numbers(f"--{name}", given[name])
    for name in ("facts", "neurons"):
        value = given.get(name)
        if value is not None:
            found[name] = [str(v) for v in value] if isinstance(value, list) else str(value)
    return found
