"""Sites by the layout table and nnsight, against transformers' hidden states and hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from geoprobe.errors import UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.families import FAMILIES
from geoprobe.models.layout import Layout, Tap, find_layout
from geoprobe.models.selfcheck import self_check
from tests.tiny_families import DEPTH, VISION, WIDTH, tiny_inputs, tiny_model


def _sites(capture: Capture, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    capture.run(inputs, capture.layout.sites, lambda s, x: seen.update({s: x.clone()}))
    return seen


def test_every_residual_site_equals_the_models_own_hidden_states(any_family: str) -> None:
    model = tiny_model(any_family)
    capture = Capture(model, find_layout(model))
    inputs = tiny_inputs(any_family)
    seen = _sites(capture, inputs)
    norms = [] if "final" in capture.layout.missing else ["final"]
    assert list(seen) == ["embed", *(f"block.{i}" for i in range(DEPTH)), *norms]
    with torch.inference_mode():
        out = model(**inputs, output_hidden_states=True)
    given = list(seen)[1:] if any_family == "mamba" else _without_last_block(seen, norms)
    if any_family in VISION:  # here transformers keeps the last block's as it is
        given = list(seen)[:-1]
        assert torch.equal(seen["final"], out.last_hidden_state)
    for site, hidden in zip(given, out.hidden_states, strict=True):
        assert torch.equal(seen[site], hidden), site
    if norms:
        module = capture.backbone.get_submodule(capture.layout.taps["final"].module)
        with torch.inference_mode():
            assert torch.equal(module(seen[f"block.{DEPTH - 1}"]), seen["final"])
        assert not torch.equal(seen["final"], seen[f"block.{DEPTH - 1}"])


def _without_last_block(seen: dict[str, torch.Tensor], norms: list[str]) -> list[str]:
    """transformers gives the last block's output after the final norm only."""
    return [s for s in seen if not norms or s != f"block.{DEPTH - 1}"]


