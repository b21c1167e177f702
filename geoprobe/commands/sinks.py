"""`geoprobe sinks`: attention sinks, massive activations, sink levels, and when they emerge."""

from __future__ import annotations

from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import run_verb

_MEASURE = "What is measured"


def sinks(
    series: o.SeriesArgument,
    probe_text: Annotated[
        str,
        typer.Option(
            "--probe-text",
            help="Texts for sink scores: natural (what is fed), random (drawn tokens), repeat (one "
            "drawn token); or several: natural,random,repeat. The last two carry no BOS.",
            rich_help_panel=_MEASURE,
        ),
    ] = "natural",
    eps: Annotated[
        float,
        typer.Option(
            "--eps",
            help="Sink score beyond which a head counts for the sink rate.",
            rich_help_panel=_MEASURE,
        ),
    ] = 0.3,
    levels_only: Annotated[
        bool,
        typer.Option(
            "--levels-only",
            help="Stages, levels and massive activations alone: one pass, and no attention.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    causal: Annotated[
        bool,
        typer.Option(
            "--causal",
            help="Also take the sinks' direction from the MLPs that write it, and say how sink "
            "scores and the next-token loss change (about ten more passes).",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    text: o.Text = None,
    field: o.Field = "text",
    sequences: o.Sequences = 100,
    length: o.Length = 64,
    tokenizer: o.Tokenizer = None,
    pattern: o.Pattern = None,
    every: o.Every = 1,
    log_spaced: o.LogSpaced = None,
    last: o.Last = None,
    revisions: o.Revisions = None,
    base: o.Base = None,
    evict: o.Evict = False,
    batch_size: o.BatchSize = None,
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
    """Where attention rests: sink scores and masses, massive activations, stages, levels, causes.

    --length is T of the sink scores, which fall with it; published rates are for 64.
    """
    run_verb("sinks", dict(locals()))
