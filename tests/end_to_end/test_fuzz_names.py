"""Checkpoints of any name: measured under a label of their own, or named as not; never mixed up.

Every checkpoint of a folder has other weights, so that readings that go to the wrong one show.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.models.finding import Found, safe_name
from geoprobe.models.naming import is_conventional, is_temporary, numbers_in
from geoprobe.models.series import _labels, find_series
from geoprobe.runs.folder import Run
from tests.conftest import tiny_model, tiny_text, tiny_tokenizer
from tests.models.checkpoints import write
from tests.runs.example import header

Cli = Callable[..., tuple[int, str, str]]

fixed = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

COUNTED = ["step", "Step", "STEP", "steps", "checkpoint-", "ckpt_", "iter_", "global_step", "epoch"]
COUNTED += ["tokens", "stage1-step", "stage2-step", "run.step", "ſtep", "stеp", "timestep", ""]
NUMBERS = ["0", "1", "01", "001", "2", "5", "10", "-5", "=7", "1.5", "1e3", "1_000", "1,000", "٣"]
NUMBERS += ["²", "５", "3k", "2M", "2B", "9" * 21, "9" * 240, "0" * 200 + "1", "½", "10k", "1K", ""]
HOSTILE = [
    "<script>alert(1)",
    "<b>",
    "&lt;",
    "[a-z]",
    "*",
    "?",
    "%s%n",
    "{}",
    "#",
    "..",
    "...",
    "-",
]
HOSTILE += [
    "--json",
    "-rf",
    "~",
    "~root",
    "$(id)",
    "`id`",
    "'",
    '"',
    "\\",
    "|",
    ";",
    " ",
    "  ",
    "\t",
]
HOSTILE += [
    "\n",
    "\r",
    "\x1b[31m",
    "\x7f",
    "\u202e",
    "\u200b",
    "\u2028",
    "🧪",
    "👩‍🔬",
    "שלום",
    "é",
    "e\u0301",
]
HOSTILE += [
    "ß",
    "ss",
    "İ",
    "ı",
    "K",
    "名",
    "𠀀",
    "\udcff",
    "\udc80\udc81",
    "tmp-",
    ".tmp",
    ".part",
    "@main",
]
HOSTILE += [
    "NUL",
    "con",
    "x" * 130,
    "名" * 50,
    "🧪" * 40,
    "model.safetensors",
    "a.gguf",
    "demo",
    "_",
]


def is_name(name: str) -> bool:
    """Whether a file can be called so."""
    return 0 < len(os.fsencode(name)) <= 255 and name not in (".", "..")


COUNTS = st.tuples(st.sampled_from(COUNTED), st.sampled_from(NUMBERS)).map("".join)
BYTES = st.binary(min_size=1, max_size=40).map(os.fsdecode)
PARTS = COUNTS | COUNTS | st.sampled_from(HOSTILE) | st.text(max_size=5) | BYTES
NAMES = (
    st.lists(PARTS, min_size=1, max_size=3)
    .map("".join)
    .map(lambda name: "".join(c for c in name if c not in "/\0" and not "\ud800" <= c < "\udc80"))
    .filter(lambda name: not any("\udd00" <= c <= "\udfff" for c in name))
    .filter(is_name)
    .map(lambda name: os.fsdecode(os.fsencode(name)))  # pieces may make a character together
)
"""Names of files, bytes that are no UTF-8 among them."""
STEPS = st.tuples(
    st.sampled_from(["", *HOSTILE]),
    st.sampled_from(["step", "-step", "_checkpoint-", ".iter_", " Step"]),
    st.integers(0, 10**6).map(str),
    st.sampled_from(["", *HOSTILE]).map(lambda text: f" {text}" if text else ""),
)
NUMBERED = STEPS.map("".join).filter(is_name).map(lambda name: os.fsdecode(os.fsencode(name)))
"""Names with a step in them, whatever stands around it."""
SEVERAL = st.lists(NAMES | NUMBERED, min_size=1, max_size=4, unique=True)
ORDERED = st.lists(NUMBERED, min_size=2, max_size=4, unique=True)


def one_sentence(text: str) -> None:
    """What a user is told: a sentence, and nothing that a terminal would obey."""
    assert text.isprintable(), ascii(text)
    assert text[-1] in ".)'" or text.endswith("rename it"), ascii(text)


# --- what names say, and what becomes of them


@settings(fixed, max_examples=1000)
@given(NAMES)
@example("epoch1.5")
@example("tokens" + "9" * 240 + ".5T")
@example("step" + "9" * 250)
def test_any_name_is_read(name: str) -> None:
    found = numbers_in(name)
    for field in ("stage", "step", "tokens", "epoch"):
        value = getattr(found, field)
        assert value is None or 0 <= value < 10**270
        assert value is None or isinstance(value, int) or field in ("epoch", "tokens")
    assert is_conventional(name) in (True, False)
    assert is_temporary(name) in (True, False)
    label = safe_name(name)
    assert label
    assert is_name(label + ".safetensors")
    assert label.isprintable()
    assert not set(label) & set("<>&/\\\"'`$|;:*?[]{}#% ~")
    assert not label.startswith((".", "-"))
    assert not label.endswith(".")
    file = Run(Path("run"), {})._file(label, ".json")
    assert file.parent == Path("run/checkpoints")
    assert file.name.isascii()


@settings(fixed, max_examples=500)
@given(
    st.text(alphabet="🧪é名 !(),;@#%[]<>\n\x1b\u202e", max_size=6),
    st.sampled_from(["step", "step-", "checkpoint_", "Iter=", "ckpt-", "GLOBAL_STEP"]),
    st.integers(0, 10**30),
    st.integers(0, 3),
    st.text(alphabet="🧪名 !(),;@#%[]<>\n\x1b\u202e", max_size=6),
)
def test_a_step_is_read_whatever_is_around_it(
    before: str, word: str, step: int, zeros: int, after: str
) -> None:
    before = before if not before[-1:].isalpha() else before + "-"
    assert numbers_in(f"{before}{word}{'0' * zeros}{step}{after}").step == step


@st.composite
def listed(draw: st.DrawFn) -> list[Found]:
    """Checkpoints that a user names one by one, in folders that may be alike."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4))
    above = st.sampled_from(["/r1", "/r2", "/r1/x", "/r2/x", "/R1"])
    paths = {Path(f"{draw(above)}/{draw(st.sampled_from(names))}") for _ in range(8)}
    return [Found(path, "folder", listed=True) for path in sorted(paths)]