def _all_sites(capture: Capture, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    capture.run(inputs, capture.layout.taps, lambda s, x: seen.update({s: x.clone()}))
    return seen


def _activation(model: Any, family: str) -> Callable[[torch.Tensor], torch.Tensor]:
    from transformers.activations import ACT2FN

    config = model.config.get_text_config()
    fixed = {"bloom": "gelu_pytorch_tanh", "mpt": "gelu", "dinov2_with_registers": "silu"}
    named = fixed.get(family)
    for name in ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn"):
        named = named or getattr(config, name, None)
    return ACT2FN[named or config.activation]  # type: ignore[no-any-return]


def _block_output(
    family: str, block: Any, before: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
) -> torch.Tensor:
    """What a block gives, put together from its parts as the family does it."""
    if family in ("bert", "roberta"):
        middle = block.attention.output.LayerNorm(before + attention)
        return block.output.LayerNorm(middle + mlp)  # type: ignore[no-any-return]
    if family in ("gemma2", "gemma3", "gemma3_text", "olmo2", "olmo3"):
        attention = block.post_attention_layernorm(attention)
        mlp = block.post_feedforward_layernorm(mlp)
    if family.startswith("dinov2"):
        attention, mlp = block.layer_scale1(attention), block.layer_scale2(mlp)
    if family == "granite":
        attention, mlp = 0.7 * attention, 0.7 * mlp
    return before + attention + mlp


def test_what_blocks_do_adds_up_to_what_they_give(any_family: str) -> None:
    """`attention` and `mlp.out` make the block's output; `mlp.in` the gate and up, they neurons."""
    model = tiny_model(any_family)
    capture = Capture(model, find_layout(model))
    seen = _all_sites(capture, tiny_inputs(any_family))
    layout = capture.layout
    assert set(seen) == set(layout.taps)
    if any_family == "mamba":
        assert "attention" in layout.missing
        return
    for i in range(DEPTH):
        before = seen["embed" if i == 0 else f"block.{i - 1}"]
        block = capture.backbone.get_submodule(layout.taps[f"block.{i}"].module)
        with torch.inference_mode():
            expected = _block_output(
                any_family, block, before, seen[f"attention.{i}"], seen[f"mlp.out.{i}"]
            )
            torch.testing.assert_close(seen[f"block.{i}"], expected, rtol=1e-5, atol=2e-5)
            if (added := seen.get(f"mlp.add.{i}")) is not None:
                other = block.post_attention_layernorm(seen[f"attention.{i}"])
                torch.testing.assert_close(
                    seen[f"block.{i}"], before + other + added, rtol=1e-5, atol=2e-5
                )
            if f"neurons.{i}" not in seen:
                assert "experts" in layout.missing["neurons"]
                continue
            act = _activation(model, any_family)
            up = seen[f"mlp.up.{i}"]
            gated = f"mlp.gate.{i}" in seen
            assert gated == (f"mlp.act.{i}" in seen)
            if gated:
                opened = seen[f"mlp.act.{i}"]
                torch.testing.assert_close(opened, act(seen[f"mlp.gate.{i}"]), rtol=1e-5, atol=1e-5)
            neurons = opened * up if gated else act(up)
            torch.testing.assert_close(seen[f"neurons.{i}"], neurons, rtol=1e-5, atol=1e-5)
            into = capture.backbone.get_submodule(layout.taps[f"mlp.in.{i}"].module)
            given = into(seen[f"mlp.in.{i}"])
            if layout.taps[f"mlp.up.{i}"].half == 1:
                given = given.chunk(2, dim=-1)[1]
            torch.testing.assert_close(given, up, rtol=1e-5, atol=1e-5)
            down = capture.backbone.get_submodule(layout.taps[f"mlp.out.{i}"].module)
            torch.testing.assert_close(
                down(seen[f"neurons.{i}"]), seen[f"mlp.out.{i}"], rtol=1e-5, atol=1e-5
            )


def test_an_edit_of_half_of_a_fused_projection_leaves_the_other_half() -> None:
    model = tiny_model("phi3")
    capture = Capture(model, find_layout(model))
    before, after = _all_sites(capture, tiny_inputs("phi3")), {}
    capture.run(
        tiny_inputs("phi3"),
        ["mlp.gate.1", "mlp.up.1", "neurons.1"],
        lambda s, x: after.update({s: x.clone()}),
        {"mlp.up.1": lambda x: 2 * x},
    )
    assert torch.equal(after["mlp.gate.1"], before["mlp.gate.1"])
    torch.testing.assert_close(after["mlp.up.1"], 2 * before["mlp.up.1"])
    torch.testing.assert_close(after["neurons.1"], 2 * before["neurons.1"])


def test_the_pass_stops_after_the_deepest_site(family: str) -> None:
    model = tiny_model(family)
    capture = Capture(model, find_layout(model))
    ran: list[int] = []
    for i in range(DEPTH):
        path = capture.layout.taps[f"block.{i}"].module
        capture.backbone.get_submodule(path).register_forward_hook(lambda *_, i=i: ran.append(i))
    capture.run(tiny_inputs("llama"), ["block.0", "embed"], lambda *_: None)  # records the order
    ran.clear()
    capture.run(tiny_inputs("llama"), ["block.0", "embed"], lambda *_: None)
    assert set(ran) <= {0}


def test_an_edit_changes_the_last_hidden_state_as_a_hook_does(any_family: str) -> None:
    model = tiny_model(any_family)
    capture = Capture(model, find_layout(model))
    inputs = tiny_inputs(any_family)
    got = capture.hidden(inputs, {"block.1": lambda x: x * 0.5})
    module = capture.backbone.get_submodule(capture.layout.taps["block.1"].module)

    def halve(_m: object, _i: object, out: object) -> object:
        return (out[0] * 0.5, *out[1:]) if isinstance(out, tuple) else out * 0.5  # type: ignore[operator]

    handle = module.register_forward_hook(halve)
    with torch.inference_mode():
        expected = capture.backbone(**inputs).last_hidden_state
    handle.remove()
    assert torch.allclose(got, expected, atol=1e-6)


def test_padding_on_the_right_changes_no_real_token(any_family: str) -> None:
    model = tiny_model(any_family)
    capture = Capture(model, find_layout(model))
    inputs = tiny_inputs(any_family, batch=2, time=9)
    if any_family in VISION:
        return  # images are not padded
    inputs["attention_mask"][1, 5:] = 0
    padded = _sites(capture, inputs)
    single = {k: v[1:, :5] for k, v in inputs.items()}
    for site, alone in _sites(capture, single).items():
        size = max(1.0, float(alone.abs().max()))
        assert torch.allclose(padded[site][1, :5], alone[0], atol=2e-5 * size), site


def test_the_self_check_passes_on_a_right_row(any_family: str) -> None:
    model = tiny_model(any_family)
    layout = find_layout(model)
    assert layout.width == WIDTH
    self_check(Capture(model, layout))


def _wrong_taps(layout: Layout) -> dict[str, Tap]:
    """For each kind of site, a place of a similar shape that is not it."""
    taps = layout.taps
    block = taps["block.0"].module
    wrong = {"neurons.0": taps["mlp.out.0"]}
    wrong["block.2"] = replace(taps["mlp.out.2"], module=taps["block.2"].module, side="input")
    inputs = {"llama": "self_attn.q_proj", "gpt2": "ln_1", "bert": "attention.self.query"}
    if layout.family in inputs:
        wrong["attention.0"] = replace(
            taps["attention.0"], module=f"{block}.{inputs[layout.family]}"
        )
    wrong["mlp.out.0"] = taps["attention.0"]
    wrong["attention.2"] = taps["mlp.out.2"]
    if "final" in taps:
        wrong["final"] = taps["block.1"]
    if "mlp.gate.0" in taps:
        wrong["mlp.gate.0"] = taps["mlp.up.0"]
        wrong["mlp.up.0"] = taps["mlp.gate.0"]
    return wrong


@pytest.mark.parametrize(
    "family", ["llama", "phi3", "modernbert", "gemma2", "bert", "gpt2", "t5", "vit"]
)
def test_the_self_check_names_a_wrong_site(family: str) -> None:
    model = tiny_model(family)
    layout = find_layout(model)
    for site, tap in _wrong_taps(layout).items():
        wrong = replace(layout, taps=dict(layout.taps) | {site: tap})
        # A wrong last block shows as a `final` that is not its norm.
        named = "(block.2|final)" if site == "block.2" else f".*'{site}'"
        with pytest.raises(UsageError, match=f"does not fit this model: site '?{named}"):
            self_check(Capture(model, wrong))


def test_a_row_whose_paths_do_not_exist_or_are_not_attention_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = FAMILIES["llama"]
    for bad, match in (
        (replace(row, blocks="h"), "has blocks at 'h'"),
        (replace(row, attention="mlp.down_proj"), "is not in a module that is called attention"),
    ):
        monkeypatch.setattr("geoprobe.models.families.FAMILIES", {"llama": bad})
        with pytest.raises(UsageError, match=match):
            find_layout(tiny_model("llama"))


@pytest.mark.parametrize(
    ("layers", "sites", "expected"),
    [
        ("0,-1", None, ("block.0", "block.2")),
        ("::2", "embed", ("embed", "block.0", "block.2")),
        (None, "final,embed", ("embed", "final")),
        (None, "block", ("block.0", "block.1", "block.2")),
    ],
)
def test_selection(layers: str | None, sites: str | None, expected: tuple[str, ...]) -> None:
    layout = find_layout(tiny_model("llama"))
    assert layout.select(layers=layers, sites=sites) == expected


@pytest.mark.parametrize(
    ("layers", "sites"), [("7", None), ("x", None), (None, "blok"), ("5:9", None)]
)
def test_a_bad_selection_says_what_there_is(layers: str | None, sites: str | None) -> None:
    with pytest.raises(UsageError, match=r"block|numbered"):
        find_layout(tiny_model("llama")).select(layers=layers, sites=sites)
