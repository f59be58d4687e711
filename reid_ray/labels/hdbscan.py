"""HDBSCAN* on a sparse graph of distances (Campello, Moulavi & Sander, PAKDD 2013): DBSCAN without an eps.

Minimum spanning forest of the mutual reachability distances → tree of merges → tree of clusters of at least
`min_cluster_size` → the clusters of the largest total stability. Absent pairs all have the same distance, so the
connected components meet in one last merge. Merges at equal distance are one merge of many nodes, as in the paper, so
labels do not depend on the order of ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from reid_ray.errors import ConfigError
from reid_ray.labels.clustering import number_by_first_member
from reid_ray.types import OUTLIER, FloatArray, IntArray

LEAST_DISTANCE = 1e-3
"""Smaller distances are raised to this one. Images with identical neighbours have Jaccard distance 0; a group of such
duplicates would be infinitely stable and would split any cluster."""


def hdbscan(
    graph: csr_array, *, min_cluster_size: int, min_samples: int | None = None, max_distance: float = 1.0
) -> IntArray:
    """Clusters of all densities: the most persistent ones of the hierarchy over all eps (excess of mass).

    The set of all rows is never a cluster. A row that joins a cluster only at the distance at which the cluster itself
    merges with another is an outlier. On the matrix with `max_distance` in place of absent pairs, scikit-learn's
    HDBSCAN finds the same clusters, except that it breaks ties one by one.

    Args:
        graph: float32 [N, N] distances, symmetric, with the diagonal and other zeros stored. It should hold pairs far
            beyond a typical eps of DBSCAN.
        min_cluster_size: at least 2.
        min_samples: the core distance is that to the min_samples-th neighbour, including self; default
            `min_cluster_size`.
        max_distance: distance of absent pairs; stored pairs that are not below it count as absent.

    Returns:
        int64 [N]: 0 … n_clusters−1, numbered by the first member, or `OUTLIER`.

    Raises:
        ConfigError: min_cluster_size below 2 or min_samples below 1.
    """
    min_samples = min_cluster_size if min_samples is None else min_samples
    if min_cluster_size < 2 or min_samples < 1:
        raise ConfigError(
            "HDBSCAN needs min_cluster_size of at least 2 and min_samples of at least 1; got "
            f"min_cluster_size={min_cluster_size}, min_samples={min_samples}."
        )
    if not graph.shape[0]:
        return np.empty(0, dtype=np.int64)
    tree = _merges(_spanning_forest(graph, min_samples, max_distance), max_distance)
    clusters = _condense(tree, min_cluster_size)
    return number_by_first_member(_most_stable(clusters)[clusters.left_from])


@dataclass
class Merges:
    """A tree whose leaves are rows 0 … N−1 and whose inner nodes N … are merges.

    Attributes:
        height: the distance of each merge; 0 for leaves.
        size: rows below each node.
        children: of each node; a child never has the height of its parent.
        root: the node of all rows.
    """

    height: list[float]
    size: list[int]
    children: list[list[int]]
    root: int = 0


@dataclass
class Clusters:
    """The condensed tree. Cluster 0 is all rows; a parent has a lower number than its children.

    Attributes:
        parent: of each cluster; −1 for the first.
        stability: sum over rows of the time they spend in the cluster, in units of 1/distance.
        left_from: int64 [N], the smallest cluster that contains each row.
    """

    parent: list[int]
    stability: list[float]
    left_from: IntArray


def _core_distances(graph: csr_array, min_samples: int, max_distance: float) -> FloatArray:
    """float32 [N]: distance to the min_samples-th neighbour, including self; `max_distance` if there are fewer."""
    distances = np.full(graph.shape[0], max_distance, dtype=np.float32)
    indptr = graph.indptr
    for row in np.flatnonzero(np.diff(indptr) >= min_samples):
        stored = graph.data[indptr[row] : indptr[row + 1]]
        distances[row] = np.partition(stored, min_samples - 1)[min_samples - 1]
    return distances


def _spanning_forest(graph: csr_array, min_samples: int, max_distance: float) -> csr_array:
    """Minimum spanning forest of the mutual reachability distances below `max_distance`, each edge once."""
    core = _core_distances(graph, min_samples, max_distance)
    entries = graph.tocoo(copy=False)
    once = (entries.col > entries.row) & (graph.data < max_distance)
    rows, columns = entries.row[once], entries.col[once]
    reachability = np.maximum(graph.data[once], np.float32(LEAST_DISTANCE))  # SciPy treats a stored 0 as no edge
    np.maximum(reachability, core[rows], out=reachability)
    np.maximum(reachability, core[columns], out=reachability)
    below = reachability < max_distance
    return minimum_spanning_tree(csr_array((reachability[below], (rows[below], columns[below])), graph.shape))


def _merges(forest: csr_array, max_distance: float) -> Merges:
    """The tree of merges, shortest edges first; touching edges of equal length form one merge."""
    n_rows = forest.shape[0]
    tree = Merges([0.0] * n_rows, [1] * n_rows, [[] for _ in range(n_rows)])
    edges = forest.tocoo()
    order = np.argsort(edges.data, kind="stable")
    above = list(range(n_rows))  # union-find over rows
    top = list(range(n_rows))  # node of the tree, by root of union-find

    def find(row: int) -> int:
        while above[row] != row:
            above[row] = row = above[above[row]]
        return row

    for head, tail, height in zip(
        edges.row[order].tolist(), edges.col[order].tolist(), edges.data[order].tolist(), strict=True
    ):
        larger, smaller = sorted((find(head), find(tail)), key=lambda root: -tree.size[top[root]])
        above[smaller] = larger
        top[larger] = _join(tree, top[larger], top[smaller], height)
    tops = [top[row] for row in range(n_rows) if above[row] == row]
    tree.root = _add(tree, tops, max_distance) if len(tops) > 1 else tops[0]
    return tree


def _join(tree: Merges, larger: int, smaller: int, height: float) -> int:
    """The node that joins two nodes at this height; may be one of the two."""
    if tree.height[larger] != height and tree.height[smaller] != height:
        return _add(tree, [larger, smaller], height)
    node, other = (larger, smaller) if tree.height[larger] == height else (smaller, larger)
    tree.children[node] += tree.children[other] if tree.height[other] == height else [other]
    tree.size[node] += tree.size[other]
    return node


def _add(tree: Merges, children: list[int], height: float) -> int:
    tree.height.append(height)
    tree.size.append(sum(tree.size[child] for child in children))
    tree.children.append(children)
    return len(tree.size) - 1


def _condense(tree: Merges, min_cluster_size: int) -> Clusters:
    """From the root down: two or more large children of a node become new clusters; small children drop out."""
    parent, birth, stability = [-1], [0.0], [0.0]
    left_from = np.zeros(tree.size[tree.root], dtype=np.int64)
    pending = [(tree.root, 0)]
    while pending:
        node, cluster = pending.pop()
        if not tree.children[node]:
            continue  # a single row
        density = 1 / tree.height[node]
        large = [child for child in tree.children[node] if tree.size[child] >= min_cluster_size]
        small = [child for child in tree.children[node] if tree.size[child] < min_cluster_size]
        left_from[_leaves(tree, small)] = cluster
        n_leaving = sum(tree.size[child] for child in (small if len(large) == 1 else tree.children[node]))
        stability[cluster] += n_leaving * (density - birth[cluster])
        if len(large) == 1:
            pending.append((large[0], cluster))
            continue
        for child in large:
            pending.append((child, len(parent)))
            parent.append(cluster)
            birth.append(density)
            stability.append(0.0)
    return Clusters(parent, stability, left_from)


def _leaves(tree: Merges, nodes: list[int]) -> npt.NDArray[np.intp]:
    found = []
    while nodes:
        found += [node for node in nodes if not tree.children[node]]
        nodes = list(chain.from_iterable(tree.children[node] for node in nodes))
    return np.array(found, dtype=np.intp)


def _most_stable(clusters: Clusters) -> IntArray:
    """int64 [clusters]: the chosen cluster that each is in, or `OUTLIER`.

    From the bottom up, a cluster is chosen over those in it unless they are more stable together (excess of mass).
    """
    n_clusters = len(clusters.parent)
    inside = [0.0] * n_clusters
    chosen = [False] * n_clusters
    for cluster in range(n_clusters - 1, 0, -1):
        chosen[cluster] = clusters.stability[cluster] >= inside[cluster]
        inside[clusters.parent[cluster]] += max(clusters.stability[cluster], inside[cluster])
    owner = np.full(n_clusters, OUTLIER, dtype=np.int64)
    for cluster in range(1, n_clusters):
        owner[cluster] = owner[clusters.parent[cluster]]
        if owner[cluster] == OUTLIER and chosen[cluster]:
            owner[cluster] = cluster
    return owner
