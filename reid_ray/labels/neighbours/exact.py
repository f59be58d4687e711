"""Exact nearest neighbours by cosine similarity, in the memory of a few blocks and one list per row, never N×N.

Each block of similarities is computed in the fastest arithmetic of the hardware, with a bound on its error
(`products`). Each row keeps the few candidates that the bound cannot exclude (`candidates`), which are then scored
exactly in float64. So the result does not depend on the device, the block size or the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reid_ray.errors import ConfigError
from reid_ray.labels.features import READ_ROWS, blocks, check_features, read
from reid_ray.labels.neighbours.candidates import ListSpec, Search
from reid_ray.labels.neighbours.kernels import OTHER, SAME, pair_similarities
from reid_ray.labels.neighbours.products import Centre, find_centre, supports_bf16
from reid_ray.types import FeatureRows, FloatArray, IntArray

IndexArray = npt.NDArray[np.int32]

DEFAULT_MEMORY_MB = 1024

NO_GROUPS: IntArray = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of some rows, best first.

    Attributes:
        indices: int32 [R, k], padded with −1.
        similarities: float32 [R, k], dot products.
        least: float32 [R], the smallest similarity of the row to any row; None unless requested.
    """

    indices: IndexArray
    similarities: FloatArray
    least: FloatArray | None = None


def nearest(
    features: FeatureRows,
    k: int,
    *,
    rows: range | None = None,
    least: bool = False,
    centre: Centre | None = None,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    memory_mb: int = DEFAULT_MEMORY_MB,
    on_rows: Callable[[int], None] | None = None,
) -> Neighbours:
    """The k nearest rows of each row, by dot product of features.

    A row always comes first in its own list. The others follow by descending similarity, ties by row number. A row of
    zeros has similarity 0 to every row. k is capped at N. Similarities are float64 dot products rounded to float32; on
    a GPU one in 10⁸ may differ in the last bit.

    Args:
        features: float32 [N, D], L2-normalised; rows of zeros are allowed. They are read in blocks.
        rows: the query rows. Default: all, which costs half as much per row because products are symmetric.
        least: fill `Neighbours.least`.
        centre: result of `find_centre`, to share it between calls; the features are then assumed to be checked.
        device: where products are computed; default CUDA if available.
        bf16: find candidates in bfloat16; default: if the hardware supports it. The result is the same.
        memory_mb: memory for blocks and lists, in addition to the features and the result.
        on_rows: called after each block with its number of rows, for a progress bar.

    Raises:
        ConfigError: k below 1.
        DataError: a feature is not finite or not normalised; the message names its row.
    """
    n_rows = features.shape[0]
    n_others = _count(k, n_rows) - 1
    specs = [ListSpec(n_others)] if n_others else []
    if least:
        specs.append(ListSpec(1, largest=False))
    queries = range(n_rows) if rows is None else rows
    found = _search(features, specs, NO_GROUPS, queries, centre, device, bf16, memory_mb, on_rows)
    to_self = _self_neighbours(features, queries)
    smallest = None
    if least:
        columns, values = found.pop()
        smallest = np.minimum(to_self[1][:, 0], np.where(columns[:, 0] >= 0, values[:, 0], np.inf).astype(np.float32))
    indices, similarities = (np.concatenate(parts, axis=1) for parts in zip(to_self, *found, strict=True))
    k = min(k, n_rows)
    return Neighbours(indices[:, :k], similarities[:, :k], smallest)