@settings(fixed, max_examples=500)
@given(listed())
@example([Found(Path(f"/r/{'_' * 100}step{i}{'_' * 100}"), "folder", listed=True) for i in (1, 2)])
@example([Found(Path(f"/r/{name}"), "folder", listed=True) for name in ("A", "a", "a b", "a_b")])
def test_labels_are_unique_and_the_same_wherever_the_series_lies(found: list[Found]) -> None:
    labels = _labels(found)
    assert len({label.casefold() for label in labels}) == len(found)
    for label in labels:
        assert len(label.encode()) <= 180
        assert label.isprintable()
        assert not set(label) & set("<>&/\\\"' ")
    moved = [Found(Path(f"/elsewhere{f.path}"), "folder", listed=True) for f in found]
    assert _labels(moved) == labels
    run = Run(Path("run"), {})
    assert len({str(run._file(label, ".json")).casefold() for label in labels}) == len(found)


def test_a_label_stays_when_the_series_grows() -> None:
    names = [f"{'_' * 100}step{i}{'_' * 100}" for i in (1, 2, 3)]
    found = [Found(Path(f"/r/{name}"), "folder", listed=False) for name in names]
    assert _labels(found)[1:] == _labels(found[1:])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints that nobody can run, but whose files are whole."""
    above = tmp_path_factory.mktemp("whole")
    return [write(above / f"w{i}", value=i) for i in range(4)]


def linked(names: Sequence[str], models: Sequence[Path], folder: Path) -> Path:
    """A folder of checkpoints so named, each one another model."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, model in zip(names, models, strict=False):
        (folder / name).mkdir()
        for file in model.iterdir():
            os.link(file, folder / name / file.name)
    return folder


