"""A label refresh: from features to labels, centroids, camera proxies and statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError
from reid_ray.labels import clustering, tasks
from reid_ray.labels.blockwise import dbscan_in_blocks
from reid_ray.labels.constraints import Constraints
from reid_ray.labels.encoding import JaccardParams, expand_queries, reciprocal_weights
from reid_ray.labels.executor import Executor, SerialExecutor, split_rows
from reid_ray.labels.proxies import Proxies, make_proxies
from reid_ray.labels.quality import label_statistics
from reid_ray.labels.reliability import reliable_labels
from reid_ray.labels.source_term import source_dissimilarity
from reid_ray.labels.thresholds import eps_for_share
from reid_ray.types import OUTLIER, UNKNOWN, FeatureRows, Features, FloatArray, IntArray, Labels

HDBSCAN_DISTANCE = 0.9
"""Cutoff of the graph for HDBSCAN: far beyond any eps, and still a few pairs per row."""

CUTOFFS = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Cutoffs of the graph, tried in turn until it holds the share of pairs that `labels.rho` requires."""

OnStage = Callable[[str], None]


class EncodedGraph(NamedTuple):
    """Handles to the encodings from which the graph is computed.

    Attributes:
        weights: handle to the k-reciprocal weights V, CSR float32 [N, N].
        transposed: handle to the transpose of V.
        dissimilarity: v of the source-similarity term, float32 [N]; None without the term.
        source_weight: λ of the term.
    """

    weights: Any
    transposed: Any
    dissimilarity: FloatArray | None = None
    source_weight: float = 0.0


@dataclass
class ClusteringResult:
    """Clusters of features, with the graph and the timings behind them.

    Attributes:
        labels: int64 [N], 0 … n_clusters−1 without gaps, or `OUTLIER`, after the outlier policy.
        raw: labels before the outlier policy, for statistics.
        graph: the Jaccard graph, float32 [N, N], or a handle to it on a worker; None for k-means.
        eps: DBSCAN's; None for other clusterers.
        recall: recall of the approximate search, measured on a sample; None for exact search.
        seconds: of each stage.
        threshold: threshold of cluster independence (SpCL); None without reliability, or if there was no cluster yet.
    """

    labels: IntArray
    raw: IntArray
    graph: Any
    eps: float | None
    recall: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    threshold: float | None = None


def refresh(
    features: Features,
    config: LabelsConfig,
    camids: IntArray,
    *,
    version: int,
    true_pids: IntArray | None = None,
    tracklets: IntArray | None = None,
    previous: Labels | None = None,
    device: torch.device | str | None = None,
    workers: Executor | None = None,
    source: FeatureRows | None = None,
    constraints: Constraints | None = None,
) -> Labels:
    """Cluster features into pseudo-labels.

    No cluster, one cluster, only outliers and no outliers are all valid results; the caller decides whether to train on
    them.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N]; images of unknown camera are left out of the proxies.
        version: the epoch the labels are for.
        true_pids: int64 [N] for label quality in the statistics; never used for the labels.
        tracklets: int64 [N], `UNKNOWN` for images in none, for the label-free objective.
        previous: labels of the previous refresh, for the stability statistic and the reliability threshold.
        device: where neighbours are searched.
        workers: executor; default this process. The labels do not depend on it.
        source: float32 [M, D], features of the source for `config.source_weight`; None without one.
        constraints: corrections that the clusters obey.
    """
    workers = workers or SerialExecutor()
    found = cluster_rows(
        features.values,
        config,
        camids,
        device=device,
        workers=workers,
        threshold=previous.threshold if previous else None,
        source=source,
        constraints=constraints,
    )
    before = previous.labels if previous else None
    described = workers.run(
        tasks.describe, features.values, found.labels, found.raw, found.graph, camids, true_pids, before
    )
    compared = (features.values, found.raw, camids, tracklets, device)
    scored = workers.run(tasks.objectives, *compared) if config.objective else None
    proxies: Proxies
    statistics: dict[str, Any]
    proxies, statistics = workers.get([described])[0]
    if scored is not None:
        statistics |= workers.get([scored])[0]
    statistics |= {key: value for key, value in (("eps", found.eps), ("recall", found.recall)) if value is not None}
    statistics |= constraints.counts() if constraints else {}
    statistics |= {f"{stage}_seconds": seconds for stage, seconds in found.seconds.items()}
    return Labels(version, found.labels, *proxies, statistics=statistics, threshold=found.threshold)