def nearest_by_camera(
    features: FeatureRows,
    camids: IntArray,
    k_within: int,
    k_across: int,
    *,
    rows: range | None = None,
    centre: Centre | None = None,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    memory_mb: int = DEFAULT_MEMORY_MB,
    on_rows: Callable[[int], None] | None = None,
) -> tuple[Neighbours, Neighbours]:
    """The nearest rows of the same camera (the row itself first) and of other cameras, in one pass over the features.

    Args:
        camids: int64 [N]; images of unknown camera count as one camera.
        k_within: neighbours of the same camera, including the row itself.
        k_across: neighbours of other cameras.

    Other arguments, order and errors are those of `nearest`.
    """
    n_rows = features.shape[0]
    queries = range(n_rows) if rows is None else rows
    specs = [ListSpec(_count(k_across, n_rows), OTHER), *([ListSpec(k_within - 1, SAME)] if k_within > 1 else [])]
    groups = np.ascontiguousarray(camids, dtype=np.int64)
    across, *within = _search(features, specs, groups, queries, centre, device, bf16, memory_mb, on_rows)
    indices, similarities = (
        np.concatenate(parts, axis=1) for parts in zip(_self_neighbours(features, queries), *within, strict=True)
    )
    return Neighbours(indices, similarities), Neighbours(*across)


def join(parts: Sequence[Neighbours]) -> Neighbours:
    """Concatenate the lists of consecutive ranges of rows."""
    least = [part.least for part in parts if part.least is not None]
    return Neighbours(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.similarities for part in parts]),
        np.concatenate(least) if least else None,
    )


def _count(k: int, n_rows: int) -> int:
    if k < 1:
        raise ConfigError(f"k, the number of neighbours, must be at least 1; got k={k}.")
    return max(min(k, n_rows), 1)


def _search(
    features: FeatureRows,
    specs: Sequence[ListSpec],
    groups: IntArray,
    rows: range,
    centre: Centre | None,
    device: torch.device | str | None,
    bf16: bool | None,
    memory_mb: int,
    on_rows: Callable[[int], None] | None,
) -> list[tuple[IndexArray, FloatArray]]:
    """The requested lists of some rows, processed in ranges that fit into `memory_mb`."""
    if centre is None:
        check_features(features)
        centre = find_centre(features)
    n_rows = features.shape[0]
    if not specs or not len(rows):
        return [(np.empty((len(rows), w.k), np.int32), np.empty((len(rows), w.k), np.float32)) for w in specs]
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    search = Search(features, centre, tuple(specs), groups, device, supports_bf16(device) if bf16 is None else bf16)
    size = search.rows_at_a_time(len(rows), memory_mb)
    symmetric = size >= n_rows == len(rows)
    parts = [search.run(rows[block], symmetric=symmetric, on_rows=on_rows) for block in blocks(len(rows), size)]
    return [
        (np.concatenate([indices for indices, _ in found]), np.concatenate([values for _, values in found]))
        for found in zip(*parts, strict=True)
    ]


def _self_neighbours(features: FeatureRows, rows: range) -> tuple[IndexArray, FloatArray]:
    """Lists of length 1 that hold the row itself."""
    own = np.arange(rows.start, rows.stop, dtype=np.int32)
    return own[:, None], similarities_of_pairs(features, own, own)[:, None]


def similarities_of_pairs(features: FeatureRows, rows: IndexArray, columns: IndexArray) -> FloatArray:
    """float32 [P]: similarities of pairs of rows.

    Features that are not an array are streamed, once for every `READ_ROWS` rows in `rows`.
    """
    if isinstance(features, np.ndarray):
        return np.asarray(pair_similarities(features, 0, features, 0, rows, columns))
    n_rows = features.shape[0]
    scores = np.empty(len(rows), dtype=np.float32)
    for own_block, by_row in _by_block(rows, n_rows):
        own = read(features, own_block)
        for block, by_column in _by_block(columns[by_row], n_rows):
            chosen = by_row[by_column]
            others = read(features, block)
            scores[chosen] = pair_similarities(own, own_block.start, others, block.start, rows[chosen], columns[chosen])
    return scores


def _by_block(numbers: IndexArray, n_rows: int) -> list[tuple[slice, IntArray]]:
    """Blocks of rows that contain some of `numbers`, with the positions of those numbers."""
    order = np.argsort(numbers, kind="stable")
    found = []
    for block in blocks(n_rows, READ_ROWS):
        low, high = np.searchsorted(numbers[order], [block.start, block.stop])
        if low < high:
            found.append((block, order[low:high]))
    return found
