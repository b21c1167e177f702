"""`GeoprobeCallback`: what it logs and keeps, and that a training is what it is without."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

import geoprobe
from geoprobe.errors import UsageError
from geoprobe.integrations.trainer import GeoprobeCallback, logged
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer
from tests.integrations.trainings import rows, trainer

TEXT = tiny_text(24)
RANKME = "geoprobe/rankme/final"


def callback(**options: Any) -> GeoprobeCallback:
    return GeoprobeCallback(**{"text": TEXT, "every": 2, "probes": ("spectrum",), **options})


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Stands for any integration that reports what is logged."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))

    def of(self, name: str) -> dict[int, float]:
        return {step: logs[name] for step, logs in self.logs if name in logs}


def state_of(trained: Any) -> dict[str, Any]:
    """All that a training ends with: weights, the optimizer's state, logs, random numbers."""
    moments = trained.optimizer.state_dict()["state"]
    return {
        **trained.model.state_dict(),
        **{f"{i} {name}": x for i, s in moments.items() for name, x in s.items()},
        "random": torch.get_rng_state(),
        "NumPy": torch.tensor(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        "Python": torch.tensor(random.getstate()[1]),
        "losses": torch.tensor([x["loss"] for x in trained.state.log_history if "loss" in x]),
    }


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("gpt2", {}),  # has dropout
        ("gpt_neox", {"gradient_accumulation_steps": 2}),
        ("gptj", {}),  # keeps a table of positions
        ("llama", {"gradient_checkpointing": True}),
        ("gemma2", {"bf16": True}),
        ("llama", {"torch_compile": True, "torch_compile_backend": "aot_eager"}),
        ("mamba", {}),
    ],
)
def test_a_training_is_bit_for_bit_what_it_is_without(
    family: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    ends, modules = [], []
    for name in ("without", "with"):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        added = [callback(probes=("spectrum", "sinks"))] if name == "with" else []
        own = trainer(tmp_path / name, added, tiny_model(family), **arguments)
        own.train()
        ends.append(state_of(own))
        modules.append({n: (set(vars(m)), set(m._buffers)) for n, m in own.model.named_modules()})
    assert modules[0] == modules[1]
    assert (tmp_path / "with" / "geoprobe" / "run.json").is_file()
    without, with_it = ends
    assert without.keys() == with_it.keys()
    for name, tensor in without.items():
        assert torch.equal(tensor, with_it[name]), name


def test_every_integration_gets_the_readings_and_losses_stay(tmp_path: Path) -> None:
    before, after = Recorder(), Recorder()
    after.__class__ = type("After", (Recorder,), {})
    callbacks = [before, callback(every=3, probes=("spectrum", "sinks")), after]
    trained = trainer(tmp_path, callbacks)
    trained.train()
    assert before.logs == after.logs
    assert list(before.of(RANKME)) == [0, 3, 6]
    assert list(before.of("geoprobe/sink_rate/model/position_0")) == [0, 3, 6]
    assert list(before.of("loss")) == [2, 4, 6]
    history = {x["step"]: x[RANKME] for x in trained.state.log_history if RANKME in x}
    assert history == before.of(RANKME)
    assert not any("position_1" in name for _, logs in before.logs for name in logs)
    # What a text was cut to is no business of the Trainer's tokenizer.
    assert trained.processing_class.backend_tokenizer.truncation is None


def test_readings_are_those_of_the_saved_checkpoints(tmp_path: Path) -> None:
    recorder = Recorder()
    own = callback(sites=None, tokens=("last", "mean"), log=("rankme",))
    trainer(tmp_path, [recorder, own], save_strategy="steps", save_steps=2).train()
    run = geoprobe.open(tmp_path / "geoprobe")
    assert run.labels == ["step-0", "step-2", "step-4", "step-6"]
    assert [c["step"] for c in run.checkpoints] == [0, 2, 4, 6]
    saved = geoprobe.measure(tmp_path, text=TEXT, tokens=("last", "mean"), batch_size=8)
    assert saved.labels == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    columns = ("measure", "site", "tokens", "k", "value", "stderr", "n")
    for step in (2, 4, 6):
        live = run.readings.filter(checkpoint=f"step-{step}").select(columns)
        assert live.equals(saved.readings.filter(checkpoint=f"checkpoint-{step}").select(columns))
        kept, again = run.arrays(f"step-{step}"), saved.arrays(f"checkpoint-{step}")
        assert kept.keys() == again.keys()
        assert all(np.array_equal(kept[n], again[n], equal_nan=True) for n in kept)
        row = run.readings.filter(
            checkpoint=f"step-{step}", measure="rankme", site="block.1", tokens="mean"
        )
        assert recorder.of("geoprobe/rankme/block.1/tokens_mean")[step] == row["value"].item()
    assert run.report(tmp_path / "report.html").stat().st_size > 10_000


def test_another_training_has_a_run_of_its_own_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, [callback()], **settings).train()
    first = geoprobe.open(tmp_path / "geoprobe").readings
    other = tiny_model("llama", seed=1)
    trainer(tmp_path, [callback(every=1)], other, **settings).train()
    assert geoprobe.open(tmp_path / "geoprobe").readings.equals(first)
    second = geoprobe.open(tmp_path / "geoprobe-2")
    assert second.labels == [f"step-{step}" for step in range(7)]
    # Another way on from step 4: what came after it before is no part of this training.
    resumed = trainer(tmp_path, [callback(every=3)], max_steps=8, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    run = geoprobe.open(tmp_path / "geoprobe-2")
    assert run.labels == [f"step-{step}" for step in (0, 1, 2, 3, 4, 6, 8)]
    values = [r.readings.filter(measure="rankme", checkpoint="step-4") for r in (second, run)]
    assert values[0].equals(values[1])
    assert not (tmp_path / "geoprobe-3").exists()
    # By other options its readings would not compare with those that are there.
    resumed = trainer(tmp_path, [callback(every=3, tokens="mean")], max_steps=8, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert geoprobe.open(tmp_path / "geoprobe-3").labels == ["step-6", "step-8"]
    assert geoprobe.open(tmp_path / "geoprobe-2").labels == run.labels
    # The folders are no checkpoints to `geoprobe rank OUTPUT_DIR`.
    from geoprobe.models.series import find_series

    labels = [checkpoint.label for checkpoint in find_series([tmp_path]).checkpoints]
    assert labels == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda own: setattr(own, "processing_class", None), "tokenizer"),
        (lambda own: setattr(next(own.model.parameters()), "ds_id", 1), "sharded"),
    ],
)
def test_what_goes_wrong_is_a_warning_said_once(
    spoil: Callable[[Any], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = trainer(tmp_path, [callback()])
    spoil(own)
    own.callback_handler.processing_class = own.processing_class
    with caplog.at_level(logging.WARNING, "geoprobe"):
        own.train()
    assert own.state.global_step == 6
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("geoprobe")]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert warnings[0].endswith("The training goes on.")
    assert not (tmp_path / "geoprobe").exists()


def test_only_the_main_process_measures(tmp_path: Path) -> None:
    own = callback(folder=tmp_path / "run")
    arguments = SimpleNamespace(output_dir=str(tmp_path), per_device_eval_batch_size=8)
    control = SimpleNamespace(should_training_stop=False, should_log=False)
    what = {"model": tiny_model("llama"), "processing_class": tiny_tokenizer()}
    for main in (False, True):
        state = SimpleNamespace(
            is_world_process_zero=main, global_step=2, max_steps=6, log_history=[]
        )
        own.on_step_end(arguments, state, control, **what)
        assert (tmp_path / "run").exists() == main
        # No Trainer is among the callers: a loop of one's own has the values in the history.
        assert [RANKME in logs for logs in state.log_history] == [True] * main


def test_the_end_is_measured_wherever_it_is(tmp_path: Path) -> None:
    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            control.should_training_stop = "loss" in logs and state.global_step == 4

    trainer(tmp_path / "stopped", [callback(every=100), Stop()]).train()
    assert geoprobe.open(tmp_path / "stopped" / "geoprobe").labels == ["step-0", "step-4"]
    saving = {"save_strategy": "steps", "save_steps": 5}
    trainer(tmp_path / "saved", [callback(every="save")], **saving).train()
    run = geoprobe.open(tmp_path / "saved" / "geoprobe")
    assert run.labels == ["step-0", "step-5", "step-6"]
    evaluating = {"eval_dataset": rows(4), "eval_strategy": "steps", "eval_steps": 4}
    own = trainer(tmp_path / "evaluated", [callback(every="evaluate")], **evaluating)
    own.evaluate()
    assert not (tmp_path / "evaluated" / "geoprobe").exists()
    own.train()
    run = geoprobe.open(tmp_path / "evaluated" / "geoprobe")
    assert run.labels == ["step-0", "step-4", "step-6"]


def test_adapters_and_parallel_wrappers_are_looked_through(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    own, base = callback(folder=tmp_path / "run", every=1), tiny_model("llama")
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    arguments = SimpleNamespace(output_dir=str(tmp_path), per_device_eval_batch_size=8)
    control = SimpleNamespace(should_training_stop=False, should_log=False)
    found = []
    for step in (1, 2):
        state = SimpleNamespace(
            is_world_process_zero=True, global_step=step, max_steps=6, log_history=[]
        )
        wrapped = torch.nn.DataParallel(adapted)
        own.on_step_end(arguments, state, control, model=wrapped, processing_class=tiny_tokenizer())
        found.append(state.log_history[0][RANKME])
        with torch.no_grad():  # B is 0 to begin with
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
    plain = geoprobe.measure(model=tiny_model("llama"), tokenizer=tiny_tokenizer(), text=TEXT)
    row = plain.readings.filter(measure="rankme", site="final")
    assert found[0] == pytest.approx(row["value"].item(), rel=1e-6)
    assert abs(found[1] / found[0] - 1) > 0.01


def test_mixed_precision_does_not_reach_the_readings(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = tiny_model("llama").config
    config.num_labels, config.pad_token_id = 2, 1
    torch.manual_seed(0)
    # The whole of a classifier is run, and accelerate's autocast is around the whole.
    model = AutoModelForSequenceClassification.from_config(config)
    plain = geoprobe.measure(model=model, tokenizer=tiny_tokenizer(), text=TEXT, batch_size=8)
    recorder = Recorder()
    own = trainer(tmp_path, [recorder, callback()], model, bf16=True)
    own.train_dataset = [{**row, "labels": i % 2} for i, row in enumerate(own.train_dataset)]
    forwards = []

    class Look(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **what: Any) -> None:
            forwards.append(vars(what["model"]).get("forward"))

    own.add_callback(Look())
    own.train()
    row = plain.readings.filter(measure="rankme", site="final")
    assert recorder.of(RANKME)[0] == row["value"].item()
    assert forwards[0] is not None  # accelerate's, and back in its place
    assert all(forward is forwards[0] for forward in forwards)


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": "now"}, {"probes": ("none",)}, {"lenght": 64}]
)
def test_a_mistake_is_told_before_the_training(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        callback(**options)


def test_names_tell_readings_apart() -> None:
    common = {"probe": "p", "value": 1.0, "convention": "exact", "site": "final", "k": None}
    rows = [
        {**common, "measure": "rankme", "tokens": "last"},
        {**common, "measure": "rankme", "tokens": "all", "value": 2.0},
        {**common, "measure": "alpha", "tokens": "last", "value": None},
        {**common, "measure": "top share", "tokens": "last", "k": 3},
        {**common, "measure": "top share", "tokens": "last", "k": 10, "value": 4.0},
        {**common, "measure": "nesum", "tokens": "last", "value": 5.0},
        {**common, "measure": "nesum", "tokens": "last", "convention": "li2025", "value": 6.0},
    ]
    assert logged(rows, ["rankme/final", "alpha", "top_share/*/k_10", "nesum/f*/c*_li*"]) == {
        "geoprobe/rankme/final/tokens_last": 1.0,
        "geoprobe/rankme/final/tokens_all": 2.0,
        "geoprobe/top_share/final/k_10": 4.0,
        "geoprobe/nesum/final/convention_li2025": 6.0,
    }
    assert logged(rows, ["rank", "rankme/fin"]) == {}
    assert logged([], ["*"]) == {}
