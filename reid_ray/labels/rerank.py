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

    Equal to the dense algorithm to float32's precision, d² being the squared Euclidean distance of unit features,
    2 − 2·cos. (Some public codes are given d² and square it once more; theirs is another distance.) Each query's
    distances depend on the other queries: they are neighbours too.

    Neighbours and encoding are computed at once, distances as the blocks are taken. An image is its own nearest, and
    equally near ones come in the order of rows, queries before gallery. Where there are fewer images than neighbours
    asked for, all of them are taken.

    Args:
        query: float32 [Q, D], L2-normalised.
        gallery: float32 [G, D], L2-normalised.
        k1: neighbours of the k-reciprocal sets, self not counted.
        k2: neighbours of the query expansion, self included; 1 switches it off.
        lambda_value: weight of the original distance, 0 … 1; 1 is its ranking unchanged.
        chunk: queries of a block.
        device: where neighbours and original distances are computed; default CUDA where there is one.

    Yields:
        The rows of `query`, in order, and their distances float32 [rows, G], 0 … 1.

    Raises:
        ConfigError: k1 or k2 below 1, λ not in 0 … 1.
        DataError: features that do not fit together, are not finite or not normalised; the row that is named is counted
            over the queries and on over the gallery.
    """
    scheme = JaccardParams("cvpr17", k1, k2)
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: a block has at least one query")
    if not 0 <= lambda_value <= 1:
        raise ConfigError(f"lambda={lambda_value} should be 0 … 1: it is the weight of the original distance.")
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"Query features {list(query.shape)} and gallery features {list(gallery.shape)} should be matrices with as "
            f"many columns; extract both with the same weights."
        )
    features = np.concatenate([query, gallery]).astype(np.float32, copy=False)
    lists = search(features, scheme, device=device)
    assert lists.main.least is not None, "cvpr17 asks for it"
    largest = np.maximum(2 - 2 * lists.main.least[: len(query)], np.float32(LEAST_SCALE))
    weights = encode(features, lists, scheme)
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
    """J of some rows to all N, float32 [rows, N]; 1 where two share nothing."""
    distances = np.ones((rows.stop - rows.start, weights.shape[0]), dtype=np.float32)

    def fill(start: int, stop: int) -> None:
        own = range(rows.start + start, rows.start + stop)
        graph = graph_of_weights(weights, 1, transposed=transposed, rows=own)
        distances[start + np.repeat(np.arange(len(own)), np.diff(graph.indptr)), graph.indices] = graph.data

    on_threads(fill, len(distances))
    return distances
