"""The console that listing verbs print to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 200


def listing_console() -> Console:
    """A console that leaves numbers plain, and lines whole where it is piped."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH  # a pipe has no edge to break lines at
    return console
