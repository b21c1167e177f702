"""docs/: every verb has a true page. Runs no command that measures anything."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from scripts import make_docs as docs
from scripts.docs_pages import GROUPS, PAGES
from scripts.docs_parts import Page, Step

FILES = sorted(docs.DOCS.glob("*.md"))
TEXTS = {file.name: file.read_text("utf-8") for file in FILES}
MAKE = "run python -m scripts.make_docs"
VERBS = [page.verb for page in PAGES]
MOST_BYTES = 2 * 2**20


def page_of(verb: str) -> Page:
    return next(page for page in PAGES if page.verb == verb)


def commands(text: str) -> list[str]:
    """Lines of geoprobe that a text tells someone to type."""
    shown = list(docs.outputs_of(text))
    return [c for c in shown if c.startswith("geoprobe ")] + re.findall(r"`(geoprobe [^`]+)`", text)


def test_every_verb_has_a_page_and_a_place_in_the_index() -> None:
    verbs = set(docs.verbs())
    assert set(VERBS) == verbs, "scripts/docs_pages.py has a page for each verb"
    assert sorted(v for names in GROUPS.values() for v in names) == sorted(verbs)
    assert {f"{verb}.md" for verb in verbs} | {"README.md"} <= set(TEXTS), MAKE
    for verb in verbs:
        assert f"[{verb}]({verb}.md)" in TEXTS["README.md"]
        assert set(page_of(verb).see) < verbs
        assert verb not in page_of(verb).see


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_has_the_texts_and_options_of_the_code(verb: str) -> None:
    known = docs.old_outputs(page_of(verb), docs.DOCS)
    assert TEXTS[f"{verb}.md"] == docs.render(page_of(verb), known, docs.DOCS), (
        f"{MAKE} --only {verb}; with --keep-outputs where only words have changed"
    )


def test_the_index_has_the_words_of_the_verbs() -> None:
    assert TEXTS["README.md"] == docs.index(docs.DOCS), f"{MAKE} --keep-outputs"


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_parses(name: str) -> None:
    found = commands(TEXTS[name])
    assert found or name.removesuffix(".md") not in VERBS
    for command in found:
        verb, *arguments = shlex.split(command)[1:]
        if arguments == ["--help"]:
            assert verb in docs.verbs()
            continue
        if arguments or verb not in docs.verbs():
            docs.verbs()[verb].make_context(verb, arguments)  # raises where it is wrong


@pytest.mark.parametrize("name", TEXTS)
def test_every_option_that_is_named_exists(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.MULTILINE | re.DOTALL)
    every = {option for verb in docs.verbs() for option in docs.options(verb)} | {"--help"}
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
        assert option in every, option
    verb = name.removesuffix(".md")
    for option in re.findall(r"^\| `(--?[a-z][\w-]*)", text, re.MULTILINE):
        assert option in docs.options(verb), option


@pytest.mark.parametrize("name", TEXTS)
def test_links_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", TEXTS[name]):
        path = "".join(target)
        if not path.startswith("https://"):
            assert (docs.DOCS / path.partition("#")[0]).exists(), path


def test_images_are_referenced_described_and_small() -> None:
    shown = re.findall(
        r'<img src="images/([^"]+)" width="(\d+)" alt="([^"]+)">', "".join(TEXTS.values())
    )
    files = sorted((docs.DOCS / docs.IMAGES).iterdir())
    assert sorted(file for file, _, _ in shown) == [file.name for file in files]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for file, width, described in shown:
        head = (docs.DOCS / docs.IMAGES / file).read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int(width) <= docs.READING_WIDTH
        assert int(width) * 2 <= struct.unpack(">II", head[16:24])[0]  # sharp on a dense screen
        assert len(described) > 20


@pytest.mark.parametrize("name", TEXTS)
def test_pages_name_no_machine(name: str) -> None:
    assert not docs._MACHINE.search(TEXTS[name])
    assert "\x1b" not in TEXTS[name]
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", TEXTS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_python_is_python_and_its_names_exist(name: str) -> None:
    for code in re.findall(r"^```python\n(.*?)\n```$", TEXTS[name], re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                assert node.module
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "geoprobe"
            ):
                assert hasattr(importlib.import_module("geoprobe"), node.attr)


# The script itself


LISTING = Step("geoprobe series demo --log-spaced 6")
SMALL = Page("series", "About it.", (LISTING,), ("--every",), "import geoprobe", ("rank",))


def test_a_page_is_made_checked_and_found_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work = tmp_path / "docs", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    docs.make(SMALL, work, folder, model=False)
    file = folder / "series.md"
    text = file.read_text("utf-8")
    assert "step-00000" in docs.outputs_of(text)[LISTING.command]
    assert list(docs.check(SMALL, work, folder)) == []
    for old, new, said in (
        ("| `--every` |", "| `--all` |", "should be '| `--every` |"),
        ("$ geoprobe series demo --log-spaced 6", "$ geoprobe series demo", "no output of it"),
        ("checkpoint   step", "checkpoint   epoch", "prints something else now"),
    ):
        assert old in text
        file.write_text(text.replace(old, new), "utf-8")
        assert any(said in problem for problem in docs.check(SMALL, work, folder))
    # The last digit of a number is not a difference.
    file.write_text(text.replace("1.1 MB", "1.2 MB"), "utf-8")
    assert list(docs.check(SMALL, work, folder)) == []
    # A command that fails leaves the page as it was, and is told.
    broken = replace(SMALL, steps=(Step("geoprobe series nowhere"),))
    monkeypatch.setattr(docs, "PAGES", (broken,))
    before = file.read_text("utf-8")
    assert docs.main(["--docs", str(folder), "--work", str(work), "--only", "series"]) == 1
    assert file.read_text("utf-8") == before


def test_outputs_of_smollm2_stay_where_it_is_not(tmp_path: Path) -> None:
    step = Step(f"geoprobe rank {docs.SMOLLM2}")
    page = replace(SMALL, steps=(LISTING, step))
    without = docs.render(page, {LISTING.command: "a"}, tmp_path)
    assert step.command not in without
    (tmp_path / "series.md").write_text(
        docs.render(page, {LISTING.command: "a", step.command: "b"}, tmp_path), "utf-8"
    )
    docs.make(page, tmp_path, tmp_path, model=False)
    assert docs.old_outputs(page, tmp_path)[step.command] == "b"


def test_outputs_lose_what_only_this_machine_has(tmp_path: Path) -> None:
    said = f"3 checkpoints were measured already.\nRun: {tmp_path}/run  \nin {tmp_path}\n"
    shown = docs.scrub(f"{said}{docs.ROOT}/a.py\n", tmp_path)
    assert shown == "Run: run\nin .\na.py"
    with pytest.raises(docs.CommandError, match="exit code 2"):
        docs.run("geoprobe series nowhere", tmp_path)
    with pytest.raises(docs.CommandError, match="names this machine"):
        docs.run("geoprobe series /usr/nowhere", tmp_path, code=2)


def test_long_outputs_are_cut_in_the_middle() -> None:
    text = "\n".join(map(str, range(20)))
    assert docs.shortened(text, (2, 1)) == "0\n1\n...\n19"
    assert docs.shortened(text, (2, 0)) == "0\n1\n..."
    assert docs.shortened(text, None) == docs.shortened(text, (10, 8)) == text


def test_the_code_of_a_failed_check_is_shown_and_read_back(tmp_path: Path) -> None:
    step = Step("geoprobe series demo", code=3)
    text = docs.render(replace(SMALL, steps=(step,)), {step.command: "out"}, tmp_path)
    assert "out\n$ echo $?\n3\n```" in text
    assert docs.outputs_of(text) == {step.command: "out"}


def test_benchmarks_that_are_named_exist() -> None:
    root = docs.DOCS.parent
    texts = [(root / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md", "Makefile")]
    named = re.findall(r"-m benchmarks (\w+)", "\n".join(texts))
    assert "cuda" in named
    assert set(named) <= set(NAMES)
    files = {
        file.stem for file in (root / "benchmarks").glob("*.py") if "def run(" in file.read_text()
    }
    assert files == set(NAMES)
