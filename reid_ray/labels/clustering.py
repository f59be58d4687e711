"""DBSCAN on a sparse graph of distances: core points, their connected components, and borders."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reid_ray.errors import ConfigError
from reid_ray.types import OUTLIER, IntArray

Backend = Literal["auto", "components", "sklearn"]


def dbscan(graph: csr_array, *, eps: float, min_samples: int, backend: Backend = "auto") -> IntArray:
    """Density-based clusters (Ester et al., KDD 1996) of a graph whose absent pairs are farther apart than eps.

    Labels, their numbers and the choice of a border point between two clusters are those of scikit-learn's DBSCAN on
    the same matrix: clusters are numbered by their first core point, and a border point goes to the lowest of them.
    Distances are compared with eps in float32.

    Args:
        graph: float32 [N, N] distances, symmetric; the diagonal and other zeros are stored.
        eps: largest distance of neighbours, included.
        min_samples: neighbours, self included, that make a core point.
        backend: `components` (ours; `auto` takes it) or `sklearn`.

    Returns:
        int64 [N]: 0 … n_clusters−1, or `OUTLIER`.

    Raises:
        ConfigError: unknown backend.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"Unknown DBSCAN backend '{backend}'; use {', '.join(get_args(Backend))}.")
    n_rows = graph.shape[0]
    labels = np.full(n_rows, OUTLIER, dtype=np.int64)
    if not n_rows:
        return labels
    eps = float(eps)  # a NumPy scalar would widen the comparison to float64
    if backend == "sklearn":
        from sklearn.cluster import DBSCAN

        found = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(graph)
        return np.asarray(found, dtype=np.int64)
    near = graph.data <= eps
    rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))[near]
    columns = graph.indices[near]
    core = np.bincount(rows, minlength=n_rows) >= min_samples
    if not core.any():
        return labels
    between_cores = core[rows] & core[columns]
    edges = csr_array(
        (np.ones(int(between_cores.sum()), dtype=np.int8), (rows[between_cores], columns[between_cores])),
        (n_rows, n_rows),
    )
    _, components = connected_components(edges, directed=False)
    _, first, numbers = np.unique(components[core], return_index=True, return_inverse=True)
    by_first_core = np.argsort(np.argsort(first))
    labels[core] = by_first_core[numbers]
    at_border = ~core[rows] & core[columns]
    lowest = np.full(n_rows, n_rows, dtype=np.int64)
    np.minimum.at(lowest, rows[at_border], labels[columns[at_border]])
    border = lowest < n_rows
    labels[border] = lowest[border]
    return labels
