"""What a run says of effective features, as tables and sentences, and as rows for its charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from geoprobe.reports import collapse, sinks, words
from geoprobe.reports.parts import Table
from geoprobe.reports.subject import STDERRS, thinned

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

NAME = "features"
MOST_CHECKPOINTS = 24
MOST_COURSES = 3
"""Autoencoders of a site whose course is told."""
POOR = 0.5
"""Under so much explained variance an autoencoder says little of its site."""
GIVEN = "this model"
NULLS = {"random_model": "random model", "gaussian": "Gaussian data"}
_NULL_HEADS = {"random_model": "random", "gaussian": "Gaussian"}
LINES = {"given": GIVEN, **NULLS}
"""Whose activations were encoded, for people."""
CONVENTIONS = ("codes", "decoder_norm")
QUALITY = {
    "effective_features": "Effective features, F",
    "saturation": "Saturation: F on half the text / F",
    "l0": "Active features a token, L0",
    "explained_variance": "Explained variance",
    "dead_share": "Dead features (share)",
    "loss_recovered mean": "Loss recovered\nagainst the site's mean",
    "loss_recovered zero": "Loss recovered\nagainst zeros",
}
"""Measures of the small charts, with their titles."""


class At(NamedTuple):
    """What a reading is of; seeds are left aside."""

    site: str
    sae: str
    measure: str
    sinks: str
    convention: str = "exact"
    of: str = "given"
    ablation: str = ""


Values = Mapping[At, dict[str, Any]]
"""The readings of one checkpoint: the seeds' mean where there is one, else the first seed's."""


def has_features(run: Run) -> bool:
    """Whether effective features of the newest checkpoint were measured."""
    if not run.labels or not (run.readings["probe"] == NAME).any():
        return False
    given = (pl.col("measure") == "psi") & (pl.col("activations") == "given")
    return bool(run.readings.filter(given & (pl.col("checkpoint") == run.labels[-1])).height)


def values(run: Run) -> Mapping[str, Values]:
    """Readings of autoencoders, by checkpoint."""
    found: dict[str, dict[At, dict[str, Any]]] = {label: {} for label in run.labels}
    for row in run.readings.filter(pl.col("probe") == NAME).to_dicts():
        ablation = row.get("ablation") or ""
        at = At(
            *(row["site"], row["sae"], row["measure"], row["sinks"]),
            *(row["convention"], row["activations"], ablation),
        )
        known = found[row["checkpoint"]].get(at)
        if known is None or _rank(row) < _rank(known):
            found[row["checkpoint"]][at] = row
    return found


def _rank(row: Mapping[str, Any]) -> tuple[int, str]:
    seed = row.get("seed")
    return (0, "") if seed in ("mean", None) else (1, str(seed))


def coders(here: Values) -> list[tuple[str, str]]:
    """Sites and their autoencoders, in the order measured."""
    return list(dict.fromkeys((at.site, at.sae) for at in here if at.of == "given"))


def sinks_of(here: Values) -> list[str]:
    """`out` first, where sinks can be told."""
    known = {at.sinks for at in here if at.of == "given" and at.measure == "psi"}
    return [s for s in ("out", "in") if s in known]


def groups(run: Run, every: Mapping[str, Values]) -> dict[tuple[str, str], str]:
    """A name for each autoencoder: its own, or one for all where a site has no more than one."""
    pairs = list(dict.fromkeys(pair for here in every.values() for pair in coders(here)))
    sites, names = [site for site, _ in pairs], {sae for _, sae in pairs}
    alone = len(sites) == len(set(sites)) and len(names) > 1
    return {pair: "one a site" if alone else pair[1] for pair in pairs}


def found_at(
    here: Values, site: str, sae: str, measure: str, which: str, **more: str
) -> dict[str, Any] | None:
    """A reading by its name in `QUALITY`; loss recovered may be of other tokens than the rest."""
    measure, _, ablation = measure.partition(" ")
    if measure in ("psi", "effective_features", "saturation"):
        more.setdefault("convention", "codes")
    at = At(site, sae, measure, which, ablation=ablation, **more)
    if measure == "loss_recovered" and at not in here:
        at = at._replace(sinks="in" if which == "out" else "out")
    return here.get(at)


def is_poor(here: Values, site: str, sae: str, which: str) -> bool:
    """Whether an autoencoder explains too little for its effective features to mean much."""
    row = found_at(here, site, sae, "explained_variance", which)
    return row is not None and row["value"] is not None and row["value"] < POOR


def described(run: Run, label: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What each autoencoder is, by site and name."""
    return {
        (str(f.get("site")), str(f.get("sae"))): f
        for f in run.findings
        if f["kind"] == "autoencoder" and f.get("checkpoint") == label
    }


