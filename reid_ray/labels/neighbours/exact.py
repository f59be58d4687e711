"""Exact nearest neighbours by cosine: memory is a few blocks and one list per row, never N×N.

A block of similarities is first computed as the hardware does it fastest, with a bound on its error (`products`). Each
row keeps every candidate that the bound cannot exclude (`candidates`); they are few, and are then scored exactly, in
float64. So the answer is that of the exact product, whatever the device, the blocks and the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reid_ray.errors import ConfigError
from reid_ray.labels.features import READ_ROWS, blocks, check_features, read
from reid_ray.labels.neighbours.candidates import Search, Wanted
from reid_ray.labels.neighbours.kernels import OTHER, SAME, pair_similarities
from reid_ray.labels.neighbours.products import Centre, find_centre, gains_from_bf16
from reid_ray.types import FeatureRows, FloatArray, IntArray

IndexArray = npt.NDArray[np.int32]

DEFAULT_MEMORY_MB = 1024

NO_GROUPS: IntArray = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of some rows, best first.

    Attributes:
        indices: int32 [R, k]; −1 where there are fewer.
        similarities: float32 [R, k], dot products.
        least: float32 [R], the smallest similarity of the row to any row; None where it was not asked for.
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

    A row comes first in its own list, by definition. Others follow by similarity, descending, and at equal similarity
    by row number; so ties have one answer. Rows of zeros are as similar (0) to everything. Where k exceeds N, k is N.
    Similarities are dot products in float64 rounded to float32; on a GPU one in 10⁸ may differ in its last bit.

    Args:
        features: float32 [N, D], L2-normalised; rows of zeros are allowed. They are read in blocks.
        rows: the rows to search for. Default all of them, which costs half as much per row.
        least: fill `Neighbours.least`.
        centre: as `find_centre` gives it, where several calls share it; the features are then taken as checked.
        device: where products are computed; default CUDA where there is one.
        bf16: find candidates in bfloat16; default where the hardware gains. The answer is the same.
        memory_mb: memory for blocks and lists, beyond the features and the answer.
        on_rows: called with the number of rows after each block of them, for a progress bar.

    Raises:
        ConfigError: k below 1.
        DataError: a feature is not finite or not normalised; the message names its row.
    """
    n_rows = features.shape[0]
    n_others = _count(k, n_rows) - 1
    wanted = [Wanted(n_others)] if n_others else []
    if least:
        wanted.append(Wanted(1, largest=False))
    asked = range(n_rows) if rows is None else rows
    found = _search(features, wanted, NO_GROUPS, asked, centre, device, bf16, memory_mb, on_rows)
    to_itself = _to_itself(features, asked)
    smallest = None
    if least:
        columns, values = found.pop()
        smallest = np.minimum(to_itself[1][:, 0], np.where(columns[:, 0] >= 0, values[:, 0], np.inf).astype(np.float32))
    indices, similarities = (np.concatenate(parts, axis=1) for parts in zip(to_itself, *found, strict=True))
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
    """The nearest rows of the same camera, itself first, and those of other cameras, from one pass over the features.

    Args:
        camids: int64 [N]; images of unknown camera count as one camera.
        k_within: neighbours of the same camera, the row itself counted.
        k_across: neighbours of other cameras.

    Other arguments, order and errors are those of `nearest`.
    """
    n_rows = features.shape[0]
    asked = range(n_rows) if rows is None else rows
    wanted = [Wanted(_count(k_across, n_rows), OTHER), *([Wanted(k_within - 1, SAME)] if k_within > 1 else [])]
    groups = np.ascontiguousarray(camids, dtype=np.int64)
    across, *within = _search(features, wanted, groups, asked, centre, device, bf16, memory_mb, on_rows)
    indices, similarities = (
        np.concatenate(parts, axis=1) for parts in zip(_to_itself(features, asked), *within, strict=True)
    )
    return Neighbours(indices, similarities), Neighbours(*across)


def join(parts: Sequence[Neighbours]) -> Neighbours:
    """The lists of consecutive ranges of rows as one."""
    least = [part.least for part in parts if part.least is not None]
    return Neighbours(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.similarities for part in parts]),
        np.concatenate(least) if least else None,
    )


def _count(k: int, n_rows: int) -> int:
    if k < 1:
        raise ConfigError(f"A search for neighbours wants at least 1 of them; here k={k}.")
    return max(min(k, n_rows), 1)


def _search(
    features: FeatureRows,
    wanted: Sequence[Wanted],
    groups: IntArray,
    rows: range,
    centre: Centre | None,
    device: torch.device | str | None,
    bf16: bool | None,
    memory_mb: int,
    on_rows: Callable[[int], None] | None,
) -> list[tuple[IndexArray, FloatArray]]:
    """The wanted lists of some rows, as many rows at a time as fit into the memory."""
    if centre is None:
        check_features(features)
        centre = find_centre(features)
    n_rows = features.shape[0]
    if not wanted or not len(rows):
        return [(np.empty((len(rows), w.k), np.int32), np.empty((len(rows), w.k), np.float32)) for w in wanted]
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    search = Search(features, centre, tuple(wanted), groups, device, gains_from_bf16(device) if bf16 is None else bf16)
    size = search.rows_at_a_time(len(rows), memory_mb)
    symmetric = size >= n_rows == len(rows)
    parts = [search.run(rows[block], symmetric=symmetric, on_rows=on_rows) for block in blocks(len(rows), size)]
    return [
        (np.concatenate([indices for indices, _ in found]), np.concatenate([values for _, values in found]))
        for found in zip(*parts, strict=True)
    ]


def _to_itself(features: FeatureRows, rows: range) -> tuple[IndexArray, FloatArray]:
    """Each row as the only entry of its list."""
    own = np.arange(rows.start, rows.stop, dtype=np.int32)
    return own[:, None], similarities_of_pairs(features, own, own)[:, None]


def similarities_of_pairs(features: FeatureRows, rows: IndexArray, columns: IndexArray) -> FloatArray:
    """float32 [P]: similarities of pairs of rows.

    Where features are not an array they are streamed: once, for each `READ_ROWS` rows that `rows` names.
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
    """Blocks of rows that hold some of `numbers`, with the places of those."""
    order = np.argsort(numbers, kind="stable")
    found = []
    for block in blocks(n_rows, READ_ROWS):
        low, high = np.searchsorted(numbers[order], [block.start, block.stop])
        if low < high:
            found.append((block, order[low:high]))
    return found
