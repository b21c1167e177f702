"""The registry of measures: a decorator gives a function its card, every room reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from geoprobe.errors import UsageError

Direction = Literal["up", "down", "either"]
F = TypeVar("F", bound=Callable[..., Any])

ENTRY_POINT_GROUP = "geoprobe.measures"
ONLY_EXACT: Mapping[str, str] = {"exact": "the only definition"}
"""The conventions of a measure that has no variants."""


@dataclass(frozen=True)
class Card:
    """What a reader needs to know to trust a number.

    Attributes:
        name: Name of the measure, as in readings (`rankme`).
        title: Name for people (`RankMe`).
        symbol: Symbol or abbreviation used in papers.
        formula: The definition in words, with its constants.
        unit: Unit of the value (`dimensions`, `1`, `nats`).
        direction: Which change `check` calls better: `up` means larger is better, `down` smaller,
            `either` that neither is. By default it fails on changes either way.
        conventions: Convention name to what it does; the first is the default.
        source: Where the formula comes from.
        bibtex: A BibTeX entry for the source, or the empty string.
        pitfalls: What can make the number wrong or misread.
        section: The probe or verb that gives it (`spectrum`).
    """

    name: str
    title: str
    symbol: str
    formula: str
    unit: str
    direction: Direction
    conventions: Mapping[str, str]
    source: str
    bibtex: str = ""
    pitfalls: tuple[str, ...] = ()
    section: str = "spectrum"
    function: Callable[..., Any] | None = field(default=None, compare=False, repr=False)


_CARDS: dict[str, Card] = {}
_SECTIONS = (
    *("spectrum", "ablation", "sinks", "collapse", "features", "superposition"),
    "relations",
)
"""In the order of the verbs; those of plug-ins come behind."""
_plugins_loaded = False


def register(card: Card) -> Card:
    """Adds a card; a name may be taken once."""
    if card.name in _CARDS:
        raise ValueError(f"measure {card.name!r} is registered twice")
    _CARDS[card.name] = card
    return card


def measure(**card: Any) -> Callable[[F], F]:
    """Registers a pure function as a measure. Keywords are the fields of `Card`."""

    def decorate(function: F) -> F:
        register(Card(function=function, **card))
        return function

    return decorate


def cards() -> dict[str, Card]:
    """All measures by name, those of a section together, plug-ins (entry points) included."""
    global _plugins_loaded
    import geoprobe.measures  # noqa: F401  registers the built-in cards

    if not _plugins_loaded:
        _plugins_loaded = True
        from importlib.metadata import entry_points

        for point in entry_points(group=ENTRY_POINT_GROUP):
            point.load()
        known = [*_SECTIONS, *(c.section for c in _CARDS.values())]
        found = sorted(_CARDS.items(), key=lambda item: known.index(item[1].section))
        _CARDS.clear()
        _CARDS.update(found)
    return dict(_CARDS)


def card(name: str) -> Card:
    """The card of one measure.

    Raises:
        UsageError: There is no such measure; the sentence names the nearest ones.
    """
    known = cards()
    if name in known:
        return known[name]
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" Did you mean {', '.join(near)}?" if near else f" Known: {', '.join(known)}."
    raise UsageError(f"There is no measure named {name!r}.{hint}")
