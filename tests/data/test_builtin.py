"""The built-in corpus: prose, the same every time, read without importing anything."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geoprobe.data import builtin
from geoprobe.data.corpus import build_corpus
from geoprobe.errors import UsageError
from tests.data.tokenizers_for_tests import byte_tokenizer


def test_there_is_enough_of_it_and_it_is_prose() -> None:
    text = builtin.builtin_text()
    assert len(text) > 900_000
    letters = sum(c.isalpha() or c.isspace() for c in text)
    assert letters / len(text) > 0.9
    # The commonest words of English, in about the shares they have in English.
    words = text.lower().split()
    assert 0.05 < words.count("the") / len(words) < 0.12
    assert 0.015 < words.count("a") / len(words) < 0.06
    assert "\r" not in text
    assert not text.startswith("\ufeff")


def test_no_paragraph_comes_twice() -> None:
    paragraphs = [" ".join(p.split()) for p in builtin.builtin_text().split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))
    topics = [
        line for line in paragraphs if line.startswith('The "with" statement is used to wrap')
    ]
    assert len(topics) == 1  # it is in the topics `with` and `compound`


def test_another_process_finds_the_same_text_and_imports_no_module_of_the_library() -> None:
    code = (
        "import sys; from geoprobe.data.builtin import describe; before = set(sys.modules);"
        "print(describe()['sha256'], *{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    digest, *modules = found.stdout.split()
    assert digest == builtin.describe()["sha256"]
    # The rest is what sysconfig and a codec bring.
    assert {m for m in modules if not m.startswith("_sysconfigdata")} <= {"pydoc_data", "encodings"}


def test_it_is_made_in_seconds() -> None:
    def once() -> float:
        builtin.builtin_text.cache_clear()
        begun = time.perf_counter()
        builtin.builtin_text()
        return time.perf_counter() - begun

    assert min(once() for _ in range(3)) < 4  # 0.7 s where nothing else runs


@pytest.mark.parametrize("module", ["configparser", "argparse", "email.message", "re", "typing"])
def test_docstrings_are_those_that_the_parser_finds(module: str) -> None:
    path = builtin._library() / (module.replace(".", "/") + ".py")
    source = (path if path.exists() else path.with_suffix("") / "__init__.py").read_text("utf-8")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    parsed = [ast.get_docstring(n) for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]
    wanted = [d for d in parsed if d and len(d) >= 200]
    assert len(wanted) > 2
    assert sorted(wanted) == sorted(d for d in builtin.docstrings(source) if len(d) >= 200)


def test_strings_that_are_no_docstrings_are_left_alone() -> None:
    long = "word " * 60
    source = f'''# -*- coding: utf-8 -*-
X = """usage:
"""
def f():  # a comment: "with quotes
    r"""{long}f."""
    y = """{long}not this"""
class C:
    \'\'\'{long}it has a """ inside.\'\'\'
Z = "x:\\n" # """
'''
    found = list(builtin.docstrings(source))
    assert [d.split("word ")[-1] for d in found] == ["f.", 'it has a """ inside.']
    assert list(builtin.docstrings(f'#!/bin/python\n\n"""{long}"""\n')) == [long]


def test_code_and_repetitions_are_dropped() -> None:
    seen: set[str] = set()
    code, again = "   x[0] = {1: (2, 3)}", "A sentence  of words."
    text = f"A sentence of words.\n\n{code}\n\n   Indented\n   words.\n\n{again}"
    assert builtin._prose(text, seen) == "A sentence of words.\n\nIndented\nwords."
    assert builtin._prose("Indented words.\n\nNew ones.", seen) == "New ones."


def test_an_export_gives_the_same_windows_through_text(tmp_path: Path) -> None:
    file = tmp_path / "frozen.txt"
    builtin.export(file)
    assert file.read_bytes().decode("utf-8") == builtin.builtin_text()
    tokenizer = byte_tokenizer("bos")
    ours = build_corpus(tokenizer, None, sequences=40, length=32)
    frozen = build_corpus(tokenizer, [str(file)], sequences=40, length=32)
    assert ours.fingerprint == frozen.fingerprint
    assert ours.source == builtin.SOURCE
    assert ".".join(map(str, sys.version_info[:3])) in builtin.SOURCE


def test_an_export_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.txt"):
        builtin.export(tmp_path / "frozen.jsonl")
    with pytest.raises(UsageError, match="cannot be written"):
        builtin.export(tmp_path / "no" / "frozen.txt")


def test_a_python_without_sources_or_documentation_points_to_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--text"):
        builtin._docstrings(tmp_path)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UsageError, match="--text"):
        builtin._topics()


def test_describe_counts_the_text() -> None:
    facts = builtin.describe()
    text = builtin.builtin_text()
    assert facts["characters"] == len(text)
    assert facts["words"] == len(text.split())
    assert facts["name"] == builtin.SOURCE
