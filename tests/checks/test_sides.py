"""Baselines: written and read back, sorted for git, and every kind of damage a sentence."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import geoprobe
from geoprobe.checks.sides import Kept, Name, Side, read_baseline, side_of, write_baseline
from geoprobe.errors import UsageError
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer


def made(readings: dict[Name, Kept] | None = None, **header: Any) -> Side:
    """A side by hand."""
    whole = {
        "label": "model",
        "fingerprint": "f",
        "model": {"family": "llama", "depth": 3, "width": 32},
        "corpus": {"fingerprint": "c", "tokenizer": "t", "source": "text", "tokens": 10},
        "environment": {"dtype": "float32", "device": "cpu", "libraries": {}},
        "options": {"sequences": 40, "probes": ["spectrum"]},
    }
    return Side({**whole, **header}, readings or {name(): Kept(1.0, 0.1, 8, "", (1.0,) * 8)})


def name(measure: str = "rankme", site: str = "final", keys: str = '{"tokens": "last"}') -> Name:
    """What identifies a reading."""
    return Name("spectrum", measure, site, "exact", keys)


@pytest.fixture(scope="module")
def side() -> Side:
    run = geoprobe.measure(
        model=tiny_model("llama"),
        tokenizer=tiny_tokenizer(),
        text=tiny_text(40),
        probes=("spectrum", "superposition"),
    )
    return side_of(run)


def test_what_is_written_is_read(side: Side, tmp_path: Path) -> None:
    moved = dict.fromkeys(list(side.readings)[:3], 0.25)
    side = side.with_floors("numerics", moved)
    write_baseline(tmp_path / "deep" / "b.json", side)
    found = read_baseline(tmp_path / "deep" / "b.json")
    assert found.header == json.loads(json.dumps(side.header))
    assert found.readings.keys() == side.readings.keys()
    several = 0
    for key, kept in side.readings.items():
        other = found.readings[key]
        assert (other.value, other.stderr, other.n) == (kept.value, kept.stderr, kept.n)
        assert other.reason == kept.reason
        assert other.floors == ({"numerics": 0.25} if key in moved else {})
        assert len(other.replicates) == len(kept.replicates)
        for a, b in zip(other.replicates, kept.replicates, strict=True):
            assert (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, rel=1e-9)
        several += len(kept.replicates) == 8
    assert several > 20


def test_the_file_is_for_git(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    write_baseline(file, side)
    text = file.read_text()
    rows = [line for line in text.splitlines() if '"measure"' in line]
    assert len(rows) == len(side.readings)  # one reading a line
    named = [json.loads(row.strip().rstrip(",")) for row in rows]
    order = [(r["probe"], r["measure"], r["site"], r["convention"]) for r in named]
    assert order == sorted(order)
    shuffled = Side(side.header, dict(reversed(side.readings.items())))
    write_baseline(file, shuffled)
    assert file.read_text() == text
    assert str(tmp_path) not in text
    assert {"corpus", "environment", "options", "model", "fingerprint"} <= json.loads(text).keys()
    assert json.loads(text)["corpus"]["tokenizer"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(data=st.data())
def test_a_damaged_baseline_is_a_sentence(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("file") / "b.json"
    write_baseline(file, made())
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(st.binary(max_size=60)))
    else:
        document = json.loads(file.read_text())
        place = data.draw(st.sampled_from([document, document["readings"][0]]))
        key = data.draw(st.sampled_from(sorted(place)))
        if data.draw(st.booleans()):
            del place[key]
        else:
            place[key] = data.draw(_JSON)
        file.write_text(json.dumps(document))
    try:
        found = read_baseline(file)
    except UsageError:
        with pytest.raises(UsageError, match=re.escape(f"--baseline {file}")):
            read_baseline(file)
        return
    for kept in found.readings.values():
        assert kept.value is None or math.isfinite(kept.value)


def test_no_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--update"):
        read_baseline(tmp_path / "nowhere.json")


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_baseline(tmp_path / "file" / "b.json", made())
