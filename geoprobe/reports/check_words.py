"""What the outputs of a check share: the verdict in a sentence, and a change in short texts."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from geoprobe.checks.verdict import FAILED, PASSED
from geoprobe.measures.registry import Card, cards
from geoprobe.reports.words import count, number

if TYPE_CHECKING:
    from geoprobe.checks.verdict import Change, Verdict

WORDS = {PASSED: "passed", FAILED: "FAILED"}
_REASONS = 3
"""Most reasons for not judging a reading that the verdict's line has room for."""
_DIGITS, _MOST_DECIMALS = 3, 7
"""Digits of a difference; the values beside it have the same decimals, up to so many."""


class Shown(NamedTuple):
    """The numbers of a change for people; empty where there is none."""

    before: str
    after: str
    change: str
    percent: str
    sigmas: str
    floors: str


def word(verdict: Verdict) -> str:
    """The verdict in one word or two."""
    return WORDS.get(verdict.exit_code, "NOT COMPARABLE")


def sentence(verdict: Verdict) -> str:
    """The verdict with its counts, without the word."""
    total = count(len(verdict.changes), "reading")
    failed, missing = len(verdict.of("failed")), len(verdict.of("missing"))
    if verdict.exit_code == PASSED:
        text = f"none of {total} moved beyond what is expected"
    elif verdict.exit_code == FAILED:
        text = f"{failed:,} of {total} {'is' if failed == 1 else 'are'} not as expected"
    elif not verdict.changes:
        text = "there is no reading to compare"
    else:
        parts = [f"{missing:,} of {total} {'is' if missing == 1 else 'are'} missing"] * (
            missing > 0
        )
        parts += [f"{failed:,} of {total} failed"] * (failed > 0)
        text = ", ".join(parts)
    if verdict.problems:
        problems = count(len(verdict.problems), "problem")
        text = f"{problems}; {text}" if text else problems
    return text + _further(verdict)


def _further(verdict: Verdict) -> str:
    """What the verdict passes over, in brackets."""
    parts = [f"{len(verdict.of('moved')):,} moved within it"] * bool(verdict.of("moved"))
    reasons = Counter(change.why for change in verdict.of("same") if change.why)
    if reasons:
        total = f"{sum(reasons.values()):,} not judged"
        told = f": {', '.join(brief(reason, 48) for reason in reasons)}"
        parts.append(total + told if len(reasons) <= _REASONS else total)
    return f" ({'; '.join(parts)})" if parts else ""


def sides(verdict: Verdict) -> str:
    """What was compared with what; empty if neither is known by a name."""
    before, after = (side.get("label") for side in (verdict.before, verdict.after))
    text = ""
    if before is not None and after is not None:
        text = f"{brief(str(after), 40)} against the baseline, {brief(str(before), 40)}."
    if verdict.unpaired:
        text += " The texts differ on purpose: errors are of both sides, not of pairs."
    return text.strip()


@cache
def _card(measure: str) -> Card | None:
    return cards().get(measure)


def title(change: Change) -> str:
    """The measure's name for people."""
    card = _card(change.measure)
    return card.title if card else change.measure


def better(change: Change) -> bool | None:
    """Whether the change is for the better; None where the measure has no such direction."""
    card = _card(change.measure)
    difference = change.difference
    if card is None or card.direction == "either" or not difference or math.isnan(difference):
        return None
    return (difference > 0) == (card.direction == "up")


def keys(change: Change) -> str:
    """The keys in short, and the convention if it has a name of its own."""
    parts = [
        str(value) if name == "tokens" else f"{name} {value}" for name, value in change.keys.items()
    ]
    return ", ".join(parts + [change.convention] * (change.convention != "exact"))


def shown(change: Change) -> Shown:
    """The numbers of a change, both values to the digits in which they differ."""
    difference = change.difference
    size = 0.0 if difference is None or not math.isfinite(difference) else abs(difference)
    relative = None if change.relative is None else 100 * change.relative
    floors = size / change.floor if change.floor and change.floor > 0 else None
    return Shown(
        _value(change.before, size),
        _value(change.after, size),
        _signed(difference, _DIGITS),
        _signed(relative, 2),
        _signed(change.sigmas, 2),
        number(floors, 2) if floors is not None and math.isfinite(floors) else "",
    )


def brief(text: str, most: int) -> str:
    """A text cut to so many characters."""
    return text if len(text) <= most else text[: most - 2] + ".."


def _value(value: float | None, size: float) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not finite"
    # The decimals of the difference, or of the value where the difference dwarfs it.
    least = min(size, abs(value))
    decimals = _DIGITS - 1 - math.floor(math.log10(least)) if least else _MOST_DECIMALS + 1
    if decimals > _MOST_DECIMALS or abs(value) >= 1e7:
        return number(value, 4)
    return f"{value:,.{max(0, decimals)}f}"


def _signed(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return ("+" if value > 0 else "") + number(value, digits)
