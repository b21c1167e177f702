"""How sinks form and what they do: a planted model, and plain hooks on models of other families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geoprobe
from geoprobe.data.corpus import Corpus
from geoprobe.errors import UsageError
from geoprobe.models.capture import Capture
from geoprobe.models.layout import find_layout
from geoprobe.models.loading import Loaded
from geoprobe.probes.base import Outcome
from geoprobe.probes.sinks import SinksOptions, plan
from geoprobe.survey import measure_model
from tests.tiny_families import tiny_model

SINK, SECOND = 5, 9
"""Token that begins every document, and one that goes the same way."""
WRITES = 1
"""Block whose MLP makes them sinks."""


def planted() -> Any:
    """A model whose second block writes one direction for two tokens.

    One neuron fires where the tokens' common direction is; its column of the down-projection is
    what it writes.
    """
    model = tiny_model("llama")
    layers = model.model.layers
    draw = torch.Generator().manual_seed(3)
    common, written = (
        torch.nn.functional.normalize(torch.randn(layers[0].hidden_size, generator=draw), dim=0)
        for _ in range(2)
    )
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding -= (embedding @ common)[:, None] * common
        spread = embedding.norm(dim=1).mean()
        embedding[SINK] = 0.2 * embedding[SINK] + 3 * spread * common
        embedding[SECOND] = 0.4 * embedding[SECOND] + 3 * spread * common
        for layer in layers:
            layer.mlp.down_proj.weight *= 0.05
            layer.self_attn.o_proj.weight *= 0.05
        mlp = layers[WRITES].mlp
        mlp.gate_proj.weight[0] = 2.0 * common
        mlp.up_proj.weight[0] = 2.0 * common
        mlp.down_proj.weight[:, 0] = 0.3 * spread * written
    return model


def documents() -> list[list[int]]:
    draw = np.random.default_rng(2)
    others = list(range(10, 64))
    rows = []
    for n in range(20):
        ids = [SINK, *draw.choice(others, 8).tolist(), SECOND, *draw.choice(others, 5).tolist()]
        rows.append(ids[: 15 - n % 3])
    return rows


def measured(model: Any, **options: Any) -> Outcome:
    layout = find_layout(model)
    return measure_model(
        Loaded(model, layout, in_place=False),
        Capture(model, layout),
        Corpus.from_ids(documents(), pad_id=1, source="test"),
        [plan(SinksOptions(**options))],
        batch_size=8,
        seed=0,
        memory=1 << 30,
    )


def of_kind(outcome: Outcome, kind: str) -> list[dict[str, Any]]:
    return [finding for finding in outcome.findings if finding["kind"] == kind]


def loud(family: str) -> Any:
    """A model that two tokens go through in the same direction, much longer than the others."""
    model = tiny_model(family)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[SINK] *= 300
        embedding[SECOND] += embedding[SINK] * 0.5
    return model


WHERE = {
    "llama": ("model.layers.{}", "mlp"),
    "gemma2": ("model.layers.{}", "post_feedforward_layernorm"),
    "olmo2": ("model.layers.{}", "post_feedforward_layernorm"),
    "gptj": ("transformer.h.{}", "mlp"),
    "gpt_neox": ("gpt_neox.layers.{}", "mlp"),
}
"""Blocks, and what each of them adds for its MLP."""


class Plain:
    """One document through a model with plain hooks and eager attention.

    Args:
        model: The model.
        family: Its family.
    """

    def __init__(self, model: Any, family: str) -> None:
        self.model = model
        for module in model.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation_internal = "eager"
        path, self.mlp = WHERE[family]
        self.blocks = [model.get_submodule(path.format(i)) for i in range(3)]

    def run(
        self, ids: list[int], layer: int = 0, edit: Any = None
    ) -> tuple[list[Tensor], list[Tensor], Tensor, float]:
        """Block outputs and MLP outputs (time, d), maps (layers, heads, t, t), summed loss."""
        states, written = [], []

        def state(_: Any, __: Any, out: Any) -> None:
            states.append((out[0] if isinstance(out, tuple) else out)[0])

        def wrote(module: Any, _: Any, out: Tensor) -> Tensor:
            if edit is not None and module is mine:
                out = edit(out.clone())
            written.append(out[0])
            return out

        mine = self.blocks[layer].get_submodule(self.mlp)
        handles = [block.register_forward_hook(state) for block in self.blocks]
        handles += [b.get_submodule(self.mlp).register_forward_hook(wrote) for b in self.blocks]
        tensor = torch.tensor([ids])
        with torch.no_grad():
            out = self.model(tensor, output_attentions=True)
        for handle in handles:
            handle.remove()
        loss = torch.nn.functional.cross_entropy(out.logits[0, :-1], tensor[0, 1:], reduction="sum")
        return states, written, torch.stack(out.attentions)[:, 0].double(), float(loss)


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


@pytest.mark.parametrize("family", list(WHERE))
def test_formation_and_effects_are_those_of_plain_hooks(family: str) -> None:
    model = planted() if family == "llama" else loud(family)
    outcome = measured(model, causal=True)
    level = next(f for f in of_kind(outcome, "level") if SECOND in f["token_ids"])
    at = {"l_start": level["l_start"], "lifetime": level["lifetime"]}
    plain = Plain(model, family)
    spans = next(f["spans"] for f in outcome.findings if f["kind"] == "primary")
    primary = {"of": "primary", "l_start": spans[0][0], "lifetime": spans[0][1] - spans[0][0]}
    for group in ({"of": "level", **at}, primary):
        first, lives = group["l_start"], group["lifetime"]
        formed = next(f for f in of_kind(outcome, "formation") if group.items() <= f.items())
        trials = [f for f in of_kind(outcome, "causal") if group.items() <= f.items()]
        course = outcome.arrays[f"sinks/formation/{group['of']}-{first}-{lives}"]
        assert trials
        layers = range(first + 1, min(first + lives + 1, 3))
        along: list[list[float]] = []
        lengths: list[list[float]] = []
        scores, losses = np.zeros((len(trials), 2)), np.zeros((len(trials), 2))
        targets = 0
        for ids in documents():
            places = [i for i, token in enumerate(ids) if token == SECOND]
            places = [0] if group["of"] == "primary" else places
            states, written, maps, loss = plain.run(ids)
            direction = unit(states[first][0])
            targets += len(ids) - 1
            for place in places:
                sign = float(torch.sign(states[first][place] @ direction))
                along.append(
                    [sign * float(unit(w[place]) @ direction) for w in written[: first + 1]]
                )
                lengths.append([sign * float(w[place] @ direction) for w in written[: first + 1]])
            for i, trial in enumerate(trials):

                def edit(out: Tensor, places: Any = places, u: Tensor = direction) -> Tensor:
                    for place in places:
                        out[0, place] -= (out[0, place] @ u) * u
                    return out

                _, _, edited, after = plain.run(ids, trial["layer"], edit)
                losses[i] += loss, after
                for j, seen in enumerate((maps, edited)):
                    for place in places:
                        scores[i, j] += float(seen[list(layers)][:, :, place:, place].mean())
        assert formed["count"] == len(along)
        np.testing.assert_allclose(course[0], np.mean(along, 0), atol=2e-5)
        np.testing.assert_allclose(course[1], np.mean(lengths, 0), rtol=1e-4, atol=1e-4)
        assert formed["most"]["layer"] == int(np.mean(lengths, 0).argmax())
        for i, trial in enumerate(trials):
            if layers:
                found = [trial["sink_score"][name] for name in ("before", "after")]
                np.testing.assert_allclose(found, scores[i] / len(along), atol=2e-5)
            else:
                assert trial["sink_score"] is None, "no attention reads the last block"
            if family == "gemma2":  # it caps its logits, which the head alone does not
                assert trial["loss"] is None
                continue
            found = [trial["loss"][name] for name in ("before", "after")]
            np.testing.assert_allclose(found, losses[i] / targets, rtol=1e-5)
            change = trial["loss"]["change"]
            assert change == pytest.approx((losses[i, 1] - losses[i, 0]) / targets, abs=1e-5)


def test_a_planted_neuron_is_found_and_what_it_does_is_undone() -> None:
    outcome = measured(planted(), causal=True)
    levels = [f for f in of_kind(outcome, "formation") if f["of"] == "level"]
    assert len(levels) == 1
    formed = levels[0]
    assert formed["first"]["layer"] == formed["most"]["layer"] == WRITES
    assert formed["first"]["share"] == 1.0
    assert formed["output_along"] > 0.99
    # One neuron fires: from the product on, both tokens are the same but for their length.
    assert list(formed["cosine"]) == ["input", "gate", "activation", "up", "product", "output"]
    assert formed["cosine"]["product"] > 0.9999
    assert formed["cosine"]["output"] > 0.9999
    assert formed["cosine"]["input"] < formed["cosine"]["product"]
    for trial in of_kind(outcome, "causal"):
        assert trial["layer"] == WRITES
        assert trial["sequences"] == 20
        for what in ("sink_score", "loss"):
            assert abs(trial[what]["control"]) < 1e-2 * max(abs(trial[what]["change"]), 1e-2)


def test_an_mlp_that_writes_nothing_of_it_is_not_said_to_write_first() -> None:
    outcome = measured(loud("llama"))
    for formed in of_kind(outcome, "formation"):
        assert formed["first"] is None, "the embedding makes these sinks, no MLP does"
        assert formed["most"] is None or 0 < formed["most"]["cosine"] < 0.9
    against = measured(loud("gpt2"), causal=True)
    formed = next(f for f in of_kind(against, "formation") if f["of"] == "primary")
    name = f"sinks/formation/primary-{formed['l_start']}-{formed['lifetime']}"
    assert (against.arrays[name][1] < 0).all(), "its MLPs write against it"
    assert formed["most"] is None
    tried = [(f["of"], f["l_start"], f["lifetime"]) for f in of_kind(against, "causal")]
    assert ("primary", formed["l_start"], formed["lifetime"]) not in tried


def test_without_a_gate_there_are_four_parts_and_with_experts_two() -> None:
    for family, parts in (
        ("gpt_neox", ["input", "up", "product", "output"]),
        ("mixtral", ["input", "output"]),
    ):
        outcome = measured(loud(family))
        level = next(f for f in of_kind(outcome, "formation") if f["of"] == "level")
        assert list(level["cosine"]) == parts


def test_a_model_that_only_one_thing_can_be_asked_of_is_asked_that() -> None:
    outcome = measured(tiny_model("mamba"), causal=True)
    assert not of_kind(outcome, "causal")
    assert any(f["code"] == "no_causal" for f in of_kind(outcome, "warning"))
    model = loud("gemma2")
    outcome = measured(model, causal=True)
    assert any(f["code"] == "no_causal_loss" for f in of_kind(outcome, "warning"))
    assert all(f["loss"] is None and f["sink_score"] for f in of_kind(outcome, "causal"))


def test_causal_and_levels_alone_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--causal edits the model"):
        geoprobe.measure("demo", probes=["sinks"], causal=True, levels_only=True)
