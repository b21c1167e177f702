"""Direction ablation against a plain computation over single documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoprobe.errors import UsageError
from geoprobe.probes.ablation import AblationOptions, AblationStudy, plan
from geoprobe.runs.reading import Reading
from tests.conftest import WIDTH, tiny_model
from tests.probes import plain
from tests.probes.test_spectrum import documents, survey_with


def study(model: object, texts: list[list[int]], ks: tuple[int, ...]) -> list[Reading]:
    chosen = plan(AblationOptions(ks))
    assert chosen is not None
    return survey_with(model, texts, [chosen]).readings


def expected(
    model: torch.nn.Module, texts: list[list[int]], k: int, mode: str
) -> tuple[float, float]:
    """Loss and accuracy by NumPy on transformers' own hidden states and head."""
    finals = plain.hidden_states(model, texts)["final"]
    rows = np.concatenate(finals)
    mean = rows.mean(0)
    _, _, vt = np.linalg.svd(rows - mean, full_matrices=False)
    v = vt[:k].T
    head = model.get_output_embeddings().weight.detach().double().numpy()  # type: ignore[operator]
    losses, hits = [], []
    for hidden, text in zip(finals, texts, strict=True):
        along = (hidden - mean) @ v @ v.T
        edited = {"none": hidden, "removed": hidden - along, "kept": mean + along}[mode]
        logits = (edited @ head.T)[:-1]
        targets = np.array(text[1:])
        top = logits.max(1, keepdims=True)
        log_norm = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        losses += list(log_norm - logits[np.arange(len(targets)), targets])
        hits += list(logits.argmax(1) == targets)
    return float(np.mean(losses)), float(np.mean(hits))


@pytest.mark.parametrize("k", [1, 7])
def test_losses_equal_the_definition_written_out(family: str, k: int) -> None:
    model, texts = tiny_model(family), documents(30)
    found = study(model, texts, (k,))
    assert [(r.measure, r.keys["mode"], r.keys["k"]) for r in found] == [
        (measure, mode, at)
        for mode, at in (("none", 0), ("removed", k), ("kept", k))
        for measure in ("ablation_loss", "ablation_accuracy")
    ]
    for reading in found:
        loss, accuracy = expected(model, texts, k, str(reading.keys["mode"]))
        value = loss if reading.measure == "ablation_loss" else accuracy
        assert reading.value == pytest.approx(value, rel=1e-3, abs=1e-4)
        assert reading.n == sum(len(t) - 1 for t in texts)
        assert reading.stderr is not None


def test_what_is_removed_and_what_is_kept_add_up() -> None:
    """With every direction kept nothing changes: k = d - 1 of a rank-deficient final."""
    model, texts = tiny_model("llama"), documents(6, longest=5)
    k = sum(map(len, texts)) - 1
    assert k < WIDTH
    found = {(r.measure, r.keys["mode"]): r.value for r in study(model, texts, (k,))}
    assert found[("ablation_loss", "kept")] == pytest.approx(
        found[("ablation_loss", "none")], rel=1e-4
    )


@pytest.mark.parametrize("ks", [(0,), (-3,), (10, 0)])
def test_less_than_one_direction_is_a_mistake(ks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="from 1"):
        AblationStudy(ks)


def test_more_directions_than_there_are_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=f"{WIDTH} dimensions"):
        study(tiny_model("llama"), documents(8), (WIDTH,))


def test_not_asked_for_it_takes_no_part() -> None:
    assert plan(AblationOptions()) is None


def test_a_model_without_a_head_is_told_so_before_the_pass() -> None:
    with pytest.raises(UsageError, match="without a language-model head"):
        study(tiny_model("llama").model, documents(8), (3,))