def last_site(here: Values) -> str:
    """`final`, else the last one."""
    sites = [site for site, _ in coders(here)]
    return "final" if "final" in sites else sites[-1]


def features_tables(run: Run, most_sites: int | None = None) -> list[Table]:
    """The tables of a run: the newest checkpoint by site, and the course of training.

    Args:
        run: The run.
        most_sites: At most so many rows, with fewer columns; None shows all.
    """
    if not has_features(run):
        return []
    every = values(run)
    found = [_by_site(run, every[run.labels[-1]], most_sites)]
    if len(run.labels) > 1:
        found += _courses(run, every)
    return [table for table in found if table.rows]


def _cell(row: Mapping[str, Any] | None, *, error: bool = True) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return "-"
    shown = words.with_error(row["value"], row["stderr"] if error else None)
    return shown.replace(" ± ", "±")


def _by_site(run: Run, here: Values, most: int | None) -> Table:
    label, brief = run.labels[-1], most is not None
    pairs, which = coders(here), sinks_of(here)[0]
    names = list(dict.fromkeys(sae for _, sae in pairs))
    shown = [pairs[i] for i in thinned(len(pairs), most)]
    details = described(run, label)
    columns: list[tuple[str, str, str, bool]] = [
        ("F", "effective_features", "given", not brief),
        ("psi", "psi", "given", True),
        *((head, "psi", of, True) for of, head in _NULL_HEADS.items()),
        ("L0", "l0", "given", not brief),
        ("expl. var.", "explained_variance", "given", not brief),
        ("held out", "explained_variance_held_out", "given", not brief),
        ("dead", "dead_share", "given", False),
        ("loss rec.", "loss_recovered mean", "given", not brief),
    ]
    if not brief:
        columns += [
            ("against zeros", "loss_recovered zero", "given", True),
            ("F half / F", "saturation", "given", False),
        ]
    rows: list[list[str]] = []
    muted: list[int] = []
    reasons: dict[str, None] = {}
    for site, sae in shown:
        found = [found_at(here, site, sae, measure, which, of=of) for _, measure, of, _ in columns]
        for row in found:
            if row is not None and row["value"] is None:
                reasons[str(row["reason"])] = None
        if is_poor(here, site, sae, which):
            muted.append(len(rows))
        cells = [_cell(row, error=e) for row, (*_, e) in zip(found, columns, strict=True)]
        size = details.get((site, sae), {}).get("features")
        if not brief:
            cells.insert(1, f"{size:,}" if isinstance(size, int) else "")
        rows.append([site, *[sae] * (len(names) > 1), *cells])
    heads = [head for head, *_ in columns]
    if not brief:
        heads.insert(1, "of D")
    heads = ["site", *["autoencoder"] * (len(names) > 1), *heads]
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    sizes = {r["n"] for at, r in here.items() if at.measure == "psi" and at.sinks == which}
    of = "" if len(names) > 1 else f", {names[0]}"
    of += f", {words.SINKS[which]}" if len(sinks_of(here)) > 1 else ""
    return Table(
        f"Effective features by site, {label}{of}: {words.count(max(sizes), 'sample')}",
        [heads[i] for i in kept],
        [i for i in kept if heads[i] in ("site", "autoencoder")],
        [[row[i] for i in kept] for row in rows],
        " ".join(
            _notes(here, which, len(pairs) - len(shown), bool(muted), list(reasons), kept, heads)
        ),
        muted,
    )


def _notes(
    here: Values,
    which: str,
    left_out: int,
    poor: bool,
    reasons: list[str],
    kept: list[int],
    heads: list[str],
) -> Iterator[str]:
    heads = [heads[i] for i in kept]
    nulls = [head for head in _NULL_HEADS.values() if head in heads]
    if nulls:
        said = {"random": "a randomly initialised model", "Gaussian": "Gaussian data"}
        yield f"{' and '.join(nulls)}: psi of {' and '.join(said[n] for n in nulls)}, the nulls."
    recovered = {at.sinks for at in here if at.measure == "loss_recovered"}
    if "loss rec." in heads:
        tokens = "" if which in recovered else f", {words.SINKS[next(iter(recovered))]}"
        yield f"loss rec.: loss recovered against the site's mean{tokens}."
    if "held out" in heads:
        yield "held out: explained variance of text that it was not trained on."
    if poor:
        yield (
            f"Set back: explained variance under {POOR:g}; what such an autoencoder says of its "
            "site means little."
        )
    for reason in reasons:
        yield f"Undefined (-): {reason}."
    if left_out:
        yield f"{left_out} more in the report."


