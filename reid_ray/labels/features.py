"""Reading features from an array, a memory-mapped file, or shards fetched on demand.

The label engine only needs the shape of the feature matrix and contiguous rows of it (`types.FeatureRows`), so features
need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reid_ray.errors import DataError
from reid_ray.types import FeatureRows, FloatArray, IntArray

NORM_TOLERANCE = 0.01
"""Tolerance of the norm of a feature; features normalised in bfloat16 are off by a thousandth."""

READ_ROWS = 4096
"""Rows per block in a pass over all features."""


def open_features(path: str | Path) -> FloatArray:
    """Map a `.npy` file of features into memory without reading it.

    Raises:
        DataError: the file is missing, unreadable or not a float matrix.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; 'reid-ray extract RUN --out {path.with_suffix('.npy')}' writes one.")
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npy file of features: {error}.") from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        shape = f"{features.dtype} {list(features.shape)}" if isinstance(features, np.ndarray) else "an archive"
        raise DataError(f"{path} must hold a matrix [N, D] of floats; it holds {shape}.")
    return features


def blocks(n_rows: int, size: int) -> Iterator[slice]:
    """Slices that split rows 0 … n_rows−1 into blocks of `size`; the last may be smaller."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def read(features: FeatureRows, rows: slice) -> FloatArray:
    """Read rows as contiguous float32."""
    return np.ascontiguousarray(features[rows], dtype=np.float32)


def read_rows(features: FeatureRows, rows: IntArray) -> FloatArray:
    """Read some rows, int64 [R] in ascending order, as float32 [R, D], block by block."""
    parts = [np.empty((0, features.shape[1]), dtype=np.float32)]
    for block in blocks(features.shape[0], READ_ROWS):
        low, high = np.searchsorted(rows, [block.start, block.stop])
        if low < high:
            parts.append(read(features, block)[rows[low:high] - block.start])
    return np.concatenate(parts)


def check_features(features: FeatureRows) -> None:
    """Raise `DataError` unless features are a matrix of finite rows of norm 1 or 0."""
    if len(features.shape) != 2:
        raise DataError(f"Features must be a matrix [N, D]; got the shape {list(features.shape)}.")
    for rows in blocks(features.shape[0], READ_ROWS):
        block = read(features, rows)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("nd,nd->n", block, block))
        finite = np.isfinite(norms)
        if not finite.all():
            raise DataError(
                f"The feature of row {rows.start + int(np.argmin(finite))} is not finite; the network has diverged, or "
                f"the file is damaged."
            )
        normalized = (np.abs(norms - 1) <= NORM_TOLERANCE) | (norms <= NORM_TOLERANCE)
        if not normalized.all():
            row = int(np.argmin(normalized))
            raise DataError(
                f"The feature of row {rows.start + row} has norm {norms[row]:.3g}; divide each feature by its L2 norm "
                f"first."
            )
