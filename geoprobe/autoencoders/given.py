"""Autoencoders as they are named by a user: `[SITE=]PATH`, several in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.formats import find_autoencoders, read_autoencoder
from geoprobe.errors import UsageError
from geoprobe.paths import is_there


def recorded(coders: Sequence[Autoencoder]) -> dict[str, Any]:
    """What a run records of them: a run is resumed with the same weights alone."""
    return {
        "sae": [
            {"name": coder.name, "site": coder.site, "fingerprint": coder.fingerprint()}
            for coder in coders
        ]
    }


def read_given(paths: Sequence[str]) -> list[Autoencoder]:
    """The autoencoders of `[SITE=]PATH`s, whose names differ where their sites do not.

    Args:
        paths: Each the folder of one or of several, with the site in front where the files do not
            say it, or say another.

    Raises:
        UsageError: One cannot be read.
    """
    if isinstance(paths, str):
        paths = (paths,)
    found: list[Autoencoder] = []
    seen: dict[tuple[str | None, str], int] = {}
    for given in paths:
        site, equals, path = given.partition("=")
        if not equals or "/" in site or is_there(Path(given)):
            site, path = "", given
        if not path:
            raise UsageError(f"--sae {given}: there is no path behind the site; give SITE=PATH.")
        for folder in find_autoencoders(path):
            coder = read_autoencoder(folder)
            place, name = site or coder.site, coder.name or folder.name
            count = seen[place, name] = seen.get((place, name), 0) + 1
            named = name if count == 1 else f"{name}-{count}"
            found.append(replace(coder, site=place, name=named))
    return found
