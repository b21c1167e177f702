"""Facts by relation: subjects, the objects that answer them, and prompts that ask for them.

A relation is a JSON file of the layout of the LRE dataset (Hernandez et al.): `name`,
`prompt_templates`, whose `{}` is where the subject goes, and `samples` of `subject` and `object`;
other keys are ignored. A template is a text that a language model continues with the object.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from geoprobe.errors import UsageError
from geoprobe.paths import typed

_SLOT = "{}"
_MOST_BYTES = 2**26  # a file of weights named by mistake is not worth reading to its end


@dataclass(frozen=True)
class Fact:
    """What is true of one subject.

    Attributes:
        subject: What a prompt asks about.
        objects: Accepted answers; the first is the one that is shown.
    """

    subject: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """Facts of one kind.

    Attributes:
        name: Its name.
        templates: Prompts, each with one `{}` for the subject. Put the subject in with
            `str.replace`: other braces are text.
        facts: Its facts, each of another subject.
    """

    name: str
    templates: tuple[str, ...]
    facts: tuple[Fact, ...]


def builtin_facts() -> list[Relation]:
    """The relations that come with geoprobe, by name.

    Raises:
        UsageError: This installation was made without them.
    """
    folder = Path(str(files("geoprobe.data") / "relations"))
    if not folder.is_dir():
        raise UsageError(
            f"The built-in facts are missing from this installation ({_shown(folder)} is not "
            "there); install geoprobe from a wheel or a full checkout, or give facts with --facts."
        )
    return read_facts([folder])


def read_facts(paths: Sequence[str | Path]) -> list[Relation]:
    """Reads relations, in the order in which they are given.

    White space around texts is dropped. A subject that comes again adds its objects to the accepted
    answers of the first.

    Args:
        paths: Files of one relation each, or folders, whose .json files are taken in the order of
            their names; hidden files and folders in a folder are left out.

    Raises:
        UsageError: One is missing, is not a relation, or has the name of another.
    """
    if isinstance(paths, str | Path):  # a string is a sequence of strings, too
        paths = [paths]
    found: dict[str, tuple[Relation, Path]] = {}
    for file in (file for path in paths for file in _files(path)):
        relation = _Reader(file).relation()
        if relation.name in found:
            raise _error(
                file,
                f"its relation is named {_quoted(relation.name)}, as is that of "
                f"{_shown(found[relation.name][1])}; give each relation its own name, and each "
                "file once.",
            )
        found[relation.name] = relation, file
    if not found:
        raise UsageError("--facts: no file is given; give files or folders of facts.")
    return [relation for relation, _ in found.values()]


def fingerprint(relations: Sequence[Relation]) -> str:
    """SHA-256 of names, templates and facts in their order, however their files are formatted."""
    content = [
        [one.name, one.templates, [[fact.subject, fact.objects] for fact in one.facts]]
        for one in relations
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _files(path: str | Path) -> list[Path]:
    """The files of relations that one path stands for."""
    try:
        given = typed(path)
        is_file, is_folder = given.is_file(), given.is_dir()
        inside = sorted(given.iterdir(), key=lambda file: file.name) if is_folder else []
    except (OSError, ValueError) as error:  # no permission; names no file can have
        raise _error(path, f"cannot be read ({_shown(error)}); give another path.") from error
    if is_file:
        return [given]
    if not is_folder:
        raise _error(path, "there is no such file or folder; give a .json file or a folder.")
    found = [
        file
        for file in inside
        if file.suffix.lower() == ".json" and not file.name.startswith(".") and not file.is_dir()
    ]
    if not found:
        raise _error(
            path, "the folder has no .json file; give a folder with one file for each relation."
        )
    return found


@dataclass(frozen=True)
class _Reader:
    """Reads the relation in a file.

    Attributes:
        file: The file.
    """

    file: Path

    def relation(self) -> Relation:
        found = self._object()
        return Relation(
            name=self._text(_of(found, "name"), "name", allowed=""),
            templates=self._templates(_of(found, "prompt_templates")),
            facts=self._facts(_of(found, "samples")),
        )

    def _object(self) -> dict[str, Any]:
        try:
            with self.file.open("rb") as stream:
                content = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            raise self._error(f"cannot be read ({_shown(error)}); give another file.") from error
        if len(content) > _MOST_BYTES:
            raise self._error(
                f"larger than {_MOST_BYTES >> 20} MiB, which is no file of facts; give one with "
                "fewer samples."
            )
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._error(
                f"not JSON ({_shown(error)}); give a JSON object with name, prompt_templates and "
                "samples."
            ) from error
        if not isinstance(found, dict):
            raise self._error(
                f"it holds {_kind(found)}; give a JSON object with name, prompt_templates and "
                "samples."
            )
        return found

    def _templates(self, given: Any) -> tuple[str, ...]:
        templates = []
        for i, one in enumerate(self._list(given, "prompt_templates", "texts with {}")):
            where = f"prompt_templates[{i}]"
            template = self._text(one, where, allowed="\t\n\r")
            if (count := template.count(_SLOT)) != 1:
                raise self._error(
                    f"{where}, {_quoted(template)}, has {count or 'no'} {_SLOT}; give each "
                    f"template exactly one {_SLOT} for the subject."
                )
            templates.append(template)
        return tuple(dict.fromkeys(templates))

    def _facts(self, given: Any) -> tuple[Fact, ...]:
        objects_of: dict[str, dict[str, None]] = {}  # dictionaries as sets that keep their order
        for i, one in enumerate(self._list(given, "samples", "objects with subject and object")):
            where = f"samples[{i}]"
            if not isinstance(one, dict):
                raise self._error(
                    f"{where} is {_kind(one)}; give a JSON object with subject and object."
                )
            subject = self._text(_of(one, "subject"), f"{where}.subject")
            objects = self._objects(_of(one, "object"), f"{where}.object")
            objects_of.setdefault(subject, {}).update(dict.fromkeys(objects))
        return tuple(Fact(subject, tuple(objects)) for subject, objects in objects_of.items())

    def _objects(self, given: Any, where: str) -> list[str]:
        if not isinstance(given, list):
            return [self._text(given, where)]
        every = self._list(given, where, "texts")
        return [self._text(one, f"{where}[{i}]") for i, one in enumerate(every)]

    def _list(self, given: Any, where: str, what: str) -> list[Any]:
        if not isinstance(given, list) or not given:
            found = "an empty list" if isinstance(given, list) else _kind(given)
            raise self._error(f"{where} is {found}; give a list of {what}.")
        return given

    def _text(self, given: Any, where: str, allowed: str = "") -> str:
        """A text without white space around it; it may hold no control characters but some."""
        if not isinstance(given, str):
            raise self._error(f"{where} is {_kind(given)}; give a text.")
        text = given.strip()
        if not text:
            what = "white space" if given else "empty"
            raise self._error(f"{where} is {what}; give a text, or leave its entry out.")
        for character in text:
            # Tables and file names are made of these texts, and JSON can spell half a character.
            if character not in allowed and unicodedata.category(character) in _UNFIT:
                raise self._error(
                    f"{where}, {_quoted(text)}, holds the character {character!a}; leave it out."
                )
        return text

    def _error(self, what: str) -> UsageError:
        return _error(self.file, what)


_UNFIT = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line separators


class _Missing:
    """What a key that is not there holds."""


def _of(found: dict[str, Any], key: str) -> Any:
    return found.get(key, _Missing())


def _kind(value: Any) -> str:
    """What a JSON value is. The value itself is not shown: it may be deep, or long."""
    if isinstance(value, _Missing):
        return "missing"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "a JSON object"}
    return kinds[type(value)]


def _error(path: str | Path, what: str) -> UsageError:
    return UsageError(f"--facts {_shown(path)}: {what}")


def _quoted(text: str) -> str:
    """A text for people, in one line."""
    found = repr(text)
    return found if len(found) <= 80 else f"{found[:77]}..."


def _shown(what: object) -> str:
    """Fit for a sentence: names of files and errors about them may hold terminal codes."""
    return "".join(c if c.isprintable() else "?" for c in str(what))
