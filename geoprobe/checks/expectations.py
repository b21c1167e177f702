"""How far each reading may move: what `geoprobe.toml` says, and the judgement it leads to."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from geoprobe.checks.verdict import Change
    from geoprobe.measures.registry import Direction

FILE = "geoprobe.toml"
PROJECT_FILE = "pyproject.toml"
PROJECT_TABLE = "[tool.geoprobe]"
IGNORED = "ignored"
UNDEFINED = "no value in either"

_DIRECTIONS = ("up", "down", "either")
_THRESHOLDS = ("abs", "rel", "sigmas")
_BOUNDS = ("min", "max")
_SETTINGS = (*_THRESHOLDS, "direction", *_BOUNDS, "ignore")
_PATTERNS = ("measure", "site", "probe", "convention")
_BEYOND_BOUND = 1000.0
_ORDER = {"missing": 0, "failed": 1, "moved": 2, "same": 3}


@dataclass(frozen=True)
class Expectation:
    """How far one reading may move from its baseline.

    Attributes:
        abs: A difference of at most this passes.
        rel: A difference of at most this share of the value before passes.
        sigmas: A difference of at most so many of its standard errors passes. The three are joined:
            what exceeds all of them fails.
        direction: `up`: any fall beyond the numerical floor fails, a rise never does; `down`: the
            reverse; `either`: the thresholds decide.
        min: The value now may not be below this, whatever it was.
        max: Nor above this.
        ignore: Whether the reading is not judged.
    """

    abs: float = 0.0
    rel: float = 0.001
    sigmas: float = 3.0
    direction: Direction = "either"
    min: float | None = None
    max: float | None = None
    ignore: bool = False

    @property
    def bounds(self) -> Expectation:
        """`min`, `max` and `ignore` alone: any difference passes."""
        return replace(self, abs=math.inf, direction="either")


@dataclass(frozen=True)
class Entry:
    """One `[[check.expect]]`: which readings it is for, and what it sets for them.

    Attributes:
        place: Its number in the file, from 1.
        patterns: Field of a reading to the glob that it has to match.
        keys: Key of a reading to the text that it has to be.
        settings: The fields of `Expectation` that it overrides.
    """

    place: int
    patterns: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, change: Change) -> bool:
        """Whether it is for this reading."""
        return all(
            # A name with brackets in it is also matched by itself.
            getattr(change, name) == pattern or fnmatchcase(getattr(change, name), pattern)
            for name, pattern in self.patterns.items()
        ) and all(
            name in change.keys and str(change.keys[name]) == text
            for name, text in self.keys.items()
        )

    def __str__(self) -> str:
        chosen = [f"{name} = {pattern!r}" for name, pattern in self.patterns.items()]
        chosen += [f"{name} = {text!r}" for name, text in self.keys.items()]
        return f"entry {self.place} of [[check.expect]] ({', '.join(chosen) or 'every reading'})"


@dataclass(frozen=True)
class Expectations:
    """What is expected of all readings.

    Attributes:
        every: Of a reading that no entry is for.
        entries: In the order of the file; where several are for one reading, each overrides the
            fields it sets.
        source: Where they come from, for people.
    """

    every: Expectation = field(default_factory=Expectation)
    entries: tuple[Entry, ...] = ()
    source: str = "the defaults"

    def of(self, change: Change) -> Expectation:
        """What is expected of one reading."""
        settings: dict[str, Any] = {}
        for entry in self.entries:
            if entry.matches(change):
                settings.update(entry.settings)
        return replace(self.every, **settings) if settings else self.every

    def unused(self, changes: Iterable[Change]) -> list[str]:
        """A sentence for each entry that is for none of these readings: often a mistyped name."""
        left = list(self.entries)
        for change in changes:
            left = [entry for entry in left if not entry.matches(change)]
        return [f"{self.source}: {entry} matches no reading." for entry in left]


def read_expectations(path: Path | None = None, folder: Path | None = None) -> Expectations:
    """What a file expects of the readings.

    Args:
        path: The file. One named `pyproject.toml` is read at its table `[tool.geoprobe]`.
        folder: Where to look when no file is given: `geoprobe.toml` before `pyproject.toml`. The
            working directory if not given.

    Returns:
        The expectations; the defaults where there is no file.

    Raises:
        UsageError: The file cannot be read, or says what cannot be meant.
    """
    if path is not None:
        table = _tables(path)
        if table is None:
            raise UsageError(f"{path.name}: there is no table {PROJECT_TABLE}.")
        return _expectations(path, table)
    folder = Path() if folder is None else folder
    for candidate in (folder / FILE, folder / PROJECT_FILE):
        if candidate.is_file() and (table := _tables(candidate)) is not None:
            return _expectations(candidate, table)
    return Expectations()


def _tables(path: Path) -> dict[str, Any] | None:
    """What a file says to geoprobe; None for a project file that does not mention it."""
    import tomllib

    name = path.name or str(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError is of null bytes in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name}: cannot be read: {reason}.") from error
    try:
        # Some editors put a mark at the start of UTF-8, which TOML's first version does not know.
        content = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text (byte {error.start:,}).") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: not valid TOML: {str(error).rstrip('.')}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: a number or a nesting in it is too large.") from error
    if path.name != PROJECT_FILE:
        return content
    tool = content.get("tool", {})
    if not isinstance(tool, dict):
        raise UsageError(f"{path.name}: 'tool' must be a table, not {_kind(tool)}.")
    if "geoprobe" not in tool:
        return None
    if not isinstance(tool["geoprobe"], dict):
        kind = _kind(tool["geoprobe"])
        raise UsageError(f"{path.name}: {PROJECT_TABLE} must be a table, not {kind}.")
    return tool["geoprobe"]


def _expectations(path: Path, content: dict[str, Any]) -> Expectations:
    project = path.name == PROJECT_FILE
    reader = _Reader(path.name)
    reader.known(content, ("check",), PROJECT_TABLE if project else "the file")
    check = reader.table(content.get("check", {}), "[check]")
    reader.known(check, (*_SETTINGS, "expect"), "[check]")
    listed = check.pop("expect", [])
    if not isinstance(listed, list):
        head = "[[tool.geoprobe.check.expect]]" if project else "[[check.expect]]"
        reader.wrong(f"'expect' must be a list of tables, each under its own {head}")
    entries = tuple(reader.entry(value, place) for place, value in enumerate(listed, 1))
    every = Expectation(**reader.settings(check, "[check]"))
    return Expectations(every, entries, f"{path.name} {PROJECT_TABLE}" if project else path.name)


class _Reader:
    """Reads tables that may hold anything; what is wrong is told with the name of the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wrong(self, message: str) -> NoReturn:
        """Raises the sentence; one with a question ends there."""
        raise UsageError(f"{self._name}: {message}{'' if message.endswith('?') else '.'}")

    def table(self, value: Any, place: str) -> dict[str, Any]:
        """A copy of a table."""
        if not isinstance(value, dict):
            self.wrong(f"{place} must be a table, not {_kind(value)}")
        return dict(value)

    def known(self, table: Mapping[str, Any], names: tuple[str, ...], place: str) -> None:
        """Refuses other names than these."""
        for name in table:
            if name not in names:
                hint = _nearest(name, names, f"it may have {', '.join(names)}")
                self.wrong(f"{place} has no setting {_short(name)}; {hint}")

    def entry(self, value: Any, place: int) -> Entry:
        where = f"entry {place} of [[check.expect]]"
        table = self.table(value, where)
        self.known(table, (*_PATTERNS, "keys", *_SETTINGS), where)
        patterns = {}
        for name in _PATTERNS:
            pattern = table.pop(name, None)
            if pattern is not None:
                patterns[name] = self._text(pattern, f"{name!r} in {where}")
        self._measure(patterns.get("measure"), where)
        keys = {
            name: self._key(key, f"'keys.{_short(name)[1:-1]}' in {where}")
            for name, key in self.table(table.pop("keys", {}), f"'keys' in {where}").items()
        }
        return Entry(place, patterns, keys, self.settings(table, where))

    def settings(self, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields of an `Expectation` that a table sets."""
        found: dict[str, Any] = {}
        for name, value in table.items():
            place = f"{name!r} in {where}"
            if name == "ignore":
                if not isinstance(value, bool):
                    self.wrong(f"{place} must be true or false, not {_kind(value)}")
                found[name] = value
            elif name == "direction":
                found[name] = self._text(value, place)
                if value not in _DIRECTIONS:
                    self.wrong(f"{place} must be up, down or either, not {_short(value)}")
            else:
                found[name] = self._number(value, place, least=0 if name in _THRESHOLDS else None)
        if "min" in found and "max" in found and found["min"] > found["max"]:
            self.wrong(f"'min' in {where} is {found['min']:g}, above its 'max', {found['max']:g}")
        return found

    def _measure(self, pattern: str | None, where: str) -> None:
        """Refuses a measure that is none; what a pattern matches is known only later."""
        if pattern is None or any(c in pattern for c in "*?["):
            return
        from geoprobe.measures.registry import cards

        if pattern not in (known := cards()):
            hint = _nearest(pattern, known, "`geoprobe explain` lists them")
            self.wrong(f"{where} names the measure {_short(pattern)}, which is none; {hint}")

    def _text(self, value: Any, place: str) -> str:
        if not isinstance(value, str):
            self.wrong(f"{place} must be text, not {_kind(value)}")
        return value

    def _key(self, value: Any, place: str) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(f"{place} must be text or a number, not {_kind(value)}")
        self._number(value, place, least=None)
        return str(value)

    def _number(self, value: Any, place: str, least: float | None) -> float:
        wanted = "a finite number" + ("" if least is None else f" of at least {least:g}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(f"{place} must be {wanted}, not {_kind(value)}")
        # Integers of TOML have no bound; past this one Python refuses to convert or to write them.
        if isinstance(value, int) and value.bit_length() > 1000:
            self.wrong(f"{place} must be {wanted}, not an integer of {value.bit_length():,} bits")
        if not math.isfinite(value) or (least is not None and value < least):
            self.wrong(f"{place} must be {wanted}, not {value:g}")
        return float(value)


def _kind(value: Any) -> str:
    """What a value of TOML is, in words; its content may be of any size."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {_short(value)}"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, dict) else "a date or time"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:38] + "..")


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The name that could be meant."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else otherwise


