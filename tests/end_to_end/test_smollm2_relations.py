"""The neurons of the language of a country, on SmolLM2-135M.

What is claimed was fixed before the facts that judge were looked at: at least 0.6 of the relation's
own facts break, on average less than 0.25 of those of the others, and more than without any of ten
random sets. The whole built-in set is in the benchmarks; here are four relations of two templates.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import geoprobe
from geoprobe.data.facts import builtin_facts
from tests import smollm2

pytestmark = pytest.mark.xdist_group("smollm2")

RELATIONS = ("country_language", "country_capital", "verb_past", "landmark_country")


def test_language_neurons_break_languages_and_little_else(tmp_path: Path) -> None:
    model, tokenizer = smollm2.loaded()
    folder = tmp_path / "facts"
    folder.mkdir()
    for relation in builtin_facts():
        if relation.name in RELATIONS:
            (folder / f"{relation.name}.json").write_text(
                json.dumps(
                    {
                        "name": relation.name,
                        "prompt_templates": relation.templates[:2],
                        "samples": [
                            {"subject": fact.subject, "object": list(fact.objects)}
                            for fact in relation.facts
                        ],
                    }
                )
            )
    run = geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        probes=("relations",),
        facts=str(folder),
        held_out=16,
        cumulative=(394,),
        perplexity_sequences=0,
        sequences=2,
        length=16,
        out=tmp_path / "run",
    )
    used = {f["relation"]: f["k"] for f in run.findings if f["kind"] == "relation" and f["k"]}
    assert set(used) >= {"country_language", "country_capital"}
    k = used["country_language"]
    assert k == round(0.0036 * 109_440)
    drops = run.readings.filter(
        (pl.col("measure") == "accuracy_drop")
        & (pl.col("convention") == "known")
        & (pl.col("module") == "all")
        & (pl.col("deactivated") == "country_language")
    )
    own = drops.filter(pl.col("relation") == "country_language")["value"].item()
    others = drops.filter(pl.col("relation") != "country_language")["value"]
    random = run.readings.filter(
        (pl.col("measure") == "accuracy_drop_random")
        & (pl.col("relation") == "country_language")
        & pl.col("draw").is_not_null()
    )["value"]
    assert own >= 0.6
    assert len(others) == len(used) - 1
    assert others.mean() < 0.25
    assert len(random) == 10
    assert own > random.max()
