"""What a report is about: runs, named, put on one axis, with the site to look at first.

Everything here is read from run folders. Names, labels and sites are hostile text; whoever shows
them escapes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from geoprobe.measures.registry import Card, cards

if TYPE_CHECKING:
    from geoprobe.runs.folder import Run

STDERRS = 2
"""Half width of every error band and bar, in standard errors; phases are judged by as many."""

PHASES = ("warmup", "entropy-seeking", "compression-seeking")
_LEADING = (
    "rankme",
    "alpha",
    "alpha_r2",
    "participation_ratio",
    "top1_share",
    "intrinsic_dim",
    "rankme_headless",
    "stable_rank",
)
"""Measures named first, in this order; the others follow as they come."""
_FIXED = (
    *("checkpoint", "index", "stage", "step", "training_tokens", "epoch"),
    *("probe", "measure", "site"),
)
_VALUES = ("value", "stderr", "n", "convention", "reason")
EMPTY = pl.DataFrame(
    schema={
        "run": pl.String,
        **dict.fromkeys(_FIXED, pl.String),
        "index": pl.Int64,
        "stage": pl.Int64,
        "step": pl.Int64,
        "training_tokens": pl.Float64,
        "epoch": pl.Float64,
        **dict.fromkeys(("tokens", "sinks", "k"), pl.String),
        "value": pl.Float64,
        "stderr": pl.Float64,
        "n": pl.Int64,
        "convention": pl.String,
        "reason": pl.String,
        "x": pl.Float64,
        "order": pl.Int64,
    }
)


@dataclass(frozen=True)
class Axis:
    """The axis of training.

    Attributes:
        field: What x is: `training_tokens`, `step` or `index`.
        title: Its title.
        kind: `symlog` (ln(1 + x/constant), which has a place for 0), `log`, or `ordinal`.
        constant: Constant of the symlog scale; 1 makes it ln(1 + x).
        ticks: Where labels are.
        names: For `ordinal`: the label of each place.
    """

    field: Literal["training_tokens", "step", "index"]
    title: str
    kind: Literal["symlog", "log", "ordinal"]
    constant: float = 1.0
    ticks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A moment of training to look at: a checkpoint of each run.

    Attributes:
        label: Its name for people.
        at: Name of a run -> index of its checkpoint.
    """

    label: str
    at: Mapping[str, int]


