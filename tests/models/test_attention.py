"""Attention to chosen keys, against the maps that transformers' own eager attention gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from geoprobe.errors import UsageError
from geoprobe.models import attention
from geoprobe.models.attention import LONGEST_WHOLE, Attention
from geoprobe.models.capture import Capture
from geoprobe.models.layout import find_layout
from tests.tiny_families import CONFIGS, VISION, tiny_inputs, tiny_model

ATTENTIVE = [family for family in CONFIGS if family != "mamba"]
TIME = 12


def inputs_of(family: str, padded: bool) -> dict[str, Tensor]:
    if family in VISION:
        return dict(tiny_inputs(family))
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 64, (3, TIME), generator=draw)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 7:] = 0
        mask[2, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def eager(model: Any, backbone: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The maps of every layer, by the model's own eager attention."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "eager"
    options = {} if "pixel_values" in inputs else {"use_cache": False}
    with torch.no_grad():
        return list(backbone(**inputs, output_attentions=True, **options).attentions)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ATTENTIVE)
def test_the_mass_of_every_family_is_that_of_its_eager_maps(family: str, padded: bool) -> None:
    model = tiny_model(family).eval().requires_grad_(False)
    inputs = inputs_of(family, padded and family not in VISION)
    capture = Capture(model, find_layout(model))
    attends = Attention(capture)
    with torch.no_grad():
        plain = capture.backbone(**inputs, **capture.options).last_hidden_state
    batch, keys = plain.shape[:2]
    # Three sets, and every key by itself: the map in full.
    columns = torch.cat(
        [torch.eye(keys).expand(batch, -1, -1), torch.rand(batch, keys, 3).round()], dim=-1
    )
    found: dict[int, Tensor] = {}
    last = attends.run(inputs, columns, lambda i, mass: found.update({i: mass.clone()}))
    real = inputs.get("attention_mask", torch.ones(batch, keys)).bool()
    assert torch.allclose(last[real], plain[real], atol=1e-5)
    maps = eager(model, capture.backbone, inputs)
    assert sorted(found) == list(range(len(maps)))
    for layer, whole in enumerate(maps):
        expected = whole @ columns[:, None]
        off = (found[layer] - expected).abs().amax((1, 3))[real].max()
        assert off < 1e-5, (layer, float(off))


def test_nothing_stays_behind() -> None:
    model = tiny_model("llama").eval()
    capture = Capture(model, find_layout(model))
    before = model.config._attn_implementation
    inputs = inputs_of("llama", True)
    attends = Attention(capture)

    def fails(layer: int, mass: Tensor) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        attends.run(inputs, torch.ones(3, TIME, 1), fails)
    assert model.config._attn_implementation == before
    assert not attention._watches


def test_a_function_that_drops_the_learned_sink_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_oss").eval()
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.sinks.fill_(3.0)
    capture = Capture(model, find_layout(model))
    Attention(capture)
    right = attention._in_blocks

    def dropping(*args: Any) -> Any:
        options = {**args[-1], "s_aux": None}
        return right(*args[:-1], options)

    monkeypatch.setattr(attention, "_in_blocks", dropping)
    with pytest.raises(UsageError, match="is not what geoprobe computes"):
        Attention(capture)


def test_a_cap_that_is_dropped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2", attn_logit_softcapping=0.05).eval()
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.q_proj.weight.mul_(30)
    capture = Capture(model, find_layout(model))
    Attention(capture)
    right = attention._in_blocks
    monkeypatch.setattr(
        attention, "_in_blocks", lambda *a: right(*a[:-1], {**a[-1], "softcap": None})
    )
    with pytest.raises(UsageError, match="is not what geoprobe computes"):
        Attention(capture)


def test_what_a_learned_sink_takes_is_missing_from_the_rows() -> None:
    model = tiny_model("gpt_oss").eval()
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.sinks.fill_(20.0)
    capture = Capture(model, find_layout(model))
    rows: list[Tensor] = []
    ones = torch.ones(3, TIME, 1)
    Attention(capture).run(inputs_of("gpt_oss", False), ones, lambda _, m: rows.append(m))
    assert all(float(row.max()) < 1e-3 for row in rows)


def test_whole_maps_are_refused_where_they_would_be_large() -> None:
    model = tiny_model("gptj").eval()
    attends = Attention(Capture(model, find_layout(model)))
    assert attends.whole
    ids = torch.zeros(1, LONGEST_WHOLE + 1, dtype=torch.long)
    with pytest.raises(UsageError, match="builds whole maps"):
        attends.run({"input_ids": ids}, torch.ones(1, LONGEST_WHOLE + 1, 1), lambda *_: None)


def test_a_model_without_attention_is_a_sentence() -> None:
    model = tiny_model("mamba").eval()
    with pytest.raises(UsageError, match="Attention is needed, but"):
        Attention(Capture(model, find_layout(model)))
