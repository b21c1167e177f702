"""Images in a folder, made into pixels by a model's own image processor, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoprobe.data.arrays import evenly_spaced
from geoprobe.data.inputs import Batch
from geoprobe.errors import UsageError
from geoprobe.paths import is_folder, typed

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def image_files(
    folder: str | Path, most: int | None = None, option: str = "--images"
) -> tuple[Path, ...]:
    """The image files in a folder and the folders in it, by name.

    With fewer than all, they are taken evenly spaced, so that a folder sorted by class gives all of
    its classes.

    Args:
        folder: The folder.
        most: At most this many.
        option: The option that the folder was given with.

    Raises:
        UsageError: It is no folder, has fewer than two images, or Pillow is not installed.
    """
    root = typed(folder)
    if not is_folder(root):
        raise UsageError(f"{option} {folder}: there is no such folder.")
    if find_spec("PIL") is None:
        raise UsageError(
            f"{option} {folder}: reading images needs Pillow: pip install 'geoprobe[images]'."
        )
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if len(found) < 2:
        raise UsageError(
            f"{option} {folder}: it has {len(found)} image{'s' * (len(found) != 1)} "
            f"({', '.join(SUFFIXES)}), and a spectrum needs at least 2, and many more to mean "
            "something."
        )
    return tuple(found[i] for i in np.arange(len(found))[evenly_spaced(len(found), most)])


class Images:
    """Images as a processor of transformers makes them; decoded when they are asked for.

    Args:
        files: The image files.
        processor: An image processor of transformers.
        source: What they are, for people.
        option: The option that they were given with.
    """

    def __init__(
        self, files: Sequence[Path], processor: Any, source: str, option: str = "--images"
    ) -> None:
        self.files = tuple(files)
        self.source = source
        self._option = option
        self._processor = processor
        self._shape = self._pixels(self.files[0]).shape
        digest = hashlib.sha256(processor.to_json_string().encode())
        for path in self.files:
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise UsageError(f"{option}: {path} cannot be read ({error}).") from error
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """One for each image: the model makes tokens of it (n,)."""
        return np.ones(len(self.files), dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files and of how they are processed."""
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """What a run records of them."""
        return {
            "source": self.source,
            "images": len(self.files),
            "sequences": len(self.files),
            "shape": list(self._shape),
            "fingerprint": self.fingerprint,
        }

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The images `index` as pixels (batch, channels, height, width) in float32.

        Raises:
            UsageError: One cannot be decoded, or comes out in another size than the others.
        """
        pixels = [self._pixels(self.files[i]) for i in index]
        for i, one in zip(index, pixels, strict=True):
            if one.shape != self._shape:
                raise UsageError(
                    f"{self._option}: {self.files[i]} comes out of the image processor as "
                    f"{one.shape} and the first image as {self._shape}; give images of one size, "
                    "or a processor that crops or resizes them to one."
                )
        return Batch(np.stack(pixels), np.asarray(index, dtype=np.int64))

    def _pixels(self, path: Path) -> NDArray[np.float32]:
        from PIL import Image

        try:
            with Image.open(path) as image:
                made = self._processor(images=image.convert("RGB"), return_tensors="np")
        except Exception as error:  # Pillow's decoders raise many kinds
            raise UsageError(
                f"{self._option}: {path} cannot be read as an image "
                f"({' '.join(str(error).split())}); take it out of the folder."
            ) from error
        found: NDArray[np.float32] = np.asarray(made["pixel_values"][0], dtype=np.float32)
        return found
