"""The k-reciprocal Jaccard distance (Zhong et al., CVPR 2017), sparse from end to end.

Neighbours → k-reciprocal sets, expanded by half sets → weights V, rows summing to 1 → query expansion (the mean of V
over the k2 nearest) → J = 1 − m/(2 − m) with m = Σ min(V_i, V_j). Only pairs with J ≤ max_distance are kept: a few per
row.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from reid_ray.errors import ConfigError
from reid_ray.labels.neighbours import Neighbours, nearest
from reid_ray.types import FloatArray, IntArray

Variant = Literal["spcl", "cvpr17"]

ROWS_PER_BLOCK = 512
"""Rows that a thread takes at a time, at least."""

MAX_BLOCKS = 256
"""Blocks in all, at most: each needs a few zeroed arrays of length N."""

LEAST_SCALE = 1e-5
"""d² that float32 similarities cannot tell from 0: the floor of what `cvpr17` divides by, for rows that are all one."""


def jaccard_graph(
    features: FloatArray,
    *,
    k1: int,
    k2: int,
    max_distance: float,
    variant: Variant = "spcl",
    camids: IntArray | None = None,
    device: torch.device | str | None = None,
) -> csr_array:
    """Jaccard distances of all pairs that are at most `max_distance` apart.

    | variant | neighbours tested K, half H (self counted) | weight of neighbour j of i |
    |---|---|---|
    | `spcl` | k1, round(k1/2)+1 | exp(−(2 − 2·cos)) |
    | `cvpr17` | k1+1, round(k1/2)+1 | exp(−d²/max d² of the row), d² = 2 − 2·cos |

    `round` is to even, as in the published codes. Distances of one variant mean nothing in the other.

    Args:
        features: float32 [N, D], L2-normalised.
        k1: neighbours of the k-reciprocal encoding.
        k2: neighbours of the query expansion, self included; 1 switches it off.
        max_distance: pairs farther apart are left out, as are those that share nothing (J = 1).
        camids: int64 [N]; not read by these variants.
        device: where neighbours are searched.

    Returns:
        float32 [N, N], symmetric; the diagonal and other zeros are stored; columns ascend in each row.

    Raises:
        ConfigError: unknown variant, k1 or k2 below 1.
        DataError: features that are not finite or not normalised.
    """
    if min(k1, k2) < 1:
        raise ConfigError(f"k1 and k2 count neighbours, self included, so both are at least 1; here k1={k1}, k2={k2}.")
    if variant not in get_args(Variant):
        raise ConfigError(f"Unknown Jaccard variant '{variant}'; use {' or '.join(get_args(Variant))}.")
    k_full, k_half = (k1, round(k1 / 2) + 1) if variant == "spcl" else (k1 + 1, round(k1 / 2) + 1)
    neighbours = nearest(features, max(k_full, k_half, k2), device=device)
    return graph_of_neighbours(
        features, neighbours, k_full=k_full, k_half=k_half, k2=k2, max_distance=max_distance, variant=variant
    )


def graph_of_neighbours(
    features: FloatArray,
    neighbours: Neighbours,
    *,
    k_full: int,
    k_half: int,
    k2: int,
    max_distance: float,
    variant: Variant,
) -> csr_array:
    """`jaccard_graph`, from neighbours on."""
    from reid_ray.labels import kernels  # numba takes seconds to import, and nothing else needs it

    n_rows = len(features)
    if not n_rows:
        return csr_array((0, 0), dtype=np.float32)
    indices = neighbours.indices
    k_full, k_half = min(k_full, indices.shape[1]), min(k_half, indices.shape[1])

    sets = _over_blocks(lambda first, last: kernels.expanded_sets(indices, k_full, k_half, first, last), n_rows)
    indptr = _indptr([counts for counts, _ in sets])
    columns = np.concatenate([found for _, found in sets])
    features = np.ascontiguousarray(features, dtype=np.float32)
    scale = _scale(neighbours.least, variant)
    blocks = _over_blocks(
        lambda first, last: kernels.pair_weights(features, scale, indptr, columns, first, last), n_rows
    )
    weights = csr_array((np.concatenate(blocks), columns, indptr), (n_rows, n_rows))
    weights = _expand_queries(weights, indices[:, :k2])
    transposed = weights.T.tocsr()
    rows = _over_blocks(
        lambda first, last: kernels.jaccard_rows(
            weights.indptr,
            weights.indices,
            weights.data,
            transposed.indptr,
            transposed.indices,
            transposed.data,
            np.float32(max_distance),  # as DBSCAN will compare: in float32
            first,
            last,
        ),
        n_rows,
    )
    return csr_array(
        (
            np.concatenate([values for _, _, values in rows]),
            np.concatenate([found for _, found, _ in rows]),
            _indptr([counts for counts, _, _ in rows]),
        ),
        (n_rows, n_rows),
    )


def _scale(least: FloatArray, variant: Variant) -> npt.NDArray[np.float64]:
    """float64 [N]: what the d² of each row are divided by."""
    if variant == "spcl":
        return np.ones(len(least))
    return np.maximum(2 - 2 * least.astype(np.float64), LEAST_SCALE)


def _expand_queries(weights: csr_array, nearest_rows: npt.NDArray[np.int32]) -> csr_array:
    """Mean of V over each row's first neighbours."""
    n_rows, k2 = nearest_rows.shape
    if k2 == 1:
        return weights
    share = np.full(nearest_rows.size, 1 / k2, dtype=np.float32)
    mean = csr_array((share, nearest_rows.ravel(), np.arange(0, nearest_rows.size + 1, k2)), (n_rows, n_rows))
    expanded = mean @ weights
    expanded.sort_indices()
    return expanded


def _over_blocks(function: Callable[[int, int], Any], n_rows: int) -> list[Any]:
    """`function(first, last)` for all blocks of rows, on threads, in order."""
    size = max(ROWS_PER_BLOCK, -(-n_rows // MAX_BLOCKS))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(lambda first: function(first, min(first + size, n_rows)), range(0, n_rows, size)))


def _indptr(counts: list[IntArray]) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
