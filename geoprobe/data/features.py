"""Activations that someone already has: .npy and .safetensors files, arrays and tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_features(features: Any) -> tuple[dict[str, NDArray[np.floating]], str]:
    """Reads matrices of features.

    Args:
        features: An array or tensor (n, d), a mapping from site to such, or the path of a .npy or
            .safetensors file; tensors in a file that are not 2-D are left out.

    Returns:
        Site name to rows (n, d) in float32 or float64, and a fingerprint.

    Raises:
        UsageError: The file cannot be read, or nothing in it is a matrix of finite numbers.
    """
    import numpy as np

    source = f"The file {features}" if isinstance(features, str | Path) else "The features"
    given = _load(Path(features)) if isinstance(features, str | Path) else features
    if not isinstance(given, Mapping):
        given = {"features": given}
    arrays = {str(site): _as_array(source, str(site), value) for site, value in given.items()}
    usable = {site: array for site, array in arrays.items() if array.ndim == 2}
    if not usable:
        shapes = ", ".join(f"{site} {a.shape}" for site, a in arrays.items()) or "nothing"
        raise UsageError(
            f"{source} has no 2-D array (rows x dimensions) of numbers; it has {shapes}."
        )
    digest = hashlib.sha256()
    for site, matrix in sorted(usable.items()):
        _check(source, site, matrix)
        digest.update(f"{site} {matrix.shape} {matrix.dtype}".encode())
        digest.update(np.ascontiguousarray(matrix).data)
    return usable, digest.hexdigest()


def _load(path: Path) -> Any:
    import numpy as np

    if not path.is_file():
        raise UsageError(f"--features {path}: there is no such file.")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"--features {path}: cannot be read ({error}).") from error
    raise UsageError(f"--features {path}: give a .npy or a .safetensors file.")


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        # NumPy has no bfloat16, so torch reads and widens it.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _as_array(source: str, site: str, value: Any) -> NDArray[np.floating]:
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        narrow = value.dtype.is_floating_point and value.dtype.itemsize < 4  # bfloat16, ...
        value = (value.float() if narrow else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"{source}: {site} is no array ({error}).") from error
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{source}: {site} is {array.dtype}, and must be real numbers.")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _check(source: str, site: str, matrix: NDArray[np.floating]) -> None:
    import numpy as np

    if len(matrix) < 2 or not matrix.shape[1]:
        raise UsageError(
            f"{source}: {site} has shape {matrix.shape}; a spectrum needs at least 2 rows and "
            "1 dimension."
        )
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).any(axis=1).sum())
        raise UsageError(f"{source}: {site} has NaN or infinite values in {bad} of its rows.")
