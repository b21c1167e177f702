"""`python -m benchmarks.reproductions [NAME...] [--quick]`: each prints measured and published."""

from __future__ import annotations

import argparse
from importlib import import_module

NAMES = ("toy_models", "sparse_parity", "dropout", "grokking")


def main() -> None:
    """Runs what was named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproductions", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*NAMES, []], help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, less exact")
    given = parser.parse_args()
    from benchmarks.reproductions.measuring import print_table

    for name in given.name or NAMES:
        module = import_module(f"benchmarks.reproductions.{name}")
        print_table(f"{name}: {module.TITLE}", module.lines, quick=given.quick)


if __name__ == "__main__":
    main()
