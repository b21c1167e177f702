"""A tiny training with HF Trainer, the same each time but for what a test changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import tiny_model, tiny_text, tiny_tokenizer


def rows(n: int = 32) -> list[dict[str, Any]]:
    tokenizer = tiny_tokenizer()
    found = tokenizer(tiny_text(n, longest=12), padding=True, return_tensors="pt")
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": ids}
        for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True)
    ]


def trainer(
    folder: Path, callbacks: Any = (), model: Any = None, eval_dataset: Any = None, **arguments: Any
) -> Any:
    """Six steps of four rows, with dropout where the family has some."""
    from transformers import Trainer, TrainingArguments

    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_steps": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    return Trainer(
        model=tiny_model("llama") if model is None else model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=rows(),
        eval_dataset=eval_dataset,
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
    )
