"""Shared fixtures: tiny models of each family, hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.tiny_families import CONFIGS, CORE, DEPTH, VOCABULARY, WIDTH, tiny_model

pytest_plugins = "pytester"
__all__ = ["DEPTH", "VOCABULARY", "WIDTH", "tiny_model"]

settings.register_profile(
    "default", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck)
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(params=CORE)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=tuple(CONFIGS))
def any_family(request: pytest.FixtureRequest) -> str:
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
