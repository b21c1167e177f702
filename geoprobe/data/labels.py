"""The class of every item that is fed, and the data set that it is of."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.data.inputs import Batch, Inputs
from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED = -100
"""The label of items that have none, as losses have it."""

_SHOWN = 5


@dataclass(frozen=True)
class Labels:
    """The class of every item, and the data set it is of.

    Attributes:
        values: Index of each item's class in `classes` (n,); -1 where it has none.
        classes: The distinct labels, sorted; empty for data without labels.
        sets: Index of each item's data set in `names` (n,).
        names: Names of the data sets.
    """

    values: NDArray[np.int64]
    classes: tuple[int, ...] | tuple[str, ...]
    sets: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: NDArray[Any]) -> Labels:
        """The labels of some items, of the same classes and data sets."""
        return replace(self, values=self.values[index], sets=self.sets[index])

    def rows(self, outputs: int, names: Sequence[str] | None) -> NDArray[np.int64]:
        """The row of a classifier that belongs to each class (classes,).

        Args:
            outputs: How many rows the classifier has.
            names: What the model calls them, in their order; None where it does not.

        Raises:
            UsageError: A class has no row, or two of them have the same.
        """
        named = any(isinstance(label, str) for label in self.classes)
        row = _row_of_name(outputs, names) if named else _row_of_number(outputs)
        label_of: dict[int, int | str] = {}
        for label in self.classes:
            found = row(label)
            if found in label_of:
                raise UsageError(
                    f"--data: labels {quoted(label_of[found])} and {quoted(label)} are both class "
                    f"{found} of this model; give one class one label."
                )
            label_of[found] = label
        return np.fromiter(label_of, dtype=np.int64, count=len(label_of))

    def describe(self) -> dict[str, Any]:
        """Number of classes; items, labelled items and the sizes of the classes of each set."""
        sets = {}
        for i, name in enumerate(self.names):
            values = self.values[self.sets == i]
            sizes = np.bincount(values[values >= 0])
            sizes = sizes[sizes > 0]  # a class that a set has no item of is none of its classes
            sets[name] = {
                "items": len(values),
                "labelled": int(sizes.sum()),
                "smallest_class": int(sizes.min()) if len(sizes) else 0,
                "largest_class": int(sizes.max(initial=0)),
            }
        return {"classes": len(self.classes), "sets": sets}


def _row_of_number(outputs: int) -> Callable[[Any], int]:
    def row(label: int) -> int:
        if not 0 <= label < outputs:
            raise UsageError(
                f"--data: label {label} is no class of this model, which has {outputs} (0 to "
                f"{outputs - 1}); number the labels as the model does, and give {IGNORED} to items "
                "that are to be left out."
            )
        return label

    return row


def _row_of_name(outputs: int, names: Sequence[str] | None) -> Callable[[Any], int]:
    """Looks labels up in a model's names of its classes, in small letters where need be."""
    own = [str(name) for name in names or ()][:outputs]
    generic = all(re.fullmatch(r"LABEL_\d+", name) for name in own)
    if not own:
        own = [f"LABEL_{i}" for i in range(outputs)]
    exact, folded = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for i, name in enumerate(own):
        exact[name].append(i)
        folded[name.casefold()].append(i)

    def row(label: str) -> int:
        found = exact.get(label) or folded.get(label.casefold()) or []
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"--data: label {quoted(label)} is the name of {len(found)} classes of this model "
                f"(rows {some_of(found)}); give labels as numbers."
            )
        if generic:
            raise UsageError(
                f"--data: label {quoted(label)} is a name, and this model does not name its "
                f"{outputs} classes; give labels as numbers, 0 to {outputs - 1}."
            )
        raise UsageError(
            f"--data: label {quoted(label)} is no class of this model, which has {some_of(own)}; "
            "give labels as the model names them, or as numbers."
        )

    return row


class Labelled:
    """What a model is fed, and the labels of its items.

    Args:
        inputs: What is fed.
        labels: The labels of its items, in the same order.

    Raises:
        ValueError: There are more or fewer labels than items.
    """

    def __init__(self, inputs: Inputs, labels: Labels) -> None:
        if len(inputs) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(inputs)} items")
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each item (n,); 1 where the model makes tokens."""
        return self.inputs.lengths

    @property
    def ids(self) -> NDArray[np.int32] | None:
        """Token ids of all items, one after another; None where they are not token ids."""
        ids: NDArray[np.int32] | None = getattr(self.inputs, "ids", None)
        return ids

    @property
    def decode(self) -> Callable[[int], str] | None:
        """Text of a token id; None where no tokenizer made them."""
        decode: Callable[[int], str] | None = getattr(self.inputs, "decode", None)
        return decode

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the model is given, and of the labels."""
        labels = self.labels
        digest = hashlib.sha256(self.inputs.fingerprint.encode())
        digest.update(json.dumps([labels.classes, labels.names]).encode())
        digest.update(labels.values.astype("<i8").tobytes())
        digest.update(labels.sets.astype("<i8").tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run records of it."""
        return {
            **self.inputs.describe(),
            **self.labels.describe(),
            "fingerprint": self.fingerprint,
        }

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The items `index`."""
        return self.inputs.batch(index)


def quoted(value: Any) -> str:
    """A label for people; cut off, for a wrong field can hold whole documents."""
    found = repr(value)
    return found if len(found) <= 80 else f"{found[:77]}..."


def some_of(values: Iterable[Any]) -> str:
    """The first few of some values, and how many more there are."""
    every = list(values)
    more = len(every) - _SHOWN
    return ", ".join(map(quoted, every[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
