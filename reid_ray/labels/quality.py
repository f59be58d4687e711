"""Label quality: statistics of a labelling and, if identities are known, its agreement with them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from reid_ray.types import OUTLIER, UNKNOWN, IntArray

SIZE_BINS = (2, 3, 5, 9, 17, 33, 65, 129)
"""Lower bounds of the cluster-size histogram, after one bin for single images; the last bin is open."""


def label_statistics(labels: IntArray) -> dict[str, Any]:
    """Counts of a labelling int64 [N]; needs no ground truth. Sizes are 0 without clusters."""
    n_images, n_outliers = len(labels), int((labels == OUTLIER).sum())
    sizes = group_sizes(labels[labels != OUTLIER])
    histogram = np.bincount(np.searchsorted(SIZE_BINS, sizes, side="right"), minlength=len(SIZE_BINS) + 1)
    bounds = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise((1, *SIZE_BINS))]
    return {
        "n_images": n_images,
        "n_clusters": len(sizes),
        "n_outliers": n_outliers,
        "outlier_share": n_outliers / n_images if n_images else 0.0,
        "size_median": float(np.median(sizes)) if len(sizes) else 0.0,
        "size_max": int(sizes.max()) if len(sizes) else 0,
        "sizes": dict(zip([*bounds, f"{SIZE_BINS[-1]}+"], histogram.tolist(), strict=True)),
    }


def ground_truth_scores(labels: IntArray, pids: IntArray) -> dict[str, float]:
    """Agreement of labels with identities, over images whose identity is known.

    `ari` and `nmi` (adjusted Rand index, normalised mutual information) are over clustered images. The pairwise scores
    are over all images, each outlier a cluster of its own: precision is the share of same-cluster pairs that show the
    same person, recall the share of same-person pairs in the same cluster, F1 their harmonic mean. A share of zero
    pairs is 0, and all scores are 0 if no image is clustered.
    """
    known = pids != UNKNOWN
    clustered = known & (labels != OUTLIER)
    # Not scikit-learn's ARI and NMI: they mistake many small clusters for regression targets and warn at each epoch.
    clusters, persons = group_sizes(labels[clustered]), group_sizes(pids[clustered])
    overlaps = group_sizes(joint_groups(labels[clustered], pids[clustered]))
    both, in_cluster, of_person = n_pairs(overlaps), n_pairs(clusters), n_pairs(group_sizes(pids[known]))
    precision = both / in_cluster if in_cluster else 0.0
    recall = both / of_person if of_person else 0.0
    return {
        "ari": _adjusted_rand(clusters, persons, overlaps),
        "nmi": _mutual_information(clusters, persons, overlaps),
        "pairwise_precision": precision,
        "pairwise_recall": recall,
        "pairwise_f1": 2 * precision * recall / (precision + recall) if both else 0.0,
    }


def adjusted_rand(first: int, second: int, both: int, everything: int) -> float | None:
    """(pairs together in both − expected) / (largest possible − expected) (Hubert & Arabie, 1985).

    Args:
        first, second: pairs that are together in one grouping and in the other.
        both: in both.
        everything: all pairs.

    Returns:
        None if undefined: all rows are single in both, or all are together in both.
    """
    possible = (first + second) * everything - 2 * first * second
    return 2 * (both * everything - first * second) / possible if possible else None


def n_pairs(sizes: IntArray) -> int:
    """Pairs within groups of these sizes, as a Python integer: products of it do not overflow."""
    return int((sizes * (sizes - 1) // 2).sum())


def group_sizes(groups: npt.NDArray[Any]) -> IntArray:
    return np.asarray(np.unique(groups, return_counts=True)[1], dtype=np.int64)


def joint_groups(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One number per pair of groups."""
    return np.unique(first, return_inverse=True)[1] * len(second) + np.unique(second, return_inverse=True)[1]


def entropy(sizes: IntArray) -> float:
    """Entropy of a grouping with these sizes, in nats."""
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum()) if len(sizes) > 1 else 0.0


def _adjusted_rand(clusters: IntArray, persons: IntArray, overlaps: IntArray) -> float:
    if not len(overlaps):
        return 0.0
    everything = n_pairs(overlaps.sum(keepdims=True))
    found = adjusted_rand(n_pairs(clusters), n_pairs(persons), n_pairs(overlaps), everything)
    return 1.0 if found is None else found


def _mutual_information(clusters: IntArray, persons: IntArray, overlaps: IntArray) -> float:
    """Mutual information over the mean of the two entropies; 1 where both are one group."""
    if not len(overlaps):
        return 0.0
    of_both = entropy(clusters) + entropy(persons)
    return max(0.0, 2 * (of_both - entropy(overlaps)) / of_both) if of_both else 1.0
