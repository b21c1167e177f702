"""What a model is fed: text as token ids, images, arrays that someone already has.

Text is padded and says how long each sequence is. Of images and arrays the model itself makes
tokens (patches, positions), and how many is known only once it has seen one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Some items of what is fed.

    Attributes:
        values: The model's main input, items first: token ids padded on the right (batch, time),
            pixels (batch, channels, height, width), or rows of an array.
        index: Index of each item (batch,).
        lengths: Number of real tokens of each sequence (batch,); None where the model makes tokens.
    """

    values: NDArray[Any]
    index: NDArray[np.int64]
    lengths: NDArray[np.int64] | None = None


class Inputs(Protocol):
    """Anything that can be fed, item by item, in a fixed order."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each item (n,); 1 where the model makes tokens."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the model is given."""
        ...

    def __len__(self) -> int:
        """Number of items."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a run records of it."""
        ...

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The items `index`."""
        ...


@dataclass(frozen=True)
class Part:
    """Some items of what is fed, in an order of their own.

    Attributes:
        whole: All that is fed.
        index: Which items (n,).
    """

    whole: Inputs
    index: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each item (n,)."""
        return self.whole.lengths[self.index]

    @property
    def fingerprint(self) -> str:
        """Of the whole."""
        return self.whole.fingerprint

    def __len__(self) -> int:
        """Number of items."""
        return len(self.index)

    def describe(self) -> dict[str, Any]:
        """As the whole is described."""
        return self.whole.describe()

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """Items by their place in this part; they keep their index in the whole."""
        return self.whole.batch(self.index[index])
