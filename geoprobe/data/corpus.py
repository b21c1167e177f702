"""Text to token batches: read, tokenised once, kept flat, fingerprinted.

`.jsonl` and `.parquet`: one document is one sequence, `tokenizer(text)` with its default special
tokens, cut to the length by the tokenizer's own truncation. `.txt`: packed; the text is tokenised
without special tokens, cut into windows that leave room for the tokenizer's default special tokens,
and each window gets them; the last short window is dropped. Files follow in the order given. Text
is UTF-8, with or without a byte order mark; line ends of any kind are read as newlines.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.data.inputs import Batch
from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".jsonl", ".parquet", ".txt")

_DOCUMENTS_AT_ONCE = 256
_ROWS_AT_ONCE = 16_384
_CHARACTERS_A_TOKEN = 8
_MARGIN = 1024


@dataclass(frozen=True)
class Corpus:
    """Tokenised sequences.

    Attributes:
        ids: All token ids, one sequence after another.
        offsets: Where each sequence begins, and the end (n + 1,).
        pad_id: Id of the padding; never seen by a real token.
        source: What the text is, for people.
        empty: Number of documents left out because they had no token.
        decode: Text of a token id, where a tokenizer made them.
        tokenizer: That tokenizer.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    pad_id: int
    source: str
    empty: int = 0
    decode: Callable[[int], str] | None = dataclass_field(default=None, compare=False, repr=False)
    tokenizer: Any = dataclass_field(default=None, compare=False, repr=False)

    @classmethod
    def from_ids(cls, sequences: Iterable[Sequence[int]], *, pad_id: int, source: str) -> Corpus:
        """A corpus of sequences of token ids; empty ones are left out and counted.

        Raises:
            UsageError: Fewer than two sequences are left.
        """
        arrays = [np.asarray(s, dtype=np.int32) for s in sequences]
        kept = [a for a in arrays if len(a)]
        if len(kept) < 2:
            raise UsageError(
                f"The text ({source}) gives {len(kept)} sequence{'s' * (len(kept) != 1)} of "
                "tokens, and a spectrum needs at least 2, and many more to mean something; give "
                "more text, or a smaller --length where it is packed."
            )
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in kept])]).astype(np.int64)
        return cls(np.concatenate(kept), offsets, pad_id, source, len(arrays) - len(kept))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each sequence (n,)."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids and where sequences end."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.ids.astype("<i4").tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run records of it."""
        return {
            "source": self.source,
            "sequences": len(self),
            "tokens": int(self.offsets[-1]),
            "longest": int(self.lengths.max()),
            "empty_documents": self.empty,
            "fingerprint": self.fingerprint,
            "tokenizer": None if self.tokenizer is None else tokenizer_digest(self.tokenizer),
        }

    def sequence(self, index: int) -> NDArray[np.int32]:
        """Token ids of one sequence."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The sequences `index`, padded on the right."""
        lengths = self.lengths[index]
        ids = np.full((len(index), int(lengths.max())), self.pad_id, dtype=np.int64)
        for row, i in enumerate(index):
            ids[row, : lengths[row]] = self.sequence(int(i))
        return Batch(ids, np.asarray(index, dtype=np.int64), lengths)


def build_corpus(
    tokenizer: Any,
    text: Sequence[str | Path] | None,
    *,
    field: str = "text",
    sequences: int | None = None,
    length: int = 128,
) -> Corpus:
    """Tokenises text.

    Args:
        tokenizer: A transformers tokenizer.
        text: Paths of .jsonl, .parquet and .txt files, in order; strings that do not look like a
            file name (`is_file_name`) are documents themselves. None is the built-in corpus.
        field: Field of a .jsonl or .parquet document that holds its text.
        sequences: At most this many sequences, the first ones.
        length: Tokens a sequence at most.

    Raises:
        UsageError: A file is missing, empty or not what its name says, or too little text is left.
    """
    check_room(tokenizer, length)
    if text is None:
        from geoprobe.data.builtin import SOURCE, builtin_text

        found: Iterator[Sequence[int]] = packed(tokenizer, builtin_text(), length, sequences)
        source = SOURCE
    else:
        if text and not any(is_file_name(item) or str(item).strip() for item in text):
            raise UsageError("The text given is empty or white space; give text or file names.")
        found = _tokenised(tokenizer, text, field, length, sequences)
        names = [Path(item).name if is_file_name(item) else "strings" for item in text]
        source = ", ".join(dict.fromkeys(names)) or "no text"
    return corpus_of(tokenizer, _first_non_empty(found, sequences), source)


