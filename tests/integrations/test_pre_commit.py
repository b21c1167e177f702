"""The hook for pre-commit, and the example in its comment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from geoprobe.commands.check import check

ROOT = Path(__file__).parents[2]
FILE = ROOT / ".pre-commit-hooks.yaml"


@pytest.fixture(scope="module")
def hook() -> dict[str, Any]:
    (found,) = yaml.safe_load(FILE.read_text("utf-8"))
    return dict(found)


def test_the_hook_runs_the_command(hook: dict[str, Any]) -> None:
    assert hook["id"] == "geoprobe-check"
    assert hook["language"] == "python"
    # Names of files that changed are no models.
    assert hook["pass_filenames"] is False
    assert hook["require_serial"] is True
    command, verb = hook["entry"].split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert command in project["scripts"]
    assert verb == check.__name__


def test_the_example_is_a_command(
    hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    comment = [line[2:] for line in FILE.read_text().splitlines() if line.startswith("#   ")]
    (repository,) = yaml.safe_load("\n".join(comment))["repos"]
    (used,) = repository["hooks"]
    assert used["id"] == hook["id"]
    assert set(used) <= {"id", "args", "files", "stages"}
    # Parsed by the command line itself, up to where it would measure.
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text("")
    asked: dict[str, Any] = {}

    def noted(series: Any, **options: Any) -> None:
        asked.update(options, series=series)
        raise KeyboardInterrupt

    monkeypatch.setattr("geoprobe.checks.checking.check", noted)
    monkeypatch.setattr("sys.argv", ["geoprobe", "check", *used["args"]])
    from geoprobe.cli import main

    with pytest.raises(SystemExit):
        main()
    assert asked["series"] == ["checkpoints/model"]
    assert asked["baseline"] == Path("geometry.json")
    assert [str(path) for path in asked["text"]] == ["corpus.jsonl"]
    assert asked["update"] is False
