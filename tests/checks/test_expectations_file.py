"""Expectations in a file: what it may say, which reading it is for, and mistakes in sentences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from geoprobe.checks.expectations import Expectation, Expectations, judge, read_expectations
from geoprobe.errors import UsageError
from tests.checks.test_expectations import change

REUSED_FOLDER = [HealthCheck.function_scoped_fixture]


def write(folder: Path, text: str, name: str = "geoprobe.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_later_entries_override_the_fields_they_set_and_no_others(tmp_path: Path) -> None:
    expectations = read_expectations(
        write(
            tmp_path,
            """
            [check]
            sigmas = 3
            abs = 0.25
            [[check.expect]]
            measure = "rank*"
            rel = 0.02
            direction = "up"
            [[check.expect]]
            site = "block.*"
            rel = 0.5
            min = 100
            [[check.expect]]
            site = "block.3"
            keys = {tokens = "last"}
            ignore = true
            sigmas = 0.0
            """,
        )
    )
    both = Expectation(0.25, 0.5, 0.0, "up", min=100.0, ignore=True)
    assert expectations.of(change()) == both
    assert expectations.of(change(keys={"tokens": "all"})) == Expectation(
        0.25, 0.5, 3.0, "up", min=100.0
    )
    assert expectations.of(change(site="final")) == Expectation(0.25, 0.02, 3.0, "up")
    assert expectations.of(change(measure="alpha", site="embed")) == Expectation(0.25, sigmas=3.0)
    assert expectations.source == "geoprobe.toml"


@pytest.mark.parametrize(
    ("entry", "matches"),
    [
        ("", True),
        ('measure = "rankme"', True),
        ('measure = "rankme_*"', False),
        ('measure = "r?nk*"', True),
        ('site = "block.[0-4]"', True),
        ('site = "block.[4-9]"', False),
        ('site = "BLOCK.3"', False),
        ('probe = "spec*"', True),
        ('probe = "sinks"', False),
        ('convention = "exact"', True),
        ('convention = "garrido2023"', False),
        ('keys = {tokens = "last"}', True),
        ('keys = {tokens = "l*"}', False),
        ('keys = {k = "10"}', True),
        ("keys = {k = 10}", True),
        ("keys = {k = 1}", False),
        ('keys = {head = "0"}', False),
        ('site = "block.*"\nprobe = "sinks"', False),
    ],
)
def test_every_pattern_and_key_must_match(tmp_path: Path, entry: str, matches: bool) -> None:
    read = read_expectations(write(tmp_path, f"[[check.expect]]\nignore = true\n{entry}"))
    found = change(keys={"tokens": "last", "k": 10})
    assert read.of(found).ignore is matches
    assert bool(read.unused([found, change(site="final", probe="x", keys={})])) != (
        matches or entry == ""
    )


def test_a_name_with_brackets_is_matched_by_itself(tmp_path: Path) -> None:
    read = read_expectations(write(tmp_path, '[[check.expect]]\nsite = "a[b]"\nignore = true'))
    assert read.of(change(site="a[b]")).ignore
    assert read.of(change(site="ab")).ignore


def test_entries_that_match_nothing_are_named(tmp_path: Path) -> None:
    text = '[[check.expect]]\nsite = "blok.*"\n[[check.expect]]\nkeys = {tokens = "all"}\n'
    read = read_expectations(write(tmp_path, text + "[[check.expect]]\nrel = 0.1"))
    first, second = read.unused([change()])
    assert first == (
        "geoprobe.toml: entry 1 of [[check.expect]] (site = 'blok.*') matches no reading."
    )
    assert "entry 2" in second
    assert read.unused([change(site="blok.1", keys={"tokens": "all"})]) == []
    assert len(read.unused([])) == 3
    assert Expectations().unused([]) == []


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_expectations() == Expectations(Expectation(), (), "the defaults")
    write(tmp_path, "[project]\nname = 'x'\n[tool.ruff]\nline-length = 3", "pyproject.toml")
    assert read_expectations().source == "the defaults"
    write(tmp_path, "[tool.geoprobe.check]\nrel = 0.1", "pyproject.toml")
    project = read_expectations()
    assert (project.every.rel, project.source) == (0.1, "pyproject.toml [tool.geoprobe]")
    write(tmp_path, "[check]\nrel = 0.2")
    assert read_expectations().every.rel == 0.2
    assert read_expectations(folder=tmp_path / "elsewhere") == Expectations()
    other = write(tmp_path, "[check]\nrel = 0.3", "mine.toml")
    assert read_expectations(other).every.rel == 0.3
    assert read_expectations(Path("pyproject.toml")).every.rel == 0.1
    write(tmp_path, "")
    assert read_expectations().every == Expectation()


def test_entries_of_a_project_file_work_the_same(tmp_path: Path) -> None:
    text = '[[tool.geoprobe.check.expect]]\nmeasure = "rankme"\nmax = -3'
    read = read_expectations(write(tmp_path, text, "pyproject.toml"))
    assert read.of(change()).max == -3.0
    assert read.of(change(measure="alpha")).max is None


def test_a_mark_at_the_start_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "geoprobe.toml"
    path.write_bytes(b"\xef\xbb\xbf[check]\r\nrel = 0.5\r\n")
    assert read_expectations(path).every.rel == 0.5


ENTRY = "[[check.expect]]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[check", ["not valid TOML"]),
        ("[check]\nrel = 1\nrel = 2", ["not valid TOML"]),
        ("[chekc]\nrel = 1", ["'chekc'", "did you mean check?"]),
        ("[check]\nsigma = 1", ["'sigma'", "did you mean sigmas?"]),
        ("[check]\nmeasure = 'rankme'", ["'measure'", "[check]"]),
        (ENTRY + "relative = 1", ["'relative'", "entry 1"]),
        (ENTRY + "[[check.expect]]\nsites = 'x'", ["'sites'", "entry 2", "did you mean site?"]),
        ("check = 3", ["[check] must be a table", "a number"]),
        ("[check.expect]\nrel = 1", ["list of tables", "check.expect]]"]),
        ("[check]\nexpect = [1]", ["entry 1", "must be a table"]),
        ("[check]\nrel = '1'", ["'rel'", "finite number of at least 0", "the text '1'"]),
        ("[check]\nabs = true", ["'abs'", "not true"]),
        ("[check]\nabs = false", ["'abs'", "not false"]),
        ("[check]\nabs = [1]", ["'abs'", "a list"]),
        ("[check]\nabs = 2020-01-01", ["'abs'", "a date"]),
        ("[check]\nrel = nan", ["'rel'", "nan"]),
        ("[check]\nsigmas = inf", ["'sigmas'", "inf"]),
        ("[check]\nrel = -0.1", ["'rel'", "-0.1"]),
        (ENTRY + "min = nan", ["'min'", "nan"]),
        (ENTRY + "max = -inf", ["'max'", "-inf"]),
        (ENTRY + "min = true", ["'min'", "true"]),
        (ENTRY + "min = 3\nmax = 2", ["'min'", "3", "'max'", "2"]),
        (ENTRY + "ignore = 1", ["'ignore'", "true or false"]),
        (ENTRY + "direction = 'UP'", ["'direction'", "up, down or either", "'UP'"]),
        (ENTRY + "direction = 1", ["'direction'", "text"]),
        (ENTRY + "measure = 'rankm'", ["'rankm'", "did you mean rankme?"]),
        (ENTRY + "measure = 'qqqqqqqq'", ["'qqqqqqqq'", "geoprobe explain"]),
        (ENTRY + "measure = 1", ["'measure'", "text"]),
        (ENTRY + "site = ['a']", ["'site'", "text", "a list"]),
        (ENTRY + "keys = 'last'", ["'keys'", "a table"]),
        (ENTRY + "keys = {tokens = true}", ["keys.tokens", "text or a number"]),
        (ENTRY + "keys = {tokens = nan}", ["keys.tokens", "nan"]),
        ("[check]\nrel = 0x" + "f" * 9000, ["'rel'", "36,000 bits"]),
        ("[check]\nrel = " + "1" * 9000, ["too large"]),
        (ENTRY + "keys = {k = 0x" + "f" * 9000 + "}", ["keys.k", "36,000 bits"]),
        ("[check]\nrel = " + "[" * 9000, ["too large"]),
    ],
)
@pytest.mark.parametrize("project", [False, True])
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, text: str, words: list[str], project: bool
) -> None:
    name = "pyproject.toml" if project else "geoprobe.toml"
    if project:
        text = "[tool.geoprobe]\n" + text if text.startswith("check =") else text
        text = text.replace("[check", "[tool.geoprobe.check").replace(
            "[chekc", "[tool.geoprobe.chekc"
        )
    with pytest.raises(UsageError) as raised:
        read_expectations(folder=write(tmp_path, text, name).parent)
    message = str(raised.value)
    assert message.startswith(f"{name}: ")
    assert message[-1] in ".?"
    assert "\n" not in message
    assert len(message) < 300
    for word in words:
        assert word in message


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageError, match=rf"^{path.name}: cannot be read: .*\.$"):
            read_expectations(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_expectations(Path("a\0b"))
    binary = tmp_path / "geoprobe.toml"
    binary.write_bytes(b"[check]\n# \xff")
    with pytest.raises(UsageError, match=r"^geoprobe.toml: not UTF-8 text \(byte 10\)\.$"):
        read_expectations(binary)
    for text in ("tool = 1", "[tool]\ngeoprobe = 1", "[project]"):
        with pytest.raises(UsageError, match=r"^pyproject.toml: "):
            read_expectations(write(tmp_path, text, "pyproject.toml"))


def sound(path: Path) -> None:
    """Reads a file of anything: it is refused in a sentence, or what it says can be used."""
    try:
        read = read_expectations(path)
    except UsageError as error:
        read, message = None, str(error)
    if read is None:
        assert message.startswith("geoprobe.toml: ")
        assert message[-1] in ".?"
        assert len(message.splitlines()) == 1
        return
    expected = read.of(change())
    for value in (expected.abs, expected.rel, expected.sigmas):
        assert isinstance(value, float)
        assert 0 <= value < math.inf
    for bound in (expected.min, expected.max):
        assert bound is None or (isinstance(bound, float) and math.isfinite(bound))
    assert expected.direction in ("up", "down", "either")
    assert isinstance(expected.ignore, bool)
    read.unused([change()])
    judge(change(1.0, 2.0), expected, 10.0)


@settings(max_examples=300, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda t: t.encode("utf-8"))))
@example(b'[[check.expect]]\nsite = "[z-a]"')
@example(b'[[check.expect]]\nsite = "[!]("')
@example("[check]\n'\u2028\u0085' = 1".encode())
def test_no_bytes_make_a_traceback(tmp_path: Path, content: bytes) -> None:
    for prefix in (b"", b"[check]\n", b"[[check.expect]]\nsite = '"):
        path = tmp_path / "geoprobe.toml"
        path.write_bytes(prefix + content)
        sound(path)


def toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int):
        return hex(value) if value >= 0 else str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {toml(v)}' for k, v in value.items())}}}"
    return str(value)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], max_codepoint=0xFFFF), max_size=8)
WORDS = st.sampled_from(["up", "either", "*", "block.*", "rankme", "rank[", "spectrum", "last"])
FIELDS = st.sampled_from(
    [
        *("abs", "rel", "sigmas", "direction", "min", "max", "ignore", "measure", "site"),
        *("probe", "convention", "keys", "expect", "check", "sigma"),
    ]
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**3000),
    st.floats(),
    st.floats(0, 10),
    *(TEXTS, WORDS, st.dates(), st.datetimes(), st.times()),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(FIELDS, TEXTS), inner, max_size=3),
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(FIELDS, TREES, max_size=3)
AMOUNTS = st.one_of(st.floats(0, 1e9), st.integers(0, 2**50))
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("abs", "rel", "sigmas"), AMOUNTS),
    "direction": st.sampled_from(["up", "down", "either"]),
    "min": st.floats(-1e9, 0),
    "max": AMOUNTS,
    "ignore": st.booleans(),
}
PATTERNS: dict[str, st.SearchStrategy[Any]] = {
    "measure": st.sampled_from(["rankme", "alpha", "*", "nothing*"]),
    **dict.fromkeys(("site", "probe", "convention"), st.one_of(TEXTS, WORDS)),
    "keys": st.dictionaries(TEXTS, st.one_of(TEXTS, AMOUNTS), max_size=2),
}


def listed(entries: list[dict[str, Any]]) -> str:
    return "".join(
        f"[[check.expect]]\n{''.join(f'{k} = {toml(v)}{chr(10)}' for k, v in entry.items())}"
        for entry in entries
    )


@settings(max_examples=200, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(st.lists(st.fixed_dictionaries({}, optional={**SETTINGS, **PATTERNS}), max_size=4))
def test_what_is_sound_is_read_as_it_was_written(
    tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    read = read_expectations(write(tmp_path, listed(entries)))
    assert [e.settings for e in read.entries] == [
        {k: v for k, v in entry.items() if k in SETTINGS} for entry in entries
    ]
    for entry, kept in zip(entries, read.entries, strict=True):
        assert {"keys": kept.keys, **kept.patterns} == {
            "keys": {k: str(v) for k, v in entry.get("keys", {}).items()},
            **{k: v for k, v in entry.items() if k in PATTERNS and k != "keys"},
        }
    sound(tmp_path / "geoprobe.toml")


@settings(max_examples=200, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(
    st.fixed_dictionaries({}, optional={**SETTINGS, **PATTERNS}),
    st.sampled_from([*SETTINGS, *PATTERNS]),
    TREES,
)
def test_one_odd_value_among_sound_ones_makes_no_traceback(
    tmp_path: Path, entry: dict[str, Any], name: str, odd: Any
) -> None:
    sound(write(tmp_path, listed([{**entry, name: odd}])))


@settings(max_examples=400, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(st.one_of(TREES, TABLES), st.lists(TABLES, max_size=3), TEXTS)
def test_no_values_make_a_traceback(
    tmp_path: Path, check: Any, entries: list[dict[str, Any]], name: str
) -> None:
    path = tmp_path / "geoprobe.toml"
    for content in (
        {"check": check},
        {"check": {**(check if isinstance(check, dict) else {}), "expect": entries}},
        {"check": {"expect": [{"keys": {name: check}}]}},
        {name: check},
    ):
        path.write_text(
            "".join(f"{json.dumps(k)} = {toml(v)}\n" for k, v in content.items()), "utf-8"
        )
        sound(path)
