"""`geoprobe explain`: cards and sources, at once and without the heavy libraries."""

import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from geoprobe.measures.bibtex import entries
from geoprobe.measures.registry import Card, cards

Cli = Callable[..., tuple[int, str, str]]

HEAVY = {"torch", "transformers", "numpy", "scipy", "polars", "altair", "nnsight", "sklearn"}


@pytest.mark.parametrize(
    "arguments", [["explain", "rankme"], ["explain"], ["explain", "--bibtex"], ["--help"]]
)
def test_it_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from geoprobe.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        f"print('imported', sorted({HEAVY!r} & set(sys.modules)), code, file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert found.stderr.splitlines()[-1] == "imported [] 0"
    assert found.stdout


@pytest.mark.parametrize("arguments", [["explain", "rankme"], ["--help"]])
def test_it_is_quick(arguments: list[str]) -> None:
    def once() -> float:
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "geoprobe", *arguments], capture_output=True, check=True
        )
        return time.perf_counter() - begun

    assert min(once() for _ in range(3)) < 1.0  # 0.27 s where nothing else runs


@pytest.mark.parametrize("name", sorted(cards()))
def test_the_whole_card_is_shown(name: str, cli: Cli) -> None:
    code, out, err = cli("explain", name)
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    card = cards()[name]
    for text in (card.title, card.symbol, card.formula, card.unit, card.source, *card.pitfalls):
        assert " ".join(text.split()) in shown
    for convention, what in card.conventions.items():
        assert " ".join(f"{convention}: {what}".split()) in shown
    assert re.search(r"Direction (Up|Down|Neither) is better: a check (calls|says)", shown)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("RankMe", "rankme"),
        ("PR", "participation_ratio"),
        ("pr", "participation_ratio"),
        ("ID", "intrinsic_dim"),
        ("top-1", "top1_share"),
        ("Top-1", "top1_share"),
        ("R2", "alpha_r2"),
        ("R²", "alpha_r2"),
        ("α", "alpha"),
        ("alpha-ReQ", "alpha"),
        ("stable rank", "stable_rank"),
        ("NESUM", "nesum"),
    ],
)
def test_heads_of_tables_and_symbols_find_their_card(word: str, name: str, cli: Cli) -> None:
    code, out, _ = cli("explain", word)
    assert code == 0
    assert out.startswith(f"{name}: ")


def test_every_head_of_the_terminal_finds_the_card_of_its_measure(cli: Cli) -> None:
    from geoprobe.reports.terminal import _FURTHER

    for name, head in _FURTHER.items():
        assert cli("explain", head)[1].startswith(f"{name}: ")


def test_no_card_says_its_title_twice(cli: Cli) -> None:
    for name, card in cards().items():
        head = cli("explain", name)[1].splitlines()[0]
        assert head.startswith(f"{name}: {card.title}")
        assert head.count(card.symbol) == 1 or not card.title.startswith(card.symbol)
    assert cli("explain", "rankme")[1].startswith("rankme: RankMe (effective rank)\n")
    assert cli("explain", "alpha")[1].startswith("alpha: alpha-ReQ (spectral decay) (α)\n")


def test_the_list_names_every_measure_once(cli: Cli) -> None:
    code, out, _ = cli("explain")
    names = [line.split()[0] for line in out.split("\n\n")[0].splitlines()]
    assert code == 0
    assert names == list(cards())


def test_an_unknown_measure_is_a_sentence_that_names_the_nearest(cli: Cli) -> None:
    code, out, err = cli("explain", "rank_me")
    assert (code, out) == (2, "")
    assert err.startswith("geoprobe: There is no measure named 'rank_me'. Did you mean rankme")
    assert len(err.splitlines()) == 1
    code, _, err = cli("explain", "<b>\x1b[31m")
    assert code == 2
    assert "Known: " in err
    assert all(name in err for name in cards())
    assert "\x1b" not in err


def parsed(text: str) -> dict[str, dict[str, str]]:
    """BibTeX by a reader of its own: key -> fields; anything out of order is an error."""
    entries = {}
    position = 0
    while match := re.compile(r"\s*@(\w+)\{(\w+),\s*").match(text, position):
        key, position, fields = match[2], match.end(), {}
        while field := re.compile(r"(\w+)\s*=\s*\{").match(text, position):
            depth, position = 1, field.end()
            begun = position
            while depth:
                depth += {"{": 1, "}": -1}.get(text[position], 0)
                position += 1
            fields[field[1]] = text[begun : position - 1]
            position = re.compile(r"\s*,?\s*").match(text, position).end()  # type: ignore[union-attr]
        assert text[position] == "}"
        position += 1
        assert key not in entries
        entries[key] = fields
    assert not text[position:].strip()
    return entries


def test_the_bibliography_parses_and_has_every_source_once(cli: Cli) -> None:
    code, out, err = cli("explain", "--bibtex")
    assert (code, err) == (0, "")
    found = parsed(out)
    assert len(found) >= 10
    for fields in found.values():
        assert {"title", "author", "year"} <= fields.keys()
        assert re.fullmatch(r"\d{4}", fields["year"])
    every = "\n".join(card.bibtex for card in cards().values())
    assert set(found) == set(re.findall(r"^@\w+\{(\w+),$", every, flags=re.MULTILINE))


def test_the_bibliography_of_one_measure_is_its_own(cli: Cli) -> None:
    _, out, _ = cli("explain", "intrinsic_dim", "--bibtex")
    assert list(parsed(out)) == ["facco2017estimating"]
    code, out, err = cli("explain", "top1_share", "--bibtex")
    assert code == 0
    assert out or "no published source" in err


def test_entries_are_told_apart_by_their_braces() -> None:
    first = "@article{a1,\n  title = {One {b}\n\n  @misc{x, no} entry},\n  year = {2001}\n}"
    second = "@inproceedings{b:2-c, title = {Two}, note = {mail a@b}}"
    for between in ("\n\n", "\n", " ", "\n% comment\n"):
        assert list(entries(first + between + second)) == [("a1", first), ("b:2-c", second)]
    assert list(entries("")) == []
    assert list(entries("@article{open, title = {never")) == []


def test_two_measures_of_one_paper_give_one_entry(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = "@misc{one,\n  title = {One},\n\n  year = {2001}\n}"
    other = "@misc{two,\n  title = {Two},\n  year = {2002}\n}"

    def made(name: str, bibtex: str) -> Card:
        return Card(name, name, "", "f", "1", "either", {"exact": ""}, "s", bibtex)

    known = {"a": made("a", entry), "b": made("b", f"{other}\n{entry}"), "c": made("c", "")}
    monkeypatch.setattr("geoprobe.measures.registry.cards", lambda: known)
    _, out, _ = cli("explain", "--bibtex")
    assert out == f"{entry}\n\n{other}\n"