def labels_from_ground_truth(
    features: Features, pids: IntArray, camids: IntArray, *, version: int, workers: Executor | None = None
) -> Labels:
    """Labels, centroids and proxies from true identities, numbered as in `ground_truth_labels`."""
    labels, workers = number_identities(pids), workers or SerialExecutor()
    proxies: Proxies = workers.get([workers.run(make_proxies, features.values, labels, camids)])[0]
    return Labels(version, labels, *proxies, statistics=label_statistics(labels))


def ground_truth_labels(pids: IntArray) -> Labels:
    """Labels from true identities, without centroids and proxies: needs no features."""
    labels = number_identities(pids)
    return Labels(0, labels, statistics=label_statistics(labels))


def number_identities(pids: IntArray) -> IntArray:
    """int64 [N]: identities numbered without gaps, in the order of pids; unknown ones are outliers."""
    known = pids != UNKNOWN
    labels = np.full(len(pids), OUTLIER, dtype=np.int64)
    labels[known] = np.unique(pids[known], return_inverse=True)[1]
    return labels


def cluster_rows(
    features: FeatureRows,
    config: LabelsConfig,
    camids: IntArray,
    *,
    device: torch.device | str | None = None,
    workers: Executor | None = None,
    on_stage: OnStage | None = None,
    threshold: float | None = None,
    source: FeatureRows | None = None,
    constraints: Constraints | None = None,
    max_distance: float = 0.0,
) -> ClusteringResult:
    """Labels of some features by the configured clusterer.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N].
        device: where neighbours are searched.
        workers: executor; default this process. The labels do not depend on it.
        on_stage: called with the name of each stage when it begins.
        source: float32 [M, D], features of the source for `config.source_weight`; None without one.
        threshold: reliability threshold of the first refresh, for `config.reliability`; None in the first refresh.
        constraints: corrections that the clusters obey (`labels.constrained`); DBSCAN only. Reliability may still
            make a constrained row an outlier.
        max_distance: with DBSCAN and a fixed eps, the returned graph holds all pairs up to this distance too.

    Raises:
        ConfigError: constraints with another clusterer than DBSCAN.
    """
    if constraints is not None and config.clusterer != "dbscan":
        raise ConfigError(f"Constraints need labels.clusterer=dbscan; this is {config.clusterer}.")
    clock = _Clock(on_stage)
    workers = workers or SerialExecutor()
    if config.clusterer == "kmeans":
        with clock("clusters"):
            centre = workers.run(tasks.checked_centre, features)
            labels = workers.get([workers.run(tasks.kmeans_labels, features, config, centre)])[0]
        return ClusteringResult(labels, labels, None, None, seconds=clock.seconds)
    rows = split_rows(features.shape[0], workers.n_workers)
    lists = _find_neighbours(features, config, camids, rows, workers, device, clock)
    recall = (
        None if config.neighbours == "exact" else workers.get([workers.run(tasks.measured_recall, features, lists)])[0]
    )
    encoded = _encode(features, JaccardParams.of(config), lists, rows, workers, clock)
    if source is not None and config.source_weight and source.shape[0]:
        with clock("source"):
            encoded = encoded._replace(
                dissimilarity=_dissimilarity(features, source, rows, workers), source_weight=config.source_weight
            )
    if config.rho is not None:
        with clock("graph"):
            graph, eps = _graph_and_eps(encoded, config.rho, rows, workers)
        with clock("clusters"):
            labels = dbscan_in_blocks(
                [graph], eps, config.min_samples, [range(features.shape[0])], workers, constraints
            )
    elif config.clusterer == "hdbscan":
        with clock("graph"):
            graph = workers.run(tasks.stack, *_graph_parts(encoded, HDBSCAN_DISTANCE, rows, workers))
            workers.wait([graph])
        with clock("clusters"):
            labels = workers.get([workers.run(tasks.hdbscan_labels, graph, config.min_samples)])[0]
        eps = None
    else:
        eps, gap = config.eps, config.reliability
        with clock("graph"):
            parts = _graph_parts(encoded, max(eps + (gap or 0), max_distance), rows, workers)
            workers.wait(parts)
        with clock("clusters"):
            labels = dbscan_in_blocks(parts, eps, config.min_samples, rows, workers, constraints)
            if gap is not None:
                tight, loose = (
                    dbscan_in_blocks(parts, eps + d, config.min_samples, rows, workers, constraints)
                    for d in (-gap, gap)
                )
                labels, threshold = reliable_labels(tight, labels, loose, threshold)
            graph = workers.run(tasks.stack, *parts)
    by_policy = _after_policy(labels, config.outliers, constraints)
    return ClusteringResult(by_policy, labels, graph, eps, recall, clock.seconds, threshold)


