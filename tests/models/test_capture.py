"""Sites by the layout table and nnsight, against transformers' hidden states and hooks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from geoprobe.errors import UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.layout import Tap, find_layout
from geoprobe.models.selfcheck import self_check
from tests.conftest import DEPTH, VOCABULARY, WIDTH, tiny_model


def _inputs(batch: int = 3, time: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _sites(capture: Capture, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    capture.run(inputs, capture.layout.sites, lambda s, x: seen.update({s: x.clone()}))
    return seen


def test_every_site_equals_the_models_own_hidden_states(family: str) -> None:
    model = tiny_model(family)
    capture = Capture(model, find_layout(model))
    inputs = _inputs()
    seen = _sites(capture, inputs)
    assert list(seen) == ["embed", *(f"block.{i}" for i in range(DEPTH)), "final"]
    last_block: list[torch.Tensor] = []
    module = capture.backbone.get_submodule(capture.layout.taps[f"block.{DEPTH - 1}"].module)
    handle = module.register_forward_hook(
        lambda _m, _i, out: last_block.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.inference_mode():
        out = model(**inputs, output_hidden_states=True)
    handle.remove()
    for i, hidden in enumerate(out.hidden_states[:-1]):
        name = "embed" if i == 0 else f"block.{i - 1}"
        assert torch.equal(seen[name], hidden), name
    assert torch.equal(seen[f"block.{DEPTH - 1}"], last_block[0])
    assert torch.equal(seen["final"], out.hidden_states[-1])
    assert not torch.equal(seen["final"], seen[f"block.{DEPTH - 1}"])


def test_the_pass_stops_after_the_deepest_site(family: str) -> None:
    model = tiny_model(family)
    capture = Capture(model, find_layout(model))
    ran: list[int] = []
    for i in range(DEPTH):
        path = capture.layout.taps[f"block.{i}"].module
        capture.backbone.get_submodule(path).register_forward_hook(lambda *_, i=i: ran.append(i))
    capture.run(_inputs(), ["block.0", "embed"], lambda *_: None)  # records the order
    ran.clear()
    capture.run(_inputs(), ["block.0", "embed"], lambda *_: None)
    assert set(ran) <= {0}


def test_an_edit_changes_the_last_hidden_state_as_a_hook_does(family: str) -> None:
    model = tiny_model(family)
    capture = Capture(model, find_layout(model))
    inputs = _inputs()
    got = capture.hidden(inputs, {"block.1": lambda x: x * 0.5})
    module = capture.backbone.get_submodule(capture.layout.taps["block.1"].module)

    def halve(_m: object, _i: object, out: object) -> object:
        return (out[0] * 0.5, *out[1:]) if isinstance(out, tuple) else out * 0.5  # type: ignore[operator]

    handle = module.register_forward_hook(halve)
    with torch.inference_mode():
        expected = capture.backbone(**inputs, use_cache=False).last_hidden_state
    handle.remove()
    assert torch.allclose(got, expected, atol=1e-6)


def test_padding_on_the_right_changes_no_real_token(family: str) -> None:
    model = tiny_model(family)
    capture = Capture(model, find_layout(model))
    inputs = _inputs(batch=2, time=9)
    inputs["attention_mask"][1, 5:] = 0
    padded = _sites(capture, inputs)
    single = {k: v[1:, :5] for k, v in inputs.items()}
    for site, alone in _sites(capture, single).items():
        assert torch.allclose(padded[site][1, :5], alone[0], atol=2e-5), site


def test_the_self_check_passes_on_a_right_row_and_names_a_wrong_site(family: str) -> None:
    model = tiny_model(family)
    layout = find_layout(model)
    self_check(Capture(model, layout))
    assert layout.width == WIDTH
    wrong = dict(layout.taps)
    wrong["final"] = Tap(layout.taps["block.1"].module, "output")
    with pytest.raises(UsageError, match="'final' is wrong"):
        self_check(Capture(model, replace(layout, taps=wrong)))


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
