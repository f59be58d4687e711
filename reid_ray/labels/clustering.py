"""DBSCAN on a sparse distance graph, whole or in blocks of rows; cluster numbering and the outlier policy.

DBSCAN on a graph has three steps: find rows with enough neighbours (core points), connect core points (clusters), and
assign each other row to a cluster next to it (border points). The first and the last step need only the rows of a
block. For the second, each block computes a spanning forest of its edges, with at most one edge per row, and the
forests are merged. `dbscan` is the case of one block; workers with a block each get the same labels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reid_ray.errors import ConfigError
from reid_ray.labels.arguments import check_dbscan, check_graph
from reid_ray.types import OUTLIER, IntArray

Backend = Literal["auto", "components", "cupy", "cuml", "sklearn"]
OutlierPolicy = Literal["drop", "singleton"]
BoolArray = npt.NDArray[np.bool_]
Forest = npt.NDArray[np.int32]
"""int32 [2, E]: pairs of rows in the same cluster."""

USABLE_SHARE = 0.9
"""Share of the free GPU memory that cuML's DBSCAN may use."""

LEAST_BATCH_MB = 256
"""Memory that cuML's DBSCAN needs in addition to the distances."""


def dbscan(graph: csr_array, *, eps: float, min_samples: int, backend: Backend = "auto") -> IntArray:
    """Density-based clusters (Ester et al., KDD 1996) of a graph whose absent pairs are farther apart than eps.

    Labels, cluster numbers and the assignment of border points equal those of scikit-learn's DBSCAN on the same
    matrix: clusters are numbered by their first core point, and a border point goes to the lowest of them.
    Distances are compared with eps in float32.

    | backend | where | additional memory |
    |---|---|---|
    | `components` (`auto`) | CPU | 12 bytes per entry |
    | `cupy` | GPU, the same steps | as above, and a copy of the graph |
    | `cuml` | GPU, on the dense N×N matrix; only for comparison | 4·N² bytes |
    | `sklearn` | CPU | neighbour lists, a few times the graph |

    Args:
        graph: float32 [N, N] distances, symmetric (each pair is stored twice); the diagonal and other zeros are stored.
        eps: largest distance of neighbours, inclusive.
        min_samples: number of neighbours, including self, of a core point.

    Returns:
        int64 [N]: 0 … n_clusters−1, or `OUTLIER`.

    Raises:
        ConfigError: eps below 0 or beyond the `max_distance` of the graph; min_samples below 1; an unknown backend,
            or one whose package or GPU is missing or has too little memory.
        DataError: not a square CSR matrix.
    """
    check_graph(graph)
    check_dbscan(graph, eps, min_samples)
    if backend not in get_args(Backend):
        raise ConfigError(f"Unknown DBSCAN backend '{backend}'; use {', '.join(get_args(Backend))}.")
    eps = float(eps)
    if backend in ("cupy", "cuml"):
        _require_gpu(backend)
    if not graph.shape[0]:
        return np.empty(0, dtype=np.int64)
    if backend == "sklearn":
        from sklearn.cluster import DBSCAN

        above_zero = max(eps, np.finfo(np.float64).tiny)  # scikit-learn refuses 0
        found = DBSCAN(eps=above_zero, min_samples=min_samples, metric="precomputed").fit_predict(graph)
        return np.asarray(found, dtype=np.int64)
    if backend == "cuml":
        core_labels = _core_labels_of_cuml(graph, eps, min_samples)
        return border_labels(graph, core_labels, eps=eps)
    if backend == "cupy":
        cupy = import_module("cupy")
        parts = {name: cupy.asarray(getattr(graph, name)) for name in ("indptr", "indices", "data")}
        return cast(IntArray, cupy.asnumpy(_dbscan(SimpleNamespace(**parts), eps, min_samples)))
    return _dbscan(graph, eps, min_samples)


def core_mask(graph_rows: csr_array, *, eps: float, min_samples: int) -> BoolArray:
    """bool [R]: which of these R rows of a graph have `min_samples` neighbours within eps, including self.

    This and the next three functions are DBSCAN in blocks of rows: core masks of all blocks, concatenated; a forest
    per block; `merge_forests`; labels of each block by `border_labels`. The result does not depend on the blocks.

    Args:
        graph_rows: float32 [R, N], consecutive rows of a graph as in `dbscan`.
    """
    near = _near(graph_rows, eps)
    xp = _module(near)
    n_before = xp.zeros(len(near) + 1, dtype=graph_rows.indptr.dtype)
    xp.cumsum(near, out=n_before[1:])
    n_near = n_before[graph_rows.indptr]
    return cast(BoolArray, n_near[1:] - n_near[:-1] >= min_samples)


