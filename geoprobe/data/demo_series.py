"""The demo series shipped in the package: a small language model at steps of its training.

`scripts/train_demo.py` of the repository made all of it. The folder holds `checkpoints/step-NNNNN`
(weights in bfloat16) with the tokenizer beside them, `text.jsonl` (documents the model was not
trained on) and `facts/` (one relation a file).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from geoprobe.errors import UsageError


def demo_folder() -> Path:
    """The folder of the checkpoints, which also holds their tokenizer.

    Raises:
        UsageError: This installation was made without the demo series.
    """
    return _shipped("checkpoints")


def demo_text_path() -> Path:
    """The held-out text, a `.jsonl` file with one document in the field `text` of each line.

    Raises:
        UsageError: This installation was made without the demo series.
    """
    return _shipped("text.jsonl")


def demo_facts_folder() -> Path:
    """The folder of the facts: `name`, `prompt_templates` and `samples`, one relation a file.

    Raises:
        UsageError: This installation was made without the demo series.
    """
    return _shipped("facts")


def _shipped(name: str) -> Path:
    # A Path, not a Traversable: checkpoints are folders that other libraries open by name, and
    # wheels are always unpacked.
    path = Path(str(files("geoprobe.data") / "demo" / name))
    if not path.exists():
        raise UsageError(
            f"The demo series is missing from this installation ({path} is not there); install "
            "geoprobe from a wheel or a full checkout, or name a folder of checkpoints instead."
        )
    return path
