"""A small model is trained with HF Trainer and ranked while its last checkpoint is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import geoprobe
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output_dir of HF Trainer with checkpoint-3 ... checkpoint-12."""
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("trained") / "output"
    tokenizer = tiny_tokenizer()
    rows = tokenizer(tiny_text(64, longest=12), padding=True, return_tensors="pt")

    class Rows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 64

        def __getitem__(self, i: int) -> dict[str, Any]:
            ids = rows["input_ids"][i]
            return {"input_ids": ids, "attention_mask": rows["attention_mask"][i], "labels": ids}

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        save_steps=3,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    Trainer(
        model=tiny_model("llama"),
        args=arguments,
        train_dataset=Rows(),
        processing_class=tokenizer,
    ).train()
    return folder


def test_the_checkpoint_being_written_is_skipped_with_a_word(
    trained: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "output"
    shutil.copytree(trained, folder)
    weights = folder / "checkpoint-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])  # the Trainer is not done with it
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "{t}"}}\n' for t in tiny_text(40)))
    out = tmp_path / "run"
    code, _, err = cli("rank", folder, "--text", text, "--out", out)
    assert code == 0, err
    assert "checkpoint-12" in err
    assert geoprobe.open(out).labels == ["checkpoint-3", "checkpoint-6", "checkpoint-9"]
    # Now it is whole: the same command measures it, and nothing twice.
    before = {p.name: p.stat().st_mtime_ns for p in (out / "checkpoints").iterdir()}
    shutil.copy(trained / "checkpoint-12" / "model.safetensors", weights)
    code, _, err = cli("rank", folder, "--text", text, "--out", out)
    assert code == 0, err
    run = geoprobe.open(out)
    assert run.labels[-1] == "checkpoint-12"
    assert [c["step"] for c in run.checkpoints] == [3, 6, 9, 12]
    after = {p.name: p.stat().st_mtime_ns for p in (out / "checkpoints").iterdir()}
    assert before.items() <= after.items()
