"""The k-reciprocal Jaccard distance (Zhong et al., CVPR 2017), sparse from end to end.

Neighbours → weights V (`encoding`) → J = 1 − m/(2 − m) with m = Σ min(V_i, V_j). Only pairs with J ≤ max_distance are
kept: a few per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reid_ray.labels import graph_kernels
from reid_ray.labels.arguments import DistanceGraph, camera_column, check_max_distance, feature_rows, reaching
from reid_ray.labels.encoding import JaccardParams, Variant, encode, make_indptr, over_blocks, search
from reid_ray.types import FeatureRows, IntArray


def jaccard_graph(
    features: FeatureRows | Tensor | Sequence[Sequence[float]],
    *,
    k1: int,
    k2: int,
    max_distance: float,
    variant: Variant = "spcl",
    camids: IntArray | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    k1_within: int = 5,
    k2_within: int = 2,
) -> DistanceGraph:
    """Jaccard distances of all pairs up to `max_distance`.

    Distances of different variants are not comparable; `encoding.reciprocal_weights` lists the differences.

    Args:
        features: float32 [N, D], L2-normalised; N may be 0.
        k1: neighbours of the k-reciprocal encoding.
        k2: neighbours of the query expansion, including self; 1 disables it.
        max_distance: from 0 to 1; pairs farther apart are not stored, nor are pairs with nothing in common (J = 1).
        camids: int64 [N], for `camera`; k1 and k2 then count images from other cameras.
        device: where neighbours are searched.
        k1_within: for `camera`, k1 for images from the row's own camera.
        k2_within: for `camera`, k2 for images from the row's own camera.

    Returns:
        float32 [N, N], symmetric; the diagonal and other zeros are stored; columns ascend in each row. It carries its
        limit: `dbscan` refuses an eps beyond `max_distance`.

    Raises:
        ConfigError: unknown variant, a k below 1, a max_distance outside 0 … 1, `camera` without camids.
        DataError: features that are not a matrix of finite rows of norm 1 or 0, or camids that are not one per row.
    """
    check_max_distance(max_distance)
    params = JaccardParams(variant, k1, k2, k1_within, k2_within)
    rows = feature_rows(features)
    cameras = camera_column(camids, rows.shape[0])
    if not rows.shape[0]:
        return reaching(csr_array((0, 0), dtype=np.float32), max_distance)
    lists = search(rows, params, cameras, device=device)
    return graph_of_weights(encode(rows, lists, params), max_distance)


def graph_of_weights(
    weights: csr_array, max_distance: float, *, transposed: csr_array | None = None, rows: range | None = None
) -> DistanceGraph:
    """Distances J ≤ `max_distance` of some rows of V (or all) to all rows: float32 [R, N] with its cutoff.

    Args:
        weights: V, float32 [N, N].
        transposed: transpose of V in CSR, to share it between calls.
    """
    n_rows = weights.shape[0]
    rows = range(n_rows) if rows is None else rows
    if not len(rows):
        return reaching(csr_array((0, n_rows), dtype=np.float32), max_distance)
    transposed = weights.T.tocsr() if transposed is None else transposed
    limit = np.float32(max_distance)  # float32, as DBSCAN compares
    parts = over_blocks(
        lambda first, last: graph_kernels.jaccard_rows(
            weights.indptr,
            weights.indices,
            weights.data,
            transposed.indptr,
            transposed.indices,
            transposed.data,
            limit,
            first,
            last,
        ),
        rows,
    )
    graph = csr_array(
        (
            np.concatenate([values for _, _, values in parts]),
            np.concatenate([columns for _, columns, _ in parts]),
            make_indptr([counts for counts, _, _ in parts]),
        ),
        (len(rows), n_rows),
    )
    return reaching(graph, max_distance)
