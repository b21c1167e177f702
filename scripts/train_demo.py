"""Trains the demo series and writes everything that the package ships of it.

    python scripts/train_demo.py --out geoprobe/data/demo --force

One command, fixed seeds: a tokenizer of whole words, a Llama of half a million parameters trained
with the HF Trainer, weights in bfloat16 at steps spaced evenly in the logarithm, held-out text and
facts. It took 9 minutes on one thread of a busy machine. Text, tokenizer and facts come out byte
for byte; weights follow the rounding of the machine's matrix products, so from one kind of machine
to another they agree in what they show and not in every bit.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
import string
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
from demo_world import RELATIONS, held_out_documents, training_documents

STEPS = (0, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048)
"""Where a checkpoint is kept: doubling, with one between where most is learned."""
LENGTH = 64
"""Tokens a training row; longer documents are cut, shorter ones padded."""
BATCH = 32
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 32
SEED = 0

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
PAD, BOS, EOS, UNK = range(4)


def make_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that spells out, letter by letter, the words it does not know.

    Args:
        documents: Every word in them becomes a token.

    Returns:
        The tokenizer; it puts `<bos>` in front unless told otherwise.
    """
    counts = Counter(word for document in documents for word in re.findall(r"[A-Za-z]+", document))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    # Scores are log probabilities: a word in one piece always beats its letters.
    pieces = [(token, 0.0) for token in SPECIAL.values()]
    pieces += [(f"▁{word}", -8.0) for word in words]
    pieces += [(letter, -20.0) for letter in "▁" + string.digits + string.ascii_letters]
    pieces += [(mark, -8.0) for mark in string.punctuation]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNK, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **SPECIAL)


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """The untrained model.

    Wide enough (128) for the published ranges of alpha, and no wider; six blocks and eight heads,
    as with four and four no attention sink grows.
    """
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Training rows of `LENGTH` tokens: `<bos>`, a document, `<eos>`, padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> None:
        self._ids = torch.full((len(documents), LENGTH), PAD)
        for row, ids in zip(self._ids, tokenizer(documents)["input_ids"], strict=True):
            kept = torch.tensor([*ids, EOS][:LENGTH])
            row[: len(kept)] = kept

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self._ids[index]
        # Rows are padded on the right and causal: real tokens never see the padding.
        return {"input_ids": ids, "labels": ids.masked_fill(ids == PAD, -100)}


class KeepCheckpoints(TrainerCallback):
    """Writes the model's configuration and bfloat16 weights at the steps asked for."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self._folder = folder
        self._steps = steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps the untrained model."""
        self._keep(kwargs["model"], 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps the model where a checkpoint is due."""
        self._keep(kwargs["model"], state.global_step)

    def _keep(self, model: LlamaForCausalLM, step: int) -> None:
        if step in self._steps:
            folder = self._folder / f"step-{step:05d}"
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
            (folder / "generation_config.json").unlink(missing_ok=True)


def train(model: LlamaForCausalLM, rows: Rows, checkpoints: Path) -> None:
    """Trains the model and keeps its checkpoints."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=STEPS[-1],
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_beta2=0.98,
            warmup_steps=WARMUP_STEPS,
            lr_scheduler_type="cosine",
            save_strategy="no",
            logging_steps=64,
            report_to=[],
            seed=SEED,
            use_cpu=True,
            disable_tqdm=True,
        )
        keeper = KeepCheckpoints(checkpoints, STEPS)
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[keeper]).train()


def write_text(path: Path, documents: list[str]) -> None:
    """Writes one JSON object a line, the document in its field `text`."""
    lines = [json.dumps({"text": document}) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_facts(folder: Path) -> None:
    """Writes one relation a file."""
    folder.mkdir()
    for relation in RELATIONS:
        facts = {
            "name": relation.name,
            "prompt_templates": list(relation.templates),
            "samples": [
                {"subject": subject, "object": thing} for subject, thing in relation.samples
            ],
        }
        text = json.dumps(facts, indent=1) + "\n"
        (folder / f"{relation.name}.json").write_text(text, encoding="utf-8", newline="\n")


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, under the class name of every version."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--force", action="store_true", help="replace what is in the folder")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        if not options.force:
            parser.error(f"{options.out} is not empty; give another folder, or --force.")
        for name in ("checkpoints", "facts"):
            shutil.rmtree(options.out / name, ignore_errors=True)
    began = time.monotonic()
    torch.set_num_threads(options.threads)
    checkpoints = options.out / "checkpoints"
    checkpoints.mkdir(parents=True)

    documents = training_documents()
    tokenizer = make_tokenizer(documents)
    write_tokenizer(tokenizer, checkpoints)
    write_text(options.out / "text.jsonl", held_out_documents(documents))
    write_facts(options.out / "facts")
    model = make_model(len(tokenizer))
    print(
        f"{len(documents)} documents, {len(tokenizer)} tokens, {model.num_parameters()} parameters"
    )
    train(model, Rows(tokenizer, documents), checkpoints)
    print(f"{options.out} after {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
