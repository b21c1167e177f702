"""`geoprobe_check` in the pytest of others: baselines beside tests, tables where they fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import geoprobe
from geoprobe.integrations import pytest_plugin
from tests.conftest import tiny_text

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "test_geometry.py"

STRICT = """
import os
from pathlib import Path

import pytest
import torch

MODEL = os.environ["GEOPROBE_TEST_MODEL"]
TEXT = Path(__file__).parents[1] / "corpus-0.jsonl"

def test_moving(geoprobe_check):
    geoprobe_check(MODEL, baseline="kept/moving.json", text=TEXT, probes=["spectrum"])

def test_live(geoprobe_check):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL).train()
    names = {name: set(vars(module)) for name, module in model.named_modules()}
    random = torch.get_rng_state()
    try:
        geoprobe_check(
            model,
            tokenizer=AutoTokenizer.from_pretrained(Path(MODEL).parent),
            baseline="live.json",
            text=TEXT,
            probes=["spectrum"],
        )
    finally:
        assert torch.equal(random, torch.get_rng_state())
        assert all(module.training for module in model.modules())
        assert {name: set(vars(module)) for name, module in model.named_modules()} == names
"""
OTHER = """
from test_strict import MODEL, TEXT

def test_another_text(geoprobe_check):
    text = TEXT.with_name("corpus-1.jsonl")
    geoprobe_check(MODEL, baseline="kept/moving.json", text=text, probes=["spectrum"])

def test_no_baseline(geoprobe_check):
    geoprobe_check(MODEL, baseline="none.json")
"""
LOOSE = """
from test_strict import MODEL, TEXT

def test_loose(geoprobe_check):
    baseline = "../strict/kept/moving.json"
    geoprobe_check(MODEL, baseline=baseline, text=TEXT, probes=["spectrum"])
"""
TWICE = """
import pytest

@pytest.mark.parametrize("seed", [0, 1])
def test_twice(geoprobe_check, seed):
    geoprobe_check("nothing", baseline="twice.json")
"""


def _lines(seed: int) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in tiny_text(40, seed=seed))


@pytest.fixture
def bare(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder where pytest has this plug-in alone, whether this environment knows it or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytester


@pytest.fixture
def project(
    bare: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tiny_series: Path
) -> pytest.Pytester:
    """A project with tests in two folders of a folder, as it was cloned: without baselines."""
    tests = bare.path / "tests"
    for name in ("example", "strict", "loose"):
        (tests / name).mkdir(parents=True)
    shutil.copy(EXAMPLE, tests / "example" / "test_example.py")
    (tests / "example" / "corpus.jsonl").write_text(_lines(0))
    checkpoints = tests / "example" / "checkpoints"
    shutil.copytree(tiny_series, checkpoints, ignore=shutil.ignore_patterns("step-*0"))
    (tests / "strict" / "test_strict.py").write_text(STRICT)
    (tests / "strict" / "test_other.py").write_text(OTHER)
    (tests / "loose" / "test_loose.py").write_text(LOOSE)
    (tests / "loose" / "geoprobe.toml").write_text("[check]\nabs = 1e9\n")
    for seed in (0, 1):
        (tests / f"corpus-{seed}.jsonl").write_text(_lines(seed))
    bare.makeini("[pytest]\npythonpath = tests/strict\n")
    monkeypatch.setenv("GEOPROBE_TEST_MODEL", str(tiny_series / "step-0"))
    return bare


def _run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    command = ("-p", "geoprobe.integrations.pytest_plugin", "-p", "no:cacheprovider", *arguments)
    return project.runpytest_subprocess(*command, timeout=300)


def test_baselines_are_written_checked_and_moved_from(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tiny_series: Path
) -> None:
    tests = project.path / "tests"
    moving = tests / "strict" / "kept" / "moving.json"
    text = tests / "corpus-1.jsonl"
    geoprobe.check(
        tiny_series / "step-0", baseline=moving, text=text, probes=["spectrum"], update=True
    )
    # The processes of xdist leave their words in the one summary.
    files = ("tests/example", "tests/strict/test_strict.py")
    found = _run(project, *files, "--geoprobe-update", "-p", "xdist", "-n", "1")
    found.assert_outcomes(passed=4)
    for name in ("example/checkpoint", "example/live", "strict/live"):
        assert (tests / f"{name}.json").is_file()
        found.stdout.fnmatch_lines([f"geoprobe wrote tests/{name}.json (new)"])
    found.stdout.fnmatch_lines(
        ["geoprobe wrote tests/strict/kept/moving.json (before: NOT COMPARABLE: *another one*"]
    )
    kept = {path: path.read_bytes() for path in tests.rglob("*.json")}

    monkeypatch.setenv("GEOPROBE_TEST_MODEL", str(tiny_series / "step-1"))
    found = _run(project, "tests")
    found.assert_outcomes(passed=3, failed=4)
    found.stdout.no_fnmatch_line("*geoprobe wrote*")
    found.stdout.no_fnmatch_line("*Traceback*")
    found.stdout.no_fnmatch_line("*During handling*")
    for name in ("kept/moving", "live"):
        found.stdout.fnmatch_lines(
            [
                "geoprobe check FAILED: *",
                "*measure *site *before *after *",
                "*RankMe*",
                f"Baseline: tests/strict/{name}.json; *: pytest --geoprobe-update",
            ]
        )
    found.stdout.fnmatch_lines(
        ["geoprobe check NOT COMPARABLE: *", "problem: The text is another*"]
    )
    found.stdout.fnmatch_lines(["geoprobe: --baseline *none.json: there is no such file*"])
    assert {path: path.read_bytes() for path in tests.rglob("*.json")} == kept


def test_two_tests_do_not_write_one_baseline(bare: pytest.Pytester) -> None:
    bare.makepyfile(TWICE)
    found = _run(bare, "--geoprobe-update")
    found.assert_outcomes(failed=2)
    found.stdout.fnmatch_lines(["*nothing*", "geoprobe: twice.json was written by *twice?0?*"])
    assert not (bare.path / "twice.json").exists()


def test_pytest_starts_without_anything_heavy() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import geoprobe.integrations.pytest_plugin\n"
        "print(*(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = {name for name in found.stdout.split() if not name.startswith("__")}
    ours = {name for name in new if name.partition(".")[0] == "geoprobe"}
    assert ours == {"geoprobe", "geoprobe.integrations", "geoprobe.integrations.pytest_plugin"}
    assert {name.partition(".")[0] for name in new - ours} <= set(sys.stdlib_module_names)


def test_the_entry_point_is_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert import_module(project["entry-points"]["pytest11"]["geoprobe"]) is pytest_plugin