def corpus_of(tokenizer: Any, sequences: Iterable[Sequence[int]], source: str) -> Corpus:
    """A corpus of sequences that a tokenizer has made, with its padding and its texts of tokens.

    Raises:
        UsageError: Fewer than two of the sequences have tokens.
    """
    pad = tokenizer.pad_token_id
    made = Corpus.from_ids(sequences, pad_id=0 if pad is None else int(pad), source=source)
    return replace(made, decode=lambda token: str(tokenizer.decode([token])), tokenizer=tokenizer)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what makes token ids of a text: the rules, the words, the special tokens."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None and hasattr(core, "to_str"):
        parts = json.loads(core.to_str())
        # State of the last call, not of the tokenizer.
        rules: Any = {k: v for k, v in parts.items() if k not in ("truncation", "padding")}
    else:
        rules = [type(tokenizer).__name__, tokenizer.get_vocab()]
    whole = [rules, {k: str(v) for k, v in tokenizer.special_tokens_map.items()}]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def is_file_name(item: str | Path) -> bool:
    """Whether a `text` item names a file rather than being a document itself.

    Paths do, and strings in one line with a known ending, or without white space and with any
    ending (`notes.md`), so that a forgotten format is an error and not a document of one word.
    """
    if isinstance(item, Path):
        return True
    if len(item) >= 4096 or "\n" in item:
        return False
    return item.lower().endswith(SUFFIXES) or bool(re.search(r"^\S*\w\.[A-Za-z]\w{0,7}$", item))


def file_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Paths of text files as `text` items, for a caller that means files whatever they are called.

    Raises:
        UsageError: One is a folder, is not there, or has no ending that says how to read it.
    """
    for path in paths:
        _check_file(path)
    return tuple(map(str, paths))


def _first_non_empty(found: Iterator[Sequence[int]], n: int | None) -> Iterator[Sequence[int]]:
    """The first n sequences that have tokens, and the empty ones before the last of them."""
    kept = 0
    for sequence in found:
        if n is not None and kept == n:
            return
        kept += bool(len(sequence))
        yield sequence


def _tokenised(
    tokenizer: Any,
    text: Sequence[str | Path],
    field: str,
    length: int,
    sequences: int | None,
) -> Iterator[Sequence[int]]:
    for item in text:
        if not is_file_name(item):
            document = no_half_characters(str(item), "A string of text")
            yield from tokenise(tokenizer, [document], length)
            continue
        path = Path(item)
        _check_file(path)
        if path.suffix.lower() == ".txt":
            yield from packed(tokenizer, _read_text(path), length, sequences)
            continue
        yield from tokenise(tokenizer, read_documents(path, field), length)


def tokenise(tokenizer: Any, documents: Iterable[str], length: int) -> Iterator[Sequence[int]]:
    """Token ids of each document, default special tokens included, cut to a length; in chunks."""
    left = iter(documents)
    while some := list(islice(left, _DOCUMENTS_AT_ONCE)):
        yield from tokenizer(some, truncation=True, max_length=length, return_attention_mask=False)[
            "input_ids"
        ]


def packed(
    tokenizer: Any, text: str, length: int, windows: int | None = None
) -> Iterator[Sequence[int]]:
    """Windows of exactly `length` tokens, each with the tokenizer's default special tokens.

    Args:
        tokenizer: A transformers tokenizer.
        text: The text.
        length: Tokens a window, special tokens included.
        windows: At most this many, the first ones; then no more of a long text is tokenised than
            they take.
    """
    head, tail = special_ends(tokenizer, text)
    room = length - len(head) - len(tail)
    if room < 1:
        raise UsageError(_no_room(length, len(head) + len(tail)))
    ids = _leading_ids(tokenizer, text, None if windows is None else windows * room)
    for start in range(0, len(ids) - room + 1, room):
        yield [*head, *ids[start : start + room], *tail]


def special_ends(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer puts before and after a text by default."""
    # The mask tells special tokens from a text that happens to be tokenised to the same ids.
    probe = tokenizer(text[:1000], return_special_tokens_mask=True, verbose=False)
    ids, special = list(probe["input_ids"]), list(probe["special_tokens_mask"])
    if 0 not in special:
        return ids, []
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return ids[:first], ids[last:]


