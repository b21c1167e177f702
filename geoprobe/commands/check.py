"""`geoprobe check`: whether a model's geometry moved, as a test that CI can run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geoprobe.commands import options as o
from geoprobe.commands.measuring import default_out
from geoprobe.commands.scan import Attention, Facts, Probes, Sae, TopK
from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from geoprobe.checks.checking import Checked
    from geoprobe.checks.verdict import Verdict

_CHECK, _OUTPUT = "What it is compared with", "Output"


def check(
    series: Annotated[
        list[str],
        typer.Argument(
            metavar="SERIES...|RUN",
            help="As for the other verbs; of several checkpoints the newest is checked. Or the "
            "folder of a run.",
            show_default=False,
        ),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="The baseline, a JSON file for git. Options that it was measured with hold where "
            "they are not given.",
            rich_help_panel=_CHECK,
            show_default=False,
        ),
    ] = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Write the baseline, after showing the difference. Measures twice more, with "
            "another batch size and in half precision, for what numerics alone may do.",
            rich_help_panel=_CHECK,
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Another model to compare with, instead of a baseline.",
            rich_help_panel=_CHECK,
            show_default=False,
        ),
    ] = None,
    unpaired: Annotated[
        bool,
        typer.Option(
            "--unpaired",
            help="The texts differ on purpose: compare by standard errors alone.",
            rich_help_panel=_CHECK,
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Expectations: .toml with [check] and [[check.expect]]. Default: geoprobe.toml, "
            "or [tool.geoprobe] in pyproject.toml.",
            rich_help_panel=_CHECK,
            show_default=False,
        ),
    ] = None,
    probes: Probes = None,
    attention: Attention = False,
    tokens: o.Tokens = None,
    sae: Sae = None,
    facts: Facts = None,
    top_k: TopK = None,
    text: o.Text = None,
    field: Annotated[
        str | None, typer.Option("--field", help="Field that holds the text.", show_default=False)
    ] = None,
    images: o.Images = None,
    data: o.Data = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            "--sequences",
            help="Sequences at most. Default: the baseline's, or 1024.",
            show_default=False,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            help="Tokens a sequence at most. Default: the baseline's, or 128.",
            show_default=False,
        ),
    ] = None,
    tokenizer: o.Tokenizer = None,
    pattern: o.Pattern = None,
    every: o.Every = 1,
    log_spaced: o.LogSpaced = None,
    last: o.Last = None,
    revisions: o.Revisions = None,
    base: o.Base = None,
    factory: o.Factory = None,
    batch_size: o.BatchSize = None,
    layers: o.Layers = None,
    sites: o.Sites = None,
    device: o.Device = None,
    device_map: o.DeviceMap = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Precision of the weights. Default: the baseline's, or float32.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Seed of what is drawn. Default: the baseline's.", show_default=False
        ),
    ] = None,
    trust_remote_code: o.TrustRemoteCode = False,
    out: o.Out = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit",
            metavar="FILE",
            help="Also write JUnit XML.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            metavar="FILE",
            help="Also write Markdown, for a comment on a pull request.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Show every reading, not only what moved.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Whether a model's geometry moved, against a baseline in git or another model.

    Exit code 0: nothing moved beyond what is expected. 1: something did. 3: the two cannot be
    compared, or a reading is missing. Begin with: geoprobe check MODEL --baseline geometry.json
    --update.
    """
    given = dict(locals())
    from geoprobe.checks.checking import check as run_check
    from geoprobe.commands.progress import Bars

    for name in ("baseline", "update", "against", "unpaired", "config", "junit", "markdown"):
        given.pop(name)
    given.pop("everything")
    given.pop("attention")
    asked = o.asked(given)
    if attention:
        asked["levels_only"] = False
    if probes is not None:
        asked["probes"] = o.words(probes)
    with Bars(quiet=quiet) as bars:
        found = run_check(
            series,
            baseline=baseline,
            against=against,
            update=update,
            unpaired=unpaired,
            config=config,
            out=out or default_out(series, "check"),
            progress=bars,
            **{name: value for name, value in asked.items() if value not in (None, ())},
        )
    _show(found, json=json, quiet=quiet, everything=everything, junit=junit, markdown=markdown)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _show(
    found: Checked,
    *,
    json: bool,
    quiet: bool,
    everything: bool,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    """Writes what was asked for, and the table or the JSON document."""
    from geoprobe.reports import check as reports

    verdict = found.verdict
    if verdict is not None:
        _write("--junit", junit, lambda: reports.junit(verdict))
        _write("--markdown", markdown, lambda: reports.markdown(verdict))
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            reports.append_step_summary(verdict, Path(summary))
    report = None
    if (found.run.path / "run.json").is_file() and os.access(found.run.path, os.W_OK):
        from geoprobe.reports.html import write_report

        report = write_report([found.run], found.run.path / "report.html", verdict=verdict)
    if json:
        _print_json(found, verdict)
    elif verdict is not None and not quiet:
        from rich.console import Console

        reports.render(verdict, Console(), everything=everything)
    if verdict is not None and not found.written and (json or quiet):
        print(reports.exit_sentence(verdict), file=sys.stderr)
    for what, path in (("Baseline", found.written), ("Run", found.run.path), ("Report", report)):
        if path is not None:
            print(f"{what}: {path}", file=sys.stderr)


def _print_json(found: Checked, verdict: Verdict | None) -> None:
    import json as json_module

    from geoprobe.reports import check as reports

    document: dict[str, Any] = {"schema": "geoprobe.check/1", "exit_code": 0, "changes": []}
    if verdict is not None:
        document = reports.document(verdict)
    document["baseline_written"] = found.written is not None
    json_module.dump(document, sys.stdout, indent=1, sort_keys=True, allow_nan=False)
    sys.stdout.write("\n")


def _write(option: str, path: Path | None, made: Any) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made(), "utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written ({error}).") from error
