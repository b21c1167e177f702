"""Activations that someone already has are read as they are, or refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from geoprobe.data.features import read_features
from geoprobe.errors import UsageError

X = np.random.default_rng(0).normal(size=(6, 4))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, np.int8, bool])
def test_npy_files_keep_their_values(dtype: Any, tmp_path: Path) -> None:
    values = (X * 3).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    found, _ = read_features(tmp_path / "a.npy")
    assert found["features"].dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(found["features"], values.astype(np.float64))


def test_every_matrix_of_a_safetensors_file_is_a_site(tmp_path: Path) -> None:
    tensors = {"final": X, "block.0": X.astype(np.float32), "bias": X[0], "cube": X[None]}
    save_file(tensors, tmp_path / "a.safetensors")
    found, _ = read_features(str(tmp_path / "a.safetensors"))
    assert set(found) == {"final", "block.0"}
    np.testing.assert_array_equal(found["final"], X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_tensors_lose_nothing(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[1 / 3, 2.0**25 + 1], [3.0, 4.0]]).to(dtype)
    if dtype == torch.int64:
        tensor[0, 1] = 2**25 + 1
    save_torch({"a": tensor}, tmp_path / "a.safetensors")
    if torch.isfinite(tensor.double()).all():
        for given in (tensor, {"a": tensor}, tmp_path / "a.safetensors"):
            (found,) = read_features(given)[0].values()
            assert found.tolist() == tensor.tolist()


def test_a_tensor_on_the_tape_and_nested_lists_are_read() -> None:
    tensor = torch.tensor(X, requires_grad=True)
    np.testing.assert_array_equal(read_features(tensor)[0]["features"], X)
    np.testing.assert_array_equal(read_features(X.tolist())[0]["features"], X)


def test_the_fingerprint_is_of_the_values_and_not_of_their_layout(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "f.npy", np.asfortranarray(X))
    same = {
        read_features(given)[1]
        for given in (X, np.asfortranarray(X), tmp_path / "a.npy", tmp_path / "f.npy", X[::1])
    }
    assert len(same) == 1
    other = {read_features(given)[1] for given in (X.T, X[::-1], X + 1, {"final": X})}
    assert len(other) == 4
    assert not same & other
    swapped = [read_features(d)[1] for d in ({"a": X, "b": X.T}, {"b": X.T, "a": X})]
    assert swapped[0] == swapped[1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (X[0], r"no 2-D array .* features \(4,\)"),
        ({}, "nothing"),
        (X[:1], r"\(1, 4\); a spectrum needs"),
        (X[:, :0], r"\(6, 0\)"),
        (X + 1j, "complex128"),
        (torch.tensor(X + 1j), "complex128"),
        (np.array([["a", "b"]]), "real numbers"),
        (np.array([[object()]]), "real numbers"),
        ([[1.0], [1.0, 2.0]], "no array"),
        (np.where(X > 1, np.nan, X), r"NaN or infinite values in \d of its rows"),
        (np.where(np.arange(6)[:, None] == 2, np.inf, X), "values in 1 of its rows"),
        ("none.npy", "no such file"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused_in_a_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_features(given)


def test_bad_files_are_sentences(tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([[{"a": 1}]]), allow_pickle=True)
    for name, content in (("text.npy", b"hello"), ("no.safetensors", b"hello"), ("e.npy", b"")):
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "a.npz", X)
    for file in tmp_path.iterdir():
        with pytest.raises(UsageError, match="--features") as caught:
            read_features(file)
        assert file.name in str(caught.value)
    with pytest.raises(UsageError, match="no such file"):
        read_features(tmp_path)
