"""The readings of the collapse probe, site by site and over depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe import measures
from geoprobe.errors import CheckpointError
from geoprobe.measures.estimate import Undefined
from geoprobe.models.layout import PENULTIMATE, kind_of
from geoprobe.probes.base import Outcome
from geoprobe.probes.readings import A_NULL, Value, evaluate, jackknifed
from geoprobe.runs.reading import Reading
from geoprobe.statistics.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.measures.pairs import Pairwise
    from geoprobe.probes.collapse import CollapseProbe
    from geoprobe.runs.reading import Key
    from geoprobe.statistics.classes import ClassMoments, ClassSample

    Array = NDArray[np.float64]
    LayerFunction = Callable[[ClassSample, Callable[[], Pairwise]], float]

NAME = "collapse"
SHOWN_CLASSES = 50
"""Classes whose cosines and names are kept for the report, the largest first."""

_ROUNDING = 1e-11
"""A separation below is that of scatter in float32 features that have none: about a thousand times
the square of its machine epsilon."""

IMBALANCED = 1.5
"""Classes are called imbalanced where the largest has so many times the samples of the smallest."""

ONE_GROUP = "there is one jackknife group"

LAYER_MEASURES: Mapping[str, tuple[str, LayerFunction]] = {
    "nc1": ("", lambda s, _: measures.nc1(s.within, s.means)),
    "nc1_quotient": ("", lambda s, _: measures.nc1_quotient(float(np.trace(s.within)), s.means)),
    "cdnv": ("", lambda _, pairs: measures.defined(pairs().cdnv)),
    "separation": ("", lambda s, _: measures.separation(s.within, s.means, s.counts)),
    "nc2_equinorm": ("means", lambda s, _: measures.nc2_equinorm(s.means)),
    "nc2_equiangular": ("", lambda _, pairs: measures.defined(pairs().equiangular)),
    "nc2_etf": ("", lambda s, _: measures.nc2_etf(s.means)),
    "nc2_uniformity": ("", lambda _, pairs: measures.defined(pairs().uniformity)),
}
"""Measures of one site: what they are of, as the key `of` has it, and how they follow from the
statistics and from one sweep over the pairs of classes."""

reading = partial(jackknifed, NAME)
"""A reading of this probe."""


@dataclass
class Layer:
    """What is known of one site and data set.

    Attributes:
        site: The site.
        n: Rows measured.
        full: Value of each measure.
        parts: The same without each group.
        null: The same of permuted labels.
        means: Class means (C, d), and without each group.
        classes: Which classes have rows (C,).
        counts: How many (C,).
    """

    site: str
    n: int
    full: dict[str, Value]
    parts: list[dict[str, Value]]
    null: dict[str, Value]
    means: Array
    part_means: list[Array] = field(default_factory=list)
    classes: Any = None
    counts: Any = None


def keys_of(probe: CollapseProbe, name: str, site: str, **more: Key) -> dict[str, Key]:
    """The keys of a data set's readings at a site."""
    pool = "head" if site == PENULTIMATE else probe.pool
    return {
        "classes": probe.rows.kind,
        "data": name,
        "tokens": pool if probe.rows.kind == "labels" else "all",
        "labels": "given",
        **{key: value for key, value in more.items() if value != ""},
    }


def layer_readings(probe: CollapseProbe) -> Outcome:
    """All readings that need no classifier, for every data set.

    Raises:
        CheckpointError: Activations are NaN or infinite.
    """
    outcome = Outcome()
    for name in probe.rows.names:
        layers = list(in_threads(partial(_layer, probe, name), probe.measured))
        for layer in layers:
            outcome.readings += _of_layer(probe, layer, name)
        outcome.add(_over_depth(probe, layers, name))
        outcome.add(_of_means(probe, layers[-1], name))
        outcome.findings += _warnings(probe, layers, name)
    return outcome


def _layer(probe: CollapseProbe, name: str, site: str) -> Layer:
    moments = probe.state[site, name]
    full = moments.sample()
    if not (np.isfinite(full.means).all() and np.isfinite(full.within).all()):
        raise CheckpointError(
            f"the activations at {site} are NaN or infinite on this data, so nothing was measured; "
            "a wider --dtype may help."
        )
    varying = informative(full, probe.precision.get(site, 0.0))
    layer = Layer(
        site,
        int(full.counts.sum()),
        _values(full, varying),
        [],
        _values(moments.sample(null=True), varying),
        full.means,
        classes=full.classes,
        counts=full.counts,
    )
    for group in groups_of(moments):
        part = moments.sample({group})
        layer.parts.append(_values(part, varying))
        layer.part_means.append(part.means)
    if site != probe.last:  # which the study still needs
        del probe.state[site, name]
    return layer


