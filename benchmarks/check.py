"""The check's two errors on the demo series: blocking what did not move, passing what did.

Nothing moved: samples of the held-out text, each measured under several numerics (batch size,
number of threads, half precision). A repeat draws two numerics of one sample (paired), or of two
samples (`--unpaired`), and checks one against the other by the defaults, all measures together. The
bound on the share that fails is Clopper and Pearson's, with repeats taken as independent.

Something moved: the changes that a team makes without meaning to, checked by the same defaults.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Line
from geoprobe.checks.comparing import compare, floors_between
from geoprobe.checks.expectations import Expectations
from geoprobe.checks.sides import HALF, NUMERICS, Side, side_of
from geoprobe.checks.verdict import Verdict
from geoprobe.data.demo_series import demo_folder, demo_text_path
from geoprobe.probes.registry import scan_options

CHECKPOINT = "step-02048"
SAMPLES, DOCUMENTS, REPEATS = 5, 300, 1000
LEVEL = 0.95
# How a sample is measured: batch size, threads, precision. The first three make the baseline.
NUMERICS_TRIED = (
    (32, 1, torch.float32),
    (10, 1, torch.float32),
    (32, 1, torch.bfloat16),
    (1, 1, torch.float32),
    (64, 2, torch.float32),
    (7, 2, torch.bfloat16),
)


def run() -> list[Line]:
    """The table of both errors."""
    bench = Bench()
    return [*_false_alarms(bench), *_changes(bench)]


class Bench:
    """The demo's newest model and its text."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = demo_folder()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder / CHECKPOINT, dtype=torch.float32
        ).eval()
        lines = demo_text_path().read_text("utf-8").splitlines()
        self.documents = [json.loads(line)["text"] for line in lines]

    def measured(self, model: Any, documents: list[str], batch: int, tokenizer: Any = None) -> Side:
        """One side of a check."""
        import geoprobe

        found = geoprobe.measure(
            model=model,
            tokenizer=tokenizer or self.tokenizer,
            text=documents,
            **scan_options(),
            batch_size=batch,
        )
        return side_of(found)

    def side(self, documents: list[str], how: tuple[int, int, torch.dtype]) -> Side:
        """The model as it is, measured in one way."""
        batch, threads, dtype = how
        model = self.model if dtype == torch.float32 else copy.deepcopy(self.model).to(dtype)
        with _threads(threads):
            return self.measured(model, documents, batch)

    def baseline(self, documents: list[str]) -> tuple[Side, list[Side]]:
        """A baseline as --update makes it, and the sides that it was made of."""
        first, other, half = sides = [self.side(documents, how) for how in NUMERICS_TRIED[:3]]
        known = first.with_floors(NUMERICS, floors_between(first, other))
        return known.with_floors(HALF, floors_between(first, half)), sides

    def sample(self, number: int) -> list[str]:
        """Documents drawn from the held-out text, none of which another sample has."""
        order = np.random.default_rng(8).permutation(len(self.documents))
        rows = order[number * DOCUMENTS : (number + 1) * DOCUMENTS]
        assert len(rows) == DOCUMENTS
        return [self.documents[i] for i in rows]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Sample:
    baseline: Side
    ways: list[Side]


def alarms(bench: Bench, samples: int, repeats: int) -> dict[bool, list[Verdict]]:
    """Checks of the same model, on the same text and (True) on another: all their verdicts."""
    measured = []
    for i in range(samples):
        documents = bench.sample(i)
        baseline, ways = bench.baseline(documents)
        ways += [bench.side(documents, how) for how in NUMERICS_TRIED[3:]]
        measured.append(_Sample(baseline, ways))
        print(f"  sample {i + 1}/{samples}", file=sys.stderr, flush=True)
    found: dict[bool, list[Verdict]] = {}
    for unpaired in (False, True):
        draw = np.random.default_rng(9)
        found[unpaired] = []
        for _ in range(repeats):
            first, second = draw.choice(samples, 2, replace=False)
            way = int(draw.integers(1, len(NUMERICS_TRIED)))
            now = measured[second if unpaired else first].ways[way]
            verdict = compare(measured[first].baseline, now, Expectations(), unpaired=unpaired)
            found[unpaired].append(verdict)
    return found


