"""`geoprobe collapse`: neural collapse by layer and over training, balanced and imbalanced."""

from __future__ import annotations

from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import run_verb

_MEASURE = "What is measured"
_FED = "What is fed"


def collapse(
    series: o.SeriesArgument,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]FILE",
            help="Labelled data; several with names (train=FILE --data heldout=FILE): .jsonl or "
            ".parquet with text and label, a folder of images with a folder for each class, .npz "
            "or .safetensors with x and y. Without it classes are the text's next tokens.",
            rich_help_panel=_FED,
            show_default=False,
        ),
    ] = None,
    label_field: Annotated[
        str,
        typer.Option(
            "--label-field", help="Field with the label in .jsonl/.parquet.", rich_help_panel=_FED
        ),
    ] = "label",
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="labels or tokens (next tokens of a language model). Default: labels with --data, "
            "else tokens. With tokens, --data names sets of text to set side by side.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            "--tokens",
            help="The vector of a text or an image: last, mean or first. Default: first (CLS) for "
            "models that see both ways, last for others, mean for --factory.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(
            "--min-count",
            help="Leave classes with fewer samples out. Default: 10 for tokens, none for labels.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    weight_decay_w: Annotated[
        float | None,
        typer.Option(
            "--weight-decay-w",
            help="Weight decay of the linear layers: predicts, with the next and the class counts "
            "of the set called train (else the first, which must be whole), the frame of "
            "imbalanced classes (mean squared error, no bias).",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    weight_decay_h: Annotated[
        float | None,
        typer.Option(
            "--weight-decay-h",
            help="Weight decay of the features.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    depth: Annotated[
        int,
        typer.Option(
            "--depth",
            help="Number of linear layers that the weight decays act on.",
            rich_help_panel=_MEASURE,
        ),
    ] = 1,
    text: o.Text = None,
    field: o.Field = "text",
    sequences: Annotated[
        int | None,
        typer.Option(
            "--sequences",
            help="At most N sequences, or items of each --data. Default: 1024, and all that have "
            "labels.",
            rich_help_panel=_FED,
            show_default=False,
        ),
    ] = None,
    length: o.Length = 128,
    tokenizer: o.Tokenizer = None,
    pattern: o.Pattern = None,
    every: o.Every = 1,
    log_spaced: o.LogSpaced = None,
    last: o.Last = None,
    revisions: o.Revisions = None,
    base: o.Base = None,
    factory: o.Factory = None,
    evict: o.Evict = False,
    batch_size: o.BatchSize = None,
    layers: o.Layers = None,
    sites: o.Sites = None,
    device: o.Device = None,
    device_map: o.DeviceMap = None,
    dtype: o.Dtype = "float32",
    seed: o.Seed = 0,
    trust_remote_code: o.TrustRemoteCode = False,
    out: o.Out = None,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """NC1 to NC4 of every checkpoint and layer: of a classifier, of labelled text, of next tokens.

    Beside each value stands the same on permuted labels, and what an ETF cannot go below.
    """
    run_verb("collapse", {**locals(), "images": None})
