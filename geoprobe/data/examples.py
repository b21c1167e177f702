"""Labelled examples: sets of text, images or arrays whose items each have a class.

A set is a .jsonl or .parquet file with a field for the label, a folder of images with a folder for
each class, a .npz or .safetensors file with `x` and `y`, or a pair of arrays. Several sets (what a
model was trained on, what was held out) follow one another and share their classes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoprobe.data.labels import IGNORED, Labelled, Labels, quoted
from geoprobe.errors import UsageError
from geoprobe.paths import is_there, typed

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["text", "images", "arrays"]
Label = int | str | None

_KINDS: dict[str, Kind] = {
    ".jsonl": "text",
    ".parquet": "text",
    ".npz": "arrays",
    ".safetensors": "arrays",
}
_Part = tuple[Any, list[Label]]  # items of one set, and their labels

_LABELS_WITH = "--label-field"


@dataclass(frozen=True)
class Examples:
    """Labelled items, before any tokenizer or image processor has had them.

    Attributes:
        kind: What they are.
        items: Documents, image files, or an array (n, ...).
        labels: Their labels.
        source: What they are, for people.
    """

    kind: Kind
    items: Sequence[str] | Sequence[Path] | NDArray[Any]
    labels: Labels
    source: str

    def fed(self, helper: Any, length: int, *, token_ids: bool = False) -> Labelled:
        """What a model is fed.

        A document is a sequence, with the tokenizer's default special tokens; those without a token
        are left out, and their labels with them.

        Args:
            helper: The tokenizer of text, the image processor of images; None for arrays.
            length: Tokens a document at most.
            token_ids: Whether arrays are sequences of token ids.

        Raises:
            UsageError: The length has no room for text, too few documents have tokens, an image
                cannot be decoded, or the array has no token ids.
        """
        if self.kind == "text":
            return self._tokenised(helper, length)
        if self.kind == "images":
            from geoprobe.data.images import Images

            files = [Path(item) for item in self.items]
            return Labelled(Images(files, helper, self.source, "--data"), self.labels)
        from geoprobe.data.arrays import Arrays

        arrays = Arrays(np.asarray(self.items), self.source)
        if token_ids and not arrays.is_token_ids:
            raise UsageError(
                f"--data {self.source}: x is {arrays.x.dtype} of shape {arrays.x.shape}; give "
                "token ids, whole numbers from 0 of shape (sequences, time)."
            )
        return Labelled(arrays.as_token_ids() if token_ids else arrays, self.labels)

    def _tokenised(self, tokenizer: Any, length: int) -> Labelled:
        from geoprobe.data.corpus import check_room, corpus_of, tokenise

        check_room(tokenizer, length)
        counts: list[int] = []

        def counted() -> Iterator[Sequence[int]]:
            for ids in tokenise(tokenizer, map(str, self.items), length):
                counts.append(len(ids))
                yield ids

        corpus = corpus_of(tokenizer, counted(), self.source)
        return Labelled(corpus, self.labels.take(np.flatnonzero(counts)))


def read_examples(
    data: Any,
    *,
    field: str = "text",
    label_field: str = "label",
    most: int | None = None,
    labelled: bool = True,
) -> Examples:
    """Reads sets of labelled examples.

    Labels are whole numbers (booleans are 0 and 1) or strings, in all sets alike; None, null and
    -100 are items without one. A folder of images whose folders are all named by whole numbers has
    numbers. A set without a name is called `data` where there is one set, and by its file's stem
    where there are more.

    Args:
        data: A set, several in a list, or a mapping of names to sets. A set is a path, `NAME=FILE`
            (not in a mapping, and not where a file has that whole name), or a pair (x, y) of arrays
            or tensors, of shapes (n, ...) and (n,).
        field: Field of a .jsonl or .parquet document that holds its text.
        label_field: Field that holds its label.
        most: At most this many items of each set, evenly spaced where there are more: they may be
            sorted by class.
        labelled: Whether they have labels; False reads files of text alone.

    Raises:
        UsageError: A set is missing, or is not what its name says; items, labels or names of sets
            do not go together; or a set has fewer than two classes.
    """
    sets = _sets_of(data)
    kind = _kind_of(sets, labelled)
    parts: list[_Part] = []
    for one in sets:
        if kind == "text":
            part = _read_text(one, field, label_field if labelled else None)
        else:
            part = _read_images(one) if kind == "images" else _read_arrays(one)
        parts.append(_some_of(*part, most))
    if kind == "images":
        parts = _numbered(parts)
    items, labels = [some for some, _ in parts], [some for _, some in parts]
    if labelled:
        _check_labels(sets, labels)
    return Examples(
        kind=kind,
        items=_joined(sets, items) if kind == "arrays" else list(chain.from_iterable(items)),
        labels=_labels_of(sets, labels),
        source=", ".join(one.source for one in sets),
    )


@dataclass(frozen=True)
class _Set:
    """A set as it was given.

    Attributes:
        name: Its name.
        what: Its path, or a pair (x, y).
        shown: What was given, in messages.
        source: The same without folders, in reports.
    """

    name: str
    what: Any
    shown: str
    source: str

    @property
    def where(self) -> str:
        """The beginning of a sentence about it."""
        return f"--data {self.shown}"


def _sets_of(data: Any) -> list[_Set]:
    """The sets that are given, each with its name."""
    given: list[tuple[str | None, Any]]
    if isinstance(data, Mapping):
        given = list(data.items())
        for name, _ in given:
            if not isinstance(name, str) or not name:
                raise UsageError(f"--data: {name!r} names a set; give a string that names it.")
    elif isinstance(data, list | tuple) and not _is_pair(data):
        given = [_split(item) for item in data]
    else:
        given = [_split(data)]
    if not given:
        raise UsageError("--data: no set is given; give a file, a folder or a pair (x, y).")
    sets = [_set(name, item, alone=len(given) == 1) for name, item in given]
    name, times = Counter(one.name for one in sets).most_common(1)[0]
    if times > 1:
        raise UsageError(
            f"--data: {times} sets are called {name!r}; give each a name of its own as NAME=FILE."
        )
    return sets


def _split(item: Any) -> tuple[str | None, Any]:
    """The parts of NAME=FILE; a whole path where it is there."""
    # A subclass of str is what a caller made of a path, whatever it is called.
    if type(item) is str and not is_there(typed(item)):
        match = re.fullmatch(r"([\w.-]+)=(.+)", item, re.DOTALL)
        if match:
            return match[1], match[2]
    return None, item


def _set(name: str | None, item: Any, *, alone: bool) -> _Set:
    if isinstance(item, str | Path):
        path = typed(item)
        if not str(item) or not is_there(path):
            raise UsageError(
                f"--data {str(item)[:200] or repr(str(item))}: there is no such file or folder."
            )
        file = path.name or path.resolve().name
        stem = file if path.is_dir() else path.stem
        shown = str(path) if name is None else f"{name}={path}"
        return _Set(
            name=("data" if alone else stem) if name is None else name,
            what=path,
            shown=shown,
            source=file if name is None else f"{name}={file}",
        )
    if not _is_pair(item):
        raise UsageError(
            f"--data: a set is {type(item).__name__}; give a file, a folder or a pair (x, y) of "
            "arrays."
        )
    if name is None and not alone:
        raise UsageError(
            "--data: pairs of arrays have no names; where there are several, give a mapping of "
            "names to pairs."
        )
    return _Set(
        name=name or "data",
        what=(item[0], item[1]),
        shown=name or "data",
        source="the arrays given" if name is None else f"{name}=the arrays given",
    )


def _is_pair(item: Any) -> bool:
    """Whether it is a pair (x, y) of arrays, rather than two sets."""
    return (
        isinstance(item, list | tuple)
        and len(item) == 2
        and hasattr(item[0], "shape")
        and not isinstance(item[1], str | Path | Mapping)
    )


def _kind_of(sets: Sequence[_Set], labelled: bool) -> Kind:
    """What all of the sets are."""
    kinds = [_kind(one) for one in sets]
    for one, kind in zip(sets, kinds, strict=True):
        if kind != kinds[0]:
            raise UsageError(
                f"--data: {sets[0].source} is {kinds[0]} and {one.source} is {kind}; give sets of "
                "one kind."
            )
    if not labelled and kinds[0] != "text":
        raise UsageError(
            f"{sets[0].where}: that is {kinds[0]}, and classes that are read off the text need "
            "text; give .jsonl or .parquet files."
        )
    return kinds[0]


def _kind(one: _Set) -> Kind:
    if isinstance(one.what, tuple):
        return "arrays"
    if one.what.is_dir():
        return "images"
    suffix = one.what.suffix.lower()
    if suffix == ".txt":
        raise UsageError(
            f"{one.where}: plain text does not say where an example ends; give one document a line "
            "in a .jsonl file."
        )
    if suffix == ".npy":
        raise UsageError(
            f"{one.where}: a .npy file has no labels; give an .npz file with arrays x and y."
        )
    if suffix not in _KINDS:
        raise UsageError(
            f"{one.where}: the ending says how a file is read; use one of {', '.join(_KINDS)}, or "
            "give a folder of images."
        )
    return _KINDS[suffix]


def _read_text(one: _Set, field: str, label_field: str | None) -> _Part:
    from geoprobe.data.corpus import read_rows

    more = {} if label_field is None else {label_field: _LABELS_WITH}
    documents, labels = list[str](), list[Label]()
    for document, where in read_rows(one.what, field, more, "--data"):
        documents.append(document[field])
        value = None if label_field is None else document[label_field]
        labels.append(_label(value, f"{where}: field {label_field!r}"))
    return documents, labels


def _read_images(one: _Set) -> _Part:
    from geoprobe.data.images import image_files

    files = image_files(one.what, option="--data")
    for file in files:
        if file.parent == one.what:
            raise UsageError(
                f"{one.where}: {file.name} is in the folder itself; give each class a folder with "
                f"its images, as in {one.what.name}/CLASS/{file.name}."
            )
    return files, [file.relative_to(one.what).parts[0] for file in files]


def _read_arrays(one: _Set) -> _Part:
    from geoprobe.data.arrays import Arrays, as_numpy, listed, named_arrays

    def both(names: list[str]) -> list[str]:
        for name in ("x", "y"):
            if name not in names:
                raise UsageError(
                    f"{one.where}: it has no array {name} (it has {listed(names)}); give items as "
                    "x and their labels as y."
                )
        return ["x", "y"]

    pair = one.what if isinstance(one.what, tuple) else named_arrays(one.what, both)
    x, y = Arrays(as_numpy(pair[0]), one.where).x, pair[1]
    # NumPy makes strings of the numbers beside strings in a list.
    y = np.array(y, dtype=object) if isinstance(y, list | tuple) else as_numpy(y)
    if y.ndim != 1:
        raise UsageError(
            f"{one.where}: y has shape {y.shape}; give one class for each item, of shape (items,)."
        )
    if len(y) != len(x):
        raise UsageError(
            f"{one.where}: x has {len(x)} items and y {len(y)} labels; give each item one label."
        )
    return x, [_label(v, f"{one.where}: y[{i}]") for i, v in enumerate(y.tolist())]


def _label(value: Any, where: str) -> Label:
    """A label as it was given; None for an item that has none."""
    if isinstance(value, np.generic):  # in an array of objects
        value = value.item()
    if value is None:
        return None
    if isinstance(value, str):
        from geoprobe.data.corpus import no_half_characters

        return no_half_characters(value, where)
    if not isinstance(value, int | float) or value != value or value % 1:
        shown = "not a number" if value != value else quoted(value)
        raise UsageError(
            f"{where} is {shown}, which is no class; give a whole number or a string, or "
            f"{IGNORED} for an item that has none."
        )
    return None if value == IGNORED else int(value)


def _some_of(items: Any, labels: list[Label], most: int | None) -> _Part:
    from geoprobe.data.arrays import evenly_spaced

    some = evenly_spaced(len(labels), most)
    index = np.arange(len(labels))[some].tolist()
    kept = items[some] if isinstance(items, np.ndarray) else [items[i] for i in index]
    return kept, [labels[i] for i in index]


def _numbered(parts: list[_Part]) -> list[_Part]:
    """Labels as numbers where the names of all folders are whole numbers."""
    names = {str(label) for _, labels in parts for label in labels}
    if not all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return parts
    number = {name: None if int(name) == IGNORED else int(name) for name in names}
    return [(items, [number[str(label)] for label in labels]) for items, labels in parts]


def _check_labels(sets: Sequence[_Set], labels: Sequence[Sequence[Label]]) -> None:
    """Labels must be of one type in all sets, and of at least two classes in each."""
    first: dict[type, tuple[Label, str]] = {}
    for one, some in zip(sets, labels, strict=True):
        for label in some:
            if label is not None:
                first.setdefault(type(label), (label, one.shown))
    if len(first) > 1:
        (number, its_set), (name, other_set) = first[int], first[str]
        raise UsageError(
            f"--data: label {quoted(number)} ({its_set}) is a number and label {quoted(name)} "
            f"({other_set}) a string; give all labels as numbers, or all as strings."
        )
    for one, some in zip(sets, labels, strict=True):
        distinct = {label for label in some if label is not None}
        if not distinct:
            raise UsageError(
                f"{one.where}: no item has a label; give the labels of items of at least two "
                "classes."
            )
        if len(distinct) < 2:
            raise UsageError(
                f"{one.where}: every item has the label {quoted(distinct.pop())}; collapse "
                "compares at least two classes."
            )


def _labels_of(sets: Sequence[_Set], labels: Sequence[Sequence[Label]]) -> Labels:
    every = [label for some in labels for label in some]
    # All numbers or all strings, which `_check_labels` has seen to.
    distinct: set[Any] = set(every) - {None}
    classes = tuple(sorted(distinct))
    place = {label: i for i, label in enumerate(classes)}
    return Labels(
        values=np.array([place.get(label, -1) for label in every], dtype=np.int64),
        classes=classes,
        sets=np.repeat(np.arange(len(sets)), [len(some) for some in labels]),
        names=tuple(one.name for one in sets),
    )


def _joined(sets: Sequence[_Set], arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The items of all sets, one after another; they must be alike."""
    first = arrays[0]
    for one, x in zip(sets, arrays, strict=True):
        whole = [a.dtype.kind.replace("u", "i") for a in (first, x)]
        if x.shape[1:] != first.shape[1:] or whole[0] != whole[1]:
            raise UsageError(
                f"--data: x of {sets[0].name!r} is {first.dtype} with items of shape "
                f"{first.shape[1:]} and x of {one.name!r} is {x.dtype} with items of shape "
                f"{x.shape[1:]}; give sets of items that are alike."
            )
    if len(arrays) == 1:
        return first
    if whole[0] == "i":  # NumPy joins signed and unsigned ones as floats
        arrays = [x.astype(np.int64) for x in arrays]
    return np.concatenate(arrays)
