"""`geoprobe corpus`: what the built-in corpus is, and a frozen copy."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from geoprobe.data.builtin import builtin_text, describe

Cli = Callable[..., tuple[int, str, str]]


def test_it_says_what_the_corpus_is(cli: Cli) -> None:
    code, out, err = cli("corpus")
    assert (code, err) == (0, "")
    facts = dict(line.split(": ", 1) for line in out.splitlines())
    assert facts == {name: str(value) for name, value in describe().items()}


def test_it_freezes_the_corpus_and_overwrites_only_by_force(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "frozen.txt"
    code, out, _ = cli("corpus", "--export", file)
    assert code == 0
    assert str(file) in out
    assert file.read_bytes() == builtin_text().encode()
    file.write_text("mine")
    code, _, err = cli("corpus", "--export", file)
    assert code == 2
    assert "--force" in err
    assert file.read_text() == "mine"
    assert cli("corpus", "--export", file, "--force")[0] == 0
    assert file.read_bytes() == builtin_text().encode()


def test_a_bad_name_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    for file in (tmp_path / "a.jsonl", tmp_path / "no" / "a.txt"):
        code, out, err = cli("corpus", "--export", file)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert str(file) in err


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = ['corpus']\n"
        "from geoprobe.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