def _courses(run: Run, every: Mapping[str, Values]) -> Iterator[Table]:
    newest = every[run.labels[-1]]
    site, which = last_site(newest), sinks_of(newest)[0]
    columns = {
        "psi": ("psi", "given"),
        "random": ("psi", "random_model"),
        "Gaussian": ("psi", "gaussian"),
        "F": ("effective_features", "given"),
        "L0": ("l0", "given"),
        "expl. var.": ("explained_variance", "given"),
        "loss rec.": ("loss_recovered mean", "given"),
    }
    for sae in [sae for place, sae in coders(newest) if place == site][:MOST_COURSES]:
        rows: list[list[str]] = []
        muted: list[int] = []
        for index in thinned(len(run.labels), MOST_CHECKPOINTS):
            label = run.labels[index]
            here = every[label]
            cells = [
                _cell(found_at(here, site, sae, m, which, of=of), error=m == "psi")
                for m, of in columns.values()
            ]
            if is_poor(here, site, sae, which):
                muted.append(len(rows))
            rows.append([label, *cells])
        heads = ["checkpoint", *columns]
        kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
        yield Table(
            f"Effective features over training, {site}, {sae}",
            [heads[i] for i in kept],
            [0],
            [[row[i] for i in kept] for row in rows],
            muted=muted,
        )


def features_summary(run: Run) -> str:
    """A sentence on the last site of the newest checkpoint."""
    label = run.labels[-1]
    here = values(run)[label]
    which, site = sinks_of(here)[0], last_site(here)
    sae = next(name for place, name in coders(here) if place == site)
    psi = found_at(here, site, sae, "psi", which)
    if psi is None or psi["value"] is None:
        why = "" if psi is None else f": {psi['reason']}"
        return f"{label}, {site}: psi is undefined{why}."
    nulls = _nulls_said(here, site, sae, which)
    said = (
        f"{label}, {site}: psi is {words.with_error(psi['value'], psi['stderr'])} effective "
        f"features per dimension{f' ({nulls})' if nulls else ''}"
    )
    count = found_at(here, site, sae, "effective_features", which)
    if count is not None and count["value"] is not None:
        size = described(run, label).get((site, sae), {}).get("features")
        of = f" of {size:,}" if isinstance(size, int) else ""
        said += f"; F = {words.number(count['value'])}{of}"
    explained = found_at(here, site, sae, "explained_variance", which)
    if explained is not None and explained["value"] is not None:
        said += f", explained variance {words.number(explained['value'])}"
    if is_poor(here, site, sae, which):
        return f"{said}, so that it means little."
    near = " and ".join(_not_apart(here, site, sae, which))
    return f"{said}. psi is within two standard errors of {near}." if near else f"{said}."


def _not_apart(here: Values, site: str, sae: str, which: str) -> list[str]:
    """Nulls that psi is not told from."""
    psi = found_at(here, site, sae, "psi", which)
    if psi is None or psi["value"] is None or psi["stderr"] is None:
        return []
    nulls = {name: found_at(here, site, sae, "psi", which, of=of) for of, name in NULLS.items()}
    return [
        ("that of a " if name == NULLS["random_model"] else "that of ") + name
        for name, row in nulls.items()
        if row is not None
        and row["value"] is not None
        and abs(row["value"] - psi["value"]) <= STDERRS * psi["stderr"]
    ]


def _nulls_said(here: Values, site: str, sae: str, which: str) -> str:
    """`random model 3.18, Gaussian data 3.39`."""
    found = [(name, found_at(here, site, sae, "psi", which, of=of)) for of, name in NULLS.items()]
    return ", ".join(
        f"{name} {words.number(row['value'])}"
        for name, row in found
        if row is not None and row["value"] is not None
    )


def summary(subject: Subject, name: str) -> str:
    """What happened to one model, its effective features included."""
    run = subject.runs[name]
    if not has_features(run):
        return collapse.summary(subject, name)
    said = features_summary(run)
    told = collapse.has_collapse(run) or sinks.has_sinks(run)
    if told or words.series_values(subject, name, "rankme"):
        return f"{collapse.summary(subject, name)} {said}"
    return words.summary(subject, name, said)


def features_figures(subject: Subject, name: str) -> list[dict[str, str]]:
    """The newest values of the last site, in large type."""
    run = subject.runs[name]
    if not has_features(run):
        return []
    here = values(run)[run.labels[-1]]
    which, site = sinks_of(here)[0], last_site(here)
    sae = next(name for place, name in coders(here) if place == site)
    found = []
    for measure in ("psi", "effective_features", "l0", "explained_variance"):
        row = found_at(here, site, sae, measure, which)
        if row is None or row["value"] is None:
            continue
        value, stderr = words.apart(row["value"], row["stderr"])
        found.append(
            {
                "measure": measure,
                "title": subject.title(measure),
                "value": value,
                "stderr": stderr,
                "reason": row["reason"] or "",
                "null": "",
                "note": _nulls_said(here, site, sae, which) if measure == "psi" else "",
            }
        )
    return found
