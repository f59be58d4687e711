"""The label-free objective: the pairwise F1 of a labelling, expected without knowing who is in the images.

Pairwise F1 is 2·TP / (pairs in clusters + pairs of one person). If p(i, j) is the probability that two images show one
person, its expectation is about 2·Σ p(in clusters) / (pairs in clusters + Σ p(all pairs)). A cluster that is too large
pays for pairs with a small p, one that is too small for the pairs that it misses; no threshold and no camera is needed.
The objective is the geometric mean of two such values, whose errors differ:

* `graph_f1`: p is 1 for pairs that are close in the reference graph, whatever links them through others;
* `consensus_f1`: p is the share of reference clusterings, from strict to loose, that join the pair.

Both references depend on the features only, so labellings of all settings are judged alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from reid_ray.labels import graph_kernels
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.encoding import JaccardParams, NeighbourLists, encode, over_blocks, search
from reid_ray.labels.jaccard import graph_of_weights
from reid_ray.labels.quality import group_sizes, n_pairs
from reid_ray.types import OUTLIER, FeatureRows, IntArray

GRAPH = JaccardParams("spcl", k1=30, k2=6)
"""Encoding of the reference graph."""

GRAPH_DISTANCE = 0.9
"""Cutoff of the reference graph: well beyond any eps."""

CLOSE = 0.7
"""Distance up to which two images count as one person in `graph_f1`: the loosest eps in use."""

LADDER = JaccardParams("spcl", k1=20, k2=6)
"""Encoding of the reference clusterings."""

LADDER_EPS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
"""eps of the reference clusterings: the values with which methods are published, and beyond on either side."""

LADDER_MIN_SAMPLES = 4


@dataclass(frozen=True)
class Reference:
    """What labellings of some features are judged by.

    Attributes:
        graph: float32 [N, N], distances up to `GRAPH_DISTANCE`, diagonal stored.
        ladder: int64 [N] each, clusterings from strict to loose.
    """

    graph: csr_array
    ladder: tuple[IntArray, ...]


def make_reference(features: FeatureRows, device: torch.device | str | None = None) -> Reference:
    """The reference of some features, float32 [N, D], L2-normalised; neighbours are searched once, on `device`."""
    return reference_of(features, search(features, max(GRAPH, LADDER, key=lambda each: each.k1), device=device))


def reference_of(features: FeatureRows, lists: NeighbourLists) -> Reference:
    """The reference from neighbour lists that are long enough for `GRAPH` and `LADDER`."""
    graph = graph_of_weights(encode(features, lists, GRAPH), GRAPH_DISTANCE)
    rungs = graph_of_weights(encode(features, lists, LADDER), max(LADDER_EPS))
    return Reference(graph, tuple(dbscan(rungs, eps=eps, min_samples=LADDER_MIN_SAMPLES) for eps in LADDER_EPS))


def objective_scores(labels: IntArray, reference: Reference) -> dict[str, float]:
    """`graph_f1`, `consensus_f1`, and their geometric mean `label_free`; each 0 … 1, higher is better.

    0 without clusters, and where the reference joins no pair.
    """
    by_graph, by_consensus = graph_f1(labels, reference.graph), consensus_f1(labels, reference.ladder)
    return {"label_free": math.sqrt(by_graph * by_consensus), "graph_f1": by_graph, "consensus_f1": by_consensus}


def graph_f1(labels: IntArray, graph: csr_array) -> float:
    """Pairwise F1 of a labelling, int64 [N], against the pairs at a distance of at most `CLOSE`.

    These pairs are not a clustering: two images that are linked through a third are not one person for it. So a cluster
    that grew along a chain has few of its pairs among them.
    """
    limit = np.float32(CLOSE)
    counts = over_blocks(
        lambda first, last: graph_kernels.close_pairs(
            graph.indptr, graph.indices, graph.data, labels, limit, first, last
        ),
        range(len(labels)),
    )
    joined, close = (sum(int(count[at]) for count in counts) for at in (0, 1))  # ordered pairs
    return f1(joined // 2, _pairs_of(labels), close // 2)


def consensus_f1(labels: IntArray, ladder: Sequence[IntArray]) -> float:
    """Expected pairwise F1 of a labelling, int64 [N], with p the share of clusterings that join a pair."""
    order, starts = grouped_rows(labels)
    both = sum(shared_pairs(order, starts, rung) for rung in ladder)
    return f1(both, len(ladder) * _pairs_of(labels), sum(map(_pairs_of, ladder)))


def f1(both: int, first: int, second: int) -> float:
    """Harmonic mean of precision and recall of two sets of pairs that share `both`; 0 if they share none."""
    return 2 * both / (first + second) if both else 0.0


def grouped_rows(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Rows by cluster without outliers, and where each cluster starts, with the end as last entry."""
    order = np.argsort(labels, kind="stable")[int((labels == OUTLIER).sum()) :]
    return order, np.concatenate([[0], np.cumsum(group_sizes(labels[order]))]).astype(np.int64)


def shared_pairs(order: IntArray, starts: IntArray, other: npt.NDArray[np.int64]) -> int:
    """Pairs that are together in the clusters of `grouped_rows` and in a second labelling, int64 [N]."""
    return int(graph_kernels.joint_pairs(order, starts, other, int(other.max(initial=OUTLIER)) + 1))


def _pairs_of(labels: IntArray) -> int:
    return n_pairs(group_sizes(labels[labels != OUTLIER]))
