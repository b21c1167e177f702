"""The built-in corpus: English prose that comes with every Python.

What it is: the language reference in `pydoc_data.topics`, topics in alphabetical order, then the
docstrings in the standard library's sources (modules, classes, functions), files in order of their
path, in a file in order of appearance. Docstrings are read from the sources; no module is imported.

Which text stays: a topic or docstring is cut at blank lines into paragraphs. A paragraph is dropped
when it came before (topics contain one another) or when less than 80% of its characters, runs of
white space counted as one, are letters or spaces (code, grammars, tables). What is left of a topic
or docstring stays if it has at least 200 characters. Texts are separated by two blank lines.

What it depends on: the Python version, to the last digit. Packages that distributions split off or
patch (tests, tkinter, distutils, venv, site, sysconfig, ...) are left out everywhere, so machines
with the same Python version have the same text unless their Python is patched further; `describe`
gives the SHA-256 that shows it. `export` freezes the text for machines whose Python differs.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

from geoprobe.errors import UsageError

SOURCE = f"built-in corpus (documentation of Python {platform.python_version()})"

_SHORTEST = 200
_PROSE = 0.8
_SKIPPED_FOLDERS = (
    *("__pycache__", "dist-packages", "distutils", "ensurepip", "idle_test", "idlelib", "lib2to3"),
    *("pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo", "venv"),
)
_SKIPPED_FILES = re.compile(
    r"(_sysconfigdata.*|_distutils.*|site|sitecustomize|usercustomize|sysconfig|turtle)\.py"
)

# The patterns are written so that no text can be matched in two ways: no backtracking to speak of,
# and no possessive quantifiers, which early releases of Python 3.11 get wrong.
_GAP = r"(?: \s* \# [^\n]* \n )* \s*"
_LONG = r"""(?: \"{3} [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* \"{3}
              | '{3} [^'\\]* (?: (?: \\. | '(?!'') ) [^'\\]* )* '{3} )"""
_STRINGS = re.compile(
    rf"""
    (?: \A {_GAP}                                    # nothing but comments before, or
      | : [ \t]* (?: \# [^\n]* )? \n {_GAP} )         # the end of a def or class line
    (?P<docstring> [rRuU]? {_LONG} )
    | {_LONG}                                        # other strings and comments, whole,
    | " [^"\\\n]* (?: \\. [^"\\\n]* )* "              # so that nothing in them is mistaken
    | ' [^'\\\n]* (?: \\. [^'\\\n]* )* '
    | \# [^\n]*
    """,
    re.VERBOSE | re.DOTALL,
)
"""Docstrings of a source file. Parsing all of the library would take seconds, this takes tenths."""


@cache
def builtin_text() -> str:
    """The text of the built-in corpus.

    Raises:
        UsageError: This Python comes without its documentation or its sources.
    """
    seen: set[str] = set()
    kept = (_prose(text, seen) for text in [*_topics(), *_docstrings(_library())])
    return "\n\n\n".join(text for text in kept if len(text) >= _SHORTEST) + "\n"


def describe() -> dict[str, Any]:
    """Facts about the built-in corpus: its name, size and SHA-256."""
    text = builtin_text()
    return {
        "name": SOURCE,
        "python": platform.python_version(),
        "characters": len(text),
        "words": len(text.split()),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def export(path: Path) -> None:
    """Writes the text as UTF-8; `--text` on that file gives the same token windows.

    Raises:
        UsageError: The ending is not .txt, or the file cannot be written.
    """
    if path.suffix != ".txt":
        raise UsageError(f"{path}: name the file .txt, so that --text reads it as packed text.")
    try:
        path.write_text(builtin_text(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error}).") from error


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UsageError(_stripped("the module pydoc_data")) from None
    return [topics[name] for name in sorted(topics)]


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _docstrings(library: Path) -> list[str]:
    files = list(_sources(library))
    # Some systems ship the library as one zip of compiled files, or a few sources only.
    if len(files) < 100:
        raise UsageError(_stripped(f"most of its sources ({library})"))
    return [text for file in files for text in docstrings(_decoded(file))]


def _sources(library: Path) -> Iterator[Path]:
    found: list[tuple[str, Path]] = []
    for folder, folders, names in os.walk(library):
        folders[:] = [f for f in folders if f not in _SKIPPED_FOLDERS and "-" not in f]
        for name in names:
            if name.endswith(".py") and not _SKIPPED_FILES.fullmatch(name):
                path = Path(folder, name)
                found.append((path.relative_to(library).as_posix(), path))
    for _, path in sorted(found):
        yield path


def _decoded(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def docstrings(source: str) -> Iterator[str]:
    """Docstrings of a Python source, in order of appearance, without their indentation."""
    for match in _STRINGS.finditer(source):
        literal = match["docstring"]
        # A value is never longer than its literal.
        if literal is not None and len(literal) >= _SHORTEST:
            try:
                yield inspect.cleandoc(ast.literal_eval(literal))
            except (SyntaxError, ValueError):
                continue


def _prose(text: str, seen: set[str]) -> str:
    """The paragraphs of a text that are prose and new, unindented; `seen` is told of them."""
    kept = []
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")):
        words = " ".join(paragraph.split())
        if not words or words in seen:
            continue
        seen.add(words)
        if sum(map(str.isalpha, words)) + words.count(" ") >= _PROSE * len(words):
            kept.append(dedent(paragraph).rstrip())
    return "\n\n".join(kept)


def _stripped(what: str) -> str:
    return (
        f"This Python {platform.python_version()} comes without {what}, of which the built-in "
        "corpus is made; give your own with --text FILE."
    )
