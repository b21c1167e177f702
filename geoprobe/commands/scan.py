"""`geoprobe scan`: everything that one pass over a model can tell, in one run and one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import run_verb

_MEASURE = "What is measured"

Probes = Annotated[
    str | None,
    typer.Option(
        "--probes",
        help="Any of spectrum, sinks, collapse, superposition (one pass for all of them), "
        "features, relations. Default: the first four, where the model has what they need.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Attention = Annotated[
    bool,
    typer.Option(
        "--attention",
        help="Also what attention pays to sinks (scores, rates, masses) and how they form, which "
        "takes further passes.",
        rich_help_panel=_MEASURE,
    ),
]
Sae = Annotated[
    list[str] | None,
    typer.Option(
        "--sae",
        metavar="[SITE=]PATH",
        help="Sparse autoencoders, for --probes features.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Train = Annotated[
    bool,
    typer.Option("--train", help="Train them, for --probes features.", rich_help_panel=_MEASURE),
]
Facts = Annotated[
    list[Path] | None,
    typer.Option(
        "--facts",
        metavar="PATH",
        help="Facts, for --probes relations.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
TopK = Annotated[
    str | None,
    typer.Option(
        "--top-k",
        metavar="K|SHARE%",
        help="Neurons of a relation, for --probes relations.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]


def scan(
    series: o.SeriesArgument,
    probes: Probes = None,
    attention: Attention = False,
    tokens: o.Tokens = None,
    convention: o.Convention = None,
    drop_sinks: o.DropSinks = False,
    skip: o.Skip = None,
    sae: Sae = None,
    train: Train = False,
    facts: Facts = None,
    top_k: TopK = None,
    text: o.Text = None,
    field: o.Field = "text",
    images: o.Images = None,
    data: o.Data = None,
    sequences: o.Sequences = 1024,
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
    """All one-pass measures of every checkpoint, in a single forward pass.

    Spectra, sinks and their levels, neural collapse on next tokens, superposition: one run folder,
    one report. What a model has not (attention, a head, MLPs) is left out with a word.
    """
    run_verb("scan", dict(locals()))
