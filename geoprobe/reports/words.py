"""What happened, in sentences, and numbers for people."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run


TOKENS = {
    "last": "last tokens",
    "first": "first tokens",
    "mean": "mean over tokens",
    "all": "all tokens",
}
SINKS = {"in": "sinks kept", "out": "sinks dropped"}

_ROWS = re.compile(r"\b\d+(?= rows for )|(?<=\(n/d = )\d+(?:\.\d+)?(?:e[+-]\d+)?(?=,)")
"""The numbers of a warning of too few rows that differ from checkpoint to checkpoint."""

_WELL_ABOVE = 1.1
"""A peak this many times the value before it is told, though no phase is made of it."""


class Warned(NamedTuple):
    """A warning once, and where it holds.

    Attributes:
        run: Name of the run.
        message: The sentence.
        checkpoints: Labels it was given for; empty for the whole series.
    """

    run: str
    message: str
    checkpoints: list[str]


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: so many significant digits, no exponent where it can be helped."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size <= 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def with_error(value: float | None, stderr: float | None) -> str:
    """A value with its standard error, both to the error's second digit."""
    shown, error = apart(value, stderr)
    return f"{shown} ± {error}" if error else shown


def apart(value: float | None, stderr: float | None) -> tuple[str, str]:
    """The same in two parts; the second is empty where there is no error."""
    if value is None:
        return "undefined", ""
    if not stderr:
        return number(value), ""
    decimals = max(0, 1 - math.floor(math.log10(stderr)))
    if decimals > 6 or abs(value) >= 1e7:
        return number(value, 4), number(stderr, 2)
    return f"{value:,.{decimals}f}", f"{stderr:,.{decimals}f}"


def token_names(finding: Mapping[str, Any]) -> list[str]:
    """The tokens that a finding names, as Python writes texts; their ids where there is none."""
    texts = finding.get("tokens_text") or [f"#{i}" for i in finding["token_ids"]]
    return [repr(text) for text in texts]


