"""`geoprobe relations`: relation-specific neurons, and what breaks without them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import run_verb
from geoprobe.errors import NotComparableError

_MEASURE = "What is measured"


def relations(
    series: o.SeriesArgument,
    facts: Annotated[
        list[Path] | None,
        typer.Option(
            "--facts",
            metavar="PATH",
            help="File of a relation (JSON with name, prompt_templates, samples), or a folder of "
            "them; repeatable. Default: the built-in relations, and the demo's own for demo.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    selector: Annotated[
        str,
        typer.Option(
            "--select",
            help="How neurons are chosen: ap (average precision on a relation's prompts against "
            "others) or lape (active on few relations).",
            rich_help_panel=_MEASURE,
        ),
    ] = "ap",
    top_k: Annotated[
        str | None,
        typer.Option(
            "--top-k",
            metavar="K|SHARE%",
            help="Neurons of a relation, as a number or a share of all; with lape those that are "
            "kept for all relations. Default: 0.36%; 1% with lape.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    neurons: Annotated[
        Path | None,
        typer.Option(
            "--neurons",
            metavar="FILE",
            help="The neurons.json of another run: switch off these neurons, and choose none.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out",
            help="Prompts of a relation that judge its neurons at most, of at most half of its "
            "subjects; the others find them.",
            rich_help_panel=_MEASURE,
        ),
    ] = 50,
    min_known: Annotated[
        int,
        typer.Option(
            "--min-known",
            help="Subjects of a relation that the model must know; below, it is left out.",
            rich_help_panel=_MEASURE,
        ),
    ] = 10,
    random_draws: Annotated[
        int,
        typer.Option(
            "--random-draws",
            help="Sets of as many random neurons to compare with; 0 leaves them out.",
            rich_help_panel=_MEASURE,
        ),
    ] = 10,
    cumulative: Annotated[
        str | None,
        typer.Option(
            "--cumulative",
            metavar="K,K,...",
            help="Numbers of neurons of the curve. Default: 10,50,200,500,1000,3000,... up to "
            "three times a relation's.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    perplexity_sequences: Annotated[
        int,
        typer.Option(
            "--perplexity-sequences",
            help="Sequences of the text by which perplexity is measured; 0 leaves it out.",
            rich_help_panel=_MEASURE,
        ),
    ] = 32,
    text: o.Text = None,
    field: o.Field = "text",
    sequences: o.Sequences = 1024,
    length: o.Length = 128,
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
    """Neurons that a relation's facts need: found by what they tell apart, judged by what breaks.

    Facts that the model knows are divided by subject; one part finds the neurons of each relation,
    the other is asked again without them. The neurons are kept in the run's folder, for --neurons.
    """
    run = run_verb("relations", dict(locals()))
    if "deactivated" not in run.readings.columns:
        raise NotComparableError(
            "No relation is left: the model knows too few of the facts at every checkpoint (the "
            "counts are in the run); give --facts that it knows, or a smaller --min-known."
        )
