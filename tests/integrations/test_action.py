"""The GitHub Action: its description fits its script, and its script takes hostile input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.conftest import tiny_text

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "action_check.sh"
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
EXAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "docs/examples/geometry.yml").read_text("utf-8"))
NAMES = {"exit-code", "junit", "markdown"}
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "' ; touch pwned ; '",
    '"$(touch pwned)"',
    "a\ntouch pwned",
    "--version",
    "*",
    "${HOME} %PATH% \\",
    "é 漢 \U0001f600",
]

# Stands for the command, and for Python where it is asked for pip: notes what it was given.
STUB = """#!{python}
import json, os, pathlib, sys
with open(os.environ["NOTED"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
for word in sys.argv:
    if word.startswith(("--junit=", "--markdown=")) and "WRITES" in os.environ:
        pathlib.Path(word.partition("=")[2]).write_text("now")
print(os.environ.get("SAYS", ""), end="")
sys.exit(int(os.environ.get("CODE", 0)))
"""


class Step:
    """A step of a job: a folder to work in, and what the script did there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "workspace"
        self.folder.mkdir()
        self._noted, self._output = folder / "noted", folder / "output"
        self._stubs = folder / "stubs"
        self._stubs.mkdir()

    def stub(self, name: str) -> None:
        path = self._stubs / name
        path.write_text(STUB.format(python=sys.executable))
        path.chmod(0o755)

    def run(self, verb: str = "check", **environment: str) -> subprocess.CompletedProcess[str]:
        self._output.unlink(missing_ok=True)
        return subprocess.run(
            ["bash", SCRIPT, verb],
            cwd=self.folder,
            env={
                "PATH": f"{self._stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "LANG": "C.UTF-8",
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_OUTPUT": str(self._output),
                "NOTED": str(self._noted),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def noted(self) -> list[list[str]]:
        """The arguments of each call of a stub."""
        if not self._noted.exists():
            return []
        return [json.loads(line) for line in self._noted.read_text().splitlines()]

    @property
    def outputs(self) -> dict[str, str]:
        if not self._output.exists():
            return {}
        return dict(line.split("=", 1) for line in self._output.read_text().splitlines())


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


@pytest.fixture
def stubbed(step: Step) -> Step:
    step.stub("geoprobe")
    return step


GIVEN = {
    "GEOPROBE_MODEL": "runs/model",
    "GEOPROBE_BASELINE": "geometry.json",
    "GEOPROBE_JUNIT": "j.xml",
    "GEOPROBE_MARKDOWN": "m.md",
}


def test_inputs_are_arguments(stubbed: Step) -> None:
    arguments = "--text 'my corpus.jsonl' --keep \"a b\" --empty '' c\\ d"
    found = stubbed.run(**GIVEN, GEOPROBE_ARGS=arguments, WRITES="1")
    assert found.returncode == 0, found.stderr
    own = ["--baseline=geometry.json", "--junit=j.xml", "--markdown=m.md", "--", "runs/model"]
    split = ["--text", "my corpus.jsonl", "--keep", "a b", "--empty", "", "c d"]
    assert stubbed.noted == [["check", *split, *own]]
    assert stubbed.outputs == {"exit-code": "0", "junit": "j.xml", "markdown": "m.md"}


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_inputs_are_arguments_too(value: str, stubbed: Step) -> None:
    args = f"--text {value}" if '"' not in value and "'" not in value else value
    found = stubbed.run(
        **{**GIVEN, "GEOPROBE_MODEL": value, "GEOPROBE_BASELINE": value, "GEOPROBE_ARGS": args}
    )
    assert not list(stubbed.folder.iterdir())
    if value.endswith("\\"):  # there is nothing behind it that it could be for
        assert (found.returncode, stubbed.noted) == (2, [])
        return
    assert found.returncode == 0, found.stderr
    (words,) = stubbed.noted
    assert words[-2:] == ["--", value]
    assert f"--baseline={value}" in words
    if args != value:
        assert words[1 : 2 + len(value.split())] == ["--text", *value.split()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"GEOPROBE_MODEL": ""}, "'model' is empty"),
        ({"GEOPROBE_BASELINE": ""}, "'baseline' is empty"),
        ({"GEOPROBE_ARGS": "--text 'a"}, "quote that is not closed"),
        ({"GEOPROBE_ARGS": "-- other"}, "holds --"),
        ({"GEOPROBE_FAIL_ON": "sometimes"}, "fail-on"),
        ({"GEOPROBE_JUNIT": "j.xml\nexit-code=0"}, "control characters"),
        ({"GEOPROBE_MARKDOWN": "m\rd"}, "control characters"),
    ],
)
def test_wrong_inputs_are_told(changes: dict[str, str], said: str, stubbed: Step) -> None:
    found = stubbed.run(**{**GIVEN, **changes})
    assert found.returncode == 2
    assert said in found.stdout
    assert found.stdout.startswith("::error ")
    assert stubbed.outputs == {"exit-code": "2"}
    assert not stubbed.noted


@pytest.mark.parametrize(
    ("fail_on", "code", "ends", "severity"),
    [
        ("any", 0, 0, None),
        ("any", 1, 1, "error"),
        ("any", 3, 3, "error"),
        ("any", 70, 70, "error"),
        ("errors", 1, 0, "warning"),
        ("errors", 3, 3, "error"),
        ("errors", 4, 4, "error"),
        ("never", 1, 0, "warning"),
        ("never", 2, 0, "warning"),
    ],
)
def test_the_step_fails_when_it_should(
    fail_on: str, code: int, ends: int, severity: str | None, stubbed: Step
) -> None:
    found = stubbed.run(**GIVEN, GEOPROBE_FAIL_ON=fail_on, CODE=str(code))
    assert found.returncode == ends
    assert stubbed.outputs == {"exit-code": str(code)}
    said = re.findall(r"^::(error|warning) ", found.stdout, re.MULTILINE)
    assert said == [severity] * (severity is not None)


def test_files_of_an_earlier_step_are_not_its_outputs(stubbed: Step) -> None:
    (stubbed.folder / "j.xml").write_text("before")
    stubbed.run(**GIVEN, CODE="2")
    assert stubbed.outputs == {"exit-code": "2"}
    assert (stubbed.folder / "j.xml").read_text() == "before"
    stubbed.run(**{**GIVEN, "GEOPROBE_JUNIT": "", "GEOPROBE_MARKDOWN": ""}, WRITES="1")
    assert stubbed.outputs == {"exit-code": "0"}
    assert stubbed.noted[-1] == ["check", "--baseline=geometry.json", "--", "runs/model"]


def test_what_is_printed_is_no_command_to_the_runner(stubbed: Step) -> None:
    hostile = "::add-mask::a\n::error::b\n::stop-commands::x\n::x::\n::warning::no line's end"
    printed = [stubbed.run(**GIVEN, SAYS=hostile).stdout.splitlines() for _ in range(2)]
    tokens = []
    for lines in printed:
        token = lines[0].removeprefix("::stop-commands::")
        assert len(token) == 32
        end = lines.index(f"::{token}::")
        assert [line for line in lines[1:end] if line] == hostile.splitlines()
        assert lines[end + 1 :] == []
        tokens.append(token)
    assert tokens[0] != tokens[1]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("installed", []),
        ("", ["--constraint", str(ROOT / "constraints.txt"), str(ROOT)]),
        ("geoprobe==0.1.0", ["--", "geoprobe==0.1.0"]),
        ("--target=/ $(touch pwned)", ["--", "--target=/ $(touch pwned)"]),
    ],
)
def test_it_installs_what_is_asked_for(version: str, expected: list[str], step: Step) -> None:
    step.stub("python")
    assert step.run("install", GEOPROBE_VERSION=version).returncode == 0
    pip = ["-P", "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    assert step.noted == ([[*pip, *expected]] if expected else [])
    assert (ROOT / "constraints.txt").is_file()
    assert not list(step.folder.iterdir())


def test_it_checks_a_model(step: Step, tiny_series: Path, tmp_path: Path) -> None:
    lines = (json.dumps({"text": text}) + "\n" for text in tiny_text(40))
    (step.folder / "corpus.jsonl").write_text("".join(lines))
    for name in ("step-0", "step-1"):
        shutil.copytree(tiny_series / name, step.folder / "my model" / name)
    for file in tiny_series.glob("token*"):
        shutil.copy(file, step.folder / "my model")
    inputs = {
        "GEOPROBE_BASELINE": "kept/geometry.json",
        "GEOPROBE_JUNIT": "results/j.xml",
        "GEOPROBE_MARKDOWN": "results/m.md",
        "GEOPROBE_ARGS": "--text corpus.jsonl --probes spectrum",
        "GEOPROBE_MODEL": "my model/step-0",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    update = {**inputs, "GEOPROBE_ARGS": f"{inputs['GEOPROBE_ARGS']} --update"}
    found = step.run(**update)
    assert found.returncode == 0, found.stdout
    assert step.outputs == {"exit-code": "0"}
    assert (step.folder / "kept" / "geometry.json").is_file()
    found = step.run(**{**inputs, "GEOPROBE_MODEL": "my model"})  # of a series the newest
    assert found.returncode == 1, found.stdout
    written = {"junit": "results/j.xml", "markdown": "results/m.md"}
    assert step.outputs == {"exit-code": "1", **written}
    suites = ElementTree.parse(step.folder / "results" / "j.xml").getroot()
    assert int(suites.attrib["failures"]) > 0
    assert "FAILED" in (step.folder / "results" / "m.md").read_text()
    assert "FAILED" in (tmp_path / "summary.md").read_text()


def _expressions(text: str) -> list[str]:
    return [found.strip() for found in re.findall(r"\$\{\{(.*?)\}\}", text)]


def test_the_action_passes_its_inputs_on_and_never_as_code() -> None:
    steps = ACTION["runs"]["steps"]
    used: set[str] = set()
    for one in steps:
        assert not _expressions(one.get("run", ""))
        for place in ("env", "with", "if"):
            text = json.dumps(one.get(place, ""))
            used |= set(re.findall(r"inputs\.([\w-]+)", text))
        if "run" in one:
            assert one["shell"] == "bash"
    assert used == set(ACTION["inputs"])
    required = {name for name, given in ACTION["inputs"].items() if given.get("required")}
    assert required == {"model", "baseline"}
    assert all("default" in ACTION["inputs"][name] for name in used - required)
    # What the script reads is what the action gives it, under these very names.
    given = {name for one in steps for name in one.get("env", {})}
    assert given == set(re.findall(r"\bGEOPROBE_\w+", SCRIPT.read_text()))
    for one in steps:
        for name, value in one.get("env", {}).items():
            assert value == f"${{{{ inputs.{name[9:].lower().replace('_', '-')} }}}}"
    assert os.access(SCRIPT, os.X_OK)


def test_the_action_gives_what_the_script_outputs() -> None:
    ids = {one.get("id") for one in ACTION["runs"]["steps"]}
    assert set(ACTION["outputs"]) == NAMES
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.check.outputs.{name} }}}}"
    assert "check" in ids
    assert set(re.findall(r"\boutput ([\w-]+) ", SCRIPT.read_text())) == NAMES


def test_the_example_workflow_fits_the_action() -> None:
    assert set(EXAMPLE[True]) == {"pull_request", "workflow_dispatch"}  # YAML 1.1 reads `on` so
    assert EXAMPLE["permissions"] == {"contents": "read"}
    uses = [
        (one, job["steps"])
        for job in EXAMPLE["jobs"].values()
        for one in job["steps"]
        if "geoprobe@" in one.get("uses", "")
    ]
    assert len(uses) == 2
    for one, steps in uses:
        given = one["with"]
        assert set(given) <= set(ACTION["inputs"])
        assert {"model", "baseline"} <= set(given)
        # The baseline comes to light where it is written, the results where it is compared with.
        (upload,) = [s["with"]["path"] for s in steps if "upload-artifact" in s.get("uses", "")]
        if "--update" in given["args"].split():
            assert upload == given["baseline"]
        else:
            names = {name.rpartition(".")[2] for name in _expressions(upload)}
            assert names == {"junit", "markdown"}
