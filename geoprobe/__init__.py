"""geoprobe: the geometry of neural network representations, measured over checkpoint series.

    run = geoprobe.measure("demo", tokens=["last", "all"])
    run.readings            # a polars frame, one row a reading
    run.report("report.html")

Everything is imported when it is first used: `import geoprobe` costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "GeoprobeError",
    "Run",
    "check",
    "measure",
    "measure_features",
    "measures",
    "open",
    "plan",
    "spectrum",
]

_WHERE = {
    "GeoprobeError": ("geoprobe.errors", "GeoprobeError"),
    "Run": ("geoprobe.api", "Run"),
    "check": ("geoprobe.checks.checking", "check"),
    "measure": ("geoprobe.api", "measure"),
    "measure_features": ("geoprobe.api", "measure_features"),
    "measures": ("geoprobe.measures", None),
    "open": ("geoprobe.api", "open_run"),
    "plan": ("geoprobe.api", "plan"),
    "spectrum": ("geoprobe.measures", "spectrum"),
}

if TYPE_CHECKING:
    from geoprobe import measures
    from geoprobe.api import Run, measure, measure_features, plan
    from geoprobe.api import open_run as open
    from geoprobe.checks.checking import check
    from geoprobe.errors import GeoprobeError
    from geoprobe.measures import spectrum


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'geoprobe' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _WHERE[name]
    found = import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
