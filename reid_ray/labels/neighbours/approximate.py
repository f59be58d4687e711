"""Approximate nearest neighbours by faiss, for sets too large for exact search, and their recall.

faiss proposes candidates; their similarities are then computed exactly, so the order is that of `neighbours.nearest`. A
list may miss a neighbour but never holds a wrong similarity. Used only with `labels.neighbours=ivf` or `hnsw`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
import torch

from reid_ray.errors import ConfigError
from reid_ray.labels.features import READ_ROWS, blocks, check_features, read, read_rows
from reid_ray.labels.neighbours import kernels
from reid_ray.labels.neighbours.exact import IndexArray, Neighbours, similarities_of_pairs
from reid_ray.labels.threads import on_threads
from reid_ray.types import FeatureRows, FloatArray, IntArray

Method = Literal["ivf", "hnsw"]

SPARE = 16
"""Extra candidates beyond k: faiss stores features in half precision and may swap close neighbours."""

ROWS_PER_CELL = 39
"""Minimum number of training rows per cell of an inverted file that faiss recommends."""

TRAINING_ROWS_PER_CELL = 64

QUERY_ROWS = 16384
"""Rows per faiss query."""

DEFAULT_BREADTH = {"ivf": 64, "hnsw": 128}

HNSW_LINKS = 32
HNSW_CONSTRUCTION = 100


def nearest_approximate(
    features: FeatureRows,
    k: int,
    *,
    method: Method = "ivf",
    breadth: int | None = None,
    seed: int = 0,
    checked: bool = False,
) -> Neighbours:
    """Most of the k nearest rows of each row; `recall` measures how many.

    Order as in `neighbours.nearest`: the row itself first. Lists for which faiss found fewer than k are padded with −1.

    | method | how | additional memory |
    |---|---|---|
    | `ivf` | some 4·√N cells by k-means; a row sees the rows of the cells nearest to it | 2·N·D bytes |
    | `hnsw` | a graph of near rows that is searched greedily; slower to build | 2·N·D + 270·N bytes |

    `ivf` is deterministic for a given seed and number of threads. `hnsw` is not: its threads race to build the graph.

    Args:
        features: float32 [N, D], L2-normalised.
        breadth: cells visited (nprobe) or candidates kept (efSearch); larger is slower and has a higher recall.
        seed: of the k-means.
        checked: the features have passed `check_features`; skip the pass over them.

    Raises:
        ConfigError: faiss is not installed, an unknown method, k or breadth below 1.
        DataError: a feature is not finite or not normalised.
    """
    if method not in get_args(Method):
        raise ConfigError(f"Unknown approximate search '{method}'; use {' or '.join(get_args(Method))}.")
    breadth = DEFAULT_BREADTH[method] if breadth is None else breadth
    if min(k, breadth) < 1:
        raise ConfigError(f"k and breadth must be at least 1; got k={k}, breadth={breadth}.")
    faiss = faiss_module()
    if not checked:
        check_features(features)
    n_rows = features.shape[0]
    k = min(k, n_rows)
    indices = np.full((n_rows, k), -1, dtype=np.int32)
    similarities = np.zeros((n_rows, k), dtype=np.float32)
    if not n_rows:
        return Neighbours(indices, similarities)
    own = np.arange(n_rows, dtype=np.int32)
    indices[:, 0], similarities[:, 0] = own, similarities_of_pairs(features, own, own)
    if k > 1:
        with threads_of_torch(faiss):
            index = inverted_file(features, seed) if method == "ivf" else _links(faiss, features)
            if method == "ivf":
                index.nprobe = min(breadth, index.nlist)
            else:
                index.hnsw.efSearch = breadth
            for rows in blocks(n_rows, QUERY_ROWS):
                block = read(features, rows)
                candidates = index.search(block, min(k + SPARE, n_rows))[1].astype(np.int32)
                _choose(features, block, rows, candidates, indices[rows, 1:], similarities[rows, 1:])
    return Neighbours(indices, similarities)


def recall(features: FeatureRows, found: Neighbours, *, sample: int = 1000, seed: int = 0) -> float:
    """Share of the exact neighbours that `found` contains, estimated on a random sample of rows.

    The row itself is not counted. 1 if there are no neighbours. Costs a float64 product of the sample with all rows.
    """
    n_rows, n_others = features.shape[0], found.indices.shape[1] - 1
    if n_rows == 0 or n_others == 0:
        return 1.0
    rows = np.sort(np.random.default_rng(seed).choice(n_rows, min(sample, n_rows), replace=False))
    exact = _exact_others(features, rows, n_others)
    hits = [np.isin(expected, lists[1:]).sum() for expected, lists in zip(exact, found.indices[rows], strict=True)]
    return float(np.sum(hits) / exact.size)


def inverted_file(features: FeatureRows, seed: int = 0) -> Any:
    """A faiss index of all rows [N, D] in cells by k-means; for unit vectors the inner product is the cosine."""
    faiss, (n_rows, dim) = faiss_module(), features.shape
    n_cells = max(1, min(int(4 * n_rows**0.5), n_rows // ROWS_PER_CELL))
    precision, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, n_cells, precision, metric, False)
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # fewer than 39 rows have one cell, of which faiss would warn
    index.train(_sample(features, n_cells * TRAINING_ROWS_PER_CELL, seed))
    add_rows(index, features)
    return index


def add_rows(index: Any, features: FeatureRows) -> None:
    """Add the rows that a faiss index does not have yet."""
    for rows in blocks(features.shape[0], QUERY_ROWS):
        missing = slice(max(rows.start, index.ntotal), rows.stop)
        if missing.start < missing.stop:
            index.add(read(features, missing))


def _links(faiss: Any, features: FeatureRows) -> Any:
    """A faiss index of all rows in a graph of near rows."""
    precision, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWSQ(features.shape[1], precision, HNSW_LINKS, metric)
    index.hnsw.efConstruction = HNSW_CONSTRUCTION
    index.train(read(features, slice(0, 1)))  # an fp16 quantizer has no parameters to train
    add_rows(index, features)
    return index


def _sample(features: FeatureRows, n: int, seed: int) -> FloatArray:
    """n random rows, or all if there are not more."""
    n_rows = features.shape[0]
    if n >= n_rows:
        return read(features, slice(0, n_rows))
    rows = np.sort(np.random.default_rng(seed).choice(n_rows, n, replace=False))
    return read_rows(features, rows)


def _choose(
    features: FeatureRows,
    own: FloatArray,
    rows: slice,
    candidates: IndexArray,
    indices: IndexArray,
    similarities: FloatArray,
) -> None:
    """Score the candidates of some rows exactly and write the best k into `indices` and `similarities`."""
    n_rows = features.shape[0]
    excluded = (candidates < 0) | (candidates == np.arange(rows.start, rows.stop)[:, None])
    candidates = np.take_along_axis(candidates, np.argsort(excluded, axis=1, kind="stable"), axis=1)
    counts = (~excluded).sum(axis=1).astype(np.int32)
    scores = np.empty(candidates.shape, dtype=np.float32)
    size = n_rows if isinstance(features, np.ndarray) else READ_ROWS
    for block in blocks(n_rows, size):
        others = read(features, block)
        on_threads(kernels.score_lists, len(own), own, others, block.start, candidates, counts, scores)
    best = np.full(indices.shape, -1, dtype=np.int32), np.zeros(similarities.shape, dtype=np.float32)
    on_threads(kernels.select_best, len(own), indices.shape[1], candidates, counts, scores, *best)
    indices[:], similarities[:] = best


def _exact_others(features: FeatureRows, rows: IntArray, k: int) -> IntArray:
    """int64 [S, k]: the exact nearest neighbours of some rows, without the rows themselves."""
    n_rows = features.shape[0]
    own = np.concatenate([read(features, slice(row, row + 1)) for row in rows])
    values = np.full((len(rows), k), -np.inf, dtype=np.float32)
    columns = np.full((len(rows), k), -1, dtype=np.int64)
    for block in blocks(n_rows, READ_ROWS):
        others = read(features, block)
        scores = np.empty((len(rows), len(others)), dtype=np.float32)
        on_threads(kernels.score_rows, len(others), own, others, scores)
        inside = np.flatnonzero((rows >= block.start) & (rows < block.stop))
        scores[inside, rows[inside] - block.start] = -np.inf
        for at in range(len(rows)):  # at equal similarity the lower row number stays
            new = np.flatnonzero(scores[at] > values[at, -1])
            if len(new):
                joined = np.concatenate([values[at], scores[at, new]])
                order = np.argsort(-joined, kind="stable")[:k]
                values[at], columns[at] = joined[order], np.concatenate([columns[at], block.start + new])[order]
    return columns


def faiss_module() -> Any:
    """faiss, which is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ConfigError(
            "Approximate neighbours need faiss, which is not installed; pip install 'reid-ray[ann]', or search exactly "
            "(labels.neighbours=exact, or no --approximate)."
        ) from error


@contextmanager
def threads_of_torch(faiss: Any) -> Iterator[None]:
    """Within the block, faiss uses as many threads as PyTorch."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
