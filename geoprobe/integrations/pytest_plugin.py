"""The geometry of a model as a test of pytest: the fixture `geoprobe_check`.

    def test_geometry(geoprobe_check):
        geoprobe_check("runs/my-model", baseline="geometry.json", text="corpus.jsonl")

`pytest --geoprobe-update` writes the baselines. This file is imported whenever pytest starts where
geoprobe is installed, so it imports nothing that is not there by then.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from geoprobe.checks.checking import Checked

_OPTION = "--geoprobe-update"
_WROTE = "geoprobe_baseline"
_written = pytest.StashKey[dict[Path, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes baselines."""
    parser.getgroup("geoprobe", "geometry of models").addoption(
        _OPTION,
        action="store_true",
        help="Write the baselines of geoprobe_check instead of checking against them.",
    )


@pytest.fixture
def geoprobe_check(request: pytest.FixtureRequest) -> GeoprobeCheck:
    """Checks a model's geometry against a baseline beside the test's file.

    Call it with a model and the name of a baseline; the test fails where the geometry moved beyond
    what is expected, with a table of what did.
    """
    return GeoprobeCheck(request)


class GeoprobeCheck:
    """What the fixture `geoprobe_check` gives.

    Args:
        request: The test that asks.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._config = request.config
        self._update = bool(request.config.getoption(_OPTION))

    def __call__(
        self, model: Any, *, baseline: str | Path = "geometry.json", **options: Any
    ) -> Checked:
        """Measures a model and compares it with its baseline, or writes that.

        Args:
            model: A live module (of transformers with `tokenizer=`, of any other kind with
                `data=`), or what `geoprobe check` takes: a checkpoint, a series, a run. It is left
                as it is.
            baseline: The file, relative to the folder of the test's file.
            **options: As `geoprobe.check` has them. Where no `config` is given, expectations are
                those of the nearest geoprobe.toml, from that folder up to pytest's root folder,
                and then of geoprobe.toml or pyproject.toml in the working directory.

        Returns:
            What the check found, where the test goes on.
        """
        __tracebackhide__ = True
        from geoprobe.errors import GeoprobeError

        file = self._request.path.parent / baseline
        if self._update:
            self._claim(file)
        options.setdefault("config", self._expectations())
        mistake, found = "", None
        try:
            found = self._checked(model, file, options)
        except GeoprobeError as error:
            mistake = str(error)
        if found is None:  # out of the handler: a failure in it would show both
            pytest.fail(f"geoprobe: {mistake}{self._hint(file)}", pytrace=False)
        if found.written is not None:
            self._note(found)
        elif found.exit_code:
            pytest.fail(self._told(found) + self._hint(file), pytrace=False)
        return found

    def _checked(self, model: Any, file: Path, options: dict[str, Any]) -> Checked:
        """The check, with random numbers and the model left as they were.

        Raises:
            GeoprobeError: It could not be done.
        """
        from geoprobe.checks.checking import check
        from geoprobe.integrations.undisturbed import same_random_numbers, undisturbed

        given = {"baseline": file, "update": self._update, "progress": _notes(), **options}
        if _is_series(model):
            with same_random_numbers():
                return check(model, **given)
        if "tokenizer" in given:  # reading a text sets how it cuts and pads
            given["tokenizer"] = copy.deepcopy(given["tokenizer"])
        with undisturbed(model):
            return check(model=model, **given)

    def _expectations(self) -> Path | None:
        """The nearest geoprobe.toml from the test's folder up to the root folder."""
        from geoprobe.checks.expectations import FILE

        root, folder = self._config.rootpath, self._request.path.parent
        inside = folder == root or root in folder.parents
        for place in [folder, *folder.parents] if inside else [folder]:
            if (place / FILE).is_file():
                return place / FILE
            if place == root:
                break
        return None

    def _claim(self, file: Path) -> None:
        """Makes sure that no two calls of a session write one baseline."""
        __tracebackhide__ = True
        owners = self._config.stash.setdefault(_written, {})
        owner = owners.setdefault(file.resolve(), self._request.node.nodeid)
        if owner != self._request.node.nodeid:
            pytest.fail(
                f"geoprobe: {self._shown(file)} was written by {owner} just now; give each check a "
                "baseline of its own.",
                pytrace=False,
            )

    def _note(self, found: Checked) -> None:
        """Leaves a word on a written baseline for the summary, also across processes of xdist."""
        from geoprobe.reports.check import exit_sentence

        assert found.written is not None
        said = "new" if found.verdict is None else f"before: {exit_sentence(found.verdict)}"
        self._request.node.user_properties.append(
            (_WROTE, f"{self._shown(found.written)} ({said})")
        )

    def _told(self, found: Checked) -> str:
        """The verdict as the command shows it in a terminal."""
        from rich.console import Console

        from geoprobe.reports.check import render

        assert found.verdict is not None
        width = max(80, self._config.get_terminal_writer().fullwidth)
        console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
        render(found.verdict, console)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return f"geoprobe check {text}"

    def _hint(self, file: Path) -> str:
        if self._update:
            return ""
        where = self._shown(file)
        return f"\nBaseline: {where}; where the change is meant, write it anew: pytest {_OPTION}"

    def _shown(self, file: Path) -> str:
        root = self._config.rootpath
        return str(file.relative_to(root) if file.is_relative_to(root) else file)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says which baselines were written."""
    for line in _lines(terminalreporter.stats):
        terminalreporter.write_line(f"geoprobe wrote {line}")


def _lines(stats: dict[str, Sequence[Any]]) -> Iterator[str]:
    """What tests left word of; each of a test's reports has it."""
    found = {
        str(value): None
        for reports in stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _WROTE
    }
    return iter(found)


def _is_series(model: Any) -> bool:
    if isinstance(model, str | Path):
        return True
    return isinstance(model, list | tuple) and all(isinstance(m, str | Path) for m in model)


def _notes() -> Any:
    """Prints notes, which pytest shows with a failure."""
    from geoprobe.probes.base import Silent

    class Notes(Silent):
        def note(self, message: str) -> None:
            print(f"geoprobe: {message}")

    return Notes()
