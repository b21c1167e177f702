"""The demo series as shipped: its size, what it learned, and that the repository can make it."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy

from geoprobe.data.demo_series import demo_facts_folder, demo_folder, demo_text_path
from geoprobe.measures.phases import phases

SCRIPTS = Path(__file__).parents[2] / "scripts"
MEGABYTE = 1_000_000


def steps() -> list[int]:
    found = [re.search(r"step-?(\d+)", folder.name) for folder in demo_folder().iterdir()]
    return sorted(int(match[1]) for match in found if match)


def folder_of(step: int) -> Path:
    return demo_folder() / f"step-{step:05d}"


@cache
def world() -> Any:
    spec = importlib.util.spec_from_file_location("demo_world", SCRIPTS / "demo_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_world"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@cache
def training_documents() -> list[str]:
    return list(world().training_documents())


@cache
def texts() -> list[str]:
    with demo_text_path().open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@cache
def facts() -> dict[str, dict[str, Any]]:
    files = sorted(demo_facts_folder().glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_folder())


@cache
def model(step: int) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder_of(step), dtype=torch.float32).eval()


def held_out_loss(step: int) -> float:
    """Nats a token over the first 200 held-out documents."""
    total, count = 0.0, 0
    for start in range(0, 200, 100):
        ids = [
            torch.tensor(tokenizer()(text)["input_ids"]) for text in texts()[start : start + 100]
        ]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        with torch.no_grad():
            logits = model(step)(input_ids=padded, use_cache=False).logits
        wanted = padded[:, 1:].masked_fill(padded[:, 1:] == 0, -100)
        total += cross_entropy(logits[:, :-1].transpose(1, 2), wanted, reduction="sum").item()
        count += int((wanted != -100).sum())
    return total / count


def share_known(step: int, relation: dict[str, Any]) -> float:
    """Share of prompts whose greedy continuation is the object, word for word."""
    prompts: dict[int, list[tuple[list[int], str]]] = {}
    for template in relation["prompt_templates"]:
        for sample in relation["samples"]:
            ids = tokenizer()(template.format(sample["subject"]))["input_ids"]
            prompts.setdefault(len(ids), []).append((ids, sample["object"]))
    right = 0
    for length, group in prompts.items():
        ids = torch.tensor([prompt for prompt, _ in group])
        with torch.no_grad():
            for _ in range(2):
                said = model(step)(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
                ids = torch.cat([ids, said[:, None]], dim=1)
        for row, (_, wanted) in zip(ids, group, strict=True):
            said_words = tokenizer().decode(row[length:]).strip(" .").split()
            right += said_words[: len(wanted.split())] == wanted.split()
    return right / sum(map(len, prompts.values()))


def test_the_series_is_at_least_twelve_checkpoints_evenly_spaced_in_the_logarithm() -> None:
    found = steps()
    assert len(found) >= 12
    assert found[0] == 0
    gaps = [math.log(later / earlier) for earlier, later in pairwise(found[1:])]
    assert max(gaps) <= math.log(2.0) + 1e-9
    assert min(gaps) >= math.log(1.25)


def test_everything_shipped_is_at_most_sixteen_megabytes() -> None:
    everything = demo_text_path().parent.rglob("*")
    assert sum(path.stat().st_size for path in everything if path.is_file()) <= 16 * MEGABYTE


def test_checkpoints_hold_a_config_and_half_a_million_bfloat16_weights_and_nothing_else() -> None:
    for step in steps():
        folder = folder_of(step)
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
        assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
        assert 450_000 <= sum(tensor.numel() for tensor in tensors) <= 600_000
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)


def test_the_tokenizer_begins_with_bos_and_gives_the_text_back() -> None:
    ids = tokenizer()(texts()[0])["input_ids"]
    assert ids[0] == tokenizer().bos_token_id
    assert tokenizer().pad_token_id not in ids
    for text in texts()[:50]:
        ids = tokenizer()(text)["input_ids"]
        assert tokenizer().decode(ids, skip_special_tokens=True).strip() == text
        assert tokenizer().unk_token_id not in ids


def test_a_word_the_tokenizer_does_not_know_is_spelled_out() -> None:
    ids = tokenizer()("Zebrafish 42!", add_special_tokens=False)["input_ids"]
    assert tokenizer().unk_token_id not in ids
    assert tokenizer().decode(ids).strip() == "Zebrafish 42!"


def test_texts_are_many_short_and_different() -> None:
    lengths = [len(tokenizer()(text)["input_ids"]) for text in texts()]
    assert 1000 <= len(texts()) <= 2000
    assert len(set(texts())) == len(texts())
    assert min(lengths) >= 16
    assert max(lengths) <= 70
    assert len(set(lengths)) > 20


@pytest.mark.timeout(60)
def test_no_held_out_text_begins_like_a_training_document() -> None:
    fewest = min(len(text.split()) for text in texts())
    openings = {tuple(document.split()[:fewest]) for document in training_documents()}
    assert len(openings) > 15_000
    assert not [text for text in texts() if tuple(text.split()[:fewest]) in openings]


def test_the_repository_makes_the_text_and_the_facts_that_are_shipped() -> None:
    assert world().held_out_documents(training_documents()) == texts()
    assert {relation.name for relation in world().RELATIONS} == set(facts())
    for relation in world().RELATIONS:
        shipped = facts()[relation.name]
        assert shipped["name"] == relation.name
        assert shipped["prompt_templates"] == list(relation.templates)
        assert [(s["subject"], s["object"]) for s in shipped["samples"]] == list(relation.samples)


def test_the_same_seed_gives_the_same_text_in_another_process() -> None:
    # A new process has other string hashes, so an order taken from a set would show.
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from demo_world import Writer; "
        "w = Writer('seed'); print([w.document(30) for _ in range(200)])"
    )
    once, again = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        for _ in range(2)
    )
    assert once.stdout == again.stdout
    assert once.stdout.count("'") + once.stdout.count('"') >= 400


def test_facts_are_at_least_six_relations_of_one_or_two_tokens() -> None:
    large = [fact for fact in facts().values() if len(fact["samples"]) >= 30]
    assert len(large) >= 6
    for fact in facts().values():
        subjects = [sample["subject"] for sample in fact["samples"]]
        assert len(set(subjects)) == len(subjects)
        assert all(template.count("{}") == 1 for template in fact["prompt_templates"])
        for sample in fact["samples"]:
            ids = tokenizer()(sample["object"], add_special_tokens=False)["input_ids"]
            assert 1 <= len(ids) <= 2


def test_held_out_loss_falls_from_that_of_guessing_to_under_a_fifth() -> None:
    first, last = held_out_loss(steps()[0]), held_out_loss(steps()[-1])
    assert first == pytest.approx(math.log(len(tokenizer())), rel=0.05)
    assert last < 0.2 * first


def test_the_last_checkpoint_knows_the_facts_and_the_first_does_not() -> None:
    before = {name: share_known(steps()[0], fact) for name, fact in facts().items()}
    after = {name: share_known(steps()[-1], fact) for name, fact in facts().items()}
    assert max(before.values()) < 0.05, before
    assert sum(share >= 0.8 for share in after.values()) >= 8, after


@cache
def texts_of_equal_length() -> list[torch.Tensor]:
    """Token ids of 600 texts, in batches without padding."""
    by_length: dict[int, list[list[int]]] = {}
    for text in texts()[:600]:
        ids = tokenizer()(text, truncation=True, max_length=128)["input_ids"]
        by_length.setdefault(len(ids), []).append(ids)
    return [torch.tensor(group) for group in by_length.values()]


def last_token_features(step: int) -> np.ndarray:
    """`final` at the last token of 600 texts (n, d)."""
    features = []
    for group in texts_of_equal_length():
        with torch.no_grad():
            hidden = model(step).model(input_ids=group, use_cache=False).last_hidden_state
        features.append(hidden[:, -1].double().numpy())
    return np.concatenate(features)


def rankme_by_hand(features: np.ndarray) -> float:
    variances = np.linalg.eigvalsh(np.cov(features.T))
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def test_the_spectrum_passes_through_warmup_and_entropy_seeking() -> None:
    chosen = [step for step in steps() if step in (0, 16, 32, 64, 256) or step == steps()[-1]]
    heights, errors = [], []
    for step in chosen:
        features = last_token_features(step)
        group = np.arange(len(features)) % 8
        parts = [rankme_by_hand(features[group != g]) for g in range(8)]
        heights.append(rankme_by_hand(features))
        errors.append(np.std(parts) * math.sqrt(7))
    found = phases(
        [math.log(1 + step) for step in chosen],
        [math.log(height) for height in heights],
        [error / height for error, height in zip(errors, heights, strict=True)],
        [None] * len(heights),
    )
    assert [phase.name for phase in found][:2] == ["warmup", "entropy-seeking"]
    assert found[0].change < -1.0
    assert found[1].change > 1.0


def test_finding_the_demo_imports_no_torch() -> None:
    code = (
        "import sys; from geoprobe.data.demo_series import demo_folder; demo_folder(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
