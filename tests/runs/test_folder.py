"""A run folder: a checkpoint is done or absent, nothing finished is lost or done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.runs import files
from geoprobe.runs.folder import Run
from tests.runs.example import arrays, contents, entry, header, make_run, readings, write

ROOT = Path(__file__).parents[2]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "step-0", "step-10")
    run = Run.open(tmp_path / "run")
    assert run.labels == ["step-0", "step-10"]
    assert run.failed == {}
    assert run.sites == ["embed", "final"]
    stored = run.document()["readings"]
    assert stored == [r.to_json() for label in run.labels for r in readings(label)]
    for step, label in enumerate(run.labels):
        found = run.arrays(label)
        assert found.keys() == arrays().keys()
        for name, array in arrays(step).items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    kinds = [finding["kind"] for finding in run.findings]
    assert kinds == ["phase", "warning", "warning"]
    with pytest.raises(UsageError, match="'step-1'; it has step-0, step-10"):
        run.arrays("step-1")


def test_the_same_measurement_gives_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "step-0", "step-10")
    with Run.create(tmp_path / "b", header("step-0", "step-10")) as run:
        write(run, "step-10", 1)  # in another order, and once too often
        write(run, "step-0", 0)
        run.write_failure(entry("step-10", 1), "it was away for a while")
        turned = dict(reversed(arrays(1).items()))
        findings = [{"message": "n/d is below 5", "checkpoint": "step-10", "kind": "warning"}]
        run.write_checkpoint(entry("step-10", 1), readings("step-10"), findings, turned)
        run.write_findings([{"from": "step-0", "name": "warmup", "kind": "phase"}])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    make_run(tmp_path / "elsewhere", "step-0", "step-10")
    assert contents(tmp_path / "a") == contents(tmp_path / "elsewhere")


def test_a_resumed_run_does_what_is_missing_and_no_more(tmp_path: Path) -> None:
    labels = ("step-0", "step-10", "step-20")
    with Run.create(tmp_path, header(*labels)) as run:
        write(run, "step-10", 1)
    with Run.create(tmp_path, header(*labels)) as run:
        done = [label for i, label in enumerate(labels) if run.is_done(entry(label, i))]
        assert done == ["step-10"]
        assert run.labels == ["step-10"]
        write(run, "step-20", 2)
        write(run, "step-0", 0)
        assert run.labels == list(labels)  # in the order of the series


def test_a_checkpoint_that_changed_on_disk_is_not_done(tmp_path: Path) -> None:
    run = make_run(tmp_path, "step-0")
    assert run.is_done(entry("step-0", fingerprint="f0"))
    assert not run.is_done(entry("step-0", fingerprint="f1"))
    write(run, "step-0", 5, fingerprint="f1", shift=1)
    assert run.is_done(entry("step-0", fingerprint="f1"))
    assert run.document()["readings"][0]["value"] == 1 / 3 + 1
    (tmp_path / "checkpoints" / "step-0.safetensors").unlink()
    assert not run.is_done(entry("step-0", fingerprint="f1"))


def test_a_failure_is_kept_shown_and_tried_again(tmp_path: Path) -> None:
    with Run.create(tmp_path, header("step-0", "step-10")) as run:
        write(run, "step-0")
        run.write_failure(entry("step-10", fingerprint="f0"), "step-10: NaN weights.")
    run = Run.open(tmp_path)
    assert run.failed == {"step-10": "step-10: NaN weights."}
    assert run.labels == ["step-0"]
    failure = {"kind": "failure", "checkpoint": "step-10", "message": "step-10: NaN weights."}
    assert run.findings[-1] == failure
    assert set(run.readings["checkpoint"]) == {"step-0"}
    assert not run.is_done(entry("step-10", fingerprint="f0"))
    with pytest.raises(UsageError, match="no readings of 'step-10'"):
        run.arrays("step-10")
    with Run.create(tmp_path, header("step-0", "step-10")) as run:
        write(run, "step-10", 1)
    assert Run.open(tmp_path).failed == {}
    assert Run.open(tmp_path).labels == ["step-0", "step-10"]


def test_a_series_may_grow_and_shrink_and_nothing_is_lost(tmp_path: Path) -> None:
    make_run(tmp_path, "step-0", "step-10")
    with Run.create(tmp_path, header("step-0", "step-10", "step-20")) as run:
        assert run.labels == ["step-0", "step-10"]
        write(run, "step-20", 2)
    with Run.create(tmp_path, header("step-20")) as run:
        assert run.labels == ["step-20"]
    with Run.create(tmp_path, header("step-0", "step-10", "step-20")) as run:
        assert run.labels == ["step-0", "step-10", "step-20"]


def test_what_the_machine_chose_is_taken_over(tmp_path: Path) -> None:
    with Run.create(tmp_path, {**header("step-0"), "chosen": {"batch_size": 32}}) as run:
        write(run, "step-0")
    with Run.create(tmp_path, {**header("step-0"), "chosen": {"batch_size": 8}}) as run:
        assert run.header["chosen"] == {"batch_size": 32}
    assert Run.open(tmp_path).header["chosen"] == {"batch_size": 32}


# Other options


LONG = ["a/very/long/path/" * 6 + "one.jsonl"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"command": "collapse"}, 'command was "rank" and is now "collapse"'),
        (
            {"options": {"length": 64, "tokens": ["last", "all"], "text": None}},
            "options length was 128 and is now 64",
        ),
        (
            {"options": {"length": 128, "tokens": ["last"], "text": None}},
            'options tokens was ["last", "all"] and is now ["last"]',
        ),
        ({"options": {}}, "options length was 128 and is now null; options tokens"),
        (
            {"corpus": {"source": "a.jsonl", "sequences": 10, "fingerprint": "c1"}},
            'corpus fingerprint was "c0" and is now "c1"',
        ),
        (
            {"environment": {"python": "3.11.7", "libraries": {"torch": "2.9"}}},
            'environment libraries torch was "2.13.0" and is now "2.9"',
        ),
    ],
)
def test_other_options_are_an_error_that_says_what_differs(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    make_run(tmp_path, "step-0")
    before = contents(tmp_path)
    with pytest.raises(UsageError) as caught:
        Run.create(tmp_path, header("step-0", **changes))
    assert sentence in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert contents(tmp_path) == before
    with Run.create(tmp_path, header("step-0", **changes), fresh=True) as run:
        assert run.labels == []


def test_long_values_are_shown_where_they_differ(tmp_path: Path) -> None:
    other = [LONG[0].replace("one.jsonl", "two.jsonl")]
    with Run.create(tmp_path, header("step-0", options={"text": LONG})) as run:
        write(run, "step-0")
    with pytest.raises(UsageError, match=r"was \.\.\..*one\.jsonl.* is now \.\.\..*two\.jsonl"):
        Run.create(tmp_path, header("step-0", options={"text": other}))


def test_other_options_take_a_folder_where_nothing_was_measured_yet(tmp_path: Path) -> None:
    with Run.create(tmp_path, header("step-0")) as run:
        run.write_failure(entry("step-0"), "no")
    with Run.create(tmp_path, header("step-0", command="collapse")) as run:
        assert run.failed == {}
        write(run, "step-0")
    # Readings of a checkpoint that the series no longer lists count as measured.
    with Run.create(tmp_path, header("step-1", command="collapse")):
        pass
    with pytest.raises(UsageError, match="command was"):
        Run.create(tmp_path, header("step-1", command="rank"))


# Whose folder it is


def test_fresh_clears_what_a_run_is_made_of_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path, "step-0", "../../x")
    mine = {"notes.txt": "mine", "checkpoints/weights.bin": "mine", "charts/a.json": "mine"}
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "checkpoints" / "step-0.json.part").write_text("half")
    with Run.create(tmp_path, header("step-0", command="collapse"), fresh=True) as run:
        assert run.labels == []
        assert run.findings == []
        assert len(contents(tmp_path)) > len(mine) + 2, "nothing goes before something is written"
        run.write_findings([])
    left = {name for name in contents(tmp_path) if name not in (".lock", "run.json")}
    assert left == {*mine, "findings.json"}


def test_a_crash_while_clearing_leaves_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = make_run(tmp_path / "original", "a", "b", "c")
    removals = len(list((original.path / "checkpoints").iterdir())) + 2
    real = Path.unlink
    for allowed in range(removals):
        path = tmp_path / f"crash-{allowed}"
        shutil.copytree(original.path, path)
        left = [allowed]

        def unlink(self: Path, missing_ok: bool = False, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            real(self, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            try:
                with Run.create(path, header("a", "b", "c", command="x"), fresh=True) as run:
                    run.write_findings([])
            except KeyboardInterrupt:
                run = Run.open(path)
                assert run.header["command"] == "rank"
                for label in run.labels:
                    np.testing.assert_array_equal(
                        run.arrays(label)["count"], original.arrays(label)["count"]
                    )
        with Run.create(path, header("a", "b", "c", command="x"), fresh=True) as run:
            assert run.labels == []


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"checkpoints/model.safetensors": "weights"},
        {"run.json": '{"schema": "wandb/1"}'},
        {"run.json": "[1]"},
        {"run.json": "no json", "notes.txt": "mine"},
        {"run.json": '{"id": 3}', "checkpoints/model.safetensors": "weights"},
        {"findings.json": "[]"},
    ],
)
def test_a_folder_of_something_else_is_refused(
    files: dict[str, str], fresh: bool, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="holds no run; give another name"):
        Run.create(tmp_path, header("step-0"), fresh=fresh)
    assert {n: b.decode() for n, b in contents(tmp_path).items()} == files


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="that is a file"):
        Run.create(tmp_path / "file", header())
    with pytest.raises(UsageError, match="cannot be made"):
        Run.create(tmp_path / "file" / "below", header())
    for path in (tmp_path / "file", tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="is not a run folder"):
            Run.open(path)


def test_a_damaged_run_is_a_sentence_and_fresh_mends_it(tmp_path: Path) -> None:
    make_run(tmp_path, "step-0")
    (tmp_path / "report.html").write_text("<html>")
    for text, sentence in (
        ("{", "cannot be read"),
        ('{"schema": "geoprobe.run/1"}', "damaged"),
        ('{"schema": "geoprobe.run/0"}', "geoprobe.run/0.*this version reads"),
    ):
        (tmp_path / "run.json").write_text(text)
        for attempt in (Run.open, lambda path: Run.create(path, header("step-0"))):
            with pytest.raises(UsageError, match=f"(?s){sentence}.*--fresh"):
                attempt(tmp_path)
        with Run.create(tmp_path, header("step-0"), fresh=True) as run:
            assert run.labels == []
            write(run, "step-0")
        assert Run.open(tmp_path).labels == ["step-0"]


def test_damaged_files_of_a_checkpoint_are_sentences(tmp_path: Path) -> None:
    make_run(tmp_path, "step-0")
    (tmp_path / "checkpoints" / "step-0.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UsageError, match="measure again"):
        Run.open(tmp_path).arrays("step-0")
    for text in ("{", "[]", "{}"):
        (tmp_path / "checkpoints" / "step-0.json").write_text(text)
        with pytest.raises(UsageError, match=r"step-0\.json"):
            _ = Run.open(tmp_path).labels


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    run = make_run(tmp_path, "step-0")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write(run, "step-0", shift=1)
    monkeypatch.undo()
    # The readings of before went first: the checkpoint is absent, not half of each.
    assert Run.open(tmp_path).labels == []


# Crashes


def test_a_crash_at_any_write_leaves_a_checkpoint_done_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"fsync": os.fsync, "replace": Path.replace}
    for kill_at in range(11):
        path = tmp_path / str(kill_at)
        make_run(path, "step-0")
        left = [kill_at]

        def step(name: str, left: list[int] = left) -> Any:
            def wrapped(*args: Any) -> Any:
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return steps[name](*args)

            return wrapped

        finished = False
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", step("fsync"))
            patch.setattr(Path, "replace", step("replace"))
            try:
                with Run.create(path, header("step-0", "new")) as run:
                    write(run, "new", 1)
                    write(run, "step-0", 7, fingerprint="f1", shift=1)
                finished = True
            except KeyboardInterrupt:
                pass
        assert finished == (kill_at >= 10)
        run = Run.open(path)
        for label in run.labels:
            # Readings and arrays belong together, whichever state they are of.
            stored = next(e for e in run.checkpoints if e["label"] == label)
            values = [r["value"] for r in run.document()["readings"] if r["checkpoint"] == label]
            shift = float(stored["fingerprint"] == "f1")
            assert values == [r.value for r in readings(label, shift)]
            np.testing.assert_array_equal(
                run.arrays(label)["spectrum/final/groups"],
                arrays(stored["step"])["spectrum/final/groups"],
            )
        with Run.create(path, header("step-0", "new")) as run:
            for one, shift in ((entry("step-0", 7, "f1"), 1.0), (entry("new", 1), 0.0)):
                if not run.is_done(one):
                    write(run, one["label"], one["step"], one["fingerprint"], shift)
        assert Run.open(path).labels == ["step-0", "new"]
        assert not list(path.rglob("*.part"))


_WRITER = """
import sys, itertools
from pathlib import Path
from geoprobe.runs.folder import Run
from tests.runs.example import entry, header, write
labels = [f"step-{i}" for i in range(150)]
with Run.create(Path(sys.argv[1]), header(*labels)) as run:
    print("ready", flush=True)
    for i, label in enumerate(labels):
        if not run.is_done(entry(label, i)):
            write(run, label, i)
            print(label, flush=True)
