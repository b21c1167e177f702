"""A model's geometry as a test: `pytest`, and `pytest --geoprobe-update` where a change is meant.

The fixture comes with geoprobe. Baselines are beside this file; put them into git.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geoprobe.integrations.pytest_plugin import GeoprobeCheck

HERE = Path(__file__).parent


def test_a_checkpoint(geoprobe_check: GeoprobeCheck) -> None:
    """The newest checkpoint of a folder."""
    geoprobe_check(HERE / "checkpoints", baseline="checkpoint.json", text=HERE / "corpus.jsonl")


def test_a_live_model(geoprobe_check: GeoprobeCheck) -> None:
    """A model in memory, and what the test asks of one reading besides."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = HERE / "checkpoints" / "step-1"
    found = geoprobe_check(
        AutoModelForCausalLM.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder.parent),
        baseline="live.json",
        text=HERE / "corpus.jsonl",
        probes=["spectrum"],
    )
    rankme = found.run.readings.filter(measure="rankme", site="final")["value"].item()
    assert rankme > 2, "the last layer has collapsed"
