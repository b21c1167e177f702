"""Models of odd shapes are measured, or refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoprobe.data.corpus import Corpus
from geoprobe.errors import GeoprobeError
from geoprobe.models.capture import Capture
from geoprobe.models.layout import find_layout
from geoprobe.models.loading import Loaded
from geoprobe.models.selfcheck import self_check
from geoprobe.probes.spectral import SpectrumOptions
from geoprobe.probes.spectrum import plan
from geoprobe.survey import measure_model
from tests.tiny_families import CONFIGS, tiny_model

_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "width": ("hidden_size", "n_embd", "d_model"),
}


def _changes(family: str, layers: int, width: int, tied: bool, vocabulary: int) -> dict[str, Any]:
    """The family's own names for a shape of one head."""
    known = CONFIGS[family][1]
    found: dict[str, Any] = {"vocab_size": vocabulary, "tie_word_embeddings": tied}
    for what, value in (("layers", layers), ("heads", 1), ("width", width)):
        found |= {name: value for name in _NAMES[what] if name in known}
    for name, value in (
        ("num_key_value_heads", 1),
        ("head_dim", width),
        ("word_embed_proj_dim", width),
        ("rotary_dim", 2),
        ("d_kv", width),
        ("layer_types", None),
    ):
        if name in known:
            found[name] = value
    return found


def _measure(model: Any) -> None:
    layout = find_layout(model)
    capture = Capture(model, layout)
    self_check(capture)
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, layout.vocabulary, draw.integers(2, 6)).tolist() for _ in range(12)]
    outcome = measure_model(
        Loaded(model, layout, in_place=False),
        capture,
        Corpus.from_ids(ids, pad_id=1, source="test"),
        [plan(SpectrumOptions(tokens=("last", "first", "all")))],
        batch_size=5,
        seed=0,
        memory=1 << 30,
    )
    for reading in outcome.readings:
        assert reading.value is not None or reading.reason
        assert reading.value is None or np.isfinite(reading.value)


@settings(max_examples=60)
@given(
    family=st.sampled_from([f for f in CONFIGS if f != "gemma3"]),
    layers=st.sampled_from([1, 2]),
    width=st.sampled_from([2, 6, 22, 34]),
    tied=st.booleans(),
    vocabulary=st.sampled_from([3, 64]),
)
def test_any_shape_is_measured_or_refused_in_a_sentence(
    family: str, layers: int, width: int, tied: bool, vocabulary: int
) -> None:
    changes = _changes(family, layers, width, tied, vocabulary)
    try:
        model = tiny_model(family, **changes)
    except Exception:
        return  # transformers itself refuses the shape
    try:
        with torch.no_grad():
            model(torch.tensor([[0, 1, 2]]))
    except Exception:
        return  # it can be built, but not run
    said = "."
    try:
        _measure(model)
    except GeoprobeError as error:
        said = str(error)
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
        ("opt", {"_remove_final_layer_norm": True}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("falcon", {"parallel_attn": False, "alibi": True}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
        ("bloom", {"apply_residual_connection_post_layernorm": True}),
        ("t5", {"feed_forward_proj": "relu"}),
        ("qwen3_moe", {"mlp_only_layers": [0]}),
        ("olmo2", {"num_hidden_layers": 1}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ],
)
def test_the_variants_of_a_family_are_measured(family: str, changes: dict[str, Any]) -> None:
    _measure(tiny_model(family, **changes))