@settings(fixed, max_examples=400)
@given(SEVERAL)
@example(["tmp-x", "tmp-y"])
@example(["step1", "checkpoint-1"])
@example(["step01", "step1"])
@example(["Step1", "step1"])
@example(["step\u0663", "step4"])
@example(["\udcff", "step2"])
def test_a_folder_is_a_series_or_a_sentence(
    whole: list[Path], tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = linked(names, whole, tmp_path_factory.getbasetemp() / "a_series")
    # What begins with a dot is hidden, and hidden it stays.
    seen = {name for name in names if not name.startswith(".")}
    try:
        series = find_series([folder])
    except UsageError as error:
        one_sentence(str(error))
        return
    found = {c.path.name: c for c in series.checkpoints}
    assert len(found) == len(series.checkpoints)
    assert found.keys() <= seen
    left_out = [label for label, _ in series.skipped]
    assert sorted(safe_name(name) for name in seen - found.keys()) == sorted(left_out)
    assert len({c.label.casefold() for c in found.values()}) == len(found)
    for name, c in found.items():
        assert c.path == folder / name
        assert (c.incomplete is not None) == (is_temporary(name) or not is_text(name))
        if c.incomplete:
            one_sentence(c.incomplete + ".")
    assert len(found) == 1 or all(numbers_in(name) for name in found)
    for a, b in pairwise(series.checkpoints):
        both = [
            n for n in ("step", "tokens", "epoch") if None not in (getattr(a, n), getattr(b, n))
        ]
        stages = (a.stage or 0, b.stage or 0)
        assert stages[0] < stages[1] or any(getattr(a, n) < getattr(b, n) for n in both) or not both


def is_text(name: str) -> bool:
    return not any("\udc80" <= c <= "\udcff" for c in name)


@settings(fixed, max_examples=200)
@given(NAMES | st.text(alphabet="x名", min_size=250, max_size=5000))
@example("\udcff")
def test_a_run_folder_of_any_name_is_made_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    above = tmp_path_factory.getbasetemp() / "runs"
    shutil.rmtree(above, ignore_errors=True)
    above.mkdir()
    with pytest.raises(UsageError, match="is not a run folder"):
        Run.open(above / name)
    whole_ = header("step-0")
    whole_["series"]["arguments"] = [name]
    try:
        with Run.create(above / name, whole_) as run:
            assert Run.open(above / name).header == run.header
    except UsageError as error:
        assert len(os.fsencode(name)) > 255
        one_sentence(str(error))
        assert not list(above.iterdir())
        return
    assert [path.name for path in above.iterdir()] == [name]
    told = run.header["series"]["arguments"][0]
    assert told.encode()  # it can be written into a report
    assert told == name or not is_text(name)


# --- through the commands


@dataclass(frozen=True)
class Models:
    """Models that differ, and the readings of each one measured alone.

    Attributes:
        folders: The models.
        more: What the command is given besides the series.
        alone: Readings of each.
    """

    folders: list[Path]
    more: tuple[Any, ...]
    alone: list[list[Any]]


def nameless(readings: Sequence[dict[str, Any]]) -> list[Any]:
    return [{k: v for k, v in r.items() if k != "checkpoint"} for r in readings]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    from typer.testing import CliRunner

    from geoprobe.cli import app

    above = tmp_path_factory.mktemp("models")
    text, tokenizer = above / "text.jsonl", above / "tokenizer"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40)))
    tiny_tokenizer().save_pretrained(tokenizer)
    folders = [above / f"m{i}" for i in range(4)]
    more = ("--text", text, "--tokenizer", tokenizer, "--sites", "final", "--batch-size", 40)
    alone = []
    for i, folder in enumerate(folders):
        tiny_model("llama", seed=i).save_pretrained(folder)
        given_ = ["rank", folder, *more, "--out", above / f"run{i}", "--json"]
        found = CliRunner().invoke(app, [str(word) for word in given_])
        assert found.exit_code == 0, found.output
        alone.append(nameless(json.loads(found.stdout)["readings"]))
    values = [r["value"] for readings in alone for r in readings if r["measure"] == "rankme"]
    assert len(set(values)) == len(values)
    return Models(folders, more, alone)


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents of the files beneath a folder, and when each was written."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.name != ".lock":
            place = str(file.relative_to(folder))
            found[place] = (file.read_bytes(), file.stat().st_mtime_ns)
    return found


