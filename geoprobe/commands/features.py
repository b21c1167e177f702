"""`geoprobe features`: how many features a layer carries, by sparse autoencoders."""

from __future__ import annotations

from typing import Annotated

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import run_verb

_MEASURE, _TRAIN = "What is measured", "How autoencoders are trained"


def features(
    series: o.SeriesArgument,
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae",
            metavar="[SITE=]PATH",
            help="Folder of a sparse autoencoder, or of several, repeatable: SAELens, "
            "dictionary_learning or sparsify, told by its files; SITE where they do not say it.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ] = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Train autoencoders on every site that is measured, and keep them in the run's "
            "folder in SAELens' layout. Resumed when the same command is run again.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    nulls: Annotated[
        str,
        typer.Option(
            "--nulls",
            help="What to compare with: random_model (the same on random weights), gaussian (on "
            "Gaussian data of equal covariance), or none.",
            rich_help_panel=_MEASURE,
        ),
    ] = "random_model,gaussian",
    loss_sequences: Annotated[
        int,
        typer.Option(
            "--loss-sequences",
            help="Sequences on which the loss recovered is measured, four passes a site; 0 leaves "
            "it out.",
            rich_help_panel=_MEASURE,
        ),
    ] = 32,
    architecture: Annotated[
        str,
        typer.Option(
            "--architecture",
            help="tied (ReLU and an L1 penalty, the decoder is the encoder, no decoder bias: the "
            "paper's), standard (with a decoder and a bias of its own), topk or batchtopk.",
            rich_help_panel=_TRAIN,
        ),
    ] = "tied",
    expansion: Annotated[
        int,
        typer.Option(
            "--expansion", help="Features per dimension of the site.", rich_help_panel=_TRAIN
        ),
    ] = 4,
    l1: Annotated[
        float | None,
        typer.Option(
            "--l1",
            help="Weight of the sparsity penalty of tied and standard. Default: 0.1.",
            rich_help_panel=_TRAIN,
            show_default=False,
        ),
    ] = None,
    reduction: Annotated[
        str,
        typer.Option(
            "--reduction",
            help="Both terms of the loss as sums over their entries (the paper's text), or their "
            "means (its code): sum or mean.",
            rich_help_panel=_TRAIN,
        ),
    ] = "sum",
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Train on activations as they are. Otherwise they are scaled, and --l1 is meant "
            "for a mean squared norm of 1, the same at every site and width.",
            rich_help_panel=_TRAIN,
        ),
    ] = False,
    k: Annotated[
        int | None,
        typer.Option(
            "--k",
            help="Active features a token of topk and batchtopk. Default: 32.",
            rich_help_panel=_TRAIN,
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Autoencoders a site.", rich_help_panel=_TRAIN)
    ] = 2,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            help="Adam's learning rate. Default: 0.001; 2e-4/sqrt(D/16384) of topk and batchtopk.",
            rich_help_panel=_TRAIN,
            show_default=False,
        ),
    ] = None,
    sae_batch: Annotated[
        int, typer.Option("--sae-batch", help="Tokens a step.", rich_help_panel=_TRAIN)
    ] = 128,
    train_samples: Annotated[
        int,
        typer.Option(
            "--train-samples",
            help="Tokens at most; the text is read as often as it takes.",
            rich_help_panel=_TRAIN,
        ),
    ] = 300_000,
    patience: Annotated[
        int,
        typer.Option(
            "--patience",
            help="Stop after so many evaluations on held-out text without progress; 0 never. The "
            "best weights are kept.",
            rich_help_panel=_TRAIN,
        ),
    ] = 3,
    train_sinks: Annotated[
        bool,
        typer.Option(
            "--train-sinks",
            help="Train on attention sinks, too; their norm is most of the loss.",
            rich_help_panel=_TRAIN,
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
    """Effective features F and psi = F/N of every site, by sparse autoencoders.

    Beside each stand L0, explained variance, dead features, the loss recovered, the curve by sample
    size, seeds, and the same on a random model and on Gaussian data.
    """
    run_verb("features", dict(locals()))