def local_forest(graph_rows: csr_array, core: BoolArray, *, eps: float, first_row: int = 0) -> Forest:
    """Core points connected by edges of these rows: at most one pair per core point.

    A pair is the first row of a connected group and another row of it. An edge is read in its lower row only.

    Args:
        graph_rows: float32 [R, N].
        core: bool [N], for all rows of the graph.
        first_row: the number of the first of these rows.
    """
    edges = _near(graph_rows, eps)
    xp = _module(edges)
    rows, columns = row_of_entry(graph_rows), graph_rows.indices
    rows += np.int32(first_row)
    edges &= columns > rows
    edges &= core[columns]
    edges &= core[rows]
    heads, tails = rows[edges], columns[edges]
    del rows, edges  # significant memory at 10⁸ entries
    first = _first_of_group(heads, tails, len(core))
    members = xp.flatnonzero(first != xp.arange(len(core), dtype=np.int32)).astype(np.int32)
    return cast(Forest, xp.stack([first[members], members]))


def merge_forests(core: BoolArray, forests: Sequence[Forest]) -> IntArray:
    """int64 [N]: labels of the core points, numbered by the first core point; `OUTLIER` for all other rows.

    Args:
        core: bool [N].
        forests: of all blocks, in any order.
    """
    xp = _module(core)
    heads, tails = xp.concatenate([xp.empty((2, 0), dtype=np.int32), *forests], axis=1)
    first = _first_of_group(heads, tails, len(core))
    numbers = xp.cumsum(core & (first == xp.arange(len(core), dtype=np.int32)), dtype=np.int64) - 1
    return cast(IntArray, xp.where(core, numbers[first], OUTLIER))


def border_labels(graph_rows: csr_array, core_labels: IntArray, *, eps: float, first_row: int = 0) -> IntArray:
    """int64 [R]: the labels of these rows; a row that is not a core point gets the lowest label within eps.

    Args:
        graph_rows: float32 [R, N].
        core_labels: int64 [N], from `merge_forests`.
        first_row: the number of the first of these rows.
    """
    n_rows = len(graph_rows.indptr) - 1
    own = core_labels[first_row : first_row + n_rows]
    core = core_labels != OUTLIER
    at_border = _near(graph_rows, eps)
    xp = _module(at_border)
    rows = row_of_entry(graph_rows)
    at_border &= core[graph_rows.indices]
    at_border &= (own == OUTLIER)[rows]
    none = len(core_labels)
    lowest = xp.full(n_rows, none, dtype=np.int32)
    xp.minimum.at(lowest, rows[at_border], core_labels[graph_rows.indices[at_border]].astype(np.int32))
    return cast(IntArray, xp.where(own != OUTLIER, own, xp.where(lowest < none, lowest, OUTLIER)))


def close_gaps(labels: IntArray) -> IntArray:
    """Renumber labels to 0 … n_clusters−1 without gaps, in the same order; outliers stay."""
    clustered = labels != OUTLIER
    closed = np.full(len(labels), OUTLIER, dtype=np.int64)
    closed[clustered] = np.unique(labels[clustered], return_inverse=True)[1]
    return closed


def number_by_first_member(labels: IntArray) -> IntArray:
    """Renumber labels to 0 … n_clusters−1 in the order of their first rows; outliers stay."""
    closed = close_gaps(labels)
    clustered = closed != OUTLIER
    first_members = np.unique(closed[clustered], return_index=True)[1]
    numbers = np.empty(len(first_members), dtype=np.int64)
    numbers[np.argsort(first_members)] = np.arange(len(first_members))
    closed[clustered] = numbers[closed[clustered]]
    return closed


def apply_outlier_policy(labels: IntArray, policy: OutlierPolicy) -> IntArray:
    """Labels without gaps; outliers stay outliers (`drop`: not trained on) or become one cluster each (`singleton`).

    The new clusters of `singleton` come after the others, in row order.

    Raises:
        ConfigError: unknown policy.
    """
    if policy not in get_args(OutlierPolicy):
        raise ConfigError(f"Unknown outlier policy '{policy}'; use {' or '.join(get_args(OutlierPolicy))}.")
    closed = close_gaps(labels)
    if policy == "singleton":
        outliers = np.flatnonzero(closed == OUTLIER)
        closed[outliers] = closed.max(initial=OUTLIER) + 1 + np.arange(len(outliers))
    return closed


def _dbscan(graph: csr_array, eps: float, min_samples: int) -> IntArray:
    core = core_mask(graph, eps=eps, min_samples=min_samples)
    core_labels = merge_forests(core, [local_forest(graph, core, eps=eps)])
    return border_labels(graph, core_labels, eps=eps)