def refused(code: int, out: str, err: str) -> str:
    """The sentence of a command that came to nothing."""
    assert code in (2, 4), err
    assert out == ""
    assert err.startswith("geoprobe: "), err
    last = err.splitlines()[-1]
    assert "unexpected" not in err
    assert last.isprintable(), ascii(last)
    return last


def check_series(names: list[str], models: Models, tmp_path: Path, cli: Cli) -> str:
    """All that holds of a folder of checkpoints of these names; what became of it, in a word."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = linked(names, models.folders, tmp_path / "series")
    before = {name: data for name, (data, _) in files_of(folder).items()}
    command = ("rank", folder, *models.more, "--out", tmp_path / "run", "--json")
    code, out, err = cli("series", folder, "--json")
    plain_code, plain, plain_err = cli("series", folder)
    assert plain_code == code
    if code:
        assert refused(code, out, err) == refused(plain_code, plain, plain_err)
        code, out, err = cli(*command)
        refused(code, out, err)
        assert not (tmp_path / "run").exists()
        return "refused"
    assert all(line.isprintable() for line in plain.splitlines())
    series = json.loads(out)
    given_ = {str(folder / name): i for i, name in enumerate(names)}
    which = {c["label"]: given_[c["path"]] for c in series["checkpoints"]}
    broken = {c["label"] for c in series["checkpoints"] if c["incomplete"]}
    assert len({label.casefold() for label in which}) == len(series["checkpoints"])
    visible = [name for name in names if not name.startswith(".")]
    assert len(which) + len(series["skipped"]) == len(visible)

    code, out, err = cli(*command)
    if which.keys() == broken:
        assert code == 4
        refused(code, out, f"geoprobe: {err.split('geoprobe: ')[-1]}")
        return "broken"
    assert code == (4 if broken else 0), err
    document = json.loads(out)
    labels = list(dict.fromkeys(r["checkpoint"] for r in document["readings"]))
    assert labels == [c["label"] for c in series["checkpoints"] if not c["incomplete"]]
    for label in labels:
        mine = [r for r in document["readings"] if r["checkpoint"] == label]
        assert nameless(mine) == models.alone[which[label]], label
    failed = [f["checkpoint"] for f in document["findings"] if f["kind"] == "failure"]
    assert set(failed) == broken

    done = files_of(tmp_path / "run")
    report = done["report.html"][0].decode("utf-8")
    for name in names:
        assert "<" not in name or name not in report
    assert "<script>alert" not in report
    assert {p.name for p in tmp_path.iterdir()} == {"series", "run"}
    assert {name: data for name, (data, _) in files_of(folder).items()} == before
    code, again, err = cli(*command)
    assert again == out
    counts = re.findall(r"^(\d+) checkpoints? w\w+ measured already\.$", err, re.MULTILINE)
    assert sum(map(int, counts)) == len(labels)
    resumed = files_of(tmp_path / "run")
    assert {k: v[0] for k, v in resumed.items()} == {k: v[0] for k, v in done.items()}
    for name, (_, when) in done.items():
        assert not name.endswith(".safetensors") or resumed[name][1] == when, name
    return "some" if broken or series["skipped"] else "all"


HARD = [
    ["<script>alert(1)"],
    ["<b>step1", "\n\x1b[31m step2", "step3 <!--", "\u202estep4"],
    ["-rf-step1", "--json-step2", "*step3", "[s]tep?.step4"],
    ["step1", "step999999999999999999999", "step1" + "0" * 60],
    ["_" * 120 + f"step{i}" + "_" * 120 for i in (3, 1, 2)],
    ["STEP1", "step2", "sTeP3 %s%n{}", "step4 ' \""],
    ["step1\udcff", "step2", "step3"],
    ["tmp-step1", "step1", "step2.tmp", "step3"],
    ["step\u0663", "step4"],
    ["tmp-x", "tmp-y"],
    ["step1", "checkpoint-1"],
    ["step01", "step1"],
    ["step1", "Step1"],
    ["step1e3", "step2"],
    ["epoch1", "step1"],
]
"""Names for which the commands are tried in every run."""


@pytest.mark.parametrize("names", HARD, ids=lambda names: ascii(names)[:40])
def test_hard_names_through_the_commands(
    names: list[str], models: Models, tmp_path: Path, cli: Cli
) -> None:
    outcome = check_series(names, models, tmp_path, cli)
    first = HARD.index(names)
    assert outcome == ("all" if first < 6 or first == 8 else "some" if first < 8 else "refused")


def test_any_names_through_the_commands(models: Models, tmp_path: Path, cli: Cli) -> None:
    outcomes = []

    @settings(fixed, max_examples=20, phases=[Phase.generate])  # none to shrink for minutes
    @given(ORDERED | SEVERAL)
    def check(names: list[str]) -> None:
        outcomes.append(check_series(names, models, tmp_path, cli))

    check()
    assert outcomes.count("all") + outcomes.count("some") >= 5, outcomes
    assert "refused" in outcomes


def test_scan_gives_each_checkpoint_its_own_readings(
    models: Models, tmp_path: Path, cli: Cli
) -> None:
    names = ["<script>alert(1) step2", "[*?] step1\n"]
    folder = linked(names, models.folders, tmp_path / "series")
    given_ = (*models.more, "--probes", "spectrum,sinks,superposition", "--json")

    def scan(what: Path, out: str) -> dict[str, list[Any]]:
        code, found, err = cli("scan", what, *given_, "--out", tmp_path / out)
        assert code == 0, err
        readings = json.loads(found)["readings"]
        labels = list(dict.fromkeys(r["checkpoint"] for r in readings))
        return {x: nameless([r for r in readings if r["checkpoint"] == x]) for x in labels}

    whole_ = scan(folder, "run")
    assert list(whole_) == ["_____step1_", "_script_alert_1__step2"]
    for i, label in enumerate(reversed(whole_)):
        assert whole_[label] == scan(models.folders[i], f"alone{i}")[f"m{i}"]
    before = files_of(tmp_path / "run")
    assert scan(folder, "run") == whole_
    after = files_of(tmp_path / "run")
    assert {k: v[0] for k, v in after.items()} == {k: v[0] for k, v in before.items()}
    assert b"<script>alert" not in after["report.html"][0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("<script>step1", "<script>step2"),
        ("step1 " + "🧪" * 50, "step2 " + "🧪" * 50),
        ("_" * 120 + "step1" + "_" * 120, "_" * 120 + "step2" + "_" * 120),
        ("--json-step1\n", "..step2\n"),
    ],
    ids=["markup", "emoji", "long", "options"],
)
def test_a_baseline_holds_for_its_checkpoint_alone(
    first: str, second: str, models: Models, tmp_path: Path, cli: Cli
) -> None:
    folder = linked([first, second], models.folders, tmp_path / "series")
    if second.startswith("."):  # hidden, unless it is named
        second = "#" + second
        linked([first, second], models.folders, tmp_path / "series")
    given_ = ("--baseline", tmp_path / "b.json", *models.more[:-2], "--probes", "spectrum")
    code, _, err = cli("check", folder, *given_, "--out", tmp_path / "a", "--update")
    assert code == 0, err
    code, _, err = cli("check", folder, *given_, "--out", tmp_path / "b")
    assert code == 0, err
    code, _, err = cli("check", folder / second, *given_, "--out", tmp_path / "c")
    assert code == 0, err
    code, _, err = cli("check", folder / first, *given_, "--out", tmp_path / "d")
    assert code == 1, err
    # The same names, and each the other's weights.
    swapped = linked([second, first], models.folders, tmp_path / "swapped")
    code, _, err = cli("check", swapped, *given_, "--out", tmp_path / "e")
    assert code == 1, err


@settings(fixed, max_examples=80)
@given(name=NAMES)
@example(name="x" * 255)
@example(name="-rf")
@example(name="--help")
@example(name="@main")
@example(name="demo")
def test_any_name_as_an_argument(
    name: str, whole: list[Path], tmp_path_factory: pytest.TempPathFactory, capsys: Any
) -> None:
    from geoprobe.cli import main

    above = linked([name], whole, tmp_path_factory.getbasetemp() / "an_argument")
    for argument in (f"./{name}", str(above / name)):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(above)
            patch.setattr("sys.argv", ["geoprobe", "series", "--json", "--", argument])
            with pytest.raises(SystemExit) as stopped:
                main()
        out, err = capsys.readouterr()
        assert not stopped.value.code, ascii(err)
        (found,) = json.loads(out)["checkpoints"]
        assert found["label"] == safe_name(name)
        assert Path(found["path"]).name == name