def _find_neighbours(
    features: FeatureRows,
    config: LabelsConfig,
    camids: IntArray,
    rows: list[range],
    workers: Executor,
    device: torch.device | str | None,
    clock: _Clock,
) -> Any:
    """Handle to the neighbour lists of all rows."""
    params = JaccardParams.of(config)
    with clock("neighbours"):
        centre = workers.run(tasks.checked_centre, features)
        if config.neighbours != "exact":
            lists = workers.run(tasks.search_approximately, features, config, centre)
        else:
            # A single worker gets all rows, so it computes each product once for both of its rows.
            ranges = [None] if len(rows) == 1 else rows
            common = (features, params, camids if params.by_camera else None)
            found = [
                workers.run(tasks.search_exactly, *common, own, centre, device, config.memory_mb) for own in ranges
            ]
            lists = workers.run(tasks.join, *found)
        workers.wait([lists])
    return lists


def _encode(
    features: FeatureRows, params: JaccardParams, lists: Any, rows: list[range], workers: Executor, clock: _Clock
) -> EncodedGraph:
    with clock("encoding"):
        parts = [workers.run(reciprocal_weights, features, lists, params, own) for own in rows]
        whole = workers.run(tasks.stack, *parts)
        parts = [workers.run(expand_queries, whole, lists, params, own) for own in rows]
        weights = workers.run(tasks.stack, *parts)
        transposed = workers.run(tasks.transpose, weights)
        workers.wait([transposed])
    return EncodedGraph(weights, transposed)


def _dissimilarity(features: FeatureRows, source: FeatureRows, rows: list[range], workers: Executor) -> FloatArray:
    """v of the source-similarity term, float32 [N]."""
    parts = workers.get([workers.run(source_dissimilarity, features, source, own) for own in rows])
    whole: FloatArray = np.concatenate(parts)
    return np.asarray(whole / max(whole.max(initial=0), np.finfo(np.float32).tiny), dtype=np.float32)


def _graph_parts(encoded: EncodedGraph, limit: float, rows: list[range], workers: Executor) -> list[Any]:
    """Row blocks of the graph of all pairs up to `limit`."""
    return [workers.run(tasks.graph_rows, *encoded, limit, own) for own in rows]


def _graph_and_eps(encoded: EncodedGraph, rho: float, rows: list[range], workers: Executor) -> tuple[Any, float]:
    """A graph with at least the closest share of pairs (or all pairs below distance 1), and their mean distance."""
    eps = None
    for limit in CUTOFFS:
        graph = workers.run(tasks.stack, *_graph_parts(encoded, limit * (1 - encoded.source_weight), rows, workers))
        eps = workers.get([workers.run(eps_for_share, graph, rho, limit == CUTOFFS[-1])])[0]
        if eps is not None:
            break
    assert eps is not None  # the last graph is complete
    return graph, eps


def _after_policy(labels: IntArray, policy: clustering.OutlierPolicy, constraints: Constraints | None) -> IntArray:
    """Labels after the outlier policy; junk is never trained on, so it stays an outlier."""
    clustered = np.ones(len(labels), dtype=np.bool_)
    if constraints is not None:
        clustered[constraints.junk] = False
    after = np.full(len(labels), OUTLIER, dtype=np.int64)
    after[clustered] = clustering.apply_outlier_policy(labels[clustered], policy)
    return after


class _Clock:
    """Measures the seconds of each stage."""

    def __init__(self, on_stage: OnStage | None) -> None:
        self.seconds: dict[str, float] = {}
        self._on_stage = on_stage

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self._on_stage:
            self._on_stage(stage)
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started
