"""The probes and studies there are: a new one is one row here, its options with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from geoprobe.probes.base import Plan

# A module offers `Options`, a frozen dataclass with a default for each of its options, and
# `plan(options)`, which gives None where the options do not ask for it.
PROBES: Mapping[str, str] = {
    "spectrum": "geoprobe.probes.spectrum",
    "sinks": "geoprobe.probes.sinks",
    "collapse": "geoprobe.probes.collapse",
    "features": "geoprobe.probes.features",
    "superposition": "geoprobe.probes.superposition",
    "relations": "geoprobe.probes.relations",
}
"""Watch the one pass; each takes part where `probes` names it."""
STUDIES: Mapping[str, str] = {"ablation": "geoprobe.probes.ablation"}
"""Drive the model themselves; each takes part where its options ask for it."""
ONE_PASS = ("spectrum", "sinks", "collapse", "superposition")
"""Probes that need nothing but a model and a text, and take one pass together."""


def scan_options(probes: str | Sequence[str] = (), *, attention: bool = False) -> dict[str, Any]:
    """Options of a scan: all that one pass can tell, or the probes that are named.

    Args:
        probes: Their names; none stands for `ONE_PASS`, as far as the model has what they need.
        attention: Whether attention to sinks is measured too, which takes further passes.
    """
    chosen = (probes,) if isinstance(probes, str) else tuple(probes) or ONE_PASS
    of_sinks = {"levels_only": not attention} if "sinks" in chosen else {}
    return {"probes": chosen, "where_possible": not probes, **of_sinks}


def choose_plans(
    probes: Sequence[str], options: Mapping[str, Any], usual: Mapping[str, Any] = {}
) -> tuple[list[Plan], dict[str, Any]]:
    """The probes and studies of a measurement.

    Args:
        probes: Names of probes.
        options: Options of any of them by name; single values stand for one-element tuples.
        usual: What stands for options that are not given, where a probe has them.

    Returns:
        Their plans, and every option of those that were considered, defaults included.

    Raises:
        UsageError: There is no such probe or option, or an option's value is wrong.
    """
    for name in probes:
        if name not in PROBES:
            raise UsageError(f"There is no probe named {name!r}; known: {', '.join(PROBES)}.")
    modules = [import_module(path) for name, path in PROBES.items() if name in probes]
    modules += [import_module(path) for path in STUDIES.values()]
    plans: list[Plan] = []
    settled: dict[str, Any] = {}
    for module in modules:
        names = {field.name for field in fields(module.Options)}
        given = {name: options[name] for name in names & options.keys()}
        given |= {n: usual[n] for n in names & usual.keys() if not given.get(n)}
        mine = settle(module.Options, given)
        settled |= {field.name: getattr(mine, field.name) for field in fields(mine)}
        plan = module.plan(mine)
        if plan is not None:
            plans.append(plan)
    for name in options:
        if name not in settled:
            near = get_close_matches(name, settled, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"There is no option {name!r} for what is measured here.{hint}")
    return plans, settled


def settle(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """An options dataclass from given values.

    None stands for the default, and a single value for a one-element tuple.
    """
    values = {}
    for field in fields(kind):
        value = given.get(field.name)
        if value is not None:
            if isinstance(field.default, tuple) and not isinstance(value, list | tuple):
                value = (value,)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