@dataclass(frozen=True)
class Subject:
    """Runs made ready to be shown.

    Attributes:
        runs: Name -> run, in the order given.
    """

    runs: Mapping[str, Run]
    _cards: dict[str, Card] = field(default_factory=cards, repr=False)

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Subject:
        """Names the runs after their series; equal names are numbered."""
        named: dict[str, Run] = {}
        for run in runs:
            name, count = series_name(run), 1
            while (name if count == 1 else f"{name} ({count})") in named:
                count += 1
            named[name if count == 1 else f"{name} ({count})"] = run
        return cls(named)

    def of_runs(self, names: Collection[str]) -> Subject:
        """Some of the runs, on the same axis of training."""
        part = Subject({name: run for name, run in self.runs.items() if name in names})
        part.__dict__["axis"] = self.axis  # in place of what the cached property would find
        return part

    @cached_property
    def ranked(self) -> Subject:
        """The runs with spectra, on the same axis; all where none has any."""
        names = set(self.spectral["run"])
        return self.of_runs(names) if 0 < len(names) < len(self.runs) else self

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.runs) > 1

    @cached_property
    def is_series(self) -> bool:
        """Whether any run has more than one checkpoint."""
        return any(len(run.checkpoints) > 1 for run in self.runs.values())

    @cached_property
    def sites(self) -> list[str]:
        """Sites with spectra, in execution order; where there are none, all sites."""
        spectral = set(self.spectral["site"])
        return [s for s in self.every_site if s in spectral] or self.every_site

    @cached_property
    def every_site(self) -> list[str]:
        """Sites of all runs, in execution order."""
        found = list(dict.fromkeys(s for run in self.runs.values() for s in run.sites))
        if all(_is_model_site(site) for site in found):
            found.sort(key=_depth)
        return found

    @cached_property
    def axis(self) -> Axis:
        """Tokens, else steps, else places: the first that every checkpoint has, in order."""
        for name, title in (("tokens", "training tokens"), ("step", "training step")):
            columns = [[c.get(name) for c in run.checkpoints] for run in self.runs.values()]
            if any(columns) and all(_increases(column) for column in columns):
                values = sorted({float(v) for column in columns for v in column if v is not None})
                return _numeric_axis(name, title, values)
        longest: list[str] = max((run.labels for run in self.runs.values()), key=len, default=[])
        names = tuple(longest) if not self.several else tuple(map(str, range(len(longest))))
        return Axis("index", "checkpoint", "ordinal", names=names)

    @cached_property
    def readings(self) -> pl.DataFrame:
        """All readings of all runs: `Run.readings` with four columns more.

        `run`, `x` on the axis of training, the site's `order`, and `preferred`: 1 where the
        convention is the first one of its measure.
        """
        frames = []
        order = {site: place for place, site in enumerate(self.every_site)}
        for name, run in self.runs.items():
            frame = run.readings
            frames.append(
                frame.select(
                    pl.lit(name).alias("run"),
                    pl.all(),
                    pl.col(self.axis.field).cast(pl.Float64).alias("x"),
                    pl.col("site").replace_strict(order, return_dtype=pl.Int64).alias("order"),
                )
            )
        frames = [frame for frame in frames if frame.height]
        if not frames:
            return EMPTY.with_columns(preferred=pl.lit(0))
        whole = pl.concat(frames, how="diagonal_relaxed")
        first = pl.col("convention").first().over("run", "measure")
        return whole.with_columns(preferred=(pl.col("convention") == first).cast(pl.Int64))

    @cached_property
    def keys(self) -> list[str]:
        """Key columns, `tokens` and `sinks` first."""
        other = ("run", "x", "order", "preferred", *_FIXED, *_VALUES)
        return [name for name in self.readings.columns if name not in other]

    @cached_property
    def spectral(self) -> pl.DataFrame:
        """Readings at sites, by token choice: what the spectrum gives."""
        there = pl.col("tokens").is_not_null() & pl.col("sinks").is_not_null()
        return self.readings.filter(there)

    @cached_property
    def measures(self) -> list[str]:
        """Spectral measures, the leading ones first."""
        found = self.spectral["measure"].unique(maintain_order=True).to_list()
        return [m for m in _LEADING if m in found] + [m for m in found if m not in _LEADING]

    @cached_property
    def tokens(self) -> list[str]:
        """Token choices."""
        return self.spectral["tokens"].unique(maintain_order=True).to_list()

    @cached_property
    def sinks(self) -> list[str]:
        """`in`, and `out` where sinks were dropped."""
        return self.spectral["sinks"].unique(maintain_order=True).to_list()

    def conventions(self, measure: str) -> list[str]:
        """Conventions a measure was computed under, the first asked for first."""
        return self._conventions.get(measure, [])

    @cached_property
    def _conventions(self) -> dict[str, list[str]]:
        pairs = self.readings.select("measure", "convention").unique(maintain_order=True)
        found: dict[str, list[str]] = {}
        for measure, convention in pairs.iter_rows():
            found.setdefault(measure, []).append(convention)
        return found

    @cached_property
    def are_features(self) -> bool:
        """Whether the rows are someone's features, with no tokens to speak of."""
        return all(
            str(run.header.get("command", "")).endswith("--features") for run in self.runs.values()
        )

    @cached_property
    def main_site(self) -> str:
        """The site to look at first: that of the phases, else `final`, else the last."""
        if "final" in self.sites:
            return "final"
        for phase in self.phases:
            if phase.get("site") in self.sites:
                return str(phase["site"])
        return self.sites[-1] if self.sites else ""

    @cached_property
    def main_tokens(self) -> str:
        """The token choice to look at first."""
        if "last" in self.tokens or not self.tokens:
            return "last"
        return self.tokens[0]

    @cached_property
    def main_sinks(self) -> str:
        """`in` wherever it was measured."""
        return "in" if "in" in self.sinks or not self.sinks else self.sinks[0]

    @cached_property
    def phases(self) -> list[dict[str, Any]]:
        """Findings of kind `phase` with `run`, `x0` and `x1` on the axis."""
        found = []
        for name, run in self.runs.items():
            place = {label: index for index, label in enumerate(run.labels)}
            for finding in run.findings:
                if finding.get("kind") != "phase":
                    continue
                ends = [place.get(str(finding.get(end))) for end in ("start", "end")]
                if None in ends:
                    continue
                x0, x1 = (self.x_of(run, index) for index in ends if index is not None)
                found.append({**finding, "run": name, "x0": x0, "x1": x1})
        return found

    def x_of(self, run: Run, index: int) -> float:
        """Where a checkpoint is on the axis."""
        if self.axis.field == "index":
            return float(index)
        name = "tokens" if self.axis.field == "training_tokens" else "step"
        return float(run.checkpoints[index][name])

    def places(self, most: int | None = None) -> list[Place]:
        """Moments of training, the newest last; several runs are aligned by their share of it.

        Args:
            most: At most this many, the first and the last among them.
        """
        kept = {name: thinned(len(run.labels), most) for name, run in self.runs.items()}
        count = max((len(indices) for indices in kept.values()), default=0)
        found = []
        for i in range(count):
            share = i / (count - 1) if count > 1 else 1.0
            at = {
                name: indices[round(share * (len(indices) - 1))]
                for name, indices in kept.items()
                if indices
            }
            labels = [self.runs[name].labels[index] for name, index in at.items()]
            found.append(Place(" / ".join(dict.fromkeys(labels)), at))
        return found

    def card(self, measure: str) -> Card | None:
        """The card of a measure, or None for one that this version does not know."""
        return self._cards.get(measure)

    def title(self, measure: str) -> str:
        """Title, symbol and unit of a measure, as on an axis."""
        card = self.card(measure)
        if card is None:
            return measure
        symbol = "" if not card.symbol or card.symbol in card.title else f", {card.symbol}"
        unit = "" if card.unit in ("1", "") else f" ({card.unit})"
        return f"{_plain_title(card.title)}{symbol}{unit}"

    def panel_title(self, measure: str) -> str:
        """The same on two lines, for a small panel."""
        card = self.card(measure)
        if card is None:
            return measure
        symbol = "" if card.title.startswith(card.symbol) else card.symbol
        unit = "" if card.unit in ("1", "") else f"({card.unit})"
        return f"{card.title}\n{symbol} {unit}".strip()

    @cached_property
    def panel_titles(self) -> dict[str, str]:
        """Of all measures that were read, in the order of their names."""
        return {m: self.panel_title(m) for m in self.readings["measure"].unique().sort()}

    def symbol(self, measure: str) -> str:
        """The symbol of a measure, for a column head."""
        card = self.card(measure)
        return card.symbol if card is not None and card.symbol else measure

    def newest(self, name: str) -> pl.DataFrame:
        """Spectral readings of the newest checkpoint of a run."""
        last = len(self.runs[name].labels) - 1
        return self.spectral.filter((pl.col("run") == name) & (pl.col("index") == last))


