"""Which members of a cluster to trust: SpCL's independence and compactness (Ge et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reid_ray.types import OUTLIER, IntArray

INDEPENDENT_SHARE = 0.9
"""The threshold is the independence exceeded by this share of clusters in the first epoch (SpCL)."""


class Reliable(NamedTuple):
    """A labelling of reliable members only.

    Attributes:
        labels: int64 [N], without gaps and in the order of the clusters before; `OUTLIER` for rejected rows.
        threshold: α, the lowest independence of a cluster that stays; None if there was no
            cluster yet.
    """

    labels: IntArray
    threshold: float | None


def reliable_labels(tight: IntArray, normal: IntArray, loose: IntArray, threshold: float | None = None) -> Reliable:
    """Keep the members of `normal` whose clusters neither merge nor split at a slightly different eps (SpCL).

    An image's independence is the intersection over union of its clusters in `normal` and in `loose`, its compactness
    that of its clusters in `normal` and in `tight` (the released code has 1 − these). Outliers are clusters of one.

    * A cluster whose independence, the highest among its images, is below the threshold becomes outliers.
    * In the other clusters, images with the highest compactness of their cluster stay.
    * A cluster with fewer than two remaining images is dissolved into outliers.

    The first epoch's threshold (`threshold=None`) is kept for all later ones: of the n clusters' independences, in
    descending order, that at position min(n − 1, round(0.9 n)) counted from 0, with banker's rounding. The paper gives
    only the percentage; position and comparisons follow the released code.

    Args:
        tight: int64 [N], clusters with eps − d (d = 0.02 in SpCL); negative for outliers.
        normal: int64 [N], clusters with eps.
        loose: int64 [N], clusters with eps + d.
        threshold: α of the first epoch, None in the first epoch.
    """
    clusters, cluster_of, sizes = _clusters(normal)
    independence = _highest(_overlaps(normal, loose), cluster_of, len(clusters))
    compactness = _overlaps(normal, tight)
    if threshold is None:
        threshold = _threshold(independence[sizes > 1])
    if threshold is None:
        return Reliable(np.full(len(normal), OUTLIER, dtype=np.int64), None)

    stays = (independence >= threshold)[cluster_of]
    stays &= compactness == _highest(compactness, cluster_of, len(clusters))[cluster_of]
    n_left = np.bincount(cluster_of[stays], minlength=len(clusters))
    numbers = np.where(n_left > 1, np.cumsum(n_left > 1) - 1, OUTLIER)
    return Reliable(np.where(stays, numbers[cluster_of], OUTLIER), threshold)


def _clusters(labels: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Clusters in ascending order, the number of each row's, and their sizes; outliers come last, one each."""
    own = labels.max(initial=OUTLIER) + 1 + np.arange(len(labels))
    clusters, cluster_of, sizes = np.unique(np.where(labels < 0, own, labels), return_inverse=True, return_counts=True)
    return clusters, cluster_of, sizes


def _overlaps(a: IntArray, b: IntArray) -> npt.NDArray[np.float64]:
    """Intersection over union [N] of each row's clusters in two labellings."""
    _, in_a, sizes_a = _clusters(a)
    _, in_b, sizes_b = _clusters(b)
    _, pair_of, shared = np.unique(in_a * (len(sizes_b) + 1) + in_b, return_inverse=True, return_counts=True)
    intersection = shared[pair_of]
    # Equal fractions have equal float64 quotients, so scores can be compared exactly.
    overlaps: npt.NDArray[np.float64] = intersection / (sizes_a[in_a] + sizes_b[in_b] - intersection)
    return overlaps


def _highest(scores: npt.NDArray[np.float64], groups: IntArray, n_groups: int) -> npt.NDArray[np.float64]:
    highest = np.zeros(n_groups)
    np.maximum.at(highest, groups, scores)
    return highest


def _threshold(independence: npt.NDArray[np.float64]) -> float | None:
    n_clusters = len(independence)
    if not n_clusters:
        return None
    position = min(n_clusters - 1, round(INDEPENDENT_SHARE * n_clusters))
    return float(np.sort(independence)[::-1][position])
