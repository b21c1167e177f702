"""The collapse probe: class means and within-class scatter at every site, in one pass.

Classes are an item's label, or the token that comes next. What needs the classifier's rows is asked
for behind the pass (`collapse_heads`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe.errors import UsageError
from geoprobe.measures.class_means import TILE
from geoprobe.models.layout import PENULTIMATE
from geoprobe.probes.base import Cost, Feed, Outcome, Plan, Survey
from geoprobe.probes.class_rows import ClassRows, labelled_rows, next_token_rows
from geoprobe.probes.pooling import POOLS, pooled
from geoprobe.statistics import GROUPS
from geoprobe.statistics.classes import ClassMoments
from geoprobe.statistics.memory import lasting_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.data.labels import Labels
    from geoprobe.models.layout import Classifier, Layout

NAME = "collapse"

_GROUPS_BYTES = 2**30
"""Groups of next tokens' classes are kept apart in so much; at a vocabulary's scale in none."""

_FEATURES_SHARE = 4
"""Of the memory for statistics a part of one in so many holds penultimate features for NC4."""


@dataclass(frozen=True)
class CollapseOptions:
    """What to measure.

    Attributes:
        classes: `labels` of the data, or `tokens` that come next; empty for labels where there is
            data, and tokens where there is text.
        pool: The vector of a text or an image: its `last` token's, its `first`, or their `mean`;
            empty for the first of models that see both ways, the last of others, and the mean of
            networks of a factory. What the classifier itself is given stands beside it.
        min_count: Classes with fewer samples are left out; None is 10 for tokens, and for labels
            leaves none out.
        weight_decay_w: Weight decay of the linear layers, for the frame that imbalanced classes
            collapse to; with `weight_decay_h`.
        weight_decay_h: Weight decay of the features.
        depth: Number of linear layers that these act on.
    """

    classes: str = ""
    pool: str = ""
    min_count: int | None = None
    weight_decay_w: float | None = None
    weight_decay_h: float | None = None
    depth: int = 1

    def __post_init__(self) -> None:
        if self.classes not in ("", "labels", "tokens"):
            raise UsageError(f"--classes {self.classes}: give labels or tokens.")
        if self.pool not in ("", *POOLS):
            raise UsageError(f"--pool {self.pool}: not one of {', '.join(POOLS)}.")
        if self.min_count is not None and self.min_count < 2:
            raise UsageError(
                f"--min-count {self.min_count}: give at least 2, as a single sample does not vary "
                "within its class."
            )
        decays = (self.weight_decay_w, self.weight_decay_h)
        if (decays[0] is None) != (decays[1] is None):
            raise UsageError(
                "--weight-decay-w and --weight-decay-h: give both, as the predicted frame follows "
                "from the two together."
            )
        for option, value in zip(("--weight-decay-w", "--weight-decay-h"), decays, strict=True):
            if value is not None and not value > 0:
                raise UsageError(f"{option} {value:g}: give a positive number.")
        if self.depth < 1:
            raise UsageError(f"--depth {self.depth}: give the number of linear layers, from 1 on.")


Options = CollapseOptions


def plan(options: CollapseOptions) -> Plan:
    """The probe, and the study that asks the classifier about what it found."""
    from geoprobe.probes.collapse_heads import HeadStudy
    from geoprobe.probes.collapse_onset import onset_findings

    study = HeadStudy(options)

    def make(survey: Survey) -> CollapseProbe:
        study.probe = CollapseProbe(options, survey)
        return study.probe

    return Plan(
        probe=make,
        study=study,
        series=onset_findings,
        cost=lambda survey: _cost(options, survey),
        data="texts" if options.classes == "tokens" else "labelled",
    )


def penultimate_of(layout: Layout) -> str:
    """The site whose activations the last linear map is given, or the deepest there is."""
    for site in (PENULTIMATE, "final"):
        if site in layout.taps:
            return site
    return layout.sites[-1]


def class_rows(options: CollapseOptions, survey: Survey) -> ClassRows:
    """What is measured of what is fed.

    Raises:
        UsageError: There are no labels, or not the model's, or the model predicts no tokens.
    """
    layout, inputs = survey.layout, survey.inputs
    if survey.rehearsal:
        options = replace(options, min_count=2, weight_decay_w=None, weight_decay_h=None)
    labels = getattr(inputs, "labels", None)
    if labels is not None and labels.classes:
        rows = labelled_rows(labels, options.min_count, survey.seed)
        if layout.classifier is not None:
            head_rows(rows, layout.classifier, labels)
        return rows
    if options.classes == "labels":
        raise UsageError("--classes labels: what is fed has none; give labelled data with --data.")
    if layout.bidirectional or not layout.vocabulary:
        what = "sees the next token" if layout.bidirectional and layout.vocabulary else "has none"
        raise UsageError(
            f"Without labels the classes are next tokens, and this {layout.family} model {what}; "
            "give labelled data with --data."
        )
    if options.weight_decay_w is not None:
        raise UsageError(
            "--weight-decay-w: the predicted frame is that of a classifier of labelled data; leave "
            "it out, or give --data."
        )
    corpus: Any = getattr(inputs, "inputs", inputs)
    return next_token_rows(corpus, labels, options.min_count, survey.seed)


def head_rows(rows: ClassRows, classifier: Classifier, labels: Labels) -> NDArray[np.int64]:
    """The classifier's row of each class that is measured (C,).

    Raises:
        UsageError: The model has no such class.
    """
    measured: Any = tuple(rows.classes)
    return replace(labels, classes=measured).rows(classifier.outputs, classifier.names)


@dataclass
class _Kept:
    """Penultimate features of the measured rows, in order of their numbers."""

    rows: Tensor
    place: NDArray[np.int64]


@dataclass
class CollapseProbe:
    """Keeps class moments of every site and data set.

    Args:
        options: What to measure.
        survey: What is known before the first batch.
    """

    options: CollapseOptions
    survey: Survey
    name: str = NAME
    kept: _Kept | None = None
    too_many: str = ""
    state: dict[tuple[str, str], ClassMoments] = field(default_factory=dict)
    precision: dict[str, float] = field(default_factory=dict)
    _selected: Any = None

    def __post_init__(self) -> None:
        survey, layout = self.survey, self.survey.layout
        self.rows = class_rows(self.options, survey)
        self.last = penultimate_of(layout)
        self.measured = _sites(survey)
        self.pool = self.options.pool or _usual_pool(layout)
        self.groups, self.why_fewer = _choose_groups(self.rows, survey, self.measured)
        for site in self.measured:
            for name in self.rows.names:
                self.state[site, name] = ClassMoments(
                    layout.width_of(site),
                    len(self.rows.classes),
                    self.groups[site],
                    own_shift=self.rows.kind == "labels",
                    device=survey.statistics_on,
                )
        if self.has_head:
            self._make_room()

    @property
    def has_head(self) -> bool:
        """Whether the model's last linear map answers in these classes."""
        layout = self.survey.layout
        return (
            layout.classifier is not None if self.rows.kind == "labels" else layout.head is not None
        )

    def _make_room(self) -> None:
        """For the penultimate features, where there is enough."""
        survey, measured = self.survey, self.rows.labels >= 0
        shape = int(measured.sum()), survey.layout.width_of(self.last)
        dtype = survey.dtype
        if self.pool_at(self.last) == "mean":
            dtype = torch.promote_types(dtype, torch.float32)
        size = shape[0] * shape[1] * dtype.itemsize
        room = survey.memory // _FEATURES_SHARE
        if size > room:
            self.too_many = (
                f"the penultimate features would take {size / 2**30:.1f} GiB of the "
                f"{room / 2**30:.1f} GiB there are for them"
            )
            return
        place = np.cumsum(measured) - 1
        self.kept = _Kept(lasting_zeros(shape, dtype), place)

    def sites(self) -> Sequence[str]:
        """Sites to watch: those that were chosen, and the penultimate features."""
        return self.measured

    def pilot_sites(self) -> Sequence[str]:
        """None."""
        return ()

    def pilot(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Never called."""

    def vectors(self, site: str, activations: Tensor, feed: Feed) -> tuple[Tensor, NDArray[Any]]:
        """The measured rows of a batch (m, d) and their numbers (m,)."""
        if self._selected is None or self._selected[0] is not feed.index:
            self._selected = (feed.index, self.rows.select(feed))
        selected = self._selected[1]
        if self.rows.kind == "labels":
            flat = self.pooled(site, activations, feed)
        else:
            flat = activations.flatten(0, 1)
        if len(selected.places) == len(flat):
            return flat, selected.numbers
        return _take(flat, selected.places), selected.numbers

    def pooled(self, site: str, activations: Tensor, feed: Feed) -> Tensor:
        """One vector an item (batch, d)."""
        pool = self.pool_at(site)
        if site == PENULTIMATE and pool == "last":
            feed = replace(feed, lengths=_read_to(feed, self.survey.layout.classifier))
        return pooled(activations, feed, pool)

    def pool_at(self, site: str) -> str:
        """How tokens are pooled at a site: of what a classifier is given, as it does it itself."""
        if site == PENULTIMATE and not self.survey.layout.bidirectional:
            return "last" if self.survey.layout.vocabulary else "mean"
        return self.pool

    def observe(self, site: str, activations: Tensor, feed: Feed) -> None:
        """Adds one site's activations (batch, time, d)."""
        vectors, numbers = self.vectors(site, activations, feed)
        if not len(numbers):
            return
        if site not in self.precision:
            self.precision[site] = torch.finfo(activations.dtype).eps
        rows = self.rows
        sets = rows.sets[numbers]
        for s in np.unique(sets):
            mine = np.flatnonzero(sets == s)
            part, of = vectors, numbers
            if len(mine) != len(numbers):
                part, of = _take(vectors, mine), numbers[mine]
            self.state[site, rows.names[s]].update(
                part, rows.labels[of], rows.groups[of], rows.null[of]
            )
        if site == self.last and self.kept is not None:
            _store(self.kept, vectors, numbers)

    def finish(self) -> Outcome:
        """The readings that need no classifier.

        Raises:
            CheckpointError: Activations are NaN or infinite.
        """
        from geoprobe.probes.collapse_readings import layer_readings

        return layer_readings(self)


def _read_to(feed: Feed, classifier: Classifier | None) -> NDArray[np.int64]:
    """Tokens of each sequence up to the one that a decoder's classifier reads.

    Transformers takes the last that is not the padding's id, be it padding or the text's own.
    """
    pad = None if classifier is None else classifier.pad_id
    if pad is None:
        return feed.lengths
    ids = feed.input_ids.cpu().numpy()
    real = (np.arange(ids.shape[1]) < feed.lengths[:, None]) & (ids != pad)
    found: NDArray[np.int64] = (np.arange(ids.shape[1]) * real).max(1) + 1
    return found


def _take(vectors: Tensor, index: NDArray[np.int64]) -> Tensor:
    return vectors[torch.from_numpy(index).to(vectors.device)]


def _store(kept: _Kept, vectors: Tensor, numbers: NDArray[np.int64]) -> None:
    if torch.promote_types(kept.rows.dtype, vectors.dtype) != kept.rows.dtype:
        kept.rows = kept.rows.to(vectors.dtype)
    kept.rows[torch.from_numpy(kept.place[numbers])] = vectors.to("cpu", kept.rows.dtype)


def _sites(survey: Survey) -> tuple[str, ...]:
    """The chosen sites, and the penultimate features behind them; not the classifier's output."""
    layout = survey.layout
    sites = tuple(survey.sites)
    if layout.classifier is not None and sites == layout.sites:
        sites = tuple(s for s in sites if layout.taps[s].module != layout.classifier.module)
    last = penultimate_of(layout)
    return (*(s for s in sites if s != last), last)


def _usual_pool(layout: Layout) -> str:
    if layout.item is not None:
        return "mean"
    return "first" if layout.bidirectional else "last"


def _choose_groups(
    rows: ClassRows, survey: Survey, sites: Sequence[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Jackknife groups of each site, by the memory there is, and why they are not all."""

    def size(some: Sequence[str], groups: int) -> int:
        return len(rows.names) * sum(
            ClassMoments.bytes_of(
                survey.layout.width_of(site),
                len(rows.classes),
                groups,
                own_shift=rows.kind == "labels",
            )
            for site in some
        )

    room = survey.memory if rows.kind == "labels" else min(survey.memory, _GROUPS_BYTES)
    if size(sites, GROUPS) <= room:
        return dict.fromkeys(sites, GROUPS), {}
    last = sites[-1:]
    deepest = GROUPS if size(last, GROUPS) + size(sites[:-1], 1) <= room else 1
    why = (
        f"{GROUPS} jackknife groups would take {size(sites, GROUPS) / 2**30:.1f} GiB of the "
        f"{room / 2**30:.1f} GiB for them; measure fewer sites for more"
    )
    groups = {**dict.fromkeys(sites, 1), last[0]: deepest}
    return groups, {site: why for site in sites if groups[site] == 1}


def _cost(options: CollapseOptions, survey: Survey) -> list[Cost]:
    """What each site needs.

    The scatter of n rows in d dimensions takes 4/3 n d^2 operations, a pseudo-inverse about 20
    C d min(C, d), the pairs of classes 3 C^2 d, directions that are left out 4 d^3; each for the
    labels without each group, and for the permuted ones. What varies is 9 d^3.
    """
    layout = survey.layout
    if survey.inputs is None:
        classes, n, kind, sets = 1, int(survey.lengths.sum()), "tokens", 1
    else:
        rows = class_rows(options, survey)
        measured = int((rows.labels >= 0).sum())
        classes, n, kind, sets = len(rows.classes), measured, rows.kind, len(rows.names)
    found = []
    sites = _sites(survey)
    chosen = {} if survey.inputs is None else _choose_groups(rows, survey, sites)[0]
    for site in sites:
        d = layout.width_of(site)
        groups = chosen.get(site, 1)
        memory = sets * ClassMoments.bytes_of(d, classes, groups, own_shift=kind == "labels")
        each = 20.0 * classes * d * min(classes, d) + 3.0 * classes**2 * d + 4.0 * d**3
        found.append(
            Cost(
                site,
                memory,
                8 * (groups + 2) * (classes * d + d * d) + 8 * 8 * max(TILE, classes),
                4 / 3 * n * d * d + 4.0 * n * d,
                sets * ((groups + 2) * each + 9.0 * d**3),
            )
        )
    d = layout.width_of(penultimate_of(layout))
    features = n * d * survey.dtype.itemsize
    again = features > survey.memory // _FEATURES_SHARE
    nearest = 6.0 * n * d * classes
    found.append(Cost("", 0 if again else features, 0, 0.0, nearest, passes=int(again)))
    return found
