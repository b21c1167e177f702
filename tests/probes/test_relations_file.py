"""neurons.json: written and read back, and every kind of damage a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.models.layout import find_layout
from geoprobe.probes.relations_file import NAME, SCHEMA, read_neurons, write_neurons
from geoprobe.probes.relations_units import Units
from tests.conftest import tiny_model

WHOLE: dict[str, Any] = {
    "schema": SCHEMA,
    "family": "llama",
    "select": "ap",
    "relations": {"a": [["mlp.up.0", 1, 0.5], ["mlp.out.1", 2, 0.4]]},
    "subjects": {"a": ["x", "y"]},
}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_what_is_written_is_read(family: str, tmp_path: Path) -> None:
    layout = find_layout(tiny_model(family))
    units = Units.of(layout)
    draw = np.random.default_rng(0)
    sets = {
        name: draw.choice(len(units), 30, replace=False).astype(np.int64)
        for name in ("capital", 'odd "name"\n')
    }
    scores = {name: draw.random(30) for name in sets}
    subjects = {name: ["France", "Côte d'Ivoire"] for name in sets}
    write_neurons(tmp_path, sets, scores, subjects, units, layout, "lape")
    for path in (tmp_path, tmp_path / NAME):
        found = read_neurons(path)
        found.check(layout)
        assert found.subjects == subjects
        assert (found.family, found.select) == (family, "lape")
        for name, numbers in found.numbers(units).items():
            assert np.array_equal(numbers, sets[name])
    moved = tmp_path / "other.json"
    moved.write_text(json.dumps(json.loads((tmp_path / NAME).read_text())))
    assert read_neurons(moved).fingerprint() == found.fingerprint()


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_units_are_numbered_through(family: str) -> None:
    layout = find_layout(tiny_model(family))
    units = Units.of(layout)
    kinds = 2 if family == "gpt2" else 3
    assert len(units.sites) == kinds * layout.depth
    assert len(units) == sum(layout.width_of(site) for site in units.sites)
    places = [units.place(i) for i in range(len(units))]
    assert places == [(s, u) for s in units.sites for u in range(layout.width_of(s))]
    some = np.arange(0, len(units), 7)
    by_site = units.by_site(some[::-1])
    assert {(s, u) for s, us in by_site.items() for u in us.tolist()} == {places[i] for i in some}
    counts = units.counts(some, layout.depth)
    assert sum(map(sum, counts.values())) == len(some)
    names = {"mlp.gate": "gate", "mlp.up": "up", "mlp.out": "down"}
    expected = [names[places[i][0].rpartition(".")[0]] for i in some]
    assert units.modules(some).tolist() == expected


def test_neurons_of_another_architecture(tmp_path: Path) -> None:
    for site, unit in (("mlp.up.9", 0), ("mlp.up.0", 10_000), ("nowhere", 0)):
        file = tmp_path / "neurons.json"
        file.write_text(json.dumps({**WHOLE, "relations": {"a": [[site, unit]]}}))
        with pytest.raises(UsageError, match="same architecture"):
            read_neurons(file).check(find_layout(tiny_model("llama")))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(data=st.data())
def test_a_damaged_file_is_a_sentence(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("file") / "neurons.json"
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(st.binary(max_size=60)))
    else:
        document = json.loads(json.dumps(WHOLE))
        place, key = data.draw(
            st.sampled_from(
                [
                    (document, "schema"),
                    (document, "relations"),
                    (document, "subjects"),
                    (document["relations"], "a"),
                    (document["relations"]["a"], 0),
                    (document["relations"]["a"][0], 0),
                    (document["relations"]["a"][0], 1),
                    (document["subjects"], "a"),
                ]
            )
        )
        value = data.draw(_JSON)
        same = place[key] == value
        place[key] = value
        file.write_text(json.dumps(document))
        if same:
            return
    try:
        found = read_neurons(file)
    except UsageError:
        with pytest.raises(UsageError, match=re.escape(f"--neurons {file}")):
            read_neurons(file)
        return
    for neurons in found.sets.values():
        assert neurons
        assert all(isinstance(s, str) and isinstance(u, int) and u >= 0 for s, u in neurons)


@pytest.mark.parametrize("path", ["", "nowhere", "."])
def test_no_such_file(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--neurons"):
        read_neurons(tmp_path / path)
