"""How good a labelling is: what it looks like, and, where identities are known, how true it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from reid_ray.types import OUTLIER, UNKNOWN, IntArray

SIZE_BINS = (2, 3, 5, 9, 17, 33, 65, 129)
"""Lower bounds of the cluster-size histogram, after one bin for single images; the last bin is open."""


def label_statistics(labels: IntArray) -> dict[str, Any]:
    """Counts of a labelling int64 [N]; needs no truth. Sizes are 0 where there is no cluster."""
    n_images, n_outliers = len(labels), int((labels == OUTLIER).sum())
    _, sizes = np.unique(labels[labels != OUTLIER], return_counts=True)
    histogram = np.bincount(np.searchsorted(SIZE_BINS, sizes, side="right"), minlength=len(SIZE_BINS) + 1)
    names = ["1", *(f"{low}-{high - 1}" for low, high in zip(SIZE_BINS, SIZE_BINS[1:], strict=False))]
    names = [*(name.split("-")[0] if len(set(name.split("-"))) == 1 else name for name in names), f"{SIZE_BINS[-1]}+"]
    return {
        "n_images": n_images,
        "n_clusters": len(sizes),
        "n_outliers": n_outliers,
        "outlier_share": n_outliers / n_images if n_images else 0.0,
        "size_median": float(np.median(sizes)) if len(sizes) else 0.0,
        "size_max": int(sizes.max()) if len(sizes) else 0,
        "sizes": dict(zip(names, histogram.tolist(), strict=True)),
    }


def truth_scores(labels: IntArray, pids: IntArray) -> dict[str, float]:
    """Agreement of labels with identities, over images whose identity is known.

    `ari` and `nmi` (adjusted Rand index, normalised mutual information) are over clustered images. The pairwise scores
    are over all of them, each outlier a cluster of its own: precision is the share of same-cluster pairs that are of one
    person, recall the share of same-person pairs that are in one cluster, F1 their harmonic mean. A share of nothing
    is 0.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = pids != UNKNOWN
    labels, pids = labels[known], pids[known]
    clustered = labels != OUTLIER
    if clustered.any():
        ari = float(adjusted_rand_score(pids[clustered], labels[clustered]))
        nmi = float(normalized_mutual_info_score(pids[clustered], labels[clustered]))
    else:
        ari = nmi = 0.0
    in_cluster = _pairs(np.unique(labels[clustered], return_counts=True)[1])
    of_person = _pairs(np.unique(pids, return_counts=True)[1])
    both = _pairs(_contingency(labels[clustered], pids[clustered]))
    precision = both / in_cluster if in_cluster else 0.0
    recall = both / of_person if of_person else 0.0
    return {
        "ari": ari,
        "nmi": nmi,
        "pairwise_precision": precision,
        "pairwise_recall": recall,
        "pairwise_f1": 2 * precision * recall / (precision + recall) if both else 0.0,
    }


def _contingency(labels: IntArray, pids: IntArray) -> npt.NDArray[Any]:
    """Sizes of the intersections of clusters and persons that are not empty."""
    _, rows = np.unique(labels, return_inverse=True)
    _, columns = np.unique(pids, return_inverse=True)
    table = csr_array((np.ones(len(rows), dtype=np.int64), (rows, columns)))
    return np.asarray(table.data if len(rows) else np.empty(0, dtype=np.int64))


def _pairs(sizes: npt.NDArray[Any]) -> int:
    """Pairs within groups of these sizes."""
    exact = sizes.astype(object)  # whole numbers of any size: 10 million images have 5·10^13 pairs
    return int((exact * (exact - 1) // 2).sum()) if len(sizes) else 0
