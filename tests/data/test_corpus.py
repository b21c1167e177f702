"""Text becomes the token sequences that anyone can recompute in ten lines."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.data.corpus import Corpus, build_corpus, file_names, packed, read_documents
from geoprobe.errors import UsageError
from tests.data.tokenizers_for_tests import (
    SENTENCES,
    WORDS,
    bert_tokenizer,
    byte_tokenizer,
    unigram_tokenizer,
)

# What a tokenizer of each kind puts in front of a text and behind it.
KINDS: dict[str, tuple[Callable[[], Any], list[str], list[str]]] = {
    "nothing": (lambda: byte_tokenizer("none"), [], []),
    "no prefix space": (lambda: byte_tokenizer("bos", prefix_space=False), ["<s>"], []),
    "bos": (lambda: byte_tokenizer("bos"), ["<s>"], []),
    "bos and eos": (lambda: byte_tokenizer("bos_eos"), ["<s>"], ["</s>"]),
    "bos twice": (lambda: byte_tokenizer("bos_twice"), ["<s>", "<s>"], ["</s>"]),
    "unigram with eos": (unigram_tokenizer, [], ["</s>"]),
    "bert": (bert_tokenizer, ["[CLS]"], ["[SEP]"]),
}
BYTES = byte_tokenizer("bos")


def sequences(corpus: Corpus) -> list[list[int]]:
    return [corpus.sequence(i).tolist() for i in range(len(corpus))]


def jsonl(path: Path, documents: list[Any], field: str = "text") -> str:
    path.write_text("".join(json.dumps({field: d}) + "\n" for d in documents), "utf-8")
    return str(path)


def some_text(words: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice([*WORDS, "unseen", "naïve.", "\n"], words))


@pytest.mark.parametrize("kind", KINDS)
def test_txt_windows_equal_a_recomputation_in_a_few_lines(kind: str, tmp_path: Path) -> None:
    make, before, after = KINDS[kind]
    tokenizer, length = make(), 12
    file = tmp_path / "a.txt"
    file.write_text(some_text(400), "utf-8")
    head, tail = map(tokenizer.convert_tokens_to_ids, (before, after))
    plain = tokenizer(file.read_text("utf-8"), add_special_tokens=False)["input_ids"]
    room = length - len(head) - len(tail)
    windows = [head + plain[i : i + room] + tail for i in range(0, len(plain), room)]
    if len(windows[-1]) < length:
        windows.pop()
    found = build_corpus(tokenizer, [str(file)], length=length)
    assert sequences(found) == windows
    assert {len(w) for w in sequences(found)} == {length}
    assert (
        sequences(build_corpus(tokenizer, [str(file)], length=length, sequences=5)) == windows[:5]
    )
    assert len(head) + len(tail) == tokenizer.num_special_tokens_to_add()


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_what_the_tokenizer_gives_by_default(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind][0]()
    documents = [some_text(n, seed=n) for n in (1, 2, 5, 30, 300)]
    found = build_corpus(tokenizer, [jsonl(tmp_path / "a.jsonl", documents)], length=16)
    wanted = [tokenizer(d, truncation=True, max_length=16)["input_ids"] for d in documents]
    assert sequences(found) == wanted
    assert found.lengths.max() == 16


@pytest.mark.parametrize("special", ["none", "bos_eos"])
def test_a_text_that_begins_with_a_special_token_keeps_it_as_text(special: str) -> None:
    tokenizer = byte_tokenizer(special)
    text = "<s> the cat </s>" * 30
    windows = list(packed(tokenizer, text, 10))
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = 10 - 2 * (special == "bos_eos")
    inner = [w[1:-1] if special == "bos_eos" else w for w in windows]
    assert [i for window in inner for i in window] == plain[: len(windows) * room]
    if special == "bos_eos":
        assert all(w[0] == 0 and w[-1] == 1 for w in windows)


def test_a_text_of_unknown_characters_finds_its_special_tokens_too() -> None:
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE({"<s>": 0, "x": 1}, []))  # no `a`, and nothing for what is unknown
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert list(packed(tokenizer, "xx" * 4, 5)) == [[0, 1, 1, 1, 1]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_windows_of_a_long_text_do_not_need_the_rest_of_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = KINDS[kind][0]()
    text = some_text(40_000)
    everything = list(packed(tokenizer, text, 16))
    monkeypatch.setattr("geoprobe.data.corpus._MARGIN", 64)
    longest = []
    call = type(tokenizer).__call__

    def watched(self: Any, text: str, *args: Any, **kwargs: Any) -> Any:
        longest.append(len(text))
        return call(self, text, *args, **kwargs)

    monkeypatch.setattr(type(tokenizer), "__call__", watched)
    assert list(packed(tokenizer, text, 16, 50)) == everything[:50]
    assert max(longest) < len(text) / 4
    assert list(packed(tokenizer, text, 16, 10**6)) == everything


def test_a_long_text_is_tokenised_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = byte_tokenizer("bos")
    tokenizer.model_max_length = 64
    logger = logging.getLogger("transformers")
    logger.propagate, before = True, logger.propagate
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            assert len(list(packed(tokenizer, SENTENCES * 2000, 128))) > 100
    finally:
        logger.propagate = before
    assert not caplog.records


def test_files_follow_in_the_order_given_and_the_first_n_are_taken(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "z.jsonl", ["the cat", "the mat"])
    second = jsonl(tmp_path / "a.jsonl", ["a cat", "a mat", "a cat sat"])
    pl.DataFrame({"text": ["it was", "it sat"]}).write_parquet(tmp_path / "m.parquet")
    files = [first, str(tmp_path / "m.parquet"), second]
    documents = ["the cat", "the mat", "it was", "it sat", "a cat", "a mat", "a cat sat"]
    wanted = [BYTES(d)["input_ids"] for d in documents]
    assert sequences(build_corpus(BYTES, files)) == wanted
    assert sequences(build_corpus(BYTES, files, sequences=3)) == wanted[:3]
    many = build_corpus(BYTES, files, sequences=1000)
    assert sequences(many) == wanted
    assert many.describe()["sequences"] == 7
    assert many.source == "z.jsonl, m.parquet, a.jsonl"


def test_only_as_much_of_a_file_is_read_as_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = json.dumps({"text": "the cat"}) + "\n"
    file.write_text(good * 2000 + "{broken", "utf-8")
    assert len(build_corpus(BYTES, [str(file)], sequences=10)) == 10
    with pytest.raises(UsageError, match="line 2001"):
        build_corpus(BYTES, [str(file)])


def test_a_parquet_file_is_read_in_parts_without_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoprobe.data.corpus._ROWS_AT_ONCE", 7)
    documents = [f"cat {i}" for i in range(50)]
    file = tmp_path / "a[1].parquet"  # a name that is a pattern elsewhere
    pl.DataFrame({"id": range(50), "body": documents}).write_parquet(file, row_group_size=9)
    assert list(read_documents(file, "body")) == documents


def test_a_byte_order_mark_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    plain, dressed = tmp_path / "a.txt", tmp_path / "b.txt"
    text = "the cat\nsat on\n\na mat naïve\n" * 40
    plain.write_bytes(text.encode())
    dressed.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    ours, theirs = (build_corpus(BYTES, [str(f)], length=16) for f in (plain, dressed))
    assert ours.fingerprint == theirs.fingerprint
    lines = tmp_path / "c.jsonl"
    lines.write_bytes(b'\xef\xbb\xbf{"text": "the cat"}\r\n\r\n  \r\n{"text": "a mat"}')
    assert list(read_documents(lines, "text")) == ["the cat", "a mat"]


def test_a_line_separator_inside_a_document_does_not_end_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    document = "a\u2028b\x85c\x0cd\x1ce"
    file.write_text(json.dumps({"text": document}, ensure_ascii=False) + "\n", "utf-8")
    assert list(read_documents(file, "text")) == [document]


def test_documents_without_tokens_are_left_out_and_counted(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ["the cat", "", "a mat", "", "it was"])
    corpus = build_corpus(byte_tokenizer("none"), [file], sequences=3)
    assert len(corpus) == 3
    assert corpus.describe()["empty_documents"] == 2
    with_bos = build_corpus(BYTES, [file])
    assert len(with_bos) == 5
    assert with_bos.sequence(1).tolist() == [0]


def test_strings_are_documents_and_paths_are_files(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("the cat sat on a mat. " * 30, "utf-8")
    documents = [
        "the cat sat.",
        "a mat, see README.md",
        "你好世界。再见",
        "cat",
        "3.14",
        "a.txt is it",
    ]
    found = build_corpus(BYTES, documents)
    assert sequences(found) == [BYTES(d)["input_ids"] for d in documents]
    assert found.source == "strings"
    as_path, as_string = (build_corpus(BYTES, [item], length=16) for item in (file, str(file)))
    assert as_path.fingerprint == as_string.fingerprint
    assert as_path.source == "a.txt"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n", "holds only white space; give a file with text"),
        ("a.txt", b"\xff\xfe\x00a", "UTF-8"),
        ("a.jsonl", b"", "no document"),
        ("a.jsonl", b"\n\n", "no document"),
        ("a.jsonl", b'{"text": ""}\n{"text": " \\n"}\n{"text": ""}', "'text' of every document"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n["text"]', "line 2: not a JSON object"),
        ("a.jsonl", b'{"body": "a", "id": 3}', r"no field 'text' \(it has 'body', 'id'\).*--field"),
        ("a.jsonl", b'{"text": 3}', "line 1: field 'text' is int, not text"),
        ("a.jsonl", b'{"text": null}', "is null, not text"),
        ("a.jsonl", b'{"text": "x\\ud800"}', "half of a character"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", b'{"text": "\xff"}', "UTF-8"),
        ("a.parquet", b"no parquet", "cannot be read as Parquet"),
        ("a.md", b"the cat", r"\.jsonl, \.parquet, \.txt"),
        ("a.jsonl.gz", b"", r"\.jsonl, \.parquet, \.txt"),
    ],
)
def test_a_bad_file_is_a_sentence_that_names_it(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as caught:
        build_corpus(BYTES, [file])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_parquet_file_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pl.DataFrame({"body": ["a", None], "n": [1, 2]}).write_parquet(file)
    with pytest.raises(UsageError, match="'body', 'n'"):
        build_corpus(BYTES, [file])
    with pytest.raises(UsageError, match="row 1: field 'body' is null"):
        build_corpus(BYTES, [file], field="body")
    with pytest.raises(UsageError, match="is int, not text"):
        build_corpus(BYTES, [file], field="n")
    pl.DataFrame({"text": pl.Series([], dtype=pl.String)}).write_parquet(file)
    with pytest.raises(UsageError, match="no document"):
        build_corpus(BYTES, [file])


def test_strings_without_text_are_a_mistake() -> None:
    # The tokenizer's own first token would make a sequence of each.
    with pytest.raises(UsageError, match="empty or white space"):
        build_corpus(BYTES, ["", " \n", "\t"])
    assert len(build_corpus(BYTES, ["", "the cat"])) == 2


def test_files_that_are_meant_as_files_are_checked_whatever_they_are_called(tmp_path: Path) -> None:
    good = tmp_path / "a b.TXT"
    good.write_text("the cat " * 100)
    names = file_names([good])
    assert names == (str(good),)
    assert len(build_corpus(BYTES, names, length=16)) > 2
    for path in (tmp_path, Path("corpus"), Path("the cat sat"), tmp_path / "none.txt"):
        with pytest.raises(UsageError, match="--text"):
            file_names([good, path])


def test_missing_files_and_folders_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        build_corpus(BYTES, [str(tmp_path / "none.txt")])
    with pytest.raises(UsageError, match="a folder"):
        build_corpus(BYTES, [tmp_path])
    with pytest.raises(UsageError, match="the ending says"):
        build_corpus(BYTES, ["notes.md"])


def test_too_little_text_or_room_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gives 1 sequence of tokens"):
        build_corpus(BYTES, ["the cat"])
    with pytest.raises(UsageError, match="gives 0 sequences"):
        build_corpus(BYTES, [])
    file = tmp_path / "a.txt"
    file.write_text("the cat", "utf-8")
    with pytest.raises(UsageError, match="gives 0 sequences"):
        build_corpus(BYTES, [file], length=128)
    for text in ([file], ["the cat", "a mat"], None):
        with pytest.raises(UsageError, match=r"--length 2 leaves no room .* 2 special"):
            build_corpus(bert_tokenizer(), text, length=2)


def test_padding_is_on_the_right_and_masked() -> None:
    corpus = Corpus.from_ids([[5, 6, 7], [8], [], [9, 9]], pad_id=3, source="x")
    assert corpus.empty == 1
    batch = corpus.batch(np.array([1, 0, 2]))
    assert batch.values.tolist() == [[8, 3, 3], [5, 6, 7], [9, 9, 3]]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [1, 3, 2]
    assert batch.index.tolist() == [1, 0, 2]
    assert corpus.batch(np.array([1])).values.tolist() == [[8]]


def test_a_tokenizer_without_padding_pads_with_zero() -> None:
    assert BYTES.pad_token_id is None
    assert build_corpus(BYTES, ["the cat", "a mat"]).pad_id == 0
    bert = bert_tokenizer()
    assert build_corpus(bert, ["the cat", "a mat"]).pad_id == bert.pad_token_id


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=2, max_size=6))
def test_the_fingerprint_tells_every_two_corpora_apart(ids: list[list[int]]) -> None:
    kept = [s for s in ids if s]
    if len(kept) < 2:
        return
    corpus = Corpus.from_ids(ids, pad_id=0, source="x")
    assert sequences(corpus) == kept
    assert corpus.fingerprint == Corpus.from_ids(kept, pad_id=1, source="y").fingerprint
    joined = [kept[0] + kept[1], *kept[2:], [0]]
    assert corpus.fingerprint != Corpus.from_ids(joined, pad_id=0, source="x").fingerprint
    changed = [*kept[:-1], [*kept[-1][:-1], kept[-1][-1] + 1]]
    assert corpus.fingerprint != Corpus.from_ids(changed, pad_id=0, source="x").fingerprint
