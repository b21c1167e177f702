"""What a run says of attention sinks, as tables for the terminal and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from geoprobe.reports import words
from geoprobe.reports.lookup import findings_at, readings_at
from geoprobe.reports.parts import Table
from geoprobe.reports.subject import thinned

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

MOST_LEVELS = 12
MOST_CHECKPOINTS = 24
MOST_FORMED = 6
"""Stages and levels whose formation is drawn."""


def has_sinks(run: Run) -> bool:
    """Whether sinks were measured."""
    return any(finding["kind"] == "primary" for finding in run.findings)


def sink_tables(run: Run) -> list[Table]:
    """The tables of a run: rates, stages, levels, formation and causes, the course of training."""
    if not has_sinks(run) or not run.labels:
        return []
    label = run.labels[-1]
    found = [_rates(run, label), _stages(run, label), _levels(run, label)]
    found += [_formation(run, label), _causal(run, label)]
    if len(run.labels) > 1:
        found.append(_course(run))
    return [table for table in found if table.rows or table.note]


def sink_summary(run: Run) -> str:
    """One or two sentences on the newest checkpoint."""
    label = run.labels[-1]
    primary = next(f for f in findings_at(run, label, "primary"))
    stages, levels = findings_at(run, label, "stage"), findings_at(run, label, "level")
    rest = _rest(run)
    rate = "" if rest is None else f"; position {rest['position']} has sink rate {_rate(rest)}"
    if not stages:
        said = f"{label}: no token of the first positions stands out by its norm"
        return f"{said}{rate}." if rate else f"{said}, so there is no sink."
    said = f"{label}: the primary sink is position {primary['position']}, in " + " and ".join(
        f"{_blocks(s)} ({words.number(s['peak_ratio'])} x the median norm)" for s in stages
    )
    count = primary["secondary"] if levels else 0
    said += f"; {words.count(count, 'secondary sink')} in {words.count(len(levels), 'level')}"
    return f"{said}{rate}."


def _blocks(stage: dict[str, Any]) -> str:
    first, last = stage["layer_start"], stage["layer_end"] - 1
    return f"blocks {first} to {last}" if first < last else f"block {first}"


def _rest(run: Run) -> dict[str, Any] | None:
    """The rate of the position where most attention rests in the newest checkpoint."""
    rows = [r for r in _rate_rows(run, run.labels[-1]) if r["text"] == "natural"]
    rows = [r for r in rows if r["value"] is not None]
    return max(rows, key=lambda row: (row["value"], -row["position"]), default=None)


def _rate(row: dict[str, Any]) -> str:
    return words.with_error(row["value"], row["stderr"])


def summary(subject: Subject, name: str) -> str:
    """What happened to one model, its sinks included."""
    run = subject.runs[name]
    if not run.checkpoints or not has_sinks(run):
        return words.summary(subject, name)
    if not subject.measures:
        return words.summary(subject, name, sink_summary(run) + _emergence(run))
    return f"{words.summary(subject, name)} {sink_summary(run)}{_emergence(run)}"


def _emergence(run: Run) -> str:
    """When sinks emerge, if that was found."""
    return "".join(f" {f['message']}" for f in run.findings if f["kind"] == "emergence")


def _rate_rows(run: Run, label: str, site: str = "model") -> list[dict[str, Any]]:
    frame = readings_at(run, label)
    if "position" not in frame.columns:
        return []
    return frame.filter((pl.col("measure") == "sink_rate") & (pl.col("site") == site)).to_dicts()


def _rates(run: Run, label: str) -> Table:
    rows = _rate_rows(run, label)
    texts = list(dict.fromkeys(row["text"] for row in rows))
    positions = sorted({int(row["position"]) for row in rows})
    primary = findings_at(run, label, "primary")[0]["position"]
    shown = [k for k in positions if k in (0, 1, 2, 3, primary)]
    by = {(row["text"], int(row["position"])): row for row in rows}
    eps = run.header.get("options", {}).get("eps", 0.3)
    return Table(
        f"Sink rate, {label}: share of heads and sequences with a score over {eps:g}",
        ["text", *(f"k = {k}" for k in shown)],
        [0],
        [
            [
                text,
                *(
                    words.with_error(row["value"], row["stderr"]) if row else ""
                    for k in shown
                    for row in [by.get((text, k))]
                ),
            ]
            for text in texts
        ],
    )


def _stages(run: Run, label: str) -> Table:
    rows = [
        [
            str(stage["position"]),
            _blocks(stage).partition(" ")[2],
            words.number(stage["peak_norm"], 4),
            f"{words.number(stage['peak_ratio'])} x",
        ]
        for stage in findings_at(run, label, "stage")
    ]
    note = "" if rows else f"{label}: no stage; the primary's norm never exceeds 2 medians."
    return Table(
        f"Stages of the primary sink, {label}",
        ["position", "blocks", "peak norm", "of the median"],
        [1],
        rows,
        note,
    )


def _levels(run: Run, label: str) -> Table:
    levels = findings_at(run, label, "level")
    rows = [
        [
            f"({level['l_start']}, {level['lifetime']})",
            f"{level['count']:,}",
            f"{100 * level['share']:.0f} %",
            " ".join(words.token_names(level)[:3]),
            words.number(level["mean_norm"]),
            "-" if level["sink_score"] is None else f"{level['sink_score']:.3f}",
            "yes" if level["authors"] else "no",
            "yes" if level["depth"] else "no",
        ]
        for level in levels[:MOST_LEVELS]
    ]
    more = len(levels) - len(rows)
    return Table(
        f"Levels of secondary sinks, {label}: (first block, lifetime)",
        ["level", "count", "share", "tokens", "norm", "score", "authors", "depth"],
        [0, 3],
        rows,
        f"{more} rarer levels; --json has all." if more else "",
    )


PARTS = ("input", "gate", "activation", "up", "product", "output")


def _formation(run: Run, label: str) -> Table:
    formed = findings_at(run, label, "formation")
    rows = [
        [
            _group(found),
            *(f"{found['cosine'][p]:.2f}" if p in found["cosine"] else "-" for p in PARTS),
            f"{found['output_along']:.2f}",
            "none"
            if found["first"] is None
            else f"{found['first']['layer']} ({100 * found['first']['share']:.0f} %)",
            "none" if found["most"] is None else str(found["most"]["layer"]),
        ]
        for found in formed[:MOST_LEVELS]
    ]
    return Table(
        f"How sinks form, {label}: in the MLP of their first block, and which MLP writes them",
        ["sinks", "input", "gate", "act", "up", "prod", "out", "along", "first", "most"],
        [0],
        rows,
        "input to out: cosine with the primary at the same place. along: of the output with the "
        "primary's residual stream; first, most: the MLPs that write this first, and most of it."
        if rows
        else "",
    )


def _causal(run: Run, label: str) -> Table:
    rows = []
    control: dict[str, float] = {}
    for found in findings_at(run, label, "causal"):
        cells = [_group(found), str(found["layer"])]
        for what in ("sink_score", "loss"):
            of = found[what]
            if of is None:
                cells += ["-", "-"]
                continue
            cells += [f"{of['before']:.3f}", words.with_error(of["change"], of["stderr"])]
            control[what] = max(control.get(what, 0.0), abs(of["control"]))
        rows.append(cells)
    return Table(
        f"Without the sinks' direction in what an MLP writes, {label}",
        ["sinks", "MLP", "sink score", "change", "loss", "change"],
        [0],
        rows,
        "The same direction taken from as many other tokens changes "
        + " and ".join(
            f"{name} by at most {words.number(control[what], 2)}"
            for what, name in (("sink_score", "scores"), ("loss", "the loss"))
            if what in control
        )
        + "."
        if control
        else "",
    )


def _group(found: dict[str, Any]) -> str:
    """`primary (2, 7)`: whose sinks, their first block and lifetime."""
    return f"{found['of']} ({found['l_start']}, {found['lifetime']})"


def _course(run: Run) -> Table:
    rows = []
    rest = _rest(run)
    position = None if rest is None else int(rest["position"])
    for index in thinned(len(run.labels), MOST_CHECKPOINTS):
        label = run.labels[index]
        primary = next(iter(findings_at(run, label, "primary")), None)
        if primary is None:
            continue
        stages, levels = findings_at(run, label, "stage"), findings_at(run, label, "level")
        rate = next(
            (
                row
                for row in _rate_rows(run, label)
                if row["text"] == "natural" and row["position"] == position
            ),
            None,
        )
        rows.append(
            [
                label,
                "-" if rate is None else _rate(rate),
                str(primary["position"]),
                ", ".join(f"{s['layer_start']}-{s['layer_end'] - 1}" for s in stages) or "none",
                words.number(max((s["peak_ratio"] for s in stages), default=None))
                if stages
                else "-",
                str(primary["secondary"] if levels else 0),
            ]
        )
    return Table(
        "Sinks over training",
        [
            "checkpoint",
            "sink rate" if position is None else f"sink rate, k = {position}",
            *("primary", "stages", "of median", "secondary"),
        ],
        [0, 3],
        rows,
    )


_PLACE = {"run": pl.String, "checkpoint": pl.String, "index": pl.Int64}
_SCORES = pl.Schema(
    {
        **_PLACE,
        "text": pl.String,
        **dict.fromkeys(("layer", "head", "position"), pl.Int64),
        **dict.fromkeys(("value", "stderr"), pl.Float64),
    }
)
_FRAMES: dict[str, dict[str, Any]] = {
    "sink_norms": {"layer": pl.Int64, "what": pl.String, "norm": pl.Float64}
    | {"position": pl.Int64},
    "sink_stages": {"start": pl.Float64, "end": pl.Float64, "said": pl.String},
    "sink_formation": {"group": pl.String, "layer": pl.Int64, "cosine": pl.Float64}
    | {"length": pl.Float64},
    "sink_levels": {"l_start": pl.Int64, "lifetime": pl.Int64, "count": pl.Int64}
    | {"share": pl.Float64, "tokens": pl.String, "norm": pl.Float64, "score": pl.Float64},
    "sink_strip": {"layer": pl.Int64, "place": pl.Int64, "token": pl.String, "mass": pl.Float64},
}


def sink_frames(subject: Subject) -> dict[str, pl.DataFrame]:
    """What the charts of sinks draw: one row a mark, with `run`, `checkpoint` and `index`."""
    scores = [pl.DataFrame(schema=_SCORES)]
    columns: dict[str, dict[str, list[Any]]] = {
        table: {name: [] for name in {**_PLACE, **schema}} for table, schema in _FRAMES.items()
    }
    for name, run in subject.runs.items():
        if not has_sinks(run):
            continue
        scores.append(_scores(run).select(pl.lit(name).alias("run"), *list(_SCORES)[1:]))
        for index, label in enumerate(run.labels):
            for table, found in _marks(run, label).items():
                into = columns[table]
                count = len(next(iter(found.values())))
                for column, value in (("run", name), ("checkpoint", label), ("index", index)):
                    into[column] += [value] * count
                for column, values in found.items():
                    into[column] += values
    return {"sink_scores": pl.concat([f.cast(_SCORES, strict=False) for f in scores])} | {
        table: pl.DataFrame(columns[table], schema={**_PLACE, **schema}, strict=False)
        for table, schema in _FRAMES.items()
    }


def _scores(run: Run) -> pl.DataFrame:
    """Of each head the scores of the primary, at every checkpoint that has one."""
    frame = run.readings
    if "head" not in frame.columns:
        return pl.DataFrame(schema=_SCORES)
    primaries = [next(iter(findings_at(run, label, "primary")), None) for label in run.labels]
    at = {i: int(found["position"]) for i, found in enumerate(primaries) if found is not None}
    if not at:
        return pl.DataFrame(schema=_SCORES)
    primary = pl.col("index").replace_strict(at, default=None, return_dtype=pl.Int64)
    layer = pl.col("site").str.strip_prefix("attention.").cast(pl.Int64).alias("layer")
    found: pl.DataFrame = (
        frame.filter(pl.col("measure") == "sink_score")
        .filter(pl.col("position") == primary)
        .with_columns(layer)
    )
    return found


def _marks(run: Run, label: str) -> dict[str, dict[str, list[Any]]]:
    """Columns of one checkpoint, by table."""
    primary = next(iter(findings_at(run, label, "primary")), None)
    if primary is None:
        return {}
    position = int(primary["position"])
    arrays = run.arrays(label)
    norms = {
        "primary": arrays["sinks/candidate_norms"][:, position].tolist(),
        "median of the others": arrays["sinks/median_norm"].tolist(),
    }
    stages = findings_at(run, label, "stage")
    levels = findings_at(run, label, "level")
    formed = [
        (_group(group), layer, cosine, length)
        for group in findings_at(run, label, "formation")[:MOST_FORMED]
        for layer, (cosine, length) in enumerate(
            arrays[
                f"sinks/formation/{group['of']}-{group['l_start']}-{group['lifetime']}"
            ].T.tolist()
        )
    ]
    found: dict[str, dict[str, list[Any]]] = {
        "sink_norms": {
            "layer": [layer for values in norms.values() for layer in range(len(values))],
            "what": [what for what, values in norms.items() for _ in values],
            "norm": [float(f"{norm:.5g}") for values in norms.values() for norm in values],
            "position": [position for values in norms.values() for _ in values],
        },
        "sink_stages": {
            "start": [stage["layer_start"] - 0.5 for stage in stages],
            "end": [stage["layer_end"] - 0.5 for stage in stages],
            "said": [_blocks(stage) for stage in stages],
        },
        "sink_levels": {
            **{k: [f[k] for f in levels] for k in ("l_start", "lifetime", "count", "share")},
            "tokens": [" ".join(words.token_names(level)) for level in levels],
            "norm": [level["mean_norm"] for level in levels],
            "score": [level["sink_score"] for level in levels],
        },
        "sink_formation": {
            "group": [group for group, _, _, _ in formed],
            "layer": [layer for _, layer, _, _ in formed],
            "cosine": [float(f"{cosine:.4g}") for _, _, cosine, _ in formed],
            "length": [float(f"{length:.4g}") for _, _, _, length in formed],
        },
    }
    strip = next(iter(findings_at(run, label, "strip")), None)
    if strip is not None:
        tokens, masses = words.token_names(strip), arrays["sinks/strip"].tolist()
        assert all(len(tokens) == len(of_layer) for of_layer in masses)
        found["sink_strip"] = {
            "layer": [layer for layer, of_layer in enumerate(masses) for _ in of_layer],
            "place": [place for of_layer in masses for place in range(len(of_layer))],
            "token": tokens * len(masses),
            "mass": [float(f"{mass:.4g}") for of_layer in masses for mass in of_layer],
        }
    return found
