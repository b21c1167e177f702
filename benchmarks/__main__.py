"""`python -m benchmarks [NAME...]`: runs the benchmarks and prints one table each."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib import import_module

NAMES = {
    "overhead": "time of `rank` against the bare forward pass (SmolLM2-135M, float32, 32 x 128)",
    "scan": "all one-pass probes together against the bare forward pass (SmolLM2-135M)",
    "checkpoints": "a further checkpoint of the same architecture",
    "memory": "peak memory",
    "plan": "what `geoprobe plan` says against what was then measured",
    "precision": "what bfloat16 does to every reading",
    "sinks": "attention to sinks, and sink levels, against the bare forward pass (SmolLM2-135M)",
    "collapse": "neural collapse against the bare forward pass (a ViT, SmolLM2-135M)",
    "features": "training sparse autoencoders beside other packages, and applying one",
    "relations": "scoring the neurons of a relation's facts",
    "relations_of_facts": "relation-specific neurons, whole (SmolLM2-135M)",
    "check": "false alarms and misses of `geoprobe check` (demo series)",
    "report": "size of the report of a long scan, and the time to write it",
    "cuda": "what an accelerator changes, where there is one (demo series; 1.1 B parameters)",
    "today": "against output_hidden_states and reptrix",
}


def main() -> None:
    """Runs what was named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*NAMES, []], help="default: all of them")
    names = parser.parse_args().name or list(NAMES)
    import torch
    import transformers

    from benchmarks.machine import table

    transformers.utils.logging.disable_progress_bar()
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, transformers {transformers.__version__}",
        flush=True,
    )
    for name in names:
        start = time.perf_counter()
        lines = import_module(f"benchmarks.{name}").run()
        title = f"{name}: {NAMES[name]} ({time.perf_counter() - start:.0f} s)"
        print(table(title, lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
