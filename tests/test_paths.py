"""Paths as people type them, wherever one can be given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoprobe.data.arrays import read_array
from geoprobe.data.examples import read_examples
from geoprobe.data.facts import read_facts
from geoprobe.data.images import image_files
from geoprobe.errors import UsageError
from geoprobe.paths import typed

Read = Callable[[str], Any]
READERS: dict[str, Read] = {
    "x.npy": read_array,
    "x.npz": lambda path: read_examples(path),
    "facts.json": lambda path: read_facts([path]),
    "images": lambda path: image_files(path, None, "--images"),
}


def put(folder: Path) -> None:
    """A readable file, or folder, of each kind."""
    (folder / "images").mkdir(parents=True)
    for name in "ab":
        (folder / "images" / f"{name}.png").touch()
    x = np.random.default_rng(0).standard_normal((8, 3))
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x, y=np.arange(8) % 2)
    facts = {
        "name": "r",
        "prompt_templates": ["{} is"],
        "samples": [{"subject": f"S{i}", "object": f"O{i}"} for i in range(8)],
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def test_only_a_path_that_begins_with_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "/somewhere")
    assert typed("~/x") == typed(Path("~/x")) == Path("/somewhere/x")
    for path in ("./~/x", "a~", "x/~"):
        assert typed(path) == Path(path)


@pytest.mark.parametrize("name", READERS)
def test_data_is_found_as_it_is_typed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, home, here = READERS[name], tmp_path / "home", tmp_path / "here"
    put(home)
    here.mkdir()
    monkeypatch.chdir(here)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(home))
    assert read(f"~/{name}") is not None
    for missing in (f"./~/{name}", f"~nobody-of-this-name/{name}"):
        with pytest.raises(UsageError):
            read(missing)
    put(here / "~")
    assert read(f"./~/{name}") is not None
