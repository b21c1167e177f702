"""Shared fixtures: tiny models of each family, hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck)
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WIDTH, DEPTH, VOCABULARY = 32, 3, 64


def _configs() -> dict[str, Callable[[], Any]]:
    import transformers as t

    llama_like = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    qwen3 = {**llama_like, "head_dim": 8}
    neox = {k: v for k, v in llama_like.items() if k != "num_key_value_heads"}
    gpt2 = {"n_embd": WIDTH, "n_layer": DEPTH, "n_head": 4, "vocab_size": VOCABULARY}
    return {
        "llama": lambda: t.LlamaConfig(**llama_like),
        "mistral": lambda: t.MistralConfig(**llama_like),
        "qwen2": lambda: t.Qwen2Config(**llama_like),
        "qwen3": lambda: t.Qwen3Config(**qwen3),
        "gpt_neox": lambda: t.GPTNeoXConfig(**neox),
        "gpt2": lambda: t.GPT2Config(**gpt2, bos_token_id=0, eos_token_id=1),
    }


FAMILIES = tuple(_configs())


def tiny_model(family: str, seed: int = 0) -> Any:
    """A random model of a family, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_configs()[family]()).eval()
    # The default initialisation is so small that every layer looks like the identity.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
