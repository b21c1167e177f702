"""What a checkpoint's name says: stage, step, tokens, epoch; by convention or by `--pattern`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geoprobe.errors import UsageError

FIELDS = ("stage", "step", "tokens", "epoch")

_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_AMOUNT = r"(\d+(?:\.\d+)?)"
_END = r"(?![a-z0-9])"

# Names in lower case. The first that is found counts; a word must not be the tail of another
# (`timestep5`), and a number must end where the name's part ends.
_CONVENTIONS: dict[str, tuple[re.Pattern[str], ...]] = {
    "stage": (re.compile(r"(?<![a-z])stage[-_=]?(\d+)"),),
    "tokens": (
        re.compile(rf"(?<![a-z])tokens?[-_=]?{_AMOUNT}([kmbt])?{_END}"),
        re.compile(rf"(?<![a-z0-9.]){_AMOUNT}([kmbt])[-_]?(?:tokens?|toks?|t){_END}"),
    ),
    "epoch": (
        re.compile(rf"(?<![a-z])epochs?[-_=]?{_AMOUNT}{_END}"),
        re.compile(rf"(?<![a-z0-9.]){_AMOUNT}[-_]?epochs?{_END}"),
    ),
    "step": (
        re.compile(
            rf"(?<![a-z])(?:(?:global[-_]?)?steps?|iter(?:ation)?s?)[-_=]?(\d+)([km])?{_END}"
        ),
        re.compile(rf"(?<![a-z0-9.])(\d+)([km])?[-_]?(?:steps?|iter(?:ation)?s?){_END}"),
        re.compile(rf"(?<![a-z])(?:checkpoint|ckpt)[-_=]?(\d+)([km])?{_END}"),
    ),
}
_FILLERS = re.compile(r"checkpoint|ckpt|unsharded|hf|[-_.=]")
_TEMPORARY = re.compile(
    r"^(?:tmp|temp)[-_.]|[-_.](?:tmp|temp|part|partial|incomplete)(?:[-_.]\w*)?$", re.IGNORECASE
)


@dataclass(frozen=True)
class Numbers:
    """Where in training a checkpoint was taken; None where its name does not say.

    Attributes:
        stage: Training stage.
        step: Optimiser step.
        tokens: Tokens seen.
        epoch: Epochs done.
    """

    stage: int | None = None
    step: int | None = None
    tokens: int | None = None
    epoch: int | float | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field) is not None for field in FIELDS)


def numbers_in(name: str) -> Numbers:
    """Reads a name by the conventions that are in use.

    Known are HF Trainer's `checkpoint-500` (and `checkpoint-10000step`), Pythia's `step512`,
    OLMo's `stage1-step140000-tokens294B`, `step-001000-2BT`, `iter_0001000`, `global_step1000`,
    `epoch_3`, `epoch=3-step=1000`, and a bare number, which is a step. Tokens may have a suffix K,
    M, B or T. A bare `7B` is not read as tokens: it is as often the size of the model.
    """
    lower = _without_temporary(name).lower()
    if lower.isdecimal() and lower.isascii():
        return Numbers(step=int(lower))
    found: dict[str, int | float] = {}
    for field, patterns in _CONVENTIONS.items():
        for pattern in patterns:
            match = pattern.search(lower)
            if match:
                found[field] = amount(*match.groups())
                break
    return Numbers(**found)  # type: ignore[arg-type]


def is_conventional(name: str) -> bool:
    """Whether a name is nothing but a checkpoint's numbers, as in `step512`, not `eval-step512`.

    A bare number is not enough: folders of other things are called so as well.
    """
    rest, found = _without_temporary(name).lower(), False
    for patterns in _CONVENTIONS.values():
        for pattern in patterns:
            rest, count = pattern.subn("", rest)
            found = found or count > 0
    return found and not _FILLERS.sub("", rest)


def is_temporary(name: str) -> bool:
    """Whether a name is that of a save under way: `tmp-checkpoint-500`, `checkpoint-500.tmp`."""
    return bool(_TEMPORARY.search(name))


def _without_temporary(name: str) -> str:
    return _TEMPORARY.sub("", name)


def amount(number: str, unit: str | None = None) -> int | float:
    """A number with its unit: `amount("2.5", "B")` is 2,500,000,000."""
    whole, _, fraction = number.partition(".")
    factor = _UNITS[unit.lower()] if unit else 1
    if not fraction:
        return int(whole) * factor
    value = float(number) * factor
    return round(value) if unit or value.is_integer() else value


class Pattern:
    """What `--pattern` says: a regular expression whose named groups are the numbers.

    Args:
        text: The expression; groups `stage`, `step`, `tokens`, `epoch`. A number may end in K, M, B
            or T.

    Raises:
        UsageError: It is not a regular expression, or has none of these groups.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._regex = re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(
                f"--pattern {text!r} is not a regular expression ({error}); "
                r"an example is 'step(?P<step>\d+)'."
            ) from None
        groups = set(self._regex.groupindex)
        if not groups or not groups <= set(FIELDS):
            strangers = ", ".join(sorted(groups - set(FIELDS)))
            raise UsageError(
                f"--pattern {text!r} has "
                + (f"a group named {strangers}" if strangers else "no named group")
                + r"; name its groups stage, step, tokens or epoch, as in 'step(?P<step>\d+)'."
            )

    def numbers_in(self, name: str, parent: str) -> Numbers | None:
        """The numbers in a name, or in `parent/name` where the name does not match.

        Raises:
            UsageError: A group matched something that is not a number.
        """
        match = self._regex.search(name) or self._regex.search(f"{parent}/{name}")
        if match is None:
            return None
        found: dict[str, int | float] = {}
        for field, value in match.groupdict().items():
            if value is None:
                continue
            parts = re.fullmatch(rf"{_AMOUNT}\s*([kmbt])?", value.strip(), re.IGNORECASE | re.ASCII)
            number = amount(*parts.groups()) if parts else None
            if number is None or (field != "epoch" and isinstance(number, float)):
                raise UsageError(
                    f"--pattern {self.text!r}: its group {field} matched {value!r} in {name!r}, "
                    "which is not a number; a whole number with or without a suffix K, M, B or T "
                    "is needed."
                )
            found[field] = number
        return Numbers(**found)  # type: ignore[arg-type]
