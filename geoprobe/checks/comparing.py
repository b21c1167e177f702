"""The comparison of two sides, reading by reading.

On the same text a model gives the same numbers but for rounding, so that a difference is held
against a numerical floor, measured when the baseline was made; how it compares with the text's own
sampling noise is said by the standard error of the paired differences. On other text a difference
is held against both standard errors, at a level that is corrected for the number of readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geoprobe.checks.expectations import Expectation, Expectations, judge, worst_first
from geoprobe.checks.sides import HALF, NUMERICS, Kept, Name, Side
from geoprobe.checks.verdict import Change, Verdict
from geoprobe.measures.estimate import jackknife
from geoprobe.probes.readings import A_NULL

FLOOR_TIMES = 10.0
"""A difference counts from so many times the numerical floor on."""
FAMILY_WISE = 0.01
"""Chance that any reading of the same model fails on other text (Bonferroni)."""
_LEAST = 1e-6
"""Of a value: the floor is nowhere lower, as other machines round otherwise."""


def floors_between(first: Side, second: Side) -> dict[Name, float]:
    """How much the readings of one model moved between two ways to compute them.

    A single difference may be small by luck, so that each is as large as that of any other site of
    the same measure would be, in standard errors.
    """
    moved: dict[Name, float] = {}
    largest: dict[tuple[str, str, str], float] = {}
    for name, kept in first.readings.items():
        other = second.readings.get(name)
        if other is None or kept.value is None or other.value is None:
            continue
        moved[name] = abs(other.value - kept.value)
        if kept.stderr:
            kind = name.probe, name.measure, name.convention
            largest[kind] = max(largest.get(kind, 0.0), moved[name] / kept.stderr)
    for name, by in moved.items():
        kept = first.readings[name]
        assert kept.value is not None
        spread = largest.get((name.probe, name.measure, name.convention), 0.0)
        moved[name] = max(by, spread * (kept.stderr or 0.0), _LEAST * abs(kept.value))
    return moved


def compare(
    before: Side, after: Side, expectations: Expectations, *, unpaired: bool = False
) -> Verdict:
    """Compares what was measured with a baseline.

    Args:
        before: The baseline.
        after: What was measured now.
        expectations: What may change.
        unpaired: Whether the texts differ on purpose.
    """
    problems, notes = _problems(before, after, unpaired=unpaired), []
    what, more = _floor_kind(before, after)
    notes += more
    if what == HALF and not before.has_floors(HALF) and not unpaired:
        problems.append(
            f"The baseline was measured in {_of(before, 'dtype')} on {_of(before, 'device')}, this "
            f"in {_of(after, 'dtype')} on {_of(after, 'device')}, and it has no floor for that; "
            "measure as the baseline was, or make it anew with --update."
        )
    pairs = [(name, kept, after.readings.get(name)) for name, kept in before.readings.items()]
    judged = sum(1 for _, a, b in pairs if b and a.stderr and b.stderr)
    changes = [
        _change(name, kept, other, what, judged, unpaired=unpaired) for name, kept, other in pairs
    ]
    found = []
    for change, (_, kept, other) in zip(changes, pairs, strict=True):
        expectation = expectations.of(change)
        silent = _silent(change) if unpaired and other is not None else ""
        if kept.reason == A_NULL:
            found.append(_null(judge(change, expectation, FLOOR_TIMES)))
        elif silent:
            found.append(_bounded(change, expectation, silent))
        else:
            by_noise = unpaired and change.stderr is not None
            found.append(judge(change, expectation, 1.0 if by_noise else FLOOR_TIMES))
    extra = len(after.readings.keys() - before.readings.keys())
    if extra:
        notes.append(
            f"Not in the baseline, and not compared: {extra} of the readings; --update adds them."
        )
    notes += expectations.unused(found)
    found.sort(key=lambda c: (c.probe, c.measure, c.site, str(c.keys)))
    return Verdict(
        worst_first(found), tuple(problems), tuple(notes), before.header, after.header, unpaired
    )


def _null(change: Change) -> Change:
    """A null is there to compare a value with; that it moved, too, is no finding of its own."""
    if change.status == "missing":
        return change
    return replace(change, status="same", why="a null, not judged", severity=0.0)


def _change(
    name: Name, kept: Kept, other: Kept | None, what: str, judged: int, *, unpaired: bool
) -> Change:
    change = Change(
        *(name.probe, name.measure, name.site, name.convention, name.key_values),
        kept.value,
        None if other is None else other.value,
    )
    if other is None:
        return replace(change, status="missing", why="it was not measured now")
    if kept.value is None or other.value is None:
        which = "before" if kept.value is None else "now"
        reason = (kept if kept.value is None else other).reason
        return replace(change, why=f"it has no value {which}: {reason}")
    if unpaired and not _of_weights(change):
        return _against_noise(change, kept, other, judged)
    floor = max(kept.floors.get(what, 0.0), _LEAST * abs(kept.value))
    same = len(kept.replicates) == len(other.replicates) and kept.n == other.n
    if not same or not kept.replicates:
        return replace(change, floor=floor)
    parts = [b - a for a, b in zip(kept.replicates, other.replicates, strict=True)]
    error = jackknife(other.value - kept.value, parts).value
    p = None
    if error:
        groups = sum(map(math.isfinite, parts))
        p = min(1.0, judged * _p_value((other.value - kept.value) / error, groups - 1))
    return replace(change, stderr=error or None, floor=floor, paired=True, p=p)


def _against_noise(change: Change, kept: Kept, other: Kept, judged: int) -> Change:
    """The change on another text; its floor is what the texts alone may make."""
    assert change.difference is not None
    if not kept.stderr or not other.stderr:
        return change
    error = math.hypot(kept.stderr, other.stderr)
    freedom = _freedom(kept, other)
    p = min(1.0, judged * _p_value(change.difference / error, freedom))
    floor = _quantile(1 - FAMILY_WISE / (2 * judged), freedom) * error
    return replace(change, stderr=error, floor=floor, p=p)


def _freedom(kept: Kept, other: Kept) -> float:
    """Degrees of freedom of the difference of two jackknifed values (Welch and Satterthwaite)."""
    each = [max(1, sum(map(math.isfinite, k.replicates)) - 1) for k in (kept, other)]
    variances = [(k.stderr or 0.0) ** 2 for k in (kept, other)]
    below = sum(v**2 / f for v, f in zip(variances, each, strict=True))
    return sum(variances) ** 2 / below


def _p_value(sigmas: float, freedom: float) -> float:
    from scipy.special import stdtr  # Student's t; scipy.stats takes twenty times as long

    return float(2 * stdtr(freedom, -abs(sigmas)))


def _quantile(level: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, level))


def _of_weights(change: Change) -> bool:
    """Whether no text has a part in it, so that the same value is expected on any."""
    return change.keys.get("of") == "weights"


def _silent(change: Change) -> str:
    """Why a difference on other text says nothing of the model; empty where it does.

    Where tokens are the classes, how many there are is the text's doing, and so whether there are
    enough for a value.
    """
    if change.keys.get("classes") == "tokens":
        return "its classes are the tokens of the text"
    if change.difference is not None and change.stderr is None and not _of_weights(change):
        return "no standard error to hold other text against"
    return ""


def _bounded(change: Change, expectation: Expectation, silent: str) -> Change:
    """Judges a value by `min` and `max` alone, and the lack of one where there is such a bound."""
    bounds = expectation.bounds
    undefined = change.before is None or change.after is None
    if undefined and bounds.min is None and bounds.max is None:
        return replace(change, status="same", why=silent, severity=0.0)
    found = judge(change, bounds, FLOOR_TIMES)
    if found.status in ("failed", "missing"):
        return found
    return replace(found, status="same", why=found.why or silent, severity=0.0)


def _floor_kind(before: Side, after: Side) -> tuple[str, list[str]]:
    """By which floor the two are compared, and what to say of it."""
    differing = [
        f"{what} {_of(before, what)} then, {_of(after, what)} now"
        for what in ("dtype", "device")
        if _kind(_of(before, what)) != _kind(_of(after, what))
    ]
    if not differing:
        return NUMERICS, []
    return HALF, [
        f"Measured otherwise ({'; '.join(differing)}): only what half precision does not do to the "
        "baseline's model counts."
    ]


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _of(side: Side, what: str) -> str:
    return str(side.header["environment"].get(what))


_NOT_COMPARED = ("where_possible", "trust_remote_code", "device_map", "dtype", "tokenizer")
"""Options that change how a model is measured and not what."""


def _problems(before: Side, after: Side, *, unpaired: bool) -> list[str]:
    """Why the two do not compare."""
    found = []
    old, new = before.header["model"], after.header["model"]
    if old != new:
        found.append(f"The model is another one: {_told(old)} in the baseline, {_told(new)} now.")
    then, now = before.header["corpus"], after.header["corpus"]
    if then.get("tokenizer") != now.get("tokenizer"):
        found.append(
            "The tokenizer is another one: the same text would give other token ids, and readings "
            "of other tokens do not compare."
        )
    elif then.get("fingerprint") != now.get("fingerprint") and not unpaired:
        found.append(
            f"The text is another one ({then.get('source')}, {then.get('tokens')} tokens, in the "
            f"baseline; {now.get('source')}, {now.get('tokens')} tokens, now): give the same text, "
            "or --unpaired to compare by standard errors alone."
        )
    one, other = before.header["options"], after.header["options"]
    skipped = {*_NOT_COMPARED, *(("text", "seed", "field", "sequences") if unpaired else ())}
    return found + [
        f"Measured with other options: {name} was {one.get(name)!r} in the baseline and is "
        f"{other.get(name)!r} now."
        for name in sorted({*one, *other} - skipped)
        if one.get(name) != other.get(name)
    ]


def _told(model: Any) -> str:
    if not isinstance(model, Mapping):
        return "an unknown one"
    return ", ".join(f"{key} {value}" for key, value in model.items())