def _leading_ids(tokenizer: Any, text: str, n: int | None) -> list[int]:
    """At least the first n token ids of a text, all of them where it has fewer.

    A tokenizer decides within a word or a few, so where a text is cut off only the last ids before
    the cut can differ from those of the whole text: a generous margin of them is not used.
    """
    characters = len(text) if n is None else _CHARACTERS_A_TOKEN * (n + _MARGIN)
    while True:
        ids: list[int] = tokenizer(
            text[:characters],
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        if characters >= len(text):
            return ids
        if n is not None and len(ids) >= n + _MARGIN:
            return ids[:n]
        characters *= 2


def read_documents(path: Path, field: str) -> Iterator[str]:
    """The documents of a .jsonl or .parquet file, read as they are asked for.

    Raises:
        UsageError: A line is not a JSON object, the field is missing or no text, or the file
            cannot be read or holds no document, or only blank ones.
    """
    for document, _ in read_rows(path, field):
        yield document[field]


def read_rows(
    path: Path, field: str, more: Mapping[str, str] | None = None, option: str = "--text"
) -> Iterator[tuple[dict[str, Any], str]]:
    """The documents of a .jsonl or .parquet file with more of their fields, as they are asked for.

    Args:
        path: The file.
        field: Field that holds the text of a document.
        more: Other fields that each document must have, and the option that names each.
        option: The option that the file was given with.

    Yields:
        A document, whose `field` is text, and where it is, for people.

    Raises:
        UsageError: As of `read_documents`, or one of the other fields is missing.
    """
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_jsonl
    options = {**(more or {}), field: "--field"}
    documents, blank = 0, True
    for document, where in read(path, options, option):
        text = _text_of(document, field, where)
        documents, blank = documents + 1, blank and not text.strip()
        yield document, where
    if not documents:
        raise UsageError(f"{option} {path}: the file holds no document.")
    if blank:  # a tokenizer with a first token of its own would make sequences of it alone
        raise UsageError(
            f"{option} {path}: the {field!r} of every document is empty or white space; give a "
            "file with text, or name another field with --field."
        )


def _read_jsonl(
    path: Path, options: Mapping[str, str], option: str
) -> Iterator[tuple[dict[str, Any], str]]:
    fields = ", ".join(map(repr, options))
    with _reading(path, option), path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{option} {path}, line {number}"
            try:
                document = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{where}: not JSON ({error}).") from error
            if not isinstance(document, dict):
                raise UsageError(f"{where}: not a JSON object with a field {fields}.")
            _check_fields(where, options, list(document))
            yield document, where


def _read_parquet(
    path: Path, options: Mapping[str, str], option: str
) -> Iterator[tuple[dict[str, Any], str]]:
    import polars

    try:
        frame = polars.scan_parquet(path, glob=False)
        _check_fields(f"{option} {path}", options, frame.collect_schema().names())
        start = 0
        while len(rows := frame.select(*options).slice(start, _ROWS_AT_ONCE).collect()):
            for row, document in enumerate(rows.iter_rows(named=True), start):
                yield document, f"{option} {path}, row {row}"
            start += _ROWS_AT_ONCE
    except (polars.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{option} {path}: cannot be read as Parquet ({error}).") from error


def _text_of(document: dict[str, Any], field: str, where: str) -> str:
    value = document[field]
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise UsageError(f"{where}: field {field!r} is {kind}, not text.")
    return no_half_characters(value, f"{where}: field {field!r}")


def no_half_characters(text: str, where: str) -> str:
    """JSON can spell half a surrogate pair, which is no character and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where} holds {text[error.start]!a}, half of a character; mend or leave out the text."
        ) from None
    return text


def _check_fields(where: str, options: Mapping[str, str], names: list[str]) -> None:
    for field, option in options.items():
        if field not in names:
            have = ", ".join(map(repr, names)) or "none"
            raise UsageError(
                f"{where}: there is no field {field!r} (it has {have}); name one with {option}."
            )


def _read_text(path: Path) -> str:
    with _reading(path):
        text = path.read_text("utf-8-sig")
    if not text.strip():
        what = "holds only white space" if text else "is empty"
        raise UsageError(f"--text {path}: the file {what}; give a file with text.")
    return text


@contextmanager
def _reading(path: Path, option: str = "--text") -> Iterator[None]:
    """Turns what can go wrong with a text file into sentences."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {path}: not UTF-8 text ({error}).") from error
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error}).") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"--text {path}: that is a folder; give files.")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--text {path}: the ending says how a file is read; use one of {', '.join(SUFFIXES)}."
        )
    if not path.is_file():
        raise UsageError(f"--text {path}: there is no such file.")


def check_room(tokenizer: Any, length: int) -> None:
    """Makes sure that a sequence of this length has room for text beside special tokens.

    Raises:
        UsageError: It has not.
    """
    special = len(tokenizer("")["input_ids"])
    if length <= special:
        raise UsageError(_no_room(length, special))


def _no_room(length: int, special: int) -> str:
    return (
        f"--length {length} leaves no room for text beside this tokenizer's {special} special "
        "tokens; give a larger one."
    )
