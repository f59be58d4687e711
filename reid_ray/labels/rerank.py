"""Re-ranking at test time: k-reciprocal encoding (Zhong et al., CVPR 2017) of queries and gallery together.

d*(q, g) = (1 − λ)·J(q, g) + λ·d²(q, g) / (largest d² of q)   (their Eq. 12), with J the Jaccard distance of `jaccard`,
variant `cvpr17`, over queries and gallery as one set. Distances come in blocks of queries: nothing is N×N, and memory
is O(N·k + chunk·G).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.encoding import LEAST_SCALE, JaccardParams, encode, search
from reid_ray.labels.features import blocks
from reid_ray.labels.jaccard import graph_of_weights
from reid_ray.labels.neighbours.products import product
from reid_ray.labels.threads import on_threads
from reid_ray.types import FloatArray


def reranked_distances(
    query: FloatArray,
    gallery: FloatArray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    chunk: int = 256,
    device: torch.device | str | None = None,
) -> Iterator[tuple[slice, FloatArray]]:
    """Re-ranked distances of all queries to all gallery images, `chunk` queries at a time.

    Equal to the dense algorithm to float32's precision, with d² = 2 − 2·cos, the squared Euclidean
    distance of unit features. (Some public code squares d² once more, which is a different distance.) The distances of
    a query depend on the other queries, which are neighbours too.

    Neighbours and encoding are computed by the call, distances while iterating. An image is its own nearest
    neighbour; ties are in row order, queries before gallery. If there are fewer images than requested neighbours, all
    are used.

    Args:
        query: float32 [Q, D], L2-normalised.
        gallery: float32 [G, D], L2-normalised.
        k1: neighbours of the k-reciprocal sets, without self.
        k2: neighbours of the query expansion, including self; 1 disables it.
        lambda_value: weight of the original distance, 0 … 1; 1 keeps the original ranking.
        chunk: queries of a block.
        device: where neighbours and original distances are computed; default CUDA if available.

    Yields:
        The rows of `query`, in order, and their distances float32 [rows, G], 0 … 1.

    Raises:
        ConfigError: k1 or k2 below 1, λ not in 0 … 1.
        DataError: features of different width, not finite or not normalised; row numbers count queries first, then the
            gallery.
    """
    params = JaccardParams("cvpr17", k1, k2)
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: a block has at least one query")
    if not 0 <= lambda_value <= 1:
        raise ConfigError(f"lambda={lambda_value} must be from 0 to 1: it is the weight of the original distance.")
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"Query features {list(query.shape)} and gallery features {list(gallery.shape)} must be matrices "
            f"with the same number of columns; extract both with the same weights."
        )
    features = np.concatenate([query, gallery]).astype(np.float32, copy=False)
    lists = search(features, params, device=device)
    assert lists.main.least is not None, "cvpr17 needs it"
    largest = np.maximum(2 - 2 * lists.main.least[: len(query)], np.float32(LEAST_SCALE))
    weights = encode(features, lists, params)
    return _blocks(features, weights, largest, lambda_value, chunk, device)


def _blocks(
    features: FloatArray,
    weights: csr_array,
    largest: FloatArray,
    lambda_value: float,
    chunk: int,
    device: torch.device | str | None,
) -> Iterator[tuple[slice, FloatArray]]:
    n_queries = len(largest)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    everything = torch.from_numpy(features).to(device)
    transposed = weights.T.tocsr()
    for rows in blocks(n_queries, chunk):
        cosines = product(everything[rows], everything[n_queries:], bf16=False).cpu().numpy()
        distances = _jaccard(weights, transposed, rows)[:, n_queries:]
        distances *= np.float32(1 - lambda_value)
        distances += np.float32(lambda_value) * np.maximum(2 - 2 * cosines, 0) / largest[rows, None]
        yield rows, distances


def _jaccard(weights: csr_array, transposed: csr_array, rows: slice) -> FloatArray:
    """Jaccard distances of some rows to all N, float32 [rows, N]; 1 for pairs with nothing in common."""
    distances = np.ones((rows.stop - rows.start, weights.shape[0]), dtype=np.float32)

    def fill(start: int, stop: int) -> None:
        own = range(rows.start + start, rows.start + stop)
        graph = graph_of_weights(weights, 1, transposed=transposed, rows=own)
        distances[start + np.repeat(np.arange(len(own)), np.diff(graph.indptr)), graph.indices] = graph.data

    on_threads(fill, len(distances))
    return distances
