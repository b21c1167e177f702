"""`geoprobe rank`: spectra of every checkpoint and layer, phases, direction ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import default_out, run_verb, show
from geoprobe.commands.options import words
from geoprobe.errors import UsageError
from geoprobe.models.weights import shown
from geoprobe.paths import is_file, typed

_MEASURE = "What is measured"


def rank(
    series: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SERIES...",
            help="demo, a checkpoint folder, a folder of checkpoints, several of these, a .gguf "
            "file, or a model of the hub: org/name or org/name@revision.",
            show_default=False,
        ),
    ] = None,
    tokens: o.Tokens = None,
    convention: o.Convention = None,
    drop_sinks: o.DropSinks = False,
    ablate: o.Ablate = None,
    skip: o.Skip = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="Measure activations you already have instead of a series: .npy (n x d) or "
            ".safetensors (each 2-D tensor is a site).",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
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
    """RankMe, alpha-ReQ and their kin for every checkpoint and layer, and the training phases.

    Writes a run folder (resumed when the same command is run again) and report.html in it.
    """
    given = dict(locals())
    if features is not None:
        if series:
            raise UsageError("Give either SERIES or --features FILE, one of the two.")
        for option, is_given in (
            ("--tokens", tokens),
            ("--drop-sinks", drop_sinks),
            ("--ablate", ablate),
            ("--text", text),
            ("--images", images),
            ("--data", data),
            ("--factory", factory),
        ):
            if is_given:
                raise UsageError(
                    f"{option} says what to take from a model, and --features has its rows "
                    "already; leave it out."
                )
        from geoprobe.api import measure_features

        found = measure_features(
            features,
            conventions=words(convention) if convention is not None else ("exact",),
            skip=words(skip),
            seed=seed,
            out=out or default_out([features.stem]),
            fresh=fresh,
        )
        show(found, json=json, quiet=quiet)
        return
    if not series:
        raise UsageError("No series was given; try `geoprobe rank demo`, or give --features FILE.")
    if factory is None:
        _check_no_features(series)
    run_verb("rank", given)


def _check_no_features(series: list[str]) -> None:
    """Raises where a file of activations was given as a series."""
    for argument in series:
        if not is_file(typed(argument)):
            continue
        name = shown(argument)
        if argument.lower().endswith(".npy"):
            raise UsageError(
                f"{name} is a file of numbers and no checkpoint; give --features {name} to measure "
                "activations."
            )
        if argument.lower().endswith(".safetensors"):
            raise UsageError(
                f"{name} is a single file; give --features {name} if it holds activations, or its "
                "folder if it holds a model's weights."
            )