def groups_of(moments: ClassMoments) -> list[int]:
    """Groups to leave out, one at a time; none where they are not kept apart."""
    groups = moments.groups()
    return groups if len(groups) > 1 else []


def _values(sample: ClassSample, varying: Array | None) -> dict[str, Value]:
    if varying is not None:
        sample = replace(
            sample, means=sample.means @ varying, within=varying.T @ sample.within @ varying
        )
    pairs = cache(partial(measures.pairwise, sample.means, sample.variances))
    return {
        name: evaluate(function, sample, pairs) for name, (_, function) in LAYER_MEASURES.items()
    }


def informative(sample: ClassSample, precision: float) -> Array | None:
    """The directions (d, k) in which features vary by more than rounding; None where all do.

    Behind a LayerNorm one direction is left out of every feature, and a unit may be dead. What
    rounding makes of such a direction is as large within classes as between them, and a
    pseudo-inverse would weigh it like any other. Rounding of a sum over d numbers in float32, and
    of the numbers that are stored, is taken to vary by d (4 eps)^2 and (eps/2)^2 of their mean
    square.

    Args:
        sample: Of all groups.
        precision: Machine epsilon of the activations.
    """
    n = sample.counts.sum()
    middle = sample.counts @ sample.means / n
    around = sample.means - middle
    total = sample.within + (around * (sample.counts / n)[:, None]).T @ around
    width = len(total)
    values, vectors = np.linalg.eigh(total)
    square = (np.trace(total) + middle @ middle) / width
    summed = min(precision, float(np.finfo(np.float32).eps))
    kept = values > (width * (4 * summed) ** 2 + (precision / 2) ** 2) * square
    return None if kept.all() or not kept.any() else np.asarray(vectors[:, kept])


def _of_layer(probe: CollapseProbe, layer: Layer, name: str) -> list[Reading]:
    site, why = layer.site, probe.why_fewer.get(layer.site, ONE_GROUP)
    found = []
    for measure, (of, _) in LAYER_MEASURES.items():
        keys = keys_of(probe, name, site, of=of)
        parts = [part[measure] for part in layer.parts]
        found.append(reading(measure, site, keys, layer.full[measure], parts, layer.n, why))
        null = {**keys, "labels": "permuted"}
        found.append(reading(measure, site, null, layer.null[measure], [], layer.n, A_NULL))
    floor = measures.nc2_etf_floor(*layer.means.shape)
    keys = keys_of(probe, name, site)
    exact = "no standard error: it follows from the numbers of classes and dimensions"
    found.append(reading("nc2_etf_floor", site, keys, floor, [], layer.n, exact))
    return found


def _over_depth(probe: CollapseProbe, layers: Sequence[Layer], name: str) -> Outcome:
    """How far each layer moves the frame, and the law of data separation."""
    found = Outcome()
    for i, layer in enumerate(layers):
        for before in dict.fromkeys((i - 1, 0)) if i else ():
            other = layers[before]
            keys = keys_of(probe, name, layer.site, **{"from": other.site})
            why = probe.why_fewer.get(layer.site) or probe.why_fewer.get(other.site, "")
            pairs = zip(layer.part_means, other.part_means, strict=False)
            found.readings.append(
                reading(
                    "geometry_distance",
                    layer.site,
                    keys,
                    evaluate(measures.geometry_distance, layer.means, other.means),
                    [evaluate(measures.geometry_distance, a, b) for a, b in pairs],
                    layer.n,
                    why or ONE_GROUP,
                )
            )
    depth = [layer for layer in layers if kind_of(layer.site) == "block"]
    depth = depth or [layer for layer in layers if layer.site != PENULTIMATE]
    found.add(_law(probe, depth, name))
    ends = [
        layer
        for layer in layers
        if layer.site != PENULTIMATE and isinstance(layer.full["nc1_quotient"], float)
    ]
    if len(ends) > 1:
        law = dict(zip([d.site for d in depth], _places(probe, depth), strict=True))
        found.findings.append({**_direction(ends, name), "law": law})
    return found


def _law(probe: CollapseProbe, layers: Sequence[Layer], name: str) -> Outcome:
    """The fitted decay of separation over the layers."""

    def fit(values: Sequence[Value]) -> tuple[Value, Value]:
        missing = [v for v in values if isinstance(v, str)]
        if missing:
            return missing[0], missing[0]
        numbers = [float(v) for v in values]
        if min(numbers, default=1.0) < _ROUNDING:
            why = "the separation of a layer is no more than what rounding leaves"
            return why, why
        try:
            decay = measures.separation_decay(numbers, places)
        except Undefined as undefined:
            return undefined.reason, undefined.reason
        return decay.rate, decay.r2

    places = _places(probe, layers)
    full = fit([layer.full["separation"] for layer in layers])
    groups = min((len(layer.parts) for layer in layers), default=0)
    parts = [fit([layer.parts[g]["separation"] for layer in layers]) for g in range(groups)]
    keys = keys_of(probe, name, layers[-1].site if layers else probe.last)
    why = next(iter(probe.why_fewer.values()), ONE_GROUP)
    n = layers[-1].n if layers else 0
    found = Outcome()
    for i, measure in enumerate(("separation_decay", "separation_decay_r2")):
        some = [part[i] for part in parts]
        found.readings.append(reading(measure, "model", keys, full[i], some, n, why))
    return found


