"""The source-similarity term of domain adaptation: pairs of images similar to the source are closer.

From self-training by Song et al. (Pattern Recognition 2020), used by MMT and ABMT, as in their released code:
v_i = 1 − exp(−d_i²), d_i the Euclidean distance of image i to the nearest source image, divided by the largest of all;
J'_ij = (1−λ)·J_ij + λ·(v_i + v_j).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array

from reid_ray.labels.features import READ_ROWS, blocks, read
from reid_ray.types import FeatureRows, FloatArray


def source_dissimilarity(features: FeatureRows, source: FeatureRows, rows: range | None = None) -> FloatArray:
    """1 − exp(−d²) of some rows to their nearest source image, float32 [R]; not yet divided by the largest.

    Args:
        features: float32 [N, D], L2-normalised.
        source: float32 [M, D], L2-normalised, M ≥ 1.
        rows: rows to compute; default all.
    """
    rows = rows if rows is not None else range(features.shape[0])
    found = [np.empty(0, dtype=np.float32)]
    for block in blocks(len(rows), READ_ROWS):
        own = torch.from_numpy(read(features, slice(rows.start + block.start, rows.start + block.stop)))
        nearest = torch.full((len(own),), -torch.inf)
        for others in blocks(source.shape[0], READ_ROWS):
            similarities = own @ torch.from_numpy(read(source, others)).t()
            nearest = torch.maximum(nearest, similarities.amax(dim=1))
        found.append((1 - torch.exp(2 * nearest.clamp(max=1) - 2)).numpy())
    return np.concatenate(found)


def with_source_term(
    graph_rows: csr_array, dissimilarity: FloatArray, weight: float, *, limit: float, first_row: int = 0
) -> csr_array:
    """J' of some rows of a graph that holds all pairs with J ≤ `limit`: all pairs with J' ≤ (1 − λ)·limit.

    Args:
        graph_rows: float32 [R, N].
        dissimilarity: v, float32 [N].
        weight: λ.
        first_row: number of the first of these rows.
    """
    entries = graph_rows.tocoo()
    v = dissimilarity.astype(np.float32)
    data = np.float32(1 - weight) * entries.data + np.float32(weight) * (v[entries.row + first_row] + v[entries.col])
    kept = data <= (1 - weight) * limit
    rows, columns = entries.row[kept], entries.col[kept]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=graph_rows.shape[0]))])
    index = graph_rows.indices.dtype
    return csr_array((data[kept], columns.astype(index), indptr.astype(index)), shape=graph_rows.shape)
