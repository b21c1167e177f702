"""An array that someone already has, fed row by row: .npy, .npz and .safetensors files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.data.inputs import Batch
from geoprobe.errors import UsageError
from geoprobe.paths import typed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.data.corpus import Corpus


class Arrays:
    """Items x (n, ...): numbers as a model's main input has them.

    Args:
        x: The items; numbers become float32, whole numbers int64.
        source: What they are, for people.

    Raises:
        UsageError: They are no numbers, fewer than two, or not finite.
    """

    def __init__(self, x: NDArray[Any], source: str) -> None:
        if x.dtype.kind not in "fiub" or x.ndim < 2:
            raise UsageError(
                f"{source}: x is {x.dtype} of shape {x.shape}; give numbers of shape (items, ...)."
            )
        if len(x) < 2 or not x.size:
            raise UsageError(f"{source}: x has shape {x.shape}; a spectrum needs at least 2 items.")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise UsageError(f"{source}: x has NaN or infinite values; take those items out.")
        self.x = x
        self.source = source

    def __len__(self) -> int:
        return len(self.x)

    @property
    def whole_numbers(self) -> bool:
        """Whether the items are whole numbers, as token ids are."""
        return self.x.dtype.kind in "iu"

    @property
    def is_token_ids(self) -> bool:
        """Whether the items are sequences of token ids, all of one length."""
        return self.whole_numbers and self.x.ndim == 2 and int(self.x.min()) >= 0

    def as_token_ids(self) -> Corpus:
        """The items as sequences of token ids."""
        from geoprobe.data.corpus import Corpus

        return Corpus.from_ids(self.x, pad_id=0, source=self.source)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """One for each item: the model makes tokens of it (n,)."""
        return np.ones(len(self.x), dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the items."""
        digest = hashlib.sha256(f"{self.x.shape} {self.x.dtype.kind}".encode())
        digest.update(np.ascontiguousarray(self.batch(np.arange(len(self.x))).values).data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run records of them."""
        return {
            "source": self.source,
            "sequences": len(self.x),
            "shape": list(self.x.shape[1:]),
            "fingerprint": self.fingerprint,
        }

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The items `index`."""
        some = self.x[index]
        values = some.astype(np.int64 if self.whole_numbers else np.float32)
        return Batch(values, np.asarray(index, dtype=np.int64))


def read_array(data: Any, most: int | None = None) -> Arrays:
    """Reads what is to be fed.

    Args:
        data: An array or tensor (n, ...), or the path of a .npy, .npz or .safetensors file; the
            latter two hold it as `x`, or hold nothing else.
        most: At most this many items, evenly spaced where there are more: they may be sorted.

    Raises:
        UsageError: The file cannot be read, has no `x`, or x is no array of finite numbers.
    """
    source = "the array given"
    if isinstance(data, str | Path):
        source, data = Path(data).name, _x_of(typed(data))
    x = as_numpy(data)
    return Arrays(x[evenly_spaced(len(x), most)], source)


def as_numpy(data: Any) -> NDArray[Any]:
    """An array, tensor or sequence as a NumPy array of at least one axis.

    Raises:
        UsageError: It is no array.
    """
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        narrow = data.dtype.is_floating_point and data.dtype.itemsize < 4  # bfloat16, ...
        data = (data.float() if narrow else data).numpy()
    try:
        return np.atleast_1d(np.asarray(data))
    except ValueError as error:
        raise UsageError(f"--data: what was given is no array ({error}).") from error


def evenly_spaced(n: int, most: int | None) -> NDArray[np.int64] | slice:
    """Which of n items to take where at most so many are wanted: first, last and evenly between.

    Items sorted by class so give all of their classes. All of them are a slice, which copies none.
    """
    if most is None or n <= most:
        return slice(None)
    return np.linspace(0, n - 1, most).round().astype(np.int64)


def _x_of(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"--data {path}: there is no such file.")
    if path.suffix == ".npy":
        with _reading(path):
            return np.load(path, allow_pickle=False)
    if path.suffix in (".npz", ".safetensors"):
        return named_arrays(path, lambda names: [_name_of_x(path, names)])[0]
    raise UsageError(f"--data {path}: give a .npy, .npz or .safetensors file.")


def named_arrays(path: Path, choose: Callable[[list[str]], Sequence[str]]) -> list[Any]:
    """Arrays (tensors of a .safetensors file) of an .npz or .safetensors file.

    Args:
        path: The file.
        choose: Names of those to read, given the names of all.

    Raises:
        UsageError: The file cannot be read.
    """
    with _reading(path):
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return [found[name] for name in choose(list(found.files))]
        from safetensors import safe_open

        # NumPy has no bfloat16, so torch reads it.
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in choose(list(file.keys()))]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what can go wrong with a file of arrays into a sentence."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # a damaged archive can make NumPy raise anything
        raise UsageError(
            f"--data {path}: cannot be read ({' '.join(str(error).split())[:200]})."
        ) from error


def _name_of_x(path: Path, names: list[str]) -> str:
    if "x" in names:
        return "x"
    if len(names) == 1:
        return names[0]
    raise UsageError(f"--data {path}: it has no array x (it has {listed(names)}).")


def listed(names: Sequence[str]) -> str:
    """The names of arrays, for people."""
    return ", ".join(map(repr, names)) or "none"