def judge(change: Change, expectation: Expectation, floor_times: float) -> Change:
    """One reading judged.

    Its severity is the smallest ratio of the difference to what a difference is measured by: `abs`,
    `rel`, `sigmas`, each where it is above 0 and known, and the floor. Where there is none of these
    it is the relative difference, or the difference itself when the value before was 0. A value
    beyond `min` or `max` has 1000 and its distance as a share of the bound, so it comes before what
    merely moved. Missing values come first (infinite), and what is the same has 0.

    Args:
        change: The reading beside its baseline. What it says of its own verdict is replaced, except
            the reason for a missing value.
        expectation: How far it may move.
        floor_times: The multiple of the numerical floor that counts as no difference.

    Returns:
        The change with `status`, `why` and `severity`.
    """
    if expectation.ignore:
        return replace(change, status="same", why=IGNORED, severity=0.0)
    if change.before is None and change.after is None and change.status != "missing":
        return replace(change, status="same", why=UNDEFINED, severity=0.0)
    if not _finite(change.before) or not _finite(change.after):
        why = change.why or _missing(change)
        return replace(change, status="missing", why=why, severity=math.inf)
    moved = _Moved(change, floor_times)
    violated = [*_bounds(change, expectation)]
    if moved.beyond_floor and (words := moved.violates(expectation)):
        violated.append((words, moved.severity(expectation)))
    if violated:
        why = "; ".join(words for words, _ in violated)
        severity = min(max(size for _, size in violated), sys.float_info.max)
        return replace(change, status="failed", why=why, severity=severity)
    if not moved.beyond_floor:
        return replace(change, status="same", why="", severity=0.0)
    severity = min(moved.severity(expectation), sys.float_info.max)
    return replace(change, status="moved", why="", severity=severity)


