"""The label-free objective: the pairwise F1 of a labelling, with close pairs in place of pairs of one person.

Pairwise F1 is 2·(pairs of one person in clusters) / (pairs in clusters + pairs of one person). The objective replaces
*of one person* by *close*: at a Jaccard distance of at most `CLOSE` in a reference graph that depends on the features
only. Closeness is not transitive. A cluster that grew along a chain of people holds few close pairs among its many
pairs, and one that is too small misses close pairs, so the objective needs neither a penalty nor cameras.

k1 of a graph limits the size of the groups that it sees, and the number of images per person is unknown. There are two
graphs, and the one that agrees better with the labels counts.

The frames of a tracklet show one person, so pairs of a tracklet count as close at any distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from scipy.sparse import csr_array

from reid_ray.labels import graph_kernels
from reid_ray.labels.encoding import JaccardParams, NeighbourLists, encode, over_blocks, search
from reid_ray.labels.jaccard import graph_of_weights
from reid_ray.labels.quality import group_sizes, joint_groups, n_pairs
from reid_ray.types import OUTLIER, UNKNOWN, FeatureRows, IntArray

REFERENCES = (JaccardParams("spcl", k1=30, k2=6), JaccardParams("spcl", k1=20, k2=6))
"""Encodings of the reference graphs, however the labels were computed; the first needs the longest lists."""

REFERENCE_DISTANCE = 0.9
"""Cutoff of the reference graphs, for silhouettes: well beyond any eps."""

CLOSE = 0.7
"""Distance up to which two images count as close: the loosest eps in use."""

MARGIN = 0.02
"""Difference of the objective below which it does not separate two labellings of the same features."""


def reference_graphs(features: FeatureRows, device: torch.device | str | None = None) -> tuple[csr_array, ...]:
    """The graphs in which labellings of these features are judged.

    Args:
        features: float32 [N, D], L2-normalised.
        device: where neighbours are searched, once.

    Returns:
        float32 [N, N] for each of `REFERENCES`: distances up to `REFERENCE_DISTANCE`, diagonal stored.
    """
    return reference_graphs_of(features, search(features, REFERENCES[0], device=device))


def reference_graphs_of(features: FeatureRows, lists: NeighbourLists) -> tuple[csr_array, ...]:
    """`reference_graphs` from neighbour lists that are long enough for `REFERENCES`."""
    return tuple(graph_of_weights(encode(features, lists, params), REFERENCE_DISTANCE) for params in REFERENCES)


def label_free_objective(labels: IntArray, graphs: Sequence[csr_array], tracklets: IntArray | None = None) -> float:
    """Label quality without ground truth as one number, 0 … 1; higher is better. 0 without clusters.

    Args:
        labels: int64 [N].
        graphs: `reference_graphs` of the features.
        tracklets: int64 [N], `UNKNOWN` for images in none.
    """
    return max(close_f1(labels, graph, tracklets) for graph in graphs)


def close_f1(labels: IntArray, graph: csr_array, tracklets: IntArray | None = None) -> float:
    """Pairwise F1 of a labelling, int64 [N], against the pairs of a graph at a distance of at most `CLOSE`.

    Each outlier is a cluster of its own. Time is linear in the stored pairs.

    Args:
        tracklets: int64 [N], `UNKNOWN` for images in none; pairs of a tracklet count as close.
    """
    joined, close = _close_pairs(labels, graph)
    if tracklets is not None:
        together = np.full(len(labels), OUTLIER, dtype=np.int64)  # groups of one cluster and one tracklet
        known = (labels != OUTLIER) & (tracklets != UNKNOWN)
        together[known] = np.unique(joint_groups(labels[known], tracklets[known]), return_inverse=True)[1]
        joined += _pairs_within(together) - _close_pairs(together, graph)[0]
        close += _pairs_within(tracklets) - _close_pairs(tracklets, graph)[0]
    return 2 * joined / (_pairs_within(labels) + close) if joined else 0.0


def _close_pairs(groups: IntArray, graph: csr_array) -> tuple[int, int]:
    """Ordered pairs of a graph up to `CLOSE`: those within a group, −1 being none, and all."""
    limit = np.float32(CLOSE)
    counts = over_blocks(
        lambda first, last: graph_kernels.close_pairs(
            graph.indptr, graph.indices, graph.data, groups, limit, first, last
        ),
        range(len(groups)),
    )
    joined, close = (sum(int(count[at]) for count in counts) for at in (0, 1))
    return joined, close


def _pairs_within(groups: IntArray) -> int:
    """Ordered pairs within groups, −1 being none."""
    return 2 * n_pairs(group_sizes(groups[groups != OUTLIER]))


def is_separated(best: float, other: float) -> bool:
    """Whether the objective separates a labelling from another one of the same features, or of two runs."""
    return best - other > MARGIN


def separates(scores: Sequence[float]) -> bool:
    """Whether the objective separates the best of some settings from the typical one."""
    return is_separated(max(scores), median(scores))