print("finished", flush=True)
"""


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    written: list[str] = []
    for attempt in range(60):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if attempt < 4:
            time.sleep(0.01 * (attempt + 1))
            process.send_signal(signal.SIGKILL)
        words = process.stdout.read().split()
        process.wait()
        written += [word for word in words if word.startswith("step-")]
        if words and words[-1] == "finished":
            break
        run = Run.open(path)
        assert set(written) <= set(run.labels)  # nothing that was finished is lost
        for label in run.labels:
            assert run.arrays(label).keys() == arrays().keys()
    else:
        pytest.fail("it never finished")
    assert len(written) == len(set(written))  # nor done twice
    whole = tmp_path / "whole"
    with Run.create(whole, header(*(f"step-{i}" for i in range(150)))) as run:
        for i in range(150):
            write(run, f"step-{i}", i)
    assert contents(path) == contents(whole)


# Two at once


def test_a_folder_that_another_process_is_writing_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from geoprobe.runs.folder import Run;"
        "from tests.runs.example import header;"
        "run = Run.create(Path(sys.argv[1]), header('step-0')); print('held', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = contents(tmp_path)
        for fresh in (False, True):
            with pytest.raises(UsageError, match="another geoprobe is writing this run"):
                Run.create(tmp_path, header("step-0"), fresh=fresh)
        assert contents(tmp_path) == before
        assert Run.open(tmp_path).labels == []  # reading is allowed
        other.send_signal(signal.SIGKILL)
    make_run(tmp_path, "step-0")  # a lock dies with its holder


def test_a_refused_or_closed_run_lets_others_write(tmp_path: Path) -> None:
    run = make_run(tmp_path, "step-0")
    with pytest.raises(UsageError, match="another run"):
        Run.create(tmp_path, header("step-0", command="other"))
    again = Run.create(tmp_path, header("step-0"))
    with pytest.raises(UsageError, match="another geoprobe"):
        Run.create(tmp_path, header("step-0"))
    again.close()
    again.close()
    Run.create(tmp_path, header("step-0")).close()
    assert run.labels == ["step-0"]


# Hostile labels

HOSTILE = [
    "", ".", "..", "../../x", "/etc/passwd", "a/b", "a_b", "a b", "a\\b", "A" * 500, "A" * 501,
    "nul\0byte", "new\nline", "été", "ete", "模型", "\ud800", ".hidden", "-rf", "x.json", "x",
    "x.safetensors", "x.json.part", "</script><img onerror=alert(1)>", "run.json", "con", "~",
    "$(reboot)", "a:b", "%2e%2e", "‮gpj",
]  # fmt: skip


def test_hostile_labels_stay_in_the_folder_and_never_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Run.create(path, header(*HOSTILE)) as run:
        for i, label in enumerate(HOSTILE):
            write(run, label, i)
        # A label that spells the name made for another label.
        names = [file.stem for file in (path / "checkpoints").glob("*.json")]
        more = [name for name in names if name not in HOSTILE]
    with Run.create(path, header(*HOSTILE, *more)) as run:
        assert run.labels == HOSTILE
        for i, label in enumerate(more, len(HOSTILE)):
            write(run, label, i)
    found = Run.open(path)
    assert found.labels == [*HOSTILE, *more]
    for i, label in enumerate(found.labels):
        wanted = arrays(i)["spectrum/final/groups"]
        np.testing.assert_array_equal(found.arrays(label)["spectrum/final/groups"], wanted)
    files = [name for name in contents(tmp_path) if name.startswith("run/checkpoints/")]
    assert len(files) == 2 * len(found.labels)
    others = set(contents(tmp_path)) - set(files)
    assert others == {"run/run.json", "run/.lock"}
    assert all(len(name.encode()) < 150 and name.isascii() for name in files)
    assert not any(Path(name).name.startswith((".", "-")) for name in files)


@given(st.text(max_size=200), st.text(max_size=200))
def test_two_labels_have_two_files(first: str, second: str) -> None:
    run = Run(Path("run"), {})
    for label in (first, second):
        for ending in (".json", ".safetensors"):
            file = run._file(label, ending)
            assert file.parent == Path("run/checkpoints")
            assert file.name.endswith(ending)
            assert file.name not in (".json", ".safetensors")
    assert (run._file(first, "") == run._file(second, "")) == (first == second)


def test_plain_labels_give_plain_names(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    for label in ("checkpoint-500", "stage1-step140000-tokens294B", "step512", "epoch_3", "v0.1"):
        assert run._file(label, ".json").name == f"{label}.json"


def test_run_json_holds_no_path_and_no_time_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path, "step-0")
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text) == {
        "schema": "geoprobe.run/1",
        **json.loads(json.dumps(header("step-0"))),
    }
    assert str(tmp_path) not in text