def series_name(run: Run) -> str:
    """A name for a run: what was measured, less folders that only one machine knows."""
    arguments = [str(a) for a in run.header.get("series", {}).get("arguments", [])]
    names = [re.split(r"[\\/]", a.rstrip("\\/"))[-1] or a for a in arguments]
    if names:
        return " + ".join(names[:3]) + (f" + {len(names) - 3} more" if len(names) > 3 else "")
    labels = run.labels
    return labels[0] if len(labels) == 1 else str(run.header.get("command", "run"))


def thinned(count: int, most: int | None) -> list[int]:
    """At most so many of range(count), evenly, the first and the last among them."""
    if most is None or count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _increases(column: Sequence[Any]) -> bool:
    if any(value is None for value in column):
        return False
    return all(later > earlier for earlier, later in pairwise(column))


def _numeric_axis(name: str, title: str, values: list[float]) -> Axis:
    which: Literal["training_tokens", "step"] = "training_tokens" if name == "tokens" else "step"
    positive = [value for value in values if value > 0]
    zero = len(positive) < len(values)
    if not positive:
        return Axis(which, title, "symlog", ticks=(0.0,))
    low, high = positive[0], positive[-1]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, round((last - first) / 7))
    powers = [10.0**p for p in range(first, last + 1, stride)]
    ticks = [p for p in powers if low * 0.999 <= p <= high * 1.001]
    if len(ticks) < 3:
        steps = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
        ticks = [s for s in steps if low * 0.999 <= s <= high * 1.001]
    if len(ticks) < 3:
        ticks = [positive[i] for i in thinned(len(positive), 6)]
    if not zero:
        return Axis(which, f"{title} (log scale)", "log", ticks=tuple(ticks))
    scale = f"ln(1 + {'tokens' if name == 'tokens' else 'step'}{_over(low)})"
    return Axis(which, f"{title}, {scale} scale", "symlog", constant=low, ticks=(0.0, *ticks))


def _over(constant: float) -> str:
    return "" if constant == 1 else f"/{constant:.4g}"


_ENDS = ("embed", "", "final", "penultimate", "logits", "model")
"""Sites around the blocks, which have the second place."""


def _is_model_site(site: str) -> bool:
    return site in _ENDS or bool(re.fullmatch(r"block\.\d+", site))


def _depth(site: str) -> tuple[int, int]:
    if site.startswith("block."):
        return 1, int(site.removeprefix("block."))
    return _ENDS.index(site), 0


def _plain_title(title: str) -> str:
    """A title less its explanation in parentheses, which the definitions give."""
    return re.sub(
        r" \((effective rank|spectral decay|normalised eigenvalue sum)\)$|"
        r" under direction ablation$",
        "",
        title,
    )
