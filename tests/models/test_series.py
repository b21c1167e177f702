"""Series on disk: found, ordered by number, selected."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.models.selection import _log_spaced
from geoprobe.models.series import Checkpoint, find_series
from tests.models.checkpoints import age, labels, truncate, write

ORDERS = [
    ("trainer", ["checkpoint-500", "checkpoint-1000", "checkpoint-10000"]),
    ("pythia", ["step0", "step1", "step2", "step512", "step1000", "step143000"]),
    (
        "olmo",
        [
            "step150-tokens1B",
            "stage1-step1000-tokens3B",
            "stage1-step140000-tokens294B",
            "stage2-step1000-tokens5B",
        ],
    ),
    ("stage zero", ["stage0-step900", "step100", "stage1-step200"]),
    ("stages alone", ["stage1", "stage2", "stage10"]),
    ("padded with tokens", ["step-000100-200MT", "step-001000-2BT", "step-010000-20BT"]),
    ("step last", ["checkpoint-9step", "checkpoint-10step", "checkpoint-10000step"]),
    ("epochs", ["epoch_3", "epoch_20", "epoch_100"]),
    ("tokens alone", ["tokens500M", "tokens2B", "tokens1T"]),
    ("step shared, tokens not", ["step5-tokens9B", "step10", "step20-tokens1B"]),
    ("plain numbers", ["2", "10", "1000"]),
]


@pytest.mark.parametrize(("names"), [n for _, n in ORDERS], ids=[i for i, _ in ORDERS])
def test_the_order_is_numeric_whatever_order_the_folders_were_made_in(
    names: list[str], tmp_path: Path
) -> None:
    for seed in range(3):
        root = tmp_path / str(seed) / "series"
        for name in random.Random(seed).sample(names, len(names)):
            write(root / name)
        assert labels(find_series([root])) == names
        listed = random.Random(seed + 9).sample(names, len(names))
        assert labels(find_series([root / n for n in listed])) == names


@given(st.sets(st.integers(0, 10**7), min_size=2, max_size=8), st.randoms())
def test_any_set_of_steps_comes_out_sorted(
    tmp_path_factory: pytest.TempPathFactory, steps: set[int], draw: random.Random
) -> None:
    root = tmp_path_factory.mktemp("s")
    shuffled = list(steps)
    draw.shuffle(shuffled)
    for step in shuffled:
        write(root / f"step{step}")
    assert [c.step for c in find_series([root]).checkpoints] == sorted(steps)


def test_a_name_without_a_stage_is_stage_one_where_others_have_one(tmp_path: Path) -> None:
    write(tmp_path / "step150-tokens1B")
    write(tmp_path / "stage2-step10-tokens1B")
    assert [c.stage for c in find_series([tmp_path]).checkpoints] == [1, 2]
    write(tmp_path / "alone" / "step150")
    assert find_series([tmp_path / "alone"]).checkpoints[0].stage is None


def test_a_single_checkpoint_needs_no_number(tmp_path: Path) -> None:
    folder = write(tmp_path / "final")
    (only,) = find_series([folder]).checkpoints
    assert (only.label, only.step, only.path, only.kind) == ("final", None, folder, "folder")
    assert only.size_bytes == (folder / "model.safetensors").stat().st_size
    assert labels(find_series([tmp_path])) == ["final"]


def test_listed_checkpoints_without_numbers_keep_the_order_given(tmp_path: Path) -> None:
    b, a = write(tmp_path / "b"), write(tmp_path / "a")
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    found = find_series([b, str(gguf), a])
    assert labels(found) == ["b", "m", "a"]
    assert [c.kind for c in found.checkpoints] == ["folder", "gguf", "folder"]
    assert all(c.step is None and c.incomplete is None for c in found.checkpoints)


REFUSED = [
    (["a", "b"], r"a, b: no step, tokens or epoch in the name.*--pattern"),
    (["checkpoint-5", "checkpoint-10", "final"], r"order: final: no step"),
    (["step100", "checkpoint-100"], r"checkpoint-100, step100 have the same numbers \(step 100\)"),
    (["epoch_1", "step100"], r"step100 by step, epoch_1 by epoch"),
    (["stage1", "stage1-step5"], r"stage1-step5 by step, stage1 by none"),
    (
        ["stage2-ingredient1-step5-tokens1B", "stage2-ingredient2-step5-tokens1B"],
        r"same numbers \(step 5, tokens 1,000,000,000\)",
    ),
]


@pytest.mark.parametrize(("names", "sentence"), REFUSED)
def test_checkpoints_without_an_order_are_an_error_that_names_them(
    names: list[str], sentence: str, tmp_path: Path
) -> None:
    for name in names:
        write(tmp_path / name)
    with pytest.raises(UsageError, match=sentence):
        find_series([tmp_path])


def test_same_names_in_two_folders_are_told_apart_in_the_error(tmp_path: Path) -> None:
    two = [write(tmp_path / run / "checkpoint-5") for run in ("x", "y")]
    with pytest.raises(UsageError, match=r"x/checkpoint-5, .*y/checkpoint-5 have the same"):
        find_series(two)


def test_a_pattern_settles_the_order_and_leaves_out_what_it_does_not_match(
    tmp_path: Path,
) -> None:
    for name in ("run_9x", "run_10x", "best"):
        write(tmp_path / name)
    found = find_series([tmp_path], pattern=r"run_(?P<step>\d+)x")
    assert labels(found) == ["run_9x", "run_10x"]
    assert found.skipped == [("best", "its name does not match --pattern")]


def test_a_pattern_may_use_the_folder_above_and_units(tmp_path: Path) -> None:
    folders = [write(tmp_path / stage / name) for stage in ("s2", "s1") for name in ("2b", "500M")]
    found = find_series(folders, pattern=r"s(?P<stage>\d)/(?P<tokens>\d+[bM])")
    assert [(c.stage, c.tokens) for c in found.checkpoints] == [
        (1, 500 * 10**6),
        (1, 2 * 10**9),
        (2, 500 * 10**6),
        (2, 2 * 10**9),
    ]
    assert labels(found) == ["s1-500M", "s1-2b", "s2-500M", "s2-2b"]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("step(", "not a regular expression"),
        (r"step(\d+)", "no named group"),
        (r"(?P<steps>\d+)", "a group named steps"),
        (r"(?P<step>[a-z]+)", "matched 'step' in 'step1', which is not a number"),
        (r"(?P<step>zzz)", "matches none of step1, step2"),
    ],
)
def test_a_pattern_that_cannot_serve_is_a_sentence(
    pattern: str, sentence: str, tmp_path: Path
) -> None:
    write(tmp_path / "step1"), write(tmp_path / "step2")
    with pytest.raises(UsageError, match=sentence):
        find_series([tmp_path], pattern=pattern)


def test_a_listed_checkpoint_that_the_pattern_does_not_match_is_an_error(tmp_path: Path) -> None:
    a, b = write(tmp_path / "step1"), write(tmp_path / "base")
    with pytest.raises(UsageError, match="does not match base"):
        find_series([a, b], pattern=r"step(?P<step>\d+)")


def test_a_folder_of_checkpoints_may_hold_other_things(tmp_path: Path) -> None:
    for name in ("checkpoint-5", "checkpoint-10", ".cache"):
        write(tmp_path / name)
    for name in ("runs", "logs", "eval-step5", "tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-7.log").write_text("")
    found = find_series([tmp_path])
    assert labels(found) == ["checkpoint-5", "checkpoint-10"]
    assert found.skipped == []


def test_a_folder_with_a_config_and_no_weights_gets_a_word(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-5")
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").write_text("{}")
    assert find_series([tmp_path]).skipped == [("final", "it has config.json, but no weights")]


def test_the_weights_of_an_output_folder_are_left_out_with_a_word(tmp_path: Path) -> None:
    root = write(tmp_path / "out")
    write(root / "checkpoint-10"), write(root / "checkpoint-5")
    found = find_series([root])
    assert labels(found) == ["checkpoint-5", "checkpoint-10"]
    assert found.skipped[0][0] == "out"
    assert "only the checkpoints count" in found.skipped[0][1]


@pytest.mark.parametrize("part", ["2_Dense", "onnx"])
def test_the_parts_of_a_model_are_not_its_checkpoints(part: str, tmp_path: Path) -> None:
    root = write(tmp_path / "model")
    write(root / part)
    assert labels(find_series([root])) == ["model"]


def test_the_optimisers_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-500")
    (folder / "global_step500").mkdir()
    assert labels(find_series([folder])) == ["checkpoint-500"]
    assert labels(find_series([tmp_path])) == ["checkpoint-500"]


def test_a_link_to_a_checkpoint_is_the_same_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-5")
    (tmp_path / "latest").symlink_to("checkpoint-5")
    found = find_series([tmp_path, tmp_path / "checkpoint-5"])
    assert labels(found) == ["checkpoint-5"]
    assert [label for label, _ in found.skipped] == ["latest"]


def test_the_only_checkpoint_is_reported_even_while_it_is_written(tmp_path: Path) -> None:
    truncate(write(tmp_path / "checkpoint-5"))
    found = find_series([tmp_path])
    assert "truncated" in str(found.checkpoints[0].incomplete)


def test_temporary_folders(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-5"), write(tmp_path / "checkpoint-10")
    write(tmp_path / "tmp-checkpoint-10"), write(tmp_path / "tmp-x")
    newest = write(tmp_path / "checkpoint-15.tmp")
    found = find_series([tmp_path])
    assert labels(found) == ["checkpoint-5", "checkpoint-10"]
    assert {label for label, _ in found.skipped} == {
        "tmp-checkpoint-10",
        "tmp-x",
        "checkpoint-15.tmp",
    }
    age(newest)
    assert "save that was not finished" in str(find_series([tmp_path]).checkpoints[-1].incomplete)


def test_gguf_files_are_checkpoints_and_a_folder_of_them_is_a_series(tmp_path: Path) -> None:
    for step in (10, 9):
        (tmp_path / f"model-step{step}-Q8_0.gguf").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "model-step11.gguf").write_bytes(b"nothing of the kind, but long enough")
    found = find_series([tmp_path])
    assert labels(found) == ["model-step9-Q8_0", "model-step10-Q8_0", "model-step11"]
    assert [c.incomplete for c in found.checkpoints] == [None, None, "it is not a GGUF file"]
    assert found.checkpoints[0].size_bytes == 104


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("nothing-here", "nothing-here: there is no such file or folder, and models of the hub"),
        ("org/model", "org/model: there is no such folder; if it is a model of the hub"),
        ("empty", "empty has no checkpoint"),
        ("above", "there are some in out, give that"),
        ("notes.txt", "is a file; give a checkpoint's folder"),
        ("x\0y", "no such file"),
        ("a\x1b[31mb", r"a\?\[31mb: there is no such"),
    ],
)
def test_an_argument_that_is_no_series_is_a_sentence(
    argument: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.txt").write_text("")
    write(Path("above/out/checkpoint-5"))
    with pytest.raises(UsageError, match=sentence):
        find_series([argument])


def test_nothing_given_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="No series was given"):
        find_series([])


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "step7")
    monkeypatch.chdir(folder)
    (only,) = find_series(["."]).checkpoints
    assert (only.label, only.step) == ("step7", 7)


def test_labels_are_unique_and_fit_for_file_names(tmp_path: Path) -> None:
    hostile = "</script><img onerror=x>".replace("/", "_")
    names = ["final", hostile, "a\nb", "x" * 230, "-rf", "ünï"]
    folders = [write(tmp_path / run / name) for run in ("r1", "r2") for name in names]
    found = labels(find_series(folders))
    assert len(set(found)) == len(folders)
    assert {"r1-final", "r2-final", "r1-ünï"} <= set(found)
    for label in found:
        assert len(label.encode()) <= 170
        assert not set(label) & set("<>/\\\n\"' :*?|")
        (tmp_path / f"{label}.safetensors").touch()
    assert labels(find_series([folders[0]])) == ["final"]
    assert not find_series([folders[4]]).checkpoints[0].label.startswith("-")


@pytest.fixture
def powers(tmp_path: Path) -> Path:
    for step in (0, 1, 2, 4, 8, 16, 32, 64, 128):
        write(tmp_path / f"step{step}")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [0, 1, 2, 4, 8, 16, 32, 64, 128]),
        ({"every": 2}, [0, 2, 8, 32, 128]),
        ({"every": 3}, [0, 4, 32, 128]),
        ({"every": 100}, [0, 128]),
        ({"last": 2}, [64, 128]),
        ({"last": 100}, [0, 1, 2, 4, 8, 16, 32, 64, 128]),
        ({"log_spaced": 2}, [0, 128]),
        ({"log_spaced": 3}, [0, 8, 128]),
        ({"log_spaced": 100}, [0, 1, 2, 4, 8, 16, 32, 64, 128]),
    ],
)
def test_selections(options: dict[str, int], steps: list[int], powers: Path) -> None:
    assert [c.step for c in find_series([powers], **options).checkpoints] == steps  # type: ignore[arg-type]


def test_a_selection_does_not_count_what_is_being_written(powers: Path) -> None:
    truncate(write(powers / "step256"))
    assert [c.step for c in find_series([powers], last=2).checkpoints] == [64, 128]


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40, unique=True), st.integers(2, 45))
def test_log_spacing_keeps_the_ends_and_the_number_asked_for(steps: list[int], n: int) -> None:
    steps.sort()
    series = [Checkpoint(str(s), Path(str(s)), "folder", step=s) for s in steps]
    chosen = _log_spaced(series, n)
    assert len(chosen) == min(n, len(steps))
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, len(steps) - 1)


def test_log_spacing_is_even_where_the_checkpoints_allow_it() -> None:
    series = [Checkpoint(str(s), Path(str(s)), "folder", step=s) for s in range(10_000)]
    even = np.expm1(np.linspace(0, math.log(10_000), 7))
    assert np.abs(_log_spaced(series, 7) - even).max() < 1


def test_log_spacing_adds_up_stages_that_count_from_zero_again(tmp_path: Path) -> None:
    for name in ("stage1-step10", "stage1-step1000", "stage2-step10", "stage2-step100000"):
        write(tmp_path / name)
    kept = find_series([tmp_path], log_spaced=3)
    # 10, 1000, 1010, 101000: the middle of ln 11 and ln 101001 is 1053.
    assert labels(kept) == ["stage1-step10", "stage2-step10", "stage2-step100000"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0}, "--every 0: give a whole number of at least 1"),
        ({"every": -2}, "--every -2"),
        ({"last": 0}, "--last 0: give a whole number of at least 1"),
        ({"last": -1}, "--last -1"),
        ({"log_spaced": 1}, "--log-spaced 1: give a whole number of at least 2"),
        ({"log_spaced": -5}, "--log-spaced -5"),
        ({"every": 2, "last": 3}, "--every and --last exclude each other"),
        ({"log_spaced": 2, "last": 3}, "--log-spaced and --last exclude each other"),
    ],
)
def test_a_bad_selection_is_a_sentence(
    options: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        find_series([tmp_path / "not even looked for"], **options)  # type: ignore[arg-type]


def test_log_spacing_needs_numbers(tmp_path: Path) -> None:
    folders = [write(tmp_path / n) for n in "abc"]
    with pytest.raises(UsageError, match="--log-spaced needs the step"):
        find_series(folders, log_spaced=2)
