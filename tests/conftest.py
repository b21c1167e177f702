"""Shared fixtures: tiny models of each family, hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
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


WORDS = tuple(f"w{i}" for i in range(VOCABULARY - 3))
"""The words that `tiny_tokenizer` knows."""


def tiny_tokenizer() -> Any:
    """A word-level tokenizer of `VOCABULARY` ids that puts <s> in front, as Llama's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )


def tiny_text(n: int, seed: int = 0, longest: int = 14) -> list[str]:
    """Documents of random known words, 2 to `longest` - 1 long."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(2, longest))) for _ in range(n)]


def write_series(folder: Path, steps: Iterable[int], family: str = "llama") -> Path:
    """A folder of tiny checkpoints `step-N`, each another random model, with a tokenizer."""
    for step in steps:
        tiny_model(family, seed=step).save_pretrained(folder / f"step-{step}")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiny checkpoints; tests that change one copy the folder first."""
    return write_series(tmp_path_factory.mktemp("series") / "tiny", (0, 1, 10, 100))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from geoprobe.cli import main

        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["geoprobe", *map(str, arguments)])
            with pytest.raises(SystemExit) as stopped:
                main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run
