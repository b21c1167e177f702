"""Labelled examples: every item keeps its label, and every mistake is a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from geoprobe.data.corpus import Corpus, build_corpus
from geoprobe.data.examples import Examples, read_examples
from geoprobe.data.labels import IGNORED, Labelled, Labels
from geoprobe.errors import UsageError
from tests.conftest import tiny_tokenizer
from tests.data.tokenizers_for_tests import bert_tokenizer, byte_tokenizer

X = np.arange(24.0).reshape(6, 4)
Y = [0, 0, 2, 2, 5, 5]


class Processor:
    """An image processor that takes images as they are."""

    def to_json_string(self) -> str:
        return "{}"

    def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, Any]:
        return {"pixel_values": np.asarray(images, dtype=np.float32).transpose(2, 0, 1)[None]}


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def texts(path: Path, labels: Sequence[Any], documents: Sequence[str] | None = None) -> Path:
    found = documents or [f"w{i} w{i + 1}" for i in range(len(labels))]
    return jsonl(
        path, [{"text": d, "label": label} for d, label in zip(found, labels, strict=True)]
    )


def pictures(folder: Path, classes: Sequence[str], each: int = 3) -> Path:
    """Images of one colour: its red is the place of its class, its green the place in the class."""
    for red, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for green in range(each):
            Image.new("RGB", (4, 5), (red, green, 0)).save(folder / name / f"{green}.png")
    return folder


def labels_of(labels: Labels) -> list[Any]:
    return [None if v < 0 else labels.classes[v] for v in labels.values]


def documents_of(corpus: Any, tokenizer: Any) -> list[str]:
    assert isinstance(corpus, Corpus)
    return [
        tokenizer.decode(corpus.sequence(i), skip_special_tokens=True).strip()
        for i in range(len(corpus))
    ]


def test_a_document_is_a_sequence_and_keeps_its_label(tmp_path: Path) -> None:
    labels = ["pos", "neg", None, "pos", IGNORED, "neg"]
    file = texts(tmp_path / "a.jsonl", labels)
    examples = read_examples(str(file))
    assert examples.kind == "text"
    assert examples.source == "a.jsonl"
    assert examples.labels.classes == ("neg", "pos")
    assert examples.labels.values.tolist() == [1, 0, -1, 1, -1, 0]
    assert examples.labels.names == ("data",)
    for tokenizer in (tiny_tokenizer(), bert_tokenizer()):
        fed = examples.fed(tokenizer, 16)
        ours, plain = fed.inputs, build_corpus(tokenizer, [file], length=16)
        assert isinstance(ours, Corpus)
        assert ours.fingerprint == plain.fingerprint
        assert (ours.pad_id, ours.source, ours.empty) == (plain.pad_id, plain.source, plain.empty)
        assert fed.decode is not None
        assert plain.decode is not None
        assert fed.decode(5) == plain.decode(5)
        assert fed.ids is ours.ids
        assert fed.lengths.tolist() == plain.lengths.tolist()
        assert len(fed) == 6
        batch = fed.batch(np.array([4, 1]))
        assert batch.values.tolist() == plain.batch(np.array([4, 1])).values.tolist()


def test_a_document_is_cut_to_the_length(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", [0, 1], ["w1 " * 30, "w2"])
    assert read_examples(file).fed(tiny_tokenizer(), 7).lengths.tolist() == [7, 2]
    with pytest.raises(UsageError, match="--length 1 leaves no room"):
        read_examples(file).fed(tiny_tokenizer(), 1)


@given(st.lists(st.tuples(st.sampled_from(["", "w1", "w2 w3"]), st.integers(0, 2)), min_size=4))
def test_a_document_without_tokens_goes_with_its_label(rows: list[tuple[str, int]]) -> None:
    # More documents than are tokenised at once, so that chunks join up.
    rows = rows * 30
    documents, values = [d for d, _ in rows], np.array([v for _, v in rows])
    sets = np.arange(len(rows)) % 2
    examples = Examples("text", documents, Labels(values, (0, 1, 2), sets, ("a", "b")), "x")
    kept = [i for i, document in enumerate(documents) if document]
    if len(kept) < 2:
        return
    tokenizer = byte_tokenizer("none")
    fed = examples.fed(tokenizer, 8)
    assert documents_of(fed.inputs, tokenizer) == [documents[i] for i in kept]
    assert fed.labels.values.tolist() == values[kept].tolist()
    assert fed.labels.sets.tolist() == sets[kept].tolist()
    assert fed.labels.classes == (0, 1, 2)
    assert fed.describe()["empty_documents"] == len(rows) - len(kept)


def test_fields_have_names_and_parquet_is_read_alike(tmp_path: Path) -> None:
    rows = [{"body": f"w{i}", "kind": i % 2 == 0, "more": [i]} for i in range(4)]
    lines = read_examples(jsonl(tmp_path / "a.jsonl", rows), field="body", label_field="kind")
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    table = read_examples(tmp_path / "a.parquet", field="body", label_field="kind")
    for examples in (lines, table):
        assert list(examples.items) == ["w0", "w1", "w2", "w3"]
        assert examples.labels.classes == (0, 1)
        assert examples.labels.values.tolist() == [1, 0, 1, 0]
    frame = pl.DataFrame({"text": ["w1", "w2", "w3"], "label": [1.0, None, 12.0]})
    frame.write_parquet(tmp_path / "b.parquet")
    assert labels_of(read_examples(tmp_path / "b.parquet").labels) == [1, None, 12]
    frame.with_columns(label=pl.Series(["x", "y", None], dtype=pl.Categorical)).write_parquet(
        tmp_path / "c.parquet"
    )
    assert labels_of(read_examples(tmp_path / "c.parquet").labels) == ["x", "y", None]


def test_images_have_the_label_of_their_folder(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "v1.0", ["cat", "ant"])
    (folder / "cat" / "deeper").mkdir()
    Image.new("RGB", (4, 5), (0, 9, 0)).save(folder / "cat" / "deeper" / "9.PNG")
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "none").mkdir()
    examples = read_examples(folder)
    assert examples.kind == "images"
    assert examples.labels.classes == ("ant", "cat")
    fed = examples.fed(Processor(), 128)
    pixels = fed.batch(np.arange(len(fed))).values
    assert pixels.shape == (7, 3, 5, 4)
    red = {"cat": 0, "ant": 1}
    assert [red[label] for label in labels_of(fed.labels)] == pixels[:, 0, 0, 0].tolist()
    assert sorted(pixels[:, 1, 0, 0].tolist()) == [0, 0, 1, 1, 2, 2, 9]
    assert fed.ids is None
    assert fed.decode is None
    assert fed.describe()["source"] == "v1.0"


def test_folders_named_by_numbers_give_numbers_where_all_of_them_are(tmp_path: Path) -> None:
    numbers = pictures(tmp_path / "a", ["0", "10", "2"])
    names = pictures(tmp_path / "b", ["0", "cat"])
    labels = read_examples(numbers).labels
    assert labels.classes == (0, 2, 10)
    assert labels_of(labels) == [0] * 3 + [10] * 3 + [2] * 3
    assert read_examples([numbers, names]).labels.classes == ("0", "10", "2", "cat")


def test_an_image_that_cannot_be_read_names_the_option(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", ["x", "y"])
    (folder / "x" / "0.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"^--data: .*0\.png cannot be read as an image"):
        read_examples(folder).fed(Processor(), 128)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "bool"])
def test_arrays_of_files_and_of_memory_are_alike(dtype: str, tmp_path: Path) -> None:
    y = (np.array(Y) > 1 if dtype == "bool" else np.array(Y)).astype(dtype)
    np.savez(tmp_path / "a.npz", x=X, y=y, other=[1])
    save_file({"x": torch.tensor(X), "y": torch.tensor(y)}, tmp_path / "a.safetensors")
    given: list[Any] = [
        tmp_path / "a.npz",
        str(tmp_path / "a.safetensors"),
        (X, y),
        [torch.tensor(X), torch.tensor(y)],
        (X, y.tolist()),
        {"data": (X, y)},
    ]
    fed = [read_examples(data).fed(None, 128) for data in given]
    assert len({one.fingerprint for one in fed}) == 1
    for one in fed:
        assert labels_of(one.labels) == y.tolist()
        assert one.batch(np.array([3])).values.tolist() == [X[3].tolist()]
        assert one.lengths.tolist() == [1] * 6
        assert one.ids is None
    assert read_examples(given[0]).source == "a.npz"
    assert read_examples(given[2]).source == "the arrays given"
    assert read_examples(given[5]).source == "data=the arrays given"


def test_labels_of_arrays_may_be_strings_or_missing() -> None:
    strings = np.array(["b", "a", "b", "a", "c", "c"])
    for y in (strings, strings.astype(object), strings.tolist()):
        assert read_examples((X, y)).labels.values.tolist() == [1, 0, 1, 0, 2, 2]
    missing = [1, None, 3, IGNORED, np.int32(1), 3.0]
    assert labels_of(read_examples((X, missing)).labels) == [1, None, 3, None, 1, 3]
    narrow = torch.tensor(X, dtype=torch.bfloat16, requires_grad=True)
    assert read_examples((narrow, Y)).fed(None, 1).batch(np.array([1])).values.tolist() == [
        [4, 5, 6, 7]
    ]


def test_arrays_may_be_token_ids() -> None:
    ids = np.arange(24).reshape(6, 4)
    fed = read_examples((ids, Y)).fed(None, 128, token_ids=True)
    assert isinstance(fed.inputs, Corpus)
    assert fed.ids is not None
    assert fed.ids.tolist() == ids.ravel().tolist()
    assert fed.decode is None
    assert labels_of(fed.labels) == Y
    for x in (X, -ids, ids[:, :, None]):
        with pytest.raises(UsageError, match=r"--data the arrays given: x is .*give token ids"):
            read_examples((x, Y)).fed(None, 128, token_ids=True)


def test_sets_have_names_and_share_classes(tmp_path: Path) -> None:
    a = texts(tmp_path / "a.jsonl", ["x", "y", "x"])
    b = texts(tmp_path / "b.v2.jsonl", ["z", "y"])
    asked: list[tuple[Any, tuple[str, ...], str]] = [
        ([a, str(b)], ("a", "b.v2"), "a.jsonl, b.v2.jsonl"),
        ((f"train={a}", f"held-out.1={b}"), ("train", "held-out.1"), ""),
        ([f"train={a}", b], ("train", "b.v2"), "train=a.jsonl, b.v2.jsonl"),
        ({"train set": a, "other": str(b)}, ("train set", "other"), ""),
    ]
    for data, names, source in asked:
        examples = read_examples(data)
        assert examples.labels.names == names
        assert examples.labels.classes == ("x", "y", "z")
        assert examples.labels.sets.tolist() == [0, 0, 0, 1, 1]
        assert labels_of(examples.labels) == ["x", "y", "x", "z", "y"]
        assert list(examples.items) == ["w0 w1", "w1 w2", "w2 w3", "w0 w1", "w1 w2"]
        assert not source or examples.source == source
    assert read_examples([a]).labels.names == ("data",)
    assert read_examples(f"only={a}").labels.names == ("only",)
    described = read_examples([a, b]).fed(tiny_tokenizer(), 8).describe()
    assert described["classes"] == 3
    assert described["sets"] == {
        "a": {"items": 3, "labelled": 3, "smallest_class": 1, "largest_class": 2},
        "b.v2": {"items": 2, "labelled": 2, "smallest_class": 1, "largest_class": 1},
    }
    assert described["sequences"] == 5


def test_a_path_that_is_there_is_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts(tmp_path / "lr=1.jsonl", [0, 1])
    texts(tmp_path / "1.jsonl", [2, 3])
    texts(tmp_path / "x=1.jsonl", [4, 5])
    assert read_examples("lr=1.jsonl").labels.classes == (0, 1)
    assert read_examples(["lr=1.jsonl", "1.jsonl"]).labels.names == ("lr=1", "1")
    (tmp_path / "lr=1.jsonl").unlink()
    assert read_examples("lr=1.jsonl").labels.classes == (2, 3)
    assert read_examples("lr=1.jsonl").labels.names == ("lr",)
    assert read_examples("lr=x=1.jsonl").labels.classes == (4, 5)

    class Pathlike(str):
        __slots__ = ()

    for path in (Path("lr=1.jsonl"), Pathlike("lr=1.jsonl"), {"a": "lr=1.jsonl"}):
        with pytest.raises(UsageError, match=r"lr=1\.jsonl: there is no such file"):
            read_examples(path)


def test_arrays_of_several_sets_follow_one_another() -> None:
    sets = {"a": (X, Y), "b": ((X + 100).astype(np.float32), [7, 7, 7, 5, 5, 5])}
    fed = read_examples(sets).fed(None, 128)
    values = fed.batch(np.arange(12)).values
    assert values[:, 0].tolist() == [*X[:, 0], *(X[:, 0] + 100)]
    assert labels_of(fed.labels) == [*Y, 7, 7, 7, 5, 5, 5]
    whole = {"a": (X.astype(np.int64), Y), "b": (X.astype(np.uint64), Y)}
    assert read_examples(whole).fed(None, 4, token_ids=True).ids is not None


@given(st.lists(st.integers(3, 20), min_size=2, max_size=5))
def test_most_takes_some_of_every_class_of_a_sorted_file(sizes: list[int]) -> None:
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.stack([np.arange(len(y)), y], axis=1).astype(float)
    most = len(y) // 3 + 1
    examples = read_examples({"a": (x, y), "b": (x[::-1], y[::-1])}, most=most)
    kept = np.asarray(examples.items)
    assert len(kept) == 2 * most
    assert labels_of(examples.labels) == kept[:, 1].tolist()
    assert examples.labels.classes == tuple(range(len(sizes)))
    for part in (kept[:most, 0], kept[:most:-1, 0]):
        assert np.ptp(np.diff(part)) <= 1
    assert (kept[0, 0], kept[most - 1, 0]) == (0, len(y) - 1)


def test_most_of_text_and_images_keeps_labels_with_items(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", [0, 1, 2, 3, 4, 5, 6])
    examples = read_examples([file, f"b={file}"], most=3)
    assert list(examples.items) == ["w0 w1", "w3 w4", "w6 w7"] * 2
    assert labels_of(examples.labels) == [0, 3, 6] * 2
    folder = pictures(tmp_path / "p", ["x", "y", "z"])
    some = read_examples(folder, most=3)
    assert labels_of(some.labels) == [Path(str(item)).parent.name for item in some.items]
    assert some.labels.classes == ("x", "y", "z")
    assert len(read_examples(folder, most=100).items) == 9


def test_text_alone_needs_no_labels(tmp_path: Path) -> None:
    a = jsonl(tmp_path / "a.jsonl", [{"text": "w1"}, {"text": "w2", "label": 0.5}])
    pl.DataFrame({"text": ["w3", "w4"]}).write_parquet(tmp_path / "b.parquet")
    examples = read_examples([a, tmp_path / "b.parquet"], labelled=False)
    assert examples.labels.classes == ()
    assert examples.labels.values.tolist() == [-1] * 4
    assert examples.labels.sets.tolist() == [0, 0, 1, 1]
    assert examples.labels.names == ("a", "b")
    described = examples.fed(tiny_tokenizer(), 8).describe()
    assert described["classes"] == 0
    empty = {"items": 2, "labelled": 0, "smallest_class": 0, "largest_class": 0}
    assert described["sets"] == {"a": empty, "b": empty}
    assert examples.labels.rows(10, None).tolist() == []


def test_text_alone_is_documents_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w1 w2")
    for labelled in (True, False):
        with pytest.raises(UsageError, match=r"a\.txt: plain text .* one document a line in a \.j"):
            read_examples(tmp_path / "a.txt", labelled=labelled)
    for data in ((X, Y), pictures(tmp_path / "p", ["x", "y"])):
        with pytest.raises(UsageError, match=r"^--data .*give \.jsonl or \.parquet"):
            read_examples(data, labelled=False)


def test_the_fingerprint_changes_with_items_labels_classes_sets_and_names() -> None:
    def of(x: Any = X, y: Any = (0, 0, 1, 1, 2, 2), name: str = "a") -> str:
        return read_examples({name: (x, list(y))}).fed(None, 128).fingerprint

    two = read_examples({"a": (X[:3], [0, 0, 1]), "b": (X[3:], [1, 2, 2])}).fed(None, 128)
    found = {
        of(),
        of(x=X + 1),
        of(y=[0, 1, 1, 1, 2, 2]),
        of(y=[0, None, 1, 1, 2, 2]),
        of(y=[0, 0, 1, 1, 3, 3]),
        of(y=["0", "0", "1", "1", "2", "2"]),
        of(name="b"),
        two.fingerprint,
    }
    assert len(found) == 8
    assert of() == of()
    assert two.describe()["fingerprint"] == two.fingerprint


def test_labels_are_as_many_as_items() -> None:
    fed = read_examples((X, Y)).fed(None, 128)
    with pytest.raises(ValueError, match="5 labels for 6 items"):
        Labelled(fed.inputs, fed.labels.take(np.arange(5)))


def made(*classes: Any) -> Labels:
    n = len(classes)
    return Labels(np.arange(n), tuple(sorted(classes)), np.zeros(n, dtype=np.int64), ("data",))


@pytest.mark.parametrize(
    ("classes", "outputs", "names", "rows"),
    [
        ((0, 3, 9), 10, None, [0, 3, 9]),
        ((0, 3), 4, ["b", "a", "d", "c"], [0, 3]),
        (("a", "c"), 4, ["b", "a", "d", "c"], [1, 3]),
        (("CAT", "dog"), 3, ["Dog", "cat", "fox"], [1, 0]),
        (("cat", "Cat"), 2, ["cat", "Cat"], [1, 0]),  # "Cat" sorts before "cat"
        (("LABEL_0", "label_2"), 3, None, [0, 2]),
        (("LABEL_0", "LABEL_2"), 3, ["LABEL_2", "LABEL_1", "LABEL_0"], [2, 0]),
    ],
)
def test_each_class_has_its_row(
    classes: tuple[Any, ...], outputs: int, names: list[str] | None, rows: list[int]
) -> None:
    found = made(*classes).rows(outputs, names)
    assert found.tolist() == rows
    assert found.dtype == np.int64


FIVE = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


@pytest.mark.parametrize(
    ("classes", "names", "sentence"),
    [
        ((0, 12), None, r"label 12 is no class of this model, which has 7 \(0 to 6\); number"),
        ((-1, 2), FIVE, r"label -1 is no class of this model"),
        ((10**30,), FIVE, r"label 10+ is no class"),
        (("ant", "cow"), FIVE, r"'cow' is no class of this model, which has 'ant', .* and 2 more;"),
        (("ant", "ANT"), FIVE, r"labels 'ANT' and 'ant' are both class 0 of this model; give one"),
        (("ant",), ["Ant", "ANT", *FIVE[2:]], r"'ant' is the name of 2 classes .*rows 0, 1.*give"),
        (("ant",), None, r"'ant' is a name, and this model does not name its 7 classes; give labe"),
        (("LABEL_7",), None, r"'LABEL_7' is a name, and this model does not name"),
        (("ant",), [f"LABEL_{i}" for i in range(7)], r"numbers, 0 to 6"),
        (("ant", "zoo"), [*FIVE, "zoo"], r"'zoo' is no class"),
        (("a" * 5000,), FIVE, r"label 'a{50,80}\.\.\. is no class"),
    ],
)
def test_a_class_without_a_row_of_its_own_is_a_sentence(
    classes: tuple[Any, ...], names: list[str] | None, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        made(*classes).rows(7, names)
    assert str(caught.value).startswith("--data: ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"text": "w1", "label": 0}\n{"text": "w2", "kind": 0}', r", line 2: .*field 'label' \("),
        (b'{"text": "w1"}', r"\(it has 'text'\); name one with --label-field"),
        (b'{"label": 1}', r"\(it has 'label'\); name one with --field"),
        (b'{"text": "w1", "label": 0.5}', r", line 1: field 'label' is 0\.5, .*give a whole numb"),
        (b'{"text": "w1", "label": [1]}', r"is \[1\], which is no class; give a whole number or a"),
        (b'{"text": "w1", "label": NaN}', r"is not a number, which is no class"),
        (b'{"text": "w1", "label": 1e999}', r"is inf, which is no class"),
        (b'{"text": "w1", "label": "\\ud800"}', r"field 'label' holds .*half of a character"),
        (b'{"text": null, "label": 1}', r"field 'text' is null, not text"),
        (b'["w1"]', r"line 1: not a JSON object with a field 'label', 'text'"),
        (b'{"text": " ", "label": 0}', r"every document is empty .*--field"),
        (b"", r"holds no document"),
        (b"\xff", r"not UTF-8"),
        (b'{"text": "w1", "label": 1}\n{"text": "w2", "label": "x"}', r"give all labels as number"),
        (b'{"text": "w1", "label": "x"}\n{"text": "w2", "label": "x"}', r"has the label 'x'; coll"),
        (b'{"text": "w1", "label": 3}\n{"text": "w2", "label": null}', r"has the label 3; collaps"),
        (b'{"text": "w1", "label": null}', r"no item has a label; give"),
    ],
)
def test_a_bad_line_is_a_sentence_that_names_the_file(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_examples(file)
    assert str(caught.value).startswith("--data")
    assert str(file) in str(caught.value)


def test_a_bad_table_is_a_sentence_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["w1", "w2"], "n": [[1], [2]]}).write_parquet(file)
    with pytest.raises(UsageError, match=r"--data .*a\.parquet: .*'text', 'n'\); .*--label-field"):
        read_examples(file)
    with pytest.raises(UsageError, match=r"--data .*a\.parquet, row 0: field 'n' is \[1\]"):
        read_examples(file, label_field="n")
    file.write_bytes(b"no table")
    with pytest.raises(UsageError, match=r"--data .*a\.parquet: cannot be read as Parquet"):
        read_examples(file)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": X}, r"no array y \(it has 'x'\); give items as x and"),
        ({"y": Y}, r"no array x \(it has 'y'\)"),
        ({"x": X, "y": Y[:5]}, r"x has 6 items and y 5 labels; give"),
        ({"x": X, "y": np.zeros((6, 3))}, r"y has shape \(6, 3\); give one class"),
        ({"x": X, "y": [0, 1, 2, 3, 4, 0.5]}, r"y\[5\] is 0\.5, which is no class; give"),
        ({"x": X, "y": np.array(Y) * 1j}, r"y\[0\] is 0j, which is no class"),
        ({"x": X, "y": [1] * 6}, r"every item has the label 1; collapse compares at least two"),
        ({"x": X, "y": [IGNORED] * 6}, r"no item has a label"),
        ({"x": X[:, 0], "y": Y}, r"x is float64 of shape \(6,\); give numbers of shape"),
        ({"x": X * np.nan, "y": Y}, r"NaN or infinite"),
        ({"x": X.astype(str), "y": Y}, r"give numbers of shape"),
        ({"x": X, "y": np.array([*Y[:5], "x"], dtype=object)}, r"cannot be read"),
    ],
)
def test_a_bad_array_is_a_sentence_that_names_the_file(
    arrays: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, **arrays)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_examples(f"train={file}")
    assert str(caught.value).startswith(f"--data train={file}") or "cannot be" in sentence
    assert str(file) in str(caught.value)


def test_bad_folders_are_sentences(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", ["x"])
    with pytest.raises(UsageError, match="every item has the label 'x'"):
        read_examples(folder)
    Image.new("RGB", (4, 5)).save(folder / "a.png")
    with pytest.raises(UsageError, match=r"p: a\.png is in the folder itself; .* p/CLASS/a\.png"):
        read_examples(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"--data .*none: it has 0 images"):
        read_examples(tmp_path / "none")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (["text.jsonl", "text.jsonl"], r"2 sets are called 'text'; .*NAME=FILE"),
        (["data=text.jsonl", "data=arrays.npz"], r"2 sets are called 'data'"),
        (["text.jsonl", "arrays.npz"], r"text\.jsonl is text and arrays\.npz is arrays; give sets"),
        (["text.jsonl", "names=names.jsonl"], r"label 0 \(text.jsonl\) .*label 'x' \(names=names"),
        (["names.jsonl", "text.jsonl"], r"label 0 \(text.jsonl\) .*label 'x' \(names.jsonl"),
        ("none.jsonl", r"--data none\.jsonl: there is no such file"),
        ("train=none.jsonl", r"--data none\.jsonl: there is no such file"),
        ("", r"--data '': there is no such file"),
        ("the text itself " * 1000, r"there is no such file"),
        ("a\0b", r"there is no such file"),
        ("arrays.npy", r"a \.npy file has no labels; give an \.npz"),
        ("notes.md", r"notes\.md: the ending says .*\.jsonl, \.parquet, \.npz, \.safetensors"),
        ("bad.npz", r"bad\.npz: cannot be read"),
        ([], r"no set is given; give a file"),
        ({}, r"no set is given"),
        (None, r"a set is NoneType; give a file"),
        (X, r"a set is ndarray; give .* a pair \(x, y\)"),
        ({"x": X, "y": np.array(Y)}, r"a set is ndarray; give"),
        ({1: "text.jsonl"}, r"1 names a set; give a string"),
        ([(X, Y), (X, Y)], r"pairs of arrays have no names; .*give a mapping"),
        ({"a": (X, Y), "b": (X[:, :2], Y)}, r"x of 'a' .*\(4,\) and x of 'b' .*\(2,\); give sets"),
        ({"a": (X, Y), "b": (X.astype(int), Y)}, r"x of 'a' is float64 .* of 'b' is int64"),
        ({"a": (X, Y), "b": (X, ["x", "y"] * 3)}, r"label 0 \(a\) is a number and label 'x' \(b"),
        ((X, [0, 1, 2, 3, 4, "x"]), r"label 0 \(data\) is a number and label 'x' \(data\)"),
        ({"a": (X, Y), "b": (X, [1] * 6)}, r"--data b: every item has the label 1; collapse"),
        ((X, np.array(3)), r"--data data: x has 6 items and y 1 labels"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    data: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts(tmp_path / "text.jsonl", [0, 1])
    texts(tmp_path / "names.jsonl", ["x", "y"])
    np.savez(tmp_path / "arrays.npz", x=X, y=Y)
    np.save(tmp_path / "arrays.npy", X)
    for name in ("bad.npz", "notes.md"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UsageError, match=sentence) as caught:
        read_examples(data)
    assert str(caught.value).startswith("--data")
    assert len(str(caught.value)) < 400


def test_some_labels_keep_classes_and_names() -> None:
    labels = read_examples((X, Y)).labels
    some = labels.take(np.array([5, 0]))
    assert labels_of(some) == [5, 0]
    assert some.classes == labels.classes
    assert some.names == labels.names
    assert len(some) == 2
