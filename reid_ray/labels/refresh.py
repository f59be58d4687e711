"""From features to what training reads: labels, centroids, camera proxies, statistics."""

from __future__ import annotations

import time

import numpy as np
import torch

from reid_ray.config import LabelsConfig
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.jaccard import jaccard_graph
from reid_ray.labels.quality import label_statistics, truth_scores
from reid_ray.types import OUTLIER, UNKNOWN, Features, FloatArray, IntArray, PseudoLabels

COLUMNS_PER_BLOCK = 128
"""Feature dimensions that are averaged at a time, in float64."""


def refresh(
    features: Features,
    config: LabelsConfig,
    camids: IntArray,
    *,
    version: int,
    true_pids: IntArray | None = None,
    device: torch.device | str | None = None,
) -> PseudoLabels:
    """Cluster features into pseudo-labels.

    No cluster, one cluster, all outliers and none are all valid results; whether to train on them is the caller's to
    say.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N]; images of unknown camera have no part in the proxies.
        version: the epoch the labels are for.
        true_pids: int64 [N] for label quality in the statistics; never used for the labels.
    """
    started = time.perf_counter()
    graph = jaccard_graph(
        features.values,
        k1=config.k1,
        k2=config.k2,
        max_distance=config.eps,
        variant=config.variant,
        camids=camids,
        device=device,
    )
    graphed = time.perf_counter()
    labels = dbscan(graph, eps=config.eps, min_samples=config.min_samples)
    seconds = {"graph_seconds": graphed - started, "dbscan_seconds": time.perf_counter() - graphed}
    return _with_proxies(features.values, labels, camids, version, true_pids, seconds)


def labels_from_truth(features: Features, pids: IntArray, camids: IntArray, *, version: int) -> PseudoLabels:
    """The same from true identities: labels without gaps in the order of pids, unknown pids as outliers."""
    known = pids != UNKNOWN
    labels = np.full(len(pids), OUTLIER, dtype=np.int64)
    labels[known] = np.unique(pids[known], return_inverse=True)[1]
    return _with_proxies(features.values, labels, camids, version, None, {})


def group_means(features: FloatArray, groups: IntArray, n_groups: int) -> FloatArray:
    """float32 [n_groups, D]: means of rows by group, summed in float64 in row order.

    Args:
        groups: int64 [N], the group of each row; −1 is left out, and each of 0 … n_groups−1 has a row.
    """
    means = np.empty((n_groups, features.shape[1]), dtype=np.float32)
    if not n_groups:
        return means
    rows = np.flatnonzero(groups >= 0)
    order = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.searchsorted(groups[order], np.arange(n_groups))
    counts = np.bincount(groups[rows], minlength=n_groups)[:, None]
    for first in range(0, features.shape[1], COLUMNS_PER_BLOCK):
        columns = slice(first, first + COLUMNS_PER_BLOCK)
        values = features[order, columns].astype(np.float64)
        means[:, columns] = np.add.reduceat(values, starts, axis=0) / counts
    return means


def _with_proxies(
    features: FloatArray,
    labels: IntArray,
    camids: IntArray,
    version: int,
    true_pids: IntArray | None,
    seconds: dict[str, float],
) -> PseudoLabels:
    n_clusters = int(labels.max(initial=OUTLIER)) + 1
    with_proxy = (labels != OUTLIER) & (camids != UNKNOWN)
    # Proxies by camera, then cluster, as the released code lists them.
    cameras, camera_numbers = np.unique(camids[with_proxy], return_inverse=True)
    keys, proxy_of = np.unique(camera_numbers * n_clusters + labels[with_proxy], return_inverse=True)
    proxy_cameras, proxy_labels = np.divmod(keys, max(n_clusters, 1))
    groups = np.full(len(labels), -1, dtype=np.int64)
    groups[with_proxy] = proxy_of
    proxies = group_means(features, groups, len(keys))
    norms = np.linalg.norm(proxies, axis=1, keepdims=True)
    statistics = label_statistics(labels) | seconds
    if true_pids is not None:
        statistics |= truth_scores(labels, true_pids)
    return PseudoLabels(
        version=version,
        labels=labels,
        centroids=group_means(features, labels, n_clusters),
        proxies=proxies / np.maximum(norms, np.finfo(np.float32).tiny),
        proxy_labels=proxy_labels,
        proxy_camids=np.asarray(cameras[proxy_cameras], dtype=np.int64),
        statistics=statistics,
    )
