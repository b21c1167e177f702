"""`geoprobe plan`: operations and memory against counts of one's own, and no weights are needed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import geoprobe
from geoprobe.machines import forward_flops
from geoprobe.models.layout import find_layout
from geoprobe.probes.base import Survey
from geoprobe.probes.spectral_cost import spectrum_cost
from geoprobe.probes.spectrum import SpectrumOptions, SpectrumProbe
from tests.tiny_families import VISION, tiny_config, tiny_model

Cli = Callable[..., tuple[int, str, str]]

SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SMALL = {**dict(zip(SHAPE, (64, 128, 3, 4), strict=True)), "vocab_size": 100}
LARGE = {
    **dict(zip(SHAPE, (8192, 28672, 80, 64), strict=True)),
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def _without_weights(folder: Path, steps: int = 1, **config: Any) -> Path:
    """Checkpoints whose weights are one number: whoever reads them fails."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    for step in range(steps):
        where = folder / f"step{step}"
        LlamaConfig(architectures=["LlamaForCausalLM"], **config).save_pretrained(where)
        save_file({"x": torch.zeros(1)}, where / "model.safetensors")
    return folder


def test_a_llamas_forward_pass_has_the_operations_that_its_shapes_say() -> None:
    from transformers import LlamaConfig, LlamaModel

    d, wide, depth, heads, kv, batch, length = 64, 160, 3, 4, 2, 5, 24
    config = LlamaConfig(
        hidden_size=d,
        intermediate_size=wide,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=50,
    )
    with torch.device("meta"):
        model = LlamaModel(config)
    flops, peak = forward_flops(model, find_layout(model), batch, length)
    weights = 2 * d * d + 2 * d * d * kv // heads + 3 * d * wide
    attention = 2 * length * d  # scores and values, all pairs of tokens
    assert flops == pytest.approx(2 * batch * length * depth * (weights + attention), rel=1e-6)
    one = batch * length * 4
    assert one * wide * 2 < peak < one * (d + wide) * 6
    with torch.device("meta"):
        config.num_hidden_layers = 6
        deep = LlamaModel(config)
    twice, same = forward_flops(deep, find_layout(deep), batch, length)
    assert twice == pytest.approx(2 * flops)
    assert same == peak, "activations do not outlive their block"


def test_every_family_is_counted(any_family: str) -> None:
    import transformers

    from geoprobe.models.families import row_of

    kind = getattr(transformers, row_of(any_family).loads_as)
    with torch.device("meta"):
        config = tiny_config(any_family)
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    layout = find_layout(model.to(torch.bfloat16))
    flops, peak = forward_flops(model, layout, 2, 16)
    backbone = model.get_submodule(layout.backbone)
    embeddings = sum(
        m.weight.numel() for m in backbone.modules() if isinstance(m, torch.nn.Embedding)
    )
    tokens = {"vit": 10, "dinov2": 26, "dinov2_with_registers": 28}.get(any_family, 16)
    dense = 2 * 2 * tokens * (sum(p.numel() for p in backbone.parameters()) - embeddings)
    experts = any_family in ("mixtral", "qwen3_moe", "gpt_oss")
    # Beside the dense maps stand attention, and in vision models positions and a pooler.
    least = 0.05 if experts else 0.85 if any_family in VISION else 0.9
    assert least < flops / dense < 1.3
    assert peak > 0


@given(
    tokens=st.lists(st.sampled_from(["last", "first", "mean", "all"]), min_size=1, unique=True),
    skip=st.lists(st.sampled_from(["matrix_entropy", "intrinsic_dim", "intrinsic_dim_ml"])),
    drop_sinks=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    memory=st.sampled_from([2**40, 2**19, 1]),
)
def test_the_memory_of_statistics_is_what_the_probe_takes(
    tokens: list[Any], skip: list[str], drop_sinks: bool, dtype: torch.dtype, memory: int
) -> None:
    layout = find_layout(tiny_model("llama"))
    lengths = np.random.default_rng(0).integers(3, 40, 70)
    survey = Survey(layout, layout.sites, lengths, 0, memory, dtype, *[torch.device("cpu")] * 2)
    options = SpectrumOptions(tokens=tuple(tokens), skip=tuple(skip), drop_sinks=drop_sinks)
    probe = SpectrumProbe(options, survey)
    for cost in spectrum_cost(options, survey):
        state = probe._state[cost.site]
        rows = [*state.rows.values(), *([] if state.drawn is None else [state.drawn])]
        held = sum(r.values.nbytes for r in rows)
        for moments in state.moments.values():
            held += moments._second.nbytes
            held += 0 if moments._unit is None else moments._unit.nbytes
        assert cost.memory == held, cost.site


def test_a_plan_needs_configs_alone_and_covers_the_series(tmp_path: Path, cli: Cli) -> None:
    series = _without_weights(
        tmp_path / "s",
        steps=4,
        **SMALL,
    )
    code, out, err = cli("plan", series, "--sequences", 40, "--length", 16, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["checkpoints"], found["sequences"], found["tokens"]) == (4, 40, 640)
    assert [c["site"] for c in found["costs"]] == [
        "embed",
        *(f"block.{i}" for i in range(3)),
        "final",
    ]
    one = found["here"]["checkpoint"]
    assert found["here"]["all"] > 4 * one
    assert one >= sum(found["here"][k] for k in ("load", "forward", "watching", "readings"))
    code, out, err = cli("plan", series, "--accelerator", "a100", "--tokens", "last,all")
    assert code == 0, err
    for word in ("on a100", "GFLOP", "peak, libraries included", "fits in its 80.0 GiB"):
        assert word in out, word
    code, _, err = cli("plan", series, "--accelerator", "abacus")
    assert code == 2
    assert "known are t4" in err


def test_a_large_model_with_many_checkpoints_is_planned_quickly(tmp_path: Path) -> None:
    series = _without_weights(
        tmp_path / "s",
        steps=33,
        **LARGE,
    )
    start = time.perf_counter()
    found = geoprobe.plan(series, dtype="float16", accelerator="h100")
    assert time.perf_counter() - start < 60, "seconds on a quiet machine"
    assert found.checkpoints == 33
    assert found.parameters == pytest.approx(70.6e9, rel=0.01)
    assert found.forward == pytest.approx(2 * 68.5e9 * 1024 * 128, rel=0.05)
    assert found.memory["weights"] == 2 * found.parameters
    assert found.elsewhere is not None
    assert not found.elsewhere["fits"]


def test_ablation_adds_its_passes(tiny_series: Path) -> None:
    plain = geoprobe.plan(tiny_series, sequences=20, length=16)
    more = geoprobe.plan(tiny_series, sequences=20, length=16, ablate=[2, 4])
    heads = 5 * 2 * plain.tokens * 64 * 100
    assert more.forward > 3 * plain.forward
    assert more.forward < 3 * plain.forward + 2 * heads
