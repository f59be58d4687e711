"""Label quality without ground truth, for tuning on unlabelled data.

Each score is a plain number, 0 if there is nothing to measure. They describe labels; none ranks settings: tiny clusters
have a good silhouette, large ones mix cameras, and labels that never change may be wrong. `objective` ranks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from reid_ray.labels import graph_kernels
from reid_ray.labels.clustering import close_gaps
from reid_ray.labels.encoding import over_blocks
from reid_ray.labels.quality import adjusted_rand, entropy, group_sizes, joint_groups, n_pairs
from reid_ray.types import OUTLIER, UNKNOWN, IntArray


def label_free_scores(
    labels: IntArray,
    graph: csr_array | None = None,
    camids: IntArray | None = None,
    previous: IntArray | None = None,
) -> dict[str, float]:
    """All scores that the given inputs allow.

    | key | range | what |
    |---|---|---|
    | `clustered_share` | 0 … 1 | rows that are in a cluster: 1 − outlier share |
    | `largest_share` | 0 … 1 | share of all rows in the largest cluster; 1 is collapse |
    | `effective_clusters` | 0 … N | exp(entropy of cluster sizes): number of equal clusters of the same diversity |
    | `size_gini` | 0 … 1 | Gini coefficient of cluster sizes, 0 if all are equal |
    | `silhouette` | −1 … 1 | `graph_silhouette`, if a graph is given |
    | `camera_entropy`, `camera_mix`, `cross_camera_share` | | `camera_scores`, if at least two cameras are known |
    | `stability` | −1 … 1 | `stability` against the previous labels, if given |

    Args:
        labels: int64 [N].
        graph: float32 [N, N], as `dbscan` takes it.
        camids: int64 [N].
        previous: int64 [N], labels of the previous refresh.
    """
    scores = size_scores(labels)
    if graph is not None:
        scores["silhouette"] = graph_silhouette(graph, labels)
    if camids is not None and len(np.unique(camids[camids != UNKNOWN])) > 1:
        scores |= camera_scores(labels, camids)
    if previous is not None:
        scores["stability"] = stability(previous, labels)
    return scores


def size_scores(labels: IntArray) -> dict[str, float]:
    """Distribution of rows over clusters; the first four keys of `label_free_scores`."""
    sizes = np.sort(group_sizes(labels[labels != OUTLIER]))
    n_rows, n_clusters, n_clustered = len(labels), len(sizes), int(sizes.sum())
    scores = dict.fromkeys(("clustered_share", "largest_share", "effective_clusters", "size_gini"), 0.0)
    if n_clustered:
        ranks = 2 * np.arange(1, n_clusters + 1) - n_clusters - 1
        scores["clustered_share"] = n_clustered / n_rows
        scores["largest_share"] = int(sizes[-1]) / n_rows
        scores["effective_clusters"] = float(np.exp(entropy(sizes)))
        scores["size_gini"] = float((ranks * sizes).sum()) / (n_clusters * n_clustered)
    return scores


def stability(previous: IntArray, current: IntArray) -> float:
    """Adjusted Rand index of two labellings of the same rows, each outlier a cluster of its own; 1 if they are equal.

    It compares pairs of rows, so clusters need not be matched, and rows that enter or leave clusters count. It is
    corrected for chance: labellings that join nearly all rows get no credit for agreeing. 0 if all rows are single in
    both, or all are together in both.

    Raises:
        ValueError: the labellings differ in length.
    """
    if len(previous) != len(current):
        raise ValueError(f"Labels of {len(previous)} rows cannot be compared with labels of {len(current)} rows.")
    before, now = previous[previous != OUTLIER], current[current != OUTLIER]
    in_both = (previous != OUTLIER) & (current != OUTLIER)
    both = n_pairs(group_sizes(joint_groups(previous[in_both], current[in_both])))
    everything = len(current) * (len(current) - 1) // 2
    return adjusted_rand(n_pairs(group_sizes(before)), n_pairs(group_sizes(now)), both, everything) or 0.0


def graph_silhouette(graph: csr_array, labels: IntArray, *, absent: float = 1.0) -> float:
    """Mean silhouette (Rousseeuw, 1987) of the rows in clusters, on stored distances; −1 … 1.

    A row's is (b − a) / max(a, b), with a its mean distance to the others of its cluster and b its mean distance to
    the nearest other cluster; 0 for a row alone in its cluster, and where a = b = 0. Outliers are ignored. Time
    and memory are linear in the stored pairs.

    The value depends on the stored pairs, so compare labellings on the same graph. 0 with fewer than two clusters.

    Args:
        graph: float32 [N, N], symmetric, with the diagonal and other zeros stored.
        labels: int64 [N].
        absent: distance of absent pairs, at least that of any stored pair.
    """
    values = _silhouettes(graph, labels, absent)
    return float(values[labels != OUTLIER].mean()) if values.any() else 0.0


def camera_scores(labels: IntArray, camids: IntArray) -> dict[str, float]:
    """How much clusters mix cameras: clusters of persons do, clusters of backgrounds do not.

    Over clustered images of known camera:

    * `camera_entropy`: conditional entropy H(camera | cluster) / H(camera). 0 if each cluster has one camera, 1 if
      clusters are independent of cameras; small clusters cannot reach 1.
    * `camera_mix`: share of cross-camera pairs in a cluster, averaged over clusters of two or more images, divided by
      that share among all pairs. Random clusters of any size have 1, so few large and many small clusters are
      comparable.
    * `cross_camera_share`: share of clusters with two or more cameras.

    All are 0 without clusters; the first two are 0 with only one camera.
    """
    counted = (labels != OUTLIER) & (camids != UNKNOWN)
    scores = dict.fromkeys(("camera_entropy", "camera_mix", "cross_camera_share"), 0.0)
    if not counted.any():
        return scores
    clusters = np.unique(labels[counted], return_inverse=True)[1]
    sizes = np.bincount(clusters)
    cells, counts = np.unique(joint_groups(clusters, camids[counted]), return_counts=True)
    cluster_of_cell = cells // len(clusters)
    cameras = group_sizes(camids[counted])
    scores["cross_camera_share"] = float((np.bincount(cluster_of_cell) > 1).mean())
    if len(cameras) > 1:
        within = entropy(counts) - entropy(sizes)  # H(camera | cluster) = H(camera, cluster) − H(cluster)
        scores["camera_entropy"] = max(0.0, within / entropy(cameras))
        same = np.bincount(cluster_of_cell, weights=counts * (counts - 1) // 2)
        pairs = sizes * (sizes - 1) // 2
        of_all = 1 - n_pairs(cameras) / n_pairs(np.array([len(clusters)]))
        if pairs.any():
            scores["camera_mix"] = float((1 - same[pairs > 0] / pairs[pairs > 0]).mean()) / of_all
    return scores


def _silhouettes(graph: csr_array, labels: IntArray, absent: float) -> npt.NDArray[np.float64]:
    """float64 [N]; 0 for outliers."""
    values, closed = np.zeros(len(labels)), close_gaps(labels)
    sizes = np.bincount(closed[closed != OUTLIER])
    if len(sizes) < 2:
        return values
    over_blocks(
        lambda first, last: graph_kernels.silhouettes(
            graph.indptr, graph.indices, graph.data, closed, sizes, float(absent), values, first, last
        ),
        range(len(labels)),
    )
    return values