def _places(probe: CollapseProbe, layers: Sequence[Layer]) -> list[int]:
    """How deep each layer is: the number of its block, or its place among the network's parts."""
    parts = [*probe.survey.layout.sites, *(layer.site for layer in layers)]
    return [
        int(layer.site.split(".")[1]) if kind_of(layer.site) == "block" else parts.index(layer.site)
        for layer in layers
    ]


def _direction(layers: Sequence[Layer], name: str) -> dict[str, Any]:
    """Whether the quotient of traces falls from layer to layer."""
    values = [float(layer.full["nc1_quotient"]) for layer in layers]
    falls = [bool(b < a) for a, b in pairwise(values)]
    first, last = layers[0].site, layers[-1].site
    verb = "falls" if values[-1] < values[0] else "rises"
    return {
        "kind": "depth",
        "data": name,
        "sites": [layer.site for layer in layers],
        "values": values,
        "falls": falls,
        "message": f"{name}: nc1_quotient {verb} from {values[0]:.3g} ({first}) to "
        f"{values[-1]:.3g} ({last}); it falls at {sum(falls)} of {len(falls)} steps.",
    }


def _of_means(probe: CollapseProbe, layer: Layer, name: str) -> Outcome:
    """For the report: cosines and norms of the class means in front of the last linear map."""
    centred = layer.means - layer.means.mean(0)
    norms = np.linalg.norm(centred, axis=1)
    order = np.argsort(-layer.counts, kind="stable")
    some = order[:SHOWN_CLASSES]
    unit = centred[some] / np.maximum(norms[some], np.finfo(float).tiny)[:, None]
    path = f"{NAME}/{name}"
    kept: dict[str, Any] = {
        "kind": "classes",
        "data": name,
        "site": layer.site,
        "number": len(layer.counts),
        "rows": layer.n,
        "smallest": int(layer.counts.min()),
        "largest": int(layer.counts.max()),
    }
    classes = [probe.rows.classes[c] for c in layer.classes[some]]
    kept |= {"token_ids": classes} if probe.rows.kind == "tokens" else {"classes": classes}
    return Outcome(
        arrays={
            f"{path}/cosines": unit @ unit.T,
            f"{path}/counts": layer.counts[order],
            f"{path}/centred_norms": norms[order],
            f"{path}/norms": np.linalg.norm(layer.means, axis=1)[order],
        },
        findings=[kept],
    )


def _warnings(probe: CollapseProbe, layers: Sequence[Layer], name: str) -> list[dict[str, Any]]:
    found = []
    narrow = [layer for layer in layers if layer.means.shape[1] < len(layer.means) - 1]
    if narrow:
        classes = len(narrow[0].means)
        width = min(layer.means.shape[1] for layer in narrow)
        sites = narrow[0].site if len(narrow) == 1 else f"{len(narrow)} of {len(layers)} sites"
        found.append(
            _warning(
                name,
                "more_classes_than_dimensions",
                f"{classes} classes in {width} dimensions ({sites}): no simplex ETF fits into "
                f"fewer than {classes - 1}, so nc2_etf cannot fall below nc2_etf_floor "
                f"({measures.nc2_etf_floor(classes, width):.3f}); look at nc2_uniformity.",
            )
        )
    counts = layers[-1].counts
    largest, smallest = int(counts.max()), int(counts.min())
    predicted = probe.options.weight_decay_w is not None
    if probe.rows.kind == "labels" and largest > IMBALANCED * smallest and not predicted:
        found.append(
            _warning(
                name,
                "imbalanced",
                f"the largest class has {largest} samples and the smallest {smallest}: imbalanced "
                "classes collapse to other frames than an ETF; give --weight-decay-w and "
                "--weight-decay-h for the one that is predicted.",
            )
        )
    if probe.why_fewer:
        found.append(
            _warning(
                name,
                "no_groups",
                f"no standard errors at {len(probe.why_fewer)} of {len(layers)} sites, as "
                f"{next(iter(probe.why_fewer.values()))}.",
            )
        )
    return found


def _warning(name: str, code: str, message: str) -> dict[str, Any]:
    return {"kind": "warning", "code": code, "data": name, "message": f"{name}: {message}"}