def count(n: int, one: str, many: str | None = None) -> str:
    """`1 checkpoint`, `3 checkpoints`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def compact(value: float | None) -> str:
    """A step or token count as on an axis: 512, 1.5k, 294B."""
    if value is None:
        return ""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scale = 1e3 if suffix == "k" else size
            return f"{value / scale:.4g}{suffix}"
    return f"{value:g}"


def moment(checkpoint: dict[str, Any]) -> str:
    """When a checkpoint was: `step 512`, `4B tokens`, or its label."""
    stage = checkpoint.get("stage")
    if stage is not None:
        return f"stage {stage} {moment({**checkpoint, 'stage': None})}"
    if checkpoint.get("step") is not None:
        return f"step {checkpoint['step']:,}"
    if checkpoint.get("tokens") is not None:
        return f"{compact(checkpoint['tokens'])} tokens"
    if checkpoint.get("epoch") is not None:
        return f"epoch {checkpoint['epoch']:g}"
    return str(checkpoint["label"])


def where(subject: Subject) -> str:
    """The site and tokens that the summary is about."""
    if subject.are_features:
        return subject.main_site
    return f"{subject.main_site} ({TOKENS.get(subject.main_tokens, subject.main_tokens)})"


def series_values(subject: Subject, name: str, measure: str) -> list[dict[str, Any]]:
    """The readings of the main site of a run over training, under the first convention."""
    conventions = subject.conventions(measure)
    if not conventions:
        return []
    frame = subject.spectral.filter(
        (pl.col("run") == name)
        & (pl.col("measure") == measure)
        & (pl.col("convention") == conventions[0])
        & (pl.col("site") == subject.main_site)
        & (pl.col("tokens") == subject.main_tokens)
        & (pl.col("sinks") == subject.main_sinks)
    )
    return list(frame.sort("index").to_dicts())


def summary(subject: Subject, name: str, otherwise: str = "There is no RankMe reading.") -> str:
    """What happened to one model: a few sentences computed from its readings and findings.

    Args:
        subject: What is shown.
        name: Name of the run.
        otherwise: What is said where RankMe was not measured.
    """
    run = subject.runs[name]
    if not run.checkpoints:
        if run.failed:
            return (
                f"No checkpoint could be measured; {count(len(run.failed), 'checkpoint')} failed."
            )
        return "This run is empty: no checkpoint has been measured yet."
    text = _extent(run)
    known = [r for r in series_values(subject, name, "rankme") if r["value"] is not None]
    if not known:
        text += f" {otherwise}"
    elif len(run.checkpoints) == 1:
        text += _one_checkpoint(subject, name, known[0])
    else:
        text += _over_training(subject, name, known)
    if run.failed:
        text += f" {count(len(run.failed), 'checkpoint')} could not be measured."
    return text


def _extent(run: Run) -> str:
    first, last = run.checkpoints[0], run.checkpoints[-1]
    if len(run.checkpoints) == 1:
        at = moment(first)
        return "One checkpoint" + (f", {at}." if at != first["label"] else ".")
    staged = first.get("stage") is not None or last.get("stage") is not None
    if first.get("step") is not None and last.get("step") is not None and not staged:
        return f"{len(run.checkpoints)} checkpoints, step {first['step']:,} to {last['step']:,}."
    return f"{len(run.checkpoints)} checkpoints, {moment(first)} to {moment(last)}."


def _one_checkpoint(subject: Subject, name: str, rankme: dict[str, Any]) -> str:
    text = f" RankMe of {where(subject)} is {with_error(rankme['value'], rankme['stderr'])}"
    alphas = series_values(subject, name, "alpha")
    if alphas and alphas[0]["value"] is not None:
        text += f" and alpha {with_error(alphas[0]['value'], alphas[0]['stderr'])}"
    text += f", from {count(int(rankme['n']), 'row')}."
    layers = subject.newest(name).filter(
        (pl.col("measure") == "rankme")
        & (pl.col("convention") == rankme["convention"])
        & (pl.col("tokens") == subject.main_tokens)
        & (pl.col("sinks") == subject.main_sinks)
        & pl.col("value").is_not_null()
    )
    if layers.height > 2:
        rows = layers.sort("value", maintain_order=True).to_dicts()
        low, high = rows[0], rows[-1]
        text += (
            f" Over {layers.height} sites RankMe is lowest at {low['site']} "
            f"({number(low['value'])}) and highest at {high['site']} ({number(high['value'])})."
        )
    return text


def _over_training(subject: Subject, name: str, known: list[dict[str, Any]]) -> str:
    run = subject.runs[name]
    at = {r["checkpoint"]: r for r in known}
    entry = {str(c["label"]): c for c in run.checkpoints}
    found = [
        p
        for p in subject.phases
        if p["run"] == name and str(p["start"]) in at and str(p["end"]) in at
    ]
    if not found:
        first, last = known[0], known[-1]
        change = last["value"] - first["value"]
        text = (
            f" RankMe of {where(subject)} went from {number(first['value'])} to "
            f"{number(last['value'])}"
        )
        if first["stderr"] is not None and last["stderr"] is not None:
            beyond = abs(change) > 2 * math.hypot(first["stderr"], last["stderr"])
            text += ", " + ("beyond" if beyond else "within") + " two standard errors"
        return text + "; no phase of training was found."
    parts = []
    for place, phase in enumerate(found):
        start, end = at[str(phase["start"])], at[str(phase["end"])]
        verb = "rose" if phase["change"] > 0 else "fell"
        begins = (
            f"from {number(start['value'])} "
            if place == 0 or found[place - 1]["end"] != phase["start"]
            else ""
        )
        ends = str(phase["end"]) == run.labels[-1]
        when = "at the end" if ends else f"by {moment(entry[str(phase['end'])])}"
        peak = _peak_inside(known, start, end) if phase["name"] == "warmup" else None
        before = (
            f"; rose to {number(peak['value'])} at {moment(entry[str(peak['checkpoint'])])} first"
            if peak
            else ""
        )
        parts.append(f"{verb} {begins}to {number(end['value'])} {when} ({phase['name']}{before})")
    text = f" RankMe of {where(subject)} {', '.join(parts)}"
    opposed = [p["name"] for p in found if p.get("alpha_opposes")]
    if len(opposed) == len(found):
        text += "; alpha moved the other way" + (" each time." if len(found) > 1 else ".")
    elif opposed:
        text += f"; alpha moved the other way in {' and '.join(opposed)} only."
    else:
        text += "; alpha did not move the other way."
    return text


def _peak_inside(
    known: list[dict[str, Any]], start: dict[str, Any], end: dict[str, Any]
) -> dict[str, Any] | None:
    """The highest reading between two, where it is well above the first of them."""
    inside = [r for r in known if start["index"] < r["index"] < end["index"]]
    peak = max(inside, key=lambda r: float(r["value"]), default=None)
    return peak if peak is not None and peak["value"] > _WELL_ABOVE * start["value"] else None


def warnings(subject: Subject) -> list[Warned]:
    """Warnings and notes of all runs, each once, with the checkpoints it was given for."""
    return _told_once(subject, "warning")


def sink_rules(subject: Subject) -> list[Warned]:
    """The rule by which sinks were dropped, likewise."""
    return _told_once(subject, "sink_rule")


def _told_once(subject: Subject, kind: str) -> list[Warned]:
    """Findings of one kind, those that differ only in their numbers of rows taken together."""
    found: dict[tuple[str, ...], list[tuple[str, str | None]]] = {}
    for name, run in subject.runs.items():
        for finding in run.findings:
            if finding.get("kind") == kind:
                message = str(finding.get("message", ""))
                label = finding.get("checkpoint")
                alike = found.setdefault((name, *_ROWS.split(message)), [])
                alike.append((message, None if label is None else str(label)))
    return [
        Warned(
            name,
            _together(list(dict.fromkeys(message for message, _ in alike))),
            list(dict.fromkeys(label for _, label in alike if label is not None)),
        )
        for (name, *_), alike in found.items()
    ]


def _together(messages: list[str]) -> str:
    """One sentence for several that differ in their numbers of rows: these as ranges."""
    texts = zip(*(_ROWS.findall(m) for m in messages), strict=True)
    ranges = []
    for same_place in texts:
        low, high = (f(same_place, key=float) for f in (min, max))
        ranges.append(low if low == high else f"{low} to {high}")
    places = iter(ranges)
    return _ROWS.sub(lambda _: next(places), messages[0])
