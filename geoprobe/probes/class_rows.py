"""Which rows of a site's activations are measured by class, and which class each one is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from geoprobe.errors import UsageError
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.data.corpus import Corpus
    from geoprobe.data.labels import Labels
    from geoprobe.probes.base import Feed

    Index = NDArray[np.int64]

Kind = Literal["labels", "tokens"]

MIN_COUNT = 10
"""Times that a token is seen at least, where nothing else is asked for, to be a class."""

_NO_CLASS = -1
_SHOWN = 3


@dataclass(frozen=True)
class Selected:
    """The rows of a batch that are measured.

    Attributes:
        places: Where they are among the batch's vectors: items, or tokens of all items (m,).
        numbers: Their numbers among all rows (m,).
    """

    places: Index
    numbers: Index


@dataclass(frozen=True)
class ClassRows:
    """Rows by number: one an item, or one a token.

    Attributes:
        kind: Whether classes are labels of items or the tokens that come next.
        classes: What the classes are called, or token ids (C,).
        names: Names of the data sets.
        labels: Class of each row (rows,); -1 where it is not measured.
        null: The same, permuted among the measured rows of a data set.
        groups: Jackknife group of each row (rows,).
        sets: Data set of each row (rows,).
        offsets: Where each item's rows begin (items,).
    """

    kind: Kind
    classes: Sequence[int | str]
    names: tuple[str, ...]
    labels: Index
    null: Index
    groups: Index
    sets: Index
    offsets: Index

    def select(self, feed: Feed) -> Selected:
        """The rows of a batch that are measured."""
        first = self.offsets[feed.index]
        if self.kind == "labels":
            places = np.flatnonzero(self.labels[first] >= 0)
            return Selected(places, first[places])
        time = np.arange(feed.mask.shape[1])
        numbers = first[:, None] + np.minimum(time, feed.lengths[:, None] - 1)
        kept = (time < feed.lengths[:, None]) & (self.labels[numbers] >= 0)
        return Selected(np.flatnonzero(kept), numbers[kept])


def labelled_rows(labels: Labels, min_count: int | None, seed: int) -> ClassRows:
    """One row an item, its class the item's label.

    Jackknife groups take a class's items in turn, so that no group is a class of its own, as it
    would be where classes take turns in the file.

    Args:
        labels: The labels.
        min_count: Classes of fewer items in any data set are left out; None has none left out.
        seed: Seed of the permutation.

    Raises:
        UsageError: Fewer than two classes are left, or one has a single item.
    """
    sets, classes = len(labels.names), len(labels.classes)
    counts = np.zeros((sets, classes), dtype=np.int64)
    known = labels.values >= 0
    np.add.at(counts, (labels.sets[known], labels.values[known]), 1)
    for s, name in enumerate(labels.names):
        if int((counts[s] > 0).sum()) < 2:
            raise UsageError(
                f"--data {name}: items of {int((counts[s] > 0).sum())} class are left of it, those "
                "without tokens left out, and collapse compares at least two; give more data."
            )
    if min_count is None:
        _require_two_items(labels, counts)
    kept: NDArray[np.bool_] = np.all(counts >= min_count if min_count else counts >= 0, axis=0)
    values = np.where(known, labels.values, 0)
    values = np.where(known & kept[values], (np.cumsum(kept) - 1)[values], _NO_CLASS)
    every: Sequence[int | str] = labels.classes
    names = [label for label, k in zip(every, kept, strict=True) if k]
    if len(names) < 2:
        raise UsageError(
            f"--data: {len(names)} of {classes} classes {'has' if len(names) == 1 else 'have'} "
            f"{min_count or 1} or more items in every data set, and collapse compares at least "
            "two; give more data, or a smaller --min-count."
        )
    groups = np.zeros(len(values), dtype=np.int64)
    for s in range(sets):
        mine = np.flatnonzero((labels.sets == s) & (values >= 0))
        order = mine[np.argsort(values[mine], kind="stable")]
        of = values[order]
        groups[order] = (np.arange(len(of)) - np.searchsorted(of, of) + of) % GROUPS
    places = np.arange(len(values))
    return _rows("labels", names, labels.names, values, labels.sets, places, seed, groups)


def _require_two_items(labels: Labels, counts: Index) -> None:
    """Raises where a class has a single item, which varies by nothing around its own mean."""
    single = np.argwhere(counts == 1)
    if not len(single):
        return
    shown = ", ".join(repr(labels.classes[c]) for _, c in single[:_SHOWN])
    more = f" and {len(single) - _SHOWN} more" if len(single) > _SHOWN else ""
    one = len(single) == 1
    raise UsageError(
        f"--data {labels.names[single[0][0]]}: class{'' if one else 'es'} {shown}{more} "
        f"{'has' if one else 'have'} a single item, which cannot vary within its class; give more "
        "of them, or leave such classes out with --min-count 2."
    )


def next_token_rows(
    corpus: Corpus, labels: Labels | None, min_count: int | None, seed: int
) -> ClassRows:
    """One row a token, its class the token that comes next, where that is seen often enough.

    Args:
        corpus: The text.
        labels: Says which data set each sequence is of; None where all are one.
        min_count: Times that a token is seen at least in every data set to be a class.
        seed: Seed of the permutation.

    Raises:
        UsageError: Fewer than two tokens are.
    """
    least = MIN_COUNT if min_count is None else min_count
    names = ("text",) if labels is None else labels.names
    of_items = np.zeros(len(corpus), dtype=np.int64) if labels is None else labels.sets
    sets = np.repeat(of_items, corpus.lengths)
    following = np.roll(corpus.ids, -1).astype(np.int64)
    has_next = np.ones(len(following), dtype=bool)
    has_next[corpus.offsets[1:] - 1] = False
    enough = np.ones(int(corpus.ids.max()) + 1, dtype=bool)
    for s in range(len(names)):
        here = following[has_next & (sets == s)]
        enough &= np.bincount(here, minlength=len(enough)) >= least
    classes = np.flatnonzero(enough)
    if len(classes) < 2:
        raise UsageError(
            f"{len(classes)} token{'' if len(classes) == 1 else 's'} of the text "
            f"{'is' if len(classes) == 1 else 'are'} seen {least} times or more, and collapse "
            "compares at least two; give more text (--sequences), or a smaller --min-count."
        )
    number = np.full(len(enough), _NO_CLASS)
    number[classes] = np.arange(len(classes))
    values = np.where(has_next, number[following], _NO_CLASS)
    groups = np.repeat(np.arange(len(corpus)) % GROUPS, corpus.lengths)
    return _rows("tokens", classes.tolist(), names, values, sets, corpus.offsets[:-1], seed, groups)


def _rows(
    kind: Kind,
    classes: Sequence[int | str],
    names: tuple[str, ...],
    values: Index,
    sets: Index,
    offsets: Index,
    seed: int,
    groups: Index,
) -> ClassRows:
    null = np.full(len(values), _NO_CLASS)
    for s in range(len(names)):
        mine = np.flatnonzero((sets == s) & (values >= 0))
        null[mine] = np.random.default_rng([seed, s]).permutation(values[mine])
    return ClassRows(kind, classes, names, values, null, groups, sets, offsets)
