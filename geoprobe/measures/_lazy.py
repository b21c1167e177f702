"""A module that is imported when it is first used, so that cards can be read without NumPy."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """Stands in for a module; the first look at a name imports it and keeps the name here.

    Reading a card (`geoprobe explain`) must not wait for NumPy, which takes about 0.1 s to import.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value
