"""What collapse says of the classifier: duality, nearest class means, the frame of imbalance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geoprobe import measures
from geoprobe.errors import UsageError
from geoprobe.measures.estimate import Undefined
from geoprobe.probes.base import Outcome
from geoprobe.probes.collapse import head_rows
from geoprobe.probes.collapse_readings import (
    IMBALANCED,
    NAME,
    ONE_GROUP,
    SHOWN_CLASSES,
    groups_of,
    keys_of,
    reading,
)
from geoprobe.probes.readings import A_NULL, Value, evaluate
from geoprobe.runs.reading import Reading
from geoprobe.statistics import GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from geoprobe.models.capture import Capture
    from geoprobe.probes.base import Feed, Subject
    from geoprobe.probes.collapse import CollapseOptions, CollapseProbe
    from geoprobe.statistics.classes import ClassSample

    Array = NDArray[np.float64]

_ROWS = 1024
"""Rows whose distances to all class means are held at a time."""

_FIXED = "no standard error: the rows are weights, not measured"
_FRAMES = tuple(("gof_distance", of) for of in ("means", "rows", "logits"))
_HEAD_MEASURES = ("nc3_duality", "nc3_cosine", "nc2_equinorm", "nc4_mismatch")


@dataclass(frozen=True)
class _Head:
    """The classifier's rows of the measured classes, in float64.

    Attributes:
        weight: Rows (C, d).
        bias: Their bias (C,).
        after: What lies between the site and the classifier.
    """

    weight: Array
    bias: Array
    after: Callable[[Tensor], Tensor] | None

    def answers(self, vectors: Tensor, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class among `classes` that the network chooses for each of its features (m, d)."""
        with torch.inference_mode():
            states = vectors if self.after is None else self.after(vectors)
            exact = states.cpu().double().numpy()
        logits = exact @ self.weight[classes].T + self.bias[classes]
        return np.asarray(classes[logits.argmax(1)])