def worst_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Missing, failed, moved, same; in each the most severe first, otherwise as they come."""
    return tuple(sorted(changes, key=lambda c: (_ORDER[c.status], -c.severity)))


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _missing(change: Change) -> str:
    values = {"in the baseline": change.before, "now": change.after}
    gone = [f"no value {where}" for where, value in values.items() if value is None]
    gone += [
        f"the value {where} is not finite"
        for where, value in values.items()
        if value is not None and not math.isfinite(value)
    ]
    return " and ".join(gone)


def _bounds(change: Change, expectation: Expectation) -> Iterator[tuple[str, float]]:
    """What `min` and `max` are violated by, with the severity."""
    assert change.after is not None
    for name, bound in (("least", expectation.min), ("most", expectation.max)):
        if bound is None:
            continue
        distance = bound - change.after if name == "least" else change.after - bound
        if distance > 0:
            side = "below" if name == "least" else "above"
            shown = f"is {_unlike(change.after, bound)}, {side} the {name} that is expected"
            yield f"{shown}, {_limit(bound)}", _BEYOND_BOUND + distance / (abs(bound) or 1.0)


class _Part(NamedTuple):
    """A difference in one unit, the threshold in the same, and how both are shown."""

    size: float
    limit: float
    unit: str
    times: float = 1.0


class _Moved:
    """A difference by all that it is measured by."""

    def __init__(self, change: Change, floor_times: float) -> None:
        assert change.difference is not None
        self._fell = change.difference < 0
        self._size = abs(change.difference)
        # A floor or an error that is no number excuses nothing.
        self._floor = abs(change.floor) if change.floor and math.isfinite(change.floor) else 0.0
        self._tolerated = floor_times * self._floor
        self._relative = None if change.relative is None else abs(change.relative)
        known = _finite(change.stderr) and change.sigmas is not None
        self._sigmas = abs(change.sigmas or 0.0) if known else None

    @property
    def beyond_floor(self) -> bool:
        """Whether other numerics alone do not explain it."""
        return self._size > 0 and self._size > self._tolerated

    def violates(self, expectation: Expectation) -> str:
        """What it violates, in words; empty if nothing."""
        if expectation.direction != "either":
            if self._fell == (expectation.direction == "down"):
                return ""
            expected = f"it must not {'fall' if self._fell else 'rise'}"
            return f"{self._words(Expectation(sigmas=0.0))}, and {expected}"
        limits = [part for part in self._measured(expectation) if part.limit]
        if any(part.size <= part.limit for part in limits):
            return ""
        shown = [_limit(part.limit * part.times) + part.unit for part in limits]
        if not shown:
            expected = "no change beyond the numerical floor is expected"
        elif len(shown) == 1:
            expected = f"at most {shown[0]} is expected"
        else:
            expected = f"at most the largest of {', '.join(shown[:-1])} and {shown[-1]} is expected"
        return f"{self._words(expectation)}, and {expected}"

    def severity(self, expectation: Expectation) -> float:
        """The smallest ratio to what it is measured by."""
        ratios = [part.size / part.limit for part in self._measured(expectation) if part.limit]
        if self._tolerated:
            ratios.append(self._size / self._tolerated)
        if ratios:
            return min(ratios)
        return self._size if self._relative is None else self._relative

    def _measured(self, expectation: Expectation) -> Iterator[_Part]:
        """The difference in each unit in which it is known."""
        yield _Part(self._size, expectation.abs, "")
        if self._relative is not None:
            yield _Part(self._relative, expectation.rel, " %", 100.0)
        if self._sigmas is not None:
            yield _Part(self._sigmas, expectation.sigmas, " sigma")

    def _words(self, expectation: Expectation) -> str:
        shown = [
            _unlike(part.size * part.times, part.limit * part.times or None) + part.unit
            for part in self._measured(expectation)
        ]
        if self._floor:
            shown.append(f"{_number(self._size / self._floor)} x the numerical floor")
        by, *further = shown
        verb = "fell" if self._fell else "rose"
        return f"{verb} by {by}" + (f" ({', '.join(further)})" if further else "")


def _number(value: float, digits: int = 3) -> str:
    """A number for people: no exponent where it can be helped."""
    if digits == 3 and 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def _unlike(value: float, limit: float | None) -> str:
    """A number with as many digits as show on which side of its limit it is."""
    for digits in (3, 6, 9, 12):
        text = _number(value, digits)
        if limit is None or _side(_read(text), _read(_limit(limit))) == _side(value, limit):
            return text
    return repr(value)


def _limit(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e7 else f"{value:g}"


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)


def _read(text: str) -> float:
    return float(text.replace(",", ""))
