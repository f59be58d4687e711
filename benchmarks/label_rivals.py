"""What a user would run instead of the label engine: plain neighbour searches, and the published description, dense."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def bare_topk(features: Floats, k: int, block: int) -> None:
    """Only exact neighbours: float32 products by blocks of rows, and PyTorch's top k."""
    rows = torch.from_numpy(features)
    for start in range(0, len(rows), block):
        (rows[start : start + block] @ rows.T).topk(k)


def bare_product(features: Floats, block: int) -> None:
    """The products alone: no exact search in float32 that forms all of them can be faster."""
    rows = torch.from_numpy(features)
    out = torch.empty(block, len(rows))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        torch.mm(part, rows.T, out=out[: len(part)])


def bare_sklearn(features: Floats, k: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors(features)


def bare_faiss(features: Floats, k: int) -> None:
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features)
    index.search(features, k)


def dense(features: Floats, settings: dict[str, Any]) -> tuple[Labels, dict[str, float]]:
    """The published description with N×N matrices in float32 and a Python loop over rows, then scikit-learn.

    Ranks are partial sorts of blocks of rows, as in later releases; the first release sorted the whole N×N matrix.
    """
    from sklearn.cluster import DBSCAN

    n_rows, k1, k2 = len(features), settings["k1"], settings["k2"]
    seconds = {}
    started = time.perf_counter()
    own = torch.from_numpy(features)
    distances = (2 - 2 * own @ own.T).numpy()
    k = k1 if settings["variant"] == "spcl" else k1 + 1
    ranks = np.concatenate(
        [
            np.argpartition(distances[rows : rows + 256], range(k), axis=1)[:, :k].astype(np.int32)
            for rows in range(0, n_rows, 256)
        ]
    )
    seconds["neighbours"] = time.perf_counter() - started
    if settings["variant"] == "cvpr17":
        distances /= distances.max(axis=1, keepdims=True)
    weights = np.zeros((n_rows, n_rows), dtype=np.float32)
    k_half = int(np.around(k1 / 2)) + 1
    for i in range(n_rows):
        base = reciprocal(ranks, i, k)
        expanded = base
        for candidate in base:
            half = reciprocal(ranks, candidate, k_half)
            if len(np.intersect1d(half, base)) > 2 / 3 * len(half):
                expanded = np.append(expanded, half)
        expanded = np.unique(expanded)
        weight = np.exp(-distances[i, expanded])
        weights[i, expanded] = weight / weight.sum()
    del distances
    if k2 > 1:
        mean = np.zeros_like(weights)
        for i in range(n_rows):
            mean[i] = weights[ranks[i, :k2]].mean(axis=0)
        weights = mean
        del mean
    seconds["encoding"] = time.perf_counter() - started - sum(seconds.values())
    holders = [np.where(weights[:, i] != 0)[0] for i in range(n_rows)]
    jaccard = np.zeros((n_rows, n_rows), dtype=np.float32)
    for i in range(n_rows):
        shared = np.zeros(n_rows, dtype=np.float32)
        for column in np.where(weights[i] != 0)[0]:
            others = holders[column]
            shared[others] += np.minimum(weights[i, column], weights[others, column])
        jaccard[i] = 1 - shared / (2 - shared)
    jaccard[jaccard < 0] = 0
    del weights
    seconds["graph"] = time.perf_counter() - started - sum(seconds.values())
    clusters = DBSCAN(eps=settings["eps"], min_samples=settings["min_samples"], metric="precomputed", n_jobs=-1)
    labels = clusters.fit_predict(jaccard)
    seconds["clusters"] = time.perf_counter() - started - sum(seconds.values())
    return labels, seconds


def reciprocal(ranks: npt.NDArray[np.int32], row: int, k: int) -> npt.NDArray[np.int32]:
    forward = ranks[row, :k]
    return forward[np.where(ranks[forward, :k] == row)[0]]
