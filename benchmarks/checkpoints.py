"""A further checkpoint of the same architecture against `from_pretrained`: time, memory, bits."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import Line, alone, load_smollm2, median, peak, reset_peak, rss, spread


def run(pairs: int = 7) -> list[Line]:
    """Times the demo series' checkpoints and copies of SmolLM2."""
    from geoprobe.data.demo_series import demo_folder
    from geoprobe.models.series import find_series

    demo = find_series([str(demo_folder())]).checkpoints
    lines = [
        _line("demo series", _times([c.path for c in demo], 3 * pairs, str(demo_folder())), 0.05)
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = _copies(Path(folder))
        lines.append(_line("SmolLM2-135M", _times(paths, pairs), 1.0))
        found = alone("benchmarks.checkpoints:memory", [str(p) for p in paths])
    weights = found["weights"]
    lines.append(
        Line(
            "SmolLM2-135M, peak memory while loading",
            f"{found['peak'] / weights:.2f} copies",
            "<= 1.50 copies",
            f"{found['peak']:.0f} MiB, one copy of the weights is {weights:.0f} MiB, "
            f"after the load {found['after'] / weights:.2f} copies",
        )
    )
    return lines


def _copies(folder: Path) -> list[Path]:
    """Two checkpoints of SmolLM2's shape as a training run would save them, in bfloat16."""
    from transformers import AutoModelForCausalLM

    source, _ = load_smollm2()
    config = source.config
    if hasattr(config, "quantization_config"):  # a model from GGUF cannot be saved as it is
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(source.state_dict())
    del source
    paths = [folder / f"checkpoint-{step}" for step in (1, 2)]
    for path in paths:
        model.save_pretrained(path)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0625)
    return paths


def _load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def _no_text(_: Any) -> Any:
    return None


def _times(
    paths: list[Path], pairs: int, tokenizer: str | None = None
) -> list[tuple[float, float]]:
    """Seconds of `from_pretrained` and of all that the survey does before the first batch.

    The two are interleaved, on the same checkpoint, and must give the same bits.
    """
    from geoprobe.corpora import Corpora, Sources, stamps
    from geoprobe.models.hub import Fetcher
    from geoprobe.models.pretrained import quiet_transformers
    from geoprobe.models.series import find_series
    from geoprobe.survey import Bench, Settings

    series = find_series([str(path) for path in paths]).checkpoints
    fetcher = Fetcher()
    no_corpus: Any = Corpora(Sources(lambda _: "text", tokenizer=tokenizer), fetcher)
    bench = Bench(
        Settings(
            corpus_for=_no_text if tokenizer is None else no_corpus,
            fetcher=fetcher,
            plans=[],
            batch_size=1,
            memory=0,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
    )
    bench.prepare(series[0])
    found = []
    for i in range(-1, pairs):
        checkpoint = series[i % len(series)]
        with quiet_transformers():
            start = time.perf_counter()
            fresh = _load(checkpoint.path)
            plain = time.perf_counter() - start
        start = time.perf_counter()
        stamps(checkpoint)
        loaded, _, _ = bench.prepare(checkpoint)
        ours = time.perf_counter() - start
        assert loaded.in_place
        for (name, a), b in zip(
            fresh.state_dict().items(), loaded.model.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), name
        if i >= 0:
            found.append((plain, ours))
        del fresh
    return found


def _line(what: str, times: list[tuple[float, float]], target: float) -> Line:
    ratios = [ours / plain for plain, ours in times]
    return Line(
        f"{what}, a further checkpoint against from_pretrained",
        f"{median(ratios):.3f} x",
        f"<= {target:.2f} x",
        f"spread {spread(ratios)}; {1000 * median([a for a, _ in times]):.1f} ms and "
        f"{1000 * median([b for _, b in times]):.1f} ms; equal bit for bit",
    )


def memory(paths: list[str]) -> dict[str, float]:
    """Peak memory in MiB of loading one checkpoint and then the next."""
    import transformers

    from geoprobe.models.loading import Loader
    from geoprobe.models.series import find_series

    assert transformers.AutoModelForCausalLM
    series = find_series(paths).checkpoints
    loader = Loader()
    before = rss()
    loaded = loader.load(series[0])
    weights = sum(p.nbytes for p in loaded.model.parameters()) / 2**20
    reset_peak()
    loader.load(series[1])
    return {"peak": peak() - before, "after": rss() - before, "weights": weights}
