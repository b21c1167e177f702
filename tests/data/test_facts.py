"""Facts: those that come with geoprobe are sound, and nothing in a file is more than a sentence."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.data import facts as module
from geoprobe.data.demo_series import demo_facts_folder
from geoprobe.data.facts import Fact, Relation, builtin_facts, fingerprint, read_facts
from geoprobe.errors import UsageError

NAMES = {
    *("country_capital", "country_language", "country_currency", "country_continent"),
    *("country_largest_city", "city_country", "state_capital", "landmark_country"),
    *("element_symbol", "animal_young", "verb_past", "noun_plural", "word_opposite"),
    *("president_birth_year", "book_author", "athlete_sport", "product_company"),
    "person_occupation",
}
ANSWER = Fact("Peru", ("Lima",))


@cache
def built_in() -> dict[str, Relation]:
    return {relation.name: relation for relation in builtin_facts()}


def answers(name: str) -> dict[str, str]:
    return {fact.subject: fact.objects[0] for fact in built_in()[name].facts}


def whole(**changes: Any) -> dict[str, Any]:
    """A relation as JSON has it."""
    return {
        "name": "capital",
        "prompt_templates": ["The capital of {} is"],
        "samples": [{"subject": "Peru", "object": "Lima"}],
        **changes,
    }


def written(path: Path, relation: Any) -> Path:
    path.write_text(json.dumps(relation), "utf-8")
    return path


# What comes with geoprobe.


def test_the_built_in_relations_are_these_in_the_order_of_their_names() -> None:
    assert [relation.name for relation in builtin_facts()] == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_built_in_relation_has_many_facts_and_several_templates(name: str) -> None:
    relation = built_in()[name]
    assert 40 <= len(relation.facts) <= 60
    assert 2 <= len(relation.templates) <= 3
    for template in relation.templates:
        assert template.count("{}") == 1
        assert template.count("{") == template.count("}") == 1
        assert not re.search(r"\s\s", template)
        assert template[-1].isalpha() or template[-1] == ","  # the object follows a space


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_built_in_file_holds_its_relation_and_each_fact_once(name: str) -> None:
    # Read plainly: `read_facts` would merge, strip and drop.
    path = Path(str(files("geoprobe.data") / "relations" / f"{name}.json"))
    text = path.read_text("utf-8")
    content = json.loads(text)
    assert text == json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    assert content["name"] == name
    subjects = [sample["subject"] for sample in content["samples"]]
    assert len({subject.casefold() for subject in subjects}) == len(subjects)
    plain = tuple(
        Fact(s["subject"], tuple(s["object"] if isinstance(s["object"], list) else [s["object"]]))
        for s in content["samples"]
    )
    assert built_in()[name] == Relation(name, tuple(content["prompt_templates"]), plain)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_one_object_answers_a_built_in_relation(name: str) -> None:
    counts = Counter(fact.objects[0] for fact in built_in()[name].facts)
    facts = len(built_in()[name].facts)
    assert len(counts) >= 5
    assert max(counts.values()) <= 0.25 * facts
    if name == "country_language":
        assert max(counts.values()) <= 0.2 * facts


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_answer_can_be_copied_from_its_prompt(name: str) -> None:
    relation = built_in()[name]
    for fact in relation.facts:
        words = [fact.subject, *re.findall(r"\w{4,}", fact.subject)]
        for answer in fact.objects:
            assert 1 <= len(answer.split()) <= 3
            # Mexico City holds Mexico; the others hold a word of the subject, as Korean does.
            assert not [w for w in words if w.casefold() in answer.casefold()], fact
            for template in relation.templates:
                prompt = template.replace("{}", fact.subject)
                assert answer.casefold() not in prompt.casefold(), (prompt, answer)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_article_in_front_of_an_answer_fits_it(name: str) -> None:
    relation = built_in()[name]
    for template in relation.templates:
        if template.endswith(" a"):
            assert not [f for f in relation.facts if f.objects[0][0].casefold() in "aeiou"]
        if re.search(r"\ban? \{\}", template):
            assert not [f for f in relation.facts if f.subject[0].casefold() in "aeiou"]
        if template.startswith("{}"):
            assert not [f for f in relation.facts if f.subject.startswith("the ")]


def test_built_in_relations_agree_where_they_share_subjects() -> None:
    country_of, capital_of = answers("city_country"), answers("country_capital")
    largest_of = answers("country_largest_city")
    shared = [country for country in capital_of if country in largest_of]
    differ = {c for c in shared if capital_of[c] != largest_of[c]}
    assert len(shared) > 30
    # Where the largest city is no capital; any other difference would be a second spelling.
    assert differ == {"Canada", "Turkey", "Pakistan", "Morocco", "Nigeria", "New Zealand"}
    cities = {city: country for country, city in (capital_of | largest_of).items()}
    both = {city for city in cities if city in country_of}
    assert len(both) >= 8
    assert [city for city in both if country_of[city] != cities[city]] == []
    # Countries are spelled alike as subjects and as objects.
    countries = {
        country
        for name in ("country_continent", "country_currency", "country_language")
        for country in answers(name)
    }
    assert {*country_of.values(), *answers("landmark_country").values()} <= countries
    # The capital of a state of the US is no capital of a country, nor in another country.
    states = answers("state_capital")
    assert len(set(states.values())) == len(states)
    assert not {*states.values()} & {*capital_of.values(), *country_of}
    # An athlete's occupation is that of the sport.
    sports, work = answers("athlete_sport"), answers("person_occupation")
    boxers = [person for person in sports if person in work]
    assert boxers
    assert {(sports[person], work[person]) for person in boxers} == {("boxing", "boxer")}


def test_the_demo_agrees_with_the_built_in_relations() -> None:
    demo = {relation.name: relation for relation in read_facts([demo_facts_folder()])}
    assert len(demo) == 11
    same = {
        "capital": "country_capital",
        "currency": "country_currency",
        "language": "country_language",
        "past_tense": "verb_past",
        "young": "animal_young",
        "opposite": "word_opposite",
    }
    for theirs, ours in same.items():
        accepted = {fact.subject: fact.objects for fact in built_in()[ours].facts}
        shared = [fact for fact in demo[theirs].facts if fact.subject in accepted]
        assert len(shared) >= 20
        # The demo was made with plainer words where there are two.
        plainer = {"China": "Chinese", "Colombia": "Bogota", "wolf": "pup", "fox": "cub"}
        for fact in shared:
            assert fact.objects[0] in accepted[fact.subject], fact
            if fact.subject not in plainer:
                assert fact.objects[0] == accepted[fact.subject][0], fact


def test_a_wheel_holds_the_relations() -> None:
    root = Path(module.__file__).parents[1]
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["geoprobe"]
    packed = {path for pattern in patterns for path in root.glob(pattern)}
    ours = set((root / "data" / "relations").iterdir())
    assert {path.stem for path in ours} == NAMES
    assert ours <= packed


def test_an_installation_without_them_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    with pytest.raises(UsageError, match=r"built-in facts are missing .* --facts\.$"):
        builtin_facts()
    (tmp_path / "relations").mkdir()
    written(tmp_path / "relations" / "one.json", whole())
    assert builtin_facts() == [Relation("capital", ("The capital of {} is",), (ANSWER,))]


# Reading.


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", whole())  # a file that is named may have any ending
    expected = [Relation("capital", ("The capital of {} is",), (ANSWER,))]
    assert read_facts([file]) == expected
    assert read_facts([str(file)]) == expected
    assert read_facts(str(file)) == expected


def test_the_layout_of_the_lre_dataset_is_read(tmp_path: Path) -> None:
    relation = {
        "name": "country capital city",
        "prompt_templates": ["The capital city of {} is"],
        "prompt_templates_zs": ["What is the capital of {}? It is"],
        "properties": {
            "relation_type": "factual",
            "domain_name": "country",
            "range_name": "city",
            "symmetric": False,
        },
        "samples": [
            {"subject": "China", "object": "Beijing"},
            {"subject": "Japan", "object": "Tokyo", "extra": [1]},
        ],
        "_domain": ["China", "Japan"],
    }
    (found,) = read_facts([written(tmp_path / "a.json", relation)])
    assert found.name == "country capital city"
    assert found.templates == ("The capital city of {} is",)
    assert found.facts == (Fact("China", ("Beijing",)), Fact("Japan", ("Tokyo",)))


def test_a_byte_order_mark_and_other_encodings_of_json_are_read(tmp_path: Path) -> None:
    expected = read_facts([written(tmp_path / "a.json", whole())])
    for encoding in ("utf-8-sig", "utf-16", "utf-32-le"):
        (tmp_path / "b.json").write_text(json.dumps(whole()), encoding)
        assert read_facts([tmp_path / "b.json"]) == expected


def test_a_subject_that_comes_again_adds_accepted_answers(tmp_path: Path) -> None:
    samples = [
        {"subject": "Peru", "object": "Lima"},
        {"subject": "Bolivia", "object": ["Sucre", "La Paz", "Sucre"]},
        {"subject": " Peru\n", "object": "\tLima "},
        {"subject": "Bolivia", "object": "La Plata"},
        {"subject": "peru", "object": "LIMA"},
    ]
    (found,) = read_facts([written(tmp_path / "a.json", whole(samples=samples))])
    assert found.facts == (
        ANSWER,
        Fact("Bolivia", ("Sucre", "La Paz", "La Plata")),
        Fact("peru", ("LIMA",)),
    )


def test_templates_lose_white_space_at_their_ends_and_keep_other_braces(tmp_path: Path) -> None:
    templates = ["{x} of {} is {0}: ", "{x} of {} is {0}:", "Q: {}?\nA:"]
    (found,) = read_facts([written(tmp_path / "a.json", whole(prompt_templates=templates))])
    assert found.templates == ("{x} of {} is {0}:", "Q: {}?\nA:")


def test_a_folder_is_its_json_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "facts.json"  # a folder whatever it is called
    folder.mkdir()
    for name in ("b.json", "a.JSON", "c.json"):
        written(folder / name, whole(name=f"is {name}"))
    written(folder / ".hidden.json", whole(name="hidden"))
    (folder / "notes.txt").write_text("no facts")
    (folder / "deeper.json").mkdir()
    written(folder / "deeper.json" / "d.json", whole(name="deeper"))
    other = written(tmp_path / "z.json", whole(name="first"))
    names = [relation.name for relation in read_facts([other, folder])]
    assert names == ["first", "is a.JSON", "is b.json", "is c.json"]
    assert [relation.name for relation in read_facts([folder, other])] == [*names[1:], names[0]]


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "a.json", whole())
    assert [relation.name for relation in read_facts(["~/a.json"])] == ["capital"]


# The fingerprint.


def test_the_fingerprint_is_of_the_facts_and_not_of_their_formatting(tmp_path: Path) -> None:
    plain = read_facts([written(tmp_path / "a.json", whole())])
    other = whole(samples=[{"object": [" Lima "], "subject": "Peru", "more": 1}] * 2, more=2)
    (tmp_path / "b.json").write_text(json.dumps(dict(reversed(other.items())), indent=3), "utf-16")
    same = read_facts([tmp_path / "b.json"])
    assert same == plain
    assert fingerprint(same) == fingerprint(plain)
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint(plain))


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, name="Capital"),
        lambda one: replace(one, templates=("The capital of {} was",)),
        lambda one: replace(one, templates=(*one.templates, "In {} it is")),
        lambda one: replace(one, facts=(Fact("Peru", ("Lima", "lima")),)),
        lambda one: replace(one, facts=(Fact("PeruL", ("ima",)),)),
        lambda one: replace(one, facts=(*one.facts, Fact("Chile", ("Santiago",)))),
        lambda one: replace(one, facts=()),
    ],
)
def test_whatever_changes_changes_the_fingerprint(change: Callable[[Relation], Relation]) -> None:
    one = Relation("capital", ("The capital of {} is",), (ANSWER,))
    assert fingerprint([change(one)]) != fingerprint([one])


def test_the_fingerprint_knows_relations_apart_and_their_order() -> None:
    one, two = Relation("a", ("{} x",), (ANSWER,)), Relation("b", ("{} x",), (ANSWER,))
    found = [fingerprint(some) for some in ([], [one], [two], [one, two], [two, one])]
    assert len(set(found)) == 5


# Mistakes.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON (Expecting property name"),
        ("", "not JSON (Expecting value"),
        ("[" * 100_000, "not JSON (maximum recursion depth"),
        ('{"name": ' + "9" * 5000 + "}", "not JSON (Exceeds the limit"),
        ("[]", "it holds a list; give a JSON object with name, prompt_templates and samples."),
        ("null", "it holds null;"),
        ('"x"', "it holds a text;"),
        (whole(name=""), "name is empty; give a text, or leave its entry out."),
        (whole(name=" \n"), "name is white space;"),
        (whole(name=None), "name is null; give a text."),
        (whole(name=3), "name is a number; give a text."),
        (whole(name="a\0b"), r"name, 'a\x00b', holds the character '\x00'; leave it out."),
        (whole(name="a\nb"), r"holds the character '\n'; leave it out."),
        (whole(name="a\u2028b"), r"holds the character '\u2028'; leave it out."),
        (whole(name="\ud800"), r"name, '\ud800', holds the character '\ud800'; leave it out."),
        ({"samples": [], "prompt_templates": []}, "name is missing; give a text."),
        (whole(prompt_templates=[]), "prompt_templates is an empty list; give a list of texts wi"),
        (whole(prompt_templates="{} is"), "prompt_templates is a text; give a list"),
        (whole(prompt_templates=None), "prompt_templates is null; give a list"),
        (whole(prompt_templates=["{} is", 1.5]), "prompt_templates[1] is a number; give a text."),
        (whole(prompt_templates=["{} is", " "]), "prompt_templates[1] is white space;"),
        (whole(prompt_templates=["The sky is"]), "'The sky is', has no {}; give each template"),
        (whole(prompt_templates=["{} or {}"]), "prompt_templates[0], '{} or {}', has 2 {}; give"),
        (whole(prompt_templates=["{ } is {0}"]), "has no {}; give each template exactly one {}"),
        (whole(prompt_templates=["{}\x1b[2J"]), r"holds the character '\x1b'; leave it out."),
        (whole(prompt_templates=["x" * 500]), f"'{'x' * 76}..., has no {{}};"),
        (whole(samples=[]), "samples is an empty list; give a list of objects with subject and"),
        (whole(samples={"Peru": "Lima"}), "samples is a JSON object; give a list"),
        (whole(samples=["Peru"]), "samples[0] is a text; give a JSON object with subject and obj"),
        (whole(samples=[{"object": "x"}]), "samples[0].subject is missing; give a text."),
        (whole(samples=[{"subject": "x"}]), "samples[0].object is missing; give a text."),
        (whole(samples=[{"subject": "x", "object": 1732}]), "samples[0].object is a number; give"),
        (whole(samples=[{"subject": "x", "object": True}]), "samples[0].object is true or false;"),
        (whole(samples=[{"subject": "", "object": "x"}]), "samples[0].subject is empty; give"),
        (whole(samples=[{"subject": "\u3000", "object": "x"}]), "samples[0].subject is white spa"),
        (whole(samples=[{"subject": "x", "object": []}]), "samples[0].object is an empty list;"),
        (whole(samples=[{"subject": "x", "object": ["a", ""]}]), "samples[0].object[1] is empty;"),
        (whole(samples=[{"subject": "x", "object": [["a"]]}]), "samples[0].object[0] is a list;"),
        (whole(samples=[{"subject": "x\ny", "object": "x"}]), r"holds the character '\n'; leave"),
        (whole(samples=[{"subject": "x", "object": "\udc00"}]), r"the character '\udc00'; leave"),
    ],
)
def test_every_mistake_in_a_file_is_a_sentence(tmp_path: Path, content: Any, said: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    with pytest.raises(UsageError) as error:
        read_facts([file])
    message = str(error.value)
    assert message.startswith(f"--facts {file}: ")
    assert said in message
    assert message.endswith(".")
    assert message.isprintable()


def test_half_a_character_may_be_spelled_in_raw_bytes(tmp_path: Path) -> None:
    raw = json.dumps(whole(name="?")).encode().replace(b"?", b"\xed\xa0\x80")
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(UsageError, match=r"name, .*, holds the character"):
        read_facts([tmp_path / "a.json"])


def test_what_is_no_file_of_facts_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("{}")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa" * 9)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for path, said in (
        (tmp_path / "none.json", "there is no such file or folder; give a .json file or a folder."),
        (tmp_path / "pipe", "there is no such file or folder;"),
        (tmp_path / "folder", "the folder has no .json file; give a folder with one file for each"),
        (tmp_path / "bytes", "not JSON ("),
        ("x" * 5000, "give"),
        ("a\0b", "give"),
        ("~no-such-user-at-all/x", "give"),
    ):
        with pytest.raises(UsageError) as error:
            read_facts([path])
        assert str(error.value).startswith("--facts ")
        assert said in str(error.value)
        assert str(error.value).isprintable()
    with pytest.raises(UsageError, match=r"^--facts: no file is given; give files or folders"):
        read_facts([])


def test_a_file_too_large_for_facts_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # a hole; read whole it would not fit into memory
    with pytest.raises(UsageError, match=r"larger than 64 MiB, .*; give one with fewer samples\.$"):
        read_facts([file])
    small = written(tmp_path / "a.json", whole())
    size = small.stat().st_size
    monkeypatch.setattr(module, "_MOST_BYTES", size)
    assert len(read_facts([small])) == 1
    monkeypatch.setattr(module, "_MOST_BYTES", size - 1)
    with pytest.raises(UsageError, match="larger than"):
        read_facts([small])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", whole())
    file.chmod(0)
    with pytest.raises(UsageError, match=r"cannot be read \(.*\); give another"):
        read_facts([file])


def test_a_link_to_nothing_in_a_folder_is_told(tmp_path: Path) -> None:
    # Left out, a relation would be missing without a word.
    written(tmp_path / "a.json", whole())
    (tmp_path / "b.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(UsageError, match=r"b\.json: cannot be read \(.*\); give another file\.$"):
        read_facts([tmp_path])


def test_two_relations_of_one_name_are_told(tmp_path: Path) -> None:
    one = written(tmp_path / "a.json", whole())
    two = written(tmp_path / "b.json", whole(name=" capital "))
    with pytest.raises(UsageError) as error:
        read_facts([one, two])
    assert str(error.value) == (
        f"--facts {two}: its relation is named 'capital', as is that of {one}; give each relation "
        "its own name, and each file once."
    )
    with pytest.raises(UsageError, match=r"a\.json: its relation is named 'capital'"):
        read_facts([one, one])


def test_names_of_files_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "a\x1b[2J\n\udcff.json"
    file.write_text("{")
    with pytest.raises(UsageError) as error:
        read_facts([tmp_path])
    assert str(error.value).startswith(f"--facts {tmp_path}/a?[2J??.json: not JSON")
    assert str(error.value).isprintable()


TEXTS = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=6),
    st.sampled_from(["", " ", "{}", "a {} b", "{}{}", "{0}", "capital", "\0", "\ud800"]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SAMPLES = st.fixed_dictionaries(
    {}, optional={"subject": TEXTS | VALUES, "object": TEXTS | st.lists(TEXTS) | VALUES}
)
RELATIONS = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXTS | VALUES,
        "prompt_templates": st.lists(TEXTS, max_size=3) | VALUES,
        "samples": st.lists(SAMPLES | VALUES, max_size=4) | VALUES,
    },
)


def is_sound(relation: Relation) -> bool:
    """Whether a relation is what the documentation promises of one that was read."""
    pairs = [(fact.subject, answer) for fact in relation.facts for answer in fact.objects]
    texts = [relation.name, *relation.templates, *(text for pair in pairs for text in pair)]
    return (
        all(isinstance(text, str) and text == text.strip() != "" for text in texts)
        and all(template.count("{}") == 1 for template in relation.templates)
        and all("\0" not in text and text.encode() for text in texts)
        and all(fact.objects for fact in relation.facts)
        and min(len(relation.templates), len(relation.facts)) > 0
        and len({fact.subject for fact in relation.facts}) == len(relation.facts)
        and len(set(pairs)) == len(pairs)
    )


def read_or_told(folder: Path) -> list[Relation] | None:
    """What is read; None where a sentence says why not. Anything else is raised."""
    try:
        return read_facts([folder])
    except UsageError as error:
        message = str(error)
    assert message.startswith("--facts ")
    assert message.endswith(".")
    assert message.isprintable()
    return None


@given(st.lists(RELATIONS | VALUES, min_size=1, max_size=3))
def test_any_json_is_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, some: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("facts")
    for i, value in enumerate(some):
        written(folder / f"{i}.json", value)
    found = read_or_told(folder)
    if found is not None:
        assert len(found) == len(some)
        assert all(map(is_sound, found))
        assert len(fingerprint(found)) == 64


@given(st.binary(max_size=40), st.integers(0, 120), st.integers(0, 20))
def test_any_bytes_are_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, start: int, length: int
) -> None:
    folder = tmp_path_factory.mktemp("facts")
    good = json.dumps(whole()).encode()
    for content in (noise, good[:start] + noise + good[start + length :]):
        (folder / "a.json").write_bytes(content)
        found = read_or_told(folder)
        assert found is None or all(map(is_sound, found))


GOOD = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=5)


@given(
    st.dictionaries(GOOD, st.lists(GOOD, min_size=1, max_size=3, unique=True), min_size=1),
    st.lists(GOOD.filter(lambda text: "{}" not in f"{text}{{}}{text}".replace("{}", "", 1))),
)
def test_a_relation_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[str, list[str]], parts: list[str]
) -> None:
    templates = [f"{part} {{}} {part}" for part in dict.fromkeys(["is", *parts])]
    samples = [
        {"subject": subject, "object": objects if len(objects) > 1 else objects[0]}
        for subject, objects in facts.items()
    ]
    file = written(
        tmp_path_factory.mktemp("facts") / "a.json",
        whole(prompt_templates=templates, samples=samples),
    )
    expected = tuple(Fact(subject, tuple(objects)) for subject, objects in facts.items())
    assert read_facts([file]) == [Relation("capital", tuple(templates), expected)]