class HeadStudy:
    """NC3, NC4 and the frame of imbalance; runs behind the pass.

    Args:
        options: What to measure.

    Attributes:
        probe: The probe of the checkpoint that is measured, which has the statistics.
    """

    name = NAME
    probe: CollapseProbe

    def __init__(self, options: CollapseOptions) -> None:
        self.options = options

    def run(self, subject: Subject) -> Outcome:
        """The readings of the penultimate site."""
        try:
            return self._run(subject)
        finally:
            del self.probe  # and the features it has kept, before the next checkpoint's are made

    def _run(self, subject: Subject) -> Outcome:
        probe = self.probe
        try:
            head = self._head(subject.capture)
            self._check(subject)
        except UsageError as error:
            return self._absent(str(error))
        samples = {name: probe.state[probe.last, name].sample() for name in probe.rows.names}
        outcome = Outcome()
        for name in probe.rows.names:
            outcome.add(self._of_rows(head, samples[name], name))
            if self.options.weight_decay_w is not None:
                outcome.add(self._frame(head, samples, name))
        outcome.add(self._nearest(head, samples, subject))
        return outcome

    def _head(self, capture: Capture) -> _Head:
        """The classifier.

        Raises:
            UsageError: There is none for these classes.
        """
        probe, layout = self.probe, capture.layout
        if not probe.has_head:
            if probe.rows.kind == "labels":
                raise UsageError(
                    "the labels are not what the model predicts"
                    if layout.head is not None
                    else f"the model has no classifier ({layout.missing['penultimate']})"
                )
            raise UsageError(layout.missing["logits"])
        classes: NDArray[np.int64]
        if probe.rows.kind == "tokens":
            classes = np.array(probe.rows.classes, dtype=np.int64)
        else:
            assert layout.classifier is not None
            fed: Any = probe.survey.inputs
            classes = head_rows(probe.rows, layout.classifier, fed.labels)
        weight, bias = capture.rows(torch.from_numpy(classes))
        exact = weight.detach().cpu().double().numpy()
        none = np.zeros(len(classes))
        after: Callable[[Tensor], Tensor] | None = None
        if probe.rows.kind == "tokens" and layout.after is not None:
            between = capture.backbone.get_submodule(layout.after)
            like = next(between.parameters())

            def after(vectors: Tensor) -> Tensor:
                return capture.after(vectors.to(like.device, like.dtype))

        return _Head(exact, none if bias is None else bias.detach().cpu().double().numpy(), after)

    def _check(self, subject: Subject) -> None:
        """Makes sure that the last linear map makes a classifier's own answer of what was read.

        Raises:
            UsageError: It does not.
        """
        probe, capture = self.probe, subject.capture
        if probe.rows.kind == "tokens":
            return
        feed = next(iter(subject.feeds()))
        one = replace(
            feed,
            inputs={name: value[:1] for name, value in feed.inputs.items()},
            mask=feed.mask[:1],
            index=feed.index[:1],
            lengths=feed.lengths[:1],
        )
        found: list[Tensor] = []
        capture.run(
            one.inputs, [probe.last], lambda s, x: found.append(probe.pooled(s, x, one.at(x)))
        )
        weight, bias = capture.rows()
        with torch.inference_mode():
            output = capture.model(**one.inputs, **capture.options)
            own = getattr(output, "logits", output)
            ours = torch.nn.functional.linear(
                found[0].to(weight.device, weight.dtype), weight, bias
            )
        size = max(1e-3, float(own.abs().max()))
        if own.shape != ours.shape or not torch.allclose(
            own.to(ours.device), ours, rtol=0.02, atol=0.02 * size
        ):
            raise UsageError(
                "the classifier's own answer is not what its last linear map makes of the features "
                "that were read"
            )

    def _absent(self, why: str) -> Outcome:
        """The readings of a classifier that is not there, with the reason."""
        probe, outcome = self.probe, Outcome()
        for name in probe.rows.names:
            asked = [(m, "rows" if m == "nc2_equinorm" else "") for m in _HEAD_MEASURES]
            if self.options.weight_decay_w is not None:
                asked += _FRAMES
            outcome.readings += self._without(asked, name, why)
        return outcome

    def _without(self, asked: Sequence[tuple[str, str]], name: str, why: str) -> list[Reading]:
        """Readings that have no value, of measures and what they are of."""
        probe = self.probe
        return [
            reading(measure, probe.last, keys_of(probe, name, probe.last, of=of), why, [], 0)
            for measure, of in asked
        ]

    def _of_rows(self, head: _Head, full: ClassSample, name: str) -> Outcome:
        """NC3, and the norms of the rows."""
        probe = self.probe
        moments = probe.state[probe.last, name]
        parts = [moments.sample({g}) for g in groups_of(moments)]
        null = moments.sample(null=True)
        why = probe.why_fewer.get(probe.last, ONE_GROUP)
        n = int(full.counts.sum())
        outcome = Outcome()
        for measure, function in (
            ("nc3_duality", measures.nc3_duality),
            ("nc3_cosine", measures.nc3_cosine),
        ):

            def value(s: ClassSample, function: Any = function) -> float:
                rows = head.weight[s.classes]
                if rows.shape[1] != s.means.shape[1] or head.after is not None:
                    raise Undefined(
                        "a projection lies between these features and the classifier's rows"
                    )
                return float(function(rows, s.means))

            keys = keys_of(probe, name, probe.last)
            some = [evaluate(value, part) for part in parts]
            outcome.readings.append(
                reading(measure, probe.last, keys, evaluate(value, full), some, n, why)
            )
            outcome.readings.append(
                reading(
                    measure,
                    probe.last,
                    {**keys, "labels": "permuted"},
                    evaluate(value, null),
                    [],
                    n,
                    A_NULL,
                )
            )
        norms = evaluate(
            lambda s: measures.nc2_equinorm(head.weight[s.classes], centre=False), full
        )
        keys = keys_of(probe, name, probe.last, of="rows")
        outcome.readings.append(
            reading("nc2_equinorm", probe.last, keys, norms, [], len(full.classes), _FIXED)
        )
        order = np.argsort(-full.counts, kind="stable")
        outcome.arrays[f"{NAME}/{name}/row_norms"] = np.linalg.norm(
            head.weight[full.classes], axis=1
        )[order]
        return outcome

    def _frame(self, head: _Head, samples: dict[str, ClassSample], name: str) -> Outcome:
        """Distance to the general orthogonal frame of what the model was trained on."""
        probe, options, full = self.probe, self.options, samples[name]
        assert options.weight_decay_w is not None
        assert options.weight_decay_h is not None
        of_training, every = self._trained_on()
        index = [every.index(probe.rows.classes[c]) for c in full.classes]
        trained = of_training[index]
        if not trained.all():
            why = (
                f"{name} has classes that {self._training} has not, whose numbers of samples the "
                "predicted frame follows from"
            )
            return Outcome(self._without(_FRAMES, name, why))
        present = np.flatnonzero(of_training)
        whole_frame = measures.general_orthogonal_frame(
            of_training[present], options.weight_decay_w, options.weight_decay_h, options.depth
        )
        at = np.searchsorted(present, index)
        frame = measures.Frame(
            whole_frame.rows[at],
            whole_frame.means[at],
            whole_frame.logits[at],
            whole_frame.collapsed[at],
            whole_frame.threshold,
        )
        rows, moments = head.weight[full.classes], probe.state[probe.last, name]
        parts = [moments.sample({g}) for g in groups_of(moments)]
        why = probe.why_fewer.get(probe.last, ONE_GROUP)
        outcome = Outcome()

        def of_means(s: ClassSample) -> float:
            return measures.gof_distance(s.means @ s.means.T, frame.means)

        def of_logits(s: ClassSample) -> float:
            return measures.gof_distance(rows @ s.means.T, frame.logits)

        def of_rows(_: ClassSample) -> float:
            return measures.gof_distance(rows @ rows.T, frame.rows)

        for of, function in (("means", of_means), ("rows", of_rows), ("logits", of_logits)):
            whole = [p for p in parts if len(p.classes) == len(full.classes)]
            some = [] if of == "rows" else [evaluate(function, p) for p in whole]
            outcome.readings.append(
                reading(
                    "gof_distance",
                    probe.last,
                    keys_of(probe, name, probe.last, of=of),
                    evaluate(function, full),
                    some,
                    int(full.counts.sum()),
                    _FIXED if of == "rows" else why,
                )
            )
        order = np.argsort(-full.counts, kind="stable")
        path = f"{NAME}/{name}"
        for of, predicted, measured in (
            ("norms", frame.means, full.means),
            ("row_norms", frame.rows, rows),
        ):
            lengths, size = np.sqrt(predicted), np.linalg.norm(measured)
            total = float(np.linalg.norm(lengths))
            outcome.arrays[f"{path}/predicted_{of}"] = (lengths * (size / total if total else 0.0))[
                order
            ]
        if name == self._training:
            outcome.findings.append(self._imbalance(full, trained, frame, name))
        return outcome

    @property
    def _training(self) -> str:
        """The data set that the model was trained on: `train`, or else the first."""
        names = self.probe.rows.names
        return "train" if "train" in names else names[0]

    def _trained_on(self) -> tuple[NDArray[np.int64], list[int | str]]:
        """Samples of every class of the training data, measured or not, and the classes."""
        fed: Any = self.probe.survey.inputs
        labels = fed.labels
        mine = labels.values[labels.sets == labels.names.index(self._training)]
        return np.bincount(mine[mine >= 0], minlength=len(labels.classes)), list(labels.classes)

    def _imbalance(
        self, full: ClassSample, trained: NDArray[np.int64], frame: Any, name: str
    ) -> dict[str, Any]:
        """Which classes are too small to be told apart in the end."""
        classes = [self.probe.rows.classes[c] for c in full.classes]
        gone = [c for c, lost in zip(classes, frame.collapsed, strict=True) if lost]
        shown = ", ".join(map(str, gone[:5])) + (f" and {len(gone) - 5} more" * (len(gone) > 5))
        what = (
            f"{len(gone)} of {len(classes)} classes ({shown}) are at or under it and predicted to "
            "collapse to zero"
            if gone
            else "every class is over it"
        )
        total = int(self._trained_on()[0].sum())
        return {
            "kind": "imbalance",
            "data": name,
            "threshold": frame.threshold,
            "collapsed": gone[:SHOWN_CLASSES],
            "smallest": int(trained.min()),
            "largest": int(trained.max()),
            "imbalanced": bool(trained.max() > IMBALANCED * trained.min()),
            "message": f"{name}: the weight decays put the threshold of minority collapse at "
            f"{frame.threshold:.3g} samples ({self._training} has {total} in all); {what}.",
        }

    def _nearest(self, head: _Head, samples: dict[str, ClassSample], subject: Subject) -> Outcome:
        """NC4, of features that were kept or of a second pass."""
        probe = self.probe
        rows = probe.rows
        nulls = {name: probe.state[probe.last, name].sample(null=True) for name in rows.names}
        wrong = {(name, of): np.zeros(GROUPS) for name in rows.names for of in ("given", "null")}
        seen = {name: np.zeros(GROUPS, dtype=np.int64) for name in rows.names}
        for vectors, numbers in self._features(subject):
            sets, groups = rows.sets[numbers], rows.groups[numbers] % GROUPS
            for s in np.unique(sets):
                name, mine = rows.names[s], np.flatnonzero(sets == s)
                some = vectors[torch.from_numpy(mine).to(vectors.device)]
                exact = some.cpu().double().numpy()
                chosen = head.answers(some, samples[name].classes)
                group = groups[mine]
                seen[name] += np.bincount(group, minlength=GROUPS)
                for of, sample in (("given", samples[name]), ("null", nulls[name])):
                    nearest = sample.classes[measures.nearest_means(exact, sample.means)]
                    wrong[name, of] += np.bincount(
                        group, weights=nearest != chosen, minlength=GROUPS
                    )
        outcome = Outcome()
        for name in rows.names:
            n = seen[name]
            for of, labels in (("given", "given"), ("null", "permuted")):
                keys = {**keys_of(probe, name, probe.last), "labels": labels}
                found = wrong[name, of]
                value: Value = float(found.sum() / n.sum())
                there: list[int] = np.flatnonzero(n).tolist() if labels == "given" else []
                parts: list[Value] = [
                    float((found.sum() - found[g]) / (n.sum() - n[g]))
                    for g in there
                    if n.sum() > n[g]
                ]
                outcome.readings.append(
                    reading("nc4_mismatch", probe.last, keys, value, parts, int(n.sum()), A_NULL)
                )
        return outcome

    def _features(self, subject: Subject) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """The penultimate features, some at a time, and the numbers of their rows."""
        probe = self.probe
        if probe.kept is not None:
            numbers = np.flatnonzero(probe.rows.labels >= 0)
            for start in range(0, len(numbers), _ROWS):
                yield probe.kept.rows[start : start + _ROWS], numbers[start : start + _ROWS]
            return
        subject.progress.note(f"NC4 needs a second pass, as {probe.too_many}.")
        for feed in subject.feeds():
            found: list[tuple[Tensor, NDArray[np.int64]]] = []

            def observe(
                site: str,
                activations: Tensor,
                feed: Feed = feed,
                found: list[Any] = found,
            ) -> None:
                found.append(probe.vectors(site, activations, feed.at(activations)))

            subject.capture.run(feed.inputs, [probe.last], observe)
            for vectors, numbers in found:
                for start in range(0, len(numbers), _ROWS):
                    yield vectors[start : start + _ROWS], numbers[start : start + _ROWS]