def _false_alarms(bench: Bench) -> list[Line]:
    lines = []
    for unpaired, verdicts in alarms(bench, SAMPLES, REPEATS).items():
        failed = [verdict for verdict in verdicts if verdict.exit_code]
        other = ", other text (--unpaired)" if unpaired else ""
        lines.append(
            Line(
                f"the same model{other}: checks that fail",
                f"{len(failed) / len(verdicts):.1%}",
                "<= 1 %",
                f"{len(failed)} of {len(verdicts)}, at most "
                f"{_upper_bound(len(failed), len(verdicts)):.2%} at {LEVEL:.0%}; "
                f"{len(verdicts[0].changes)} readings each, {SAMPLES} samples of {DOCUMENTS} "
                f"documents; {_worst(failed)}",
            )
        )
    return lines


def _upper_bound(failed: int, repeats: int) -> float:
    """Clopper and Pearson's one-sided upper bound of a share."""
    from scipy.stats import beta

    return float(beta.ppf(LEVEL, failed + 1, repeats - failed)) if failed < repeats else 1.0


def _worst(failed: list[Verdict]) -> str:
    if not failed:
        return "none failed"
    from collections import Counter

    measures = Counter(verdict.changes[0].measure for verdict in failed)
    return "worst: " + ", ".join(f"{name} ({count})" for name, count in measures.most_common(3))


def changed(bench: Bench, names: Sequence[str]) -> dict[str, tuple[Verdict, Verdict]]:
    """Checks of models that were changed, by the name of the change: on the same text, on other."""
    documents = bench.sample(0)
    baseline, _ = bench.baseline(documents)
    elsewhere = bench.side(bench.sample(1), NUMERICS_TRIED[0])
    found = {}
    for what in names:
        model, tokenizer = CHANGES[what](copy.deepcopy(bench.model), bench.tokenizer)
        now = bench.measured(model, documents, NUMERICS_TRIED[0][0], tokenizer)
        found[what] = (
            compare(baseline, now, Expectations()),
            compare(elsewhere, now, Expectations(), unpaired=True),
        )
    return found


def _changes(bench: Bench) -> list[Line]:
    lines = []
    for what, (verdict, unpaired) in changed(bench, tuple(CHANGES)).items():
        worst, failed = verdict.changes[0], verdict.of("failed")
        told = f"worst: {worst.measure} at {worst.site}, {worst.why}"
        lines.append(
            Line(
                what,
                f"{'caught' if verdict.exit_code else 'MISSED'}: exit {verdict.exit_code}, "
                f"{len(failed)} readings",
                "exit 1 or 3",
                f"{told if failed and not verdict.problems else ' '.join(verdict.problems)}; with "
                f"--unpaired, on other text: exit {unpaired.exit_code}, "
                f"{len(unpaired.of('failed'))} readings",
            )
        )
    return lines


def _matrices(model: Any) -> Iterator[torch.Tensor]:
    return (p.data for p in model.parameters() if p.ndim == 2)


def rounded(bits: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Weights rounded to integers of so many bits, a scale a row."""

    def change(model: Any, tokenizer: Any) -> tuple[Any, Any]:
        for weight in _matrices(model):
            scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            weight.copy_(torch.round(weight / scale) * scale)
        return model, tokenizer

    return change


def pruned(share: float) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The smallest weights of each matrix set to 0."""

    def change(model: Any, tokenizer: Any) -> tuple[Any, Any]:
        for weight in _matrices(model):
            least = weight.abs().flatten().kthvalue(int(share * weight.numel())).values
            weight[weight.abs() <= least] = 0.0
        return model, tokenizer

    return change


def swapped(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Two neighbouring blocks in each other's place."""
    layers = model.model.layers
    layers[2], layers[3] = layers[3], layers[2]
    return model, tokenizer


def wrong_theta(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Rotary embeddings of another base."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 500_000.0}
    made = AutoModelForCausalLM.from_config(config).eval()
    made.load_state_dict(model.state_dict())
    return made, tokenizer


def without_special_tokens(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A tokenizer that puts nothing in front."""
    from tokenizers.processors import TemplateProcessing

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    return model, other


def tuned(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Twenty steps on one sentence."""
    ids = torch.tensor([tokenizer("The home of Ida is in Madrid.")["input_ids"]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    for _ in range(20):
        optimiser.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimiser.step()
    return model.eval(), tokenizer


CHANGES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "int8 weights": rounded(8),
    "4-bit weights": rounded(4),
    "30 % of the weights pruned": pruned(0.3),
    "blocks 2 and 3 swapped": swapped,
    "wrong rope theta": wrong_theta,
    "a tokenizer without its special tokens": without_special_tokens,
    "fine-tuned on one sentence": tuned,
}
"""What may go wrong, by name."""
