"""`geoprobe superposition`: how features share dimensions, in weights and in activations."""

from __future__ import annotations

from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import run_verb

_MEASURE = "What is measured"


def superposition(
    series: o.SeriesArgument,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Matrices whose rows are features: embedding, unembedding, mlp.in (gate and up "
            "where there are), mlp.out, one block's (mlp.out.3), or parameters by name, rows as "
            "they are stored; * stands for anything, and .T behind a name takes its columns. "
            "Default: all four kinds; with --factory all linear maps.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae",
            metavar="[SITE=]PATH",
            help="Folder of a sparse autoencoder, or of several, repeatable: the directions of its "
            "decoder are measured, too.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    skip_coherence: Annotated[
        bool,
        typer.Option(
            "--skip-coherence",
            help="Leave out the closest pair of rows: of a large vocabulary it takes longest.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
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
    """Superposition: dimensions of every feature, interference, coherence, kurtosis, bases.

    Features are rows of the weights; beside them stand random rows, and what none can go below.
    """
    run_verb("superposition", dict(locals()))