def _module(array: Any) -> Any:
    """The module of an array, NumPy or CuPy: their functions have the same names."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _near(graph_rows: csr_array, eps: float) -> Any:
    """bool [entries]: distance ≤ eps, compared in float32; in float64 an entry of exactly eps could be missed."""
    return graph_rows.data <= graph_rows.data.dtype.type(eps)


def row_of_entry(graph_rows: csr_array) -> Any:
    """int32 [entries]: row of each entry. (CuPy's `repeat` does not accept an array of counts.)"""
    indptr = graph_rows.indptr
    xp = _module(indptr)
    n_ended = xp.zeros(len(graph_rows.data) + 1, dtype=np.int32)
    xp.add.at(n_ended, indptr[1:], np.int32(1))
    return xp.cumsum(n_ended[:-1], dtype=np.int32)


def _first_of_group(heads: Any, tails: Any, n_rows: int) -> Any:
    """int32 [n_rows]: the lowest row of each row's connected component."""
    xp = _module(heads)
    if xp is not np:  # CuPy's connected components need pylibcugraph, which cuML does not install
        return first_by_hooking(heads, tails, n_rows)
    edges = csr_array((np.ones(len(heads), dtype=np.bool_), (heads, tails)), (n_rows, n_rows))
    groups = connected_components(edges, directed=False)[1]
    return np.unique(groups, return_index=True)[1].astype(np.int32)[groups]


def first_by_hooking(heads: Any, tails: Any, n_rows: int) -> Any:
    """The lowest row of each row's connected component, int32 [n_rows], with array operations only.

    Each round hooks every root onto the lowest root that it shares an edge with, compresses paths until all rows point
    to roots, and drops edges within a tree. Rounds end when no edge is left.

    Args:
        heads, tails: int32 [E], the two ends of each edge, on NumPy or CuPy.
    """
    xp = _module(heads)
    first = xp.arange(n_rows, dtype=np.int32)
    while len(heads):
        xp.minimum.at(first, xp.maximum(heads, tails), xp.minimum(heads, tails))
        above = first[first]
        while (above != first).any():
            first, above = above, above[above]
        heads, tails = first[heads], first[tails]
        between = heads != tails
        heads, tails = heads[between], tails[between]
    return first


def _require_gpu(backend: str) -> None:
    try:
        cupy = import_module("cupy")
        import_module(backend)
    except ImportError as error:
        raise ConfigError(
            f"DBSCAN's backend '{backend}' needs {backend} and CuPy, but {error.name} is not installed; "
            "pip install 'reid-ray[gpu]', or use the backend 'components'."
        ) from error
    if not cupy.cuda.is_available():
        raise ConfigError(f"DBSCAN's backend '{backend}' needs a CUDA device, but there is none; use 'components'.")


def _core_labels_of_cuml(graph: csr_array, eps: float, min_samples: int) -> IntArray:
    """Labels of core points by cuML, whose DBSCAN accepts only a dense N×N matrix.

    cuML's cluster numbers and border points are replaced by those of the other backends.
    """
    cupy, cuml = import_module("cupy"), import_module("cuml.cluster")
    n_rows = graph.shape[0]
    usable = USABLE_SHARE * cupy.cuda.runtime.memGetInfo()[0]
    needed = 4 * n_rows**2 + graph.data.nbytes + 2 * graph.indices.nbytes
    batch_mb = int((usable - needed) / 1e6)
    if batch_mb < LEAST_BATCH_MB:
        raise ConfigError(
            f"cuML's DBSCAN holds the distances of {n_rows} images as a matrix, which takes {needed / 1e9:.1f} GB of "
            f"GPU memory plus {LEAST_BATCH_MB / 1e3} GB; only {usable / 1e9:.1f} GB is available, so use the backend "
            "'components' or 'cupy'."
        )
    distances = cupy.full((n_rows, n_rows), 1 + eps, dtype=np.float32)  # absent pairs: beyond eps
    distances[cupy.asarray(row_of_entry(graph)), cupy.asarray(graph.indices)] = cupy.asarray(graph.data)
    model = cuml.DBSCAN(
        eps=eps,
        min_samples=min_samples,
        metric="precomputed",
        # cuML's default is 80 % of the GPU minus the matrix, in unsigned integers: it overflows for large matrices.
        max_mbytes_per_batch=batch_mb,
        calc_core_sample_indices=True,
        output_type="numpy",
    )
    model.fit(distances)
    core_labels = np.full(n_rows, OUTLIER, dtype=np.int64)
    core = np.asarray(model.core_sample_indices_, dtype=np.int64)
    core_labels[core] = np.asarray(model.labels_)[core]
    return number_by_first_member(core_labels)
