"""Steps of a refresh that workers run: module-level functions with positional arguments, so they can be pickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError
from reid_ray.labels import clustering
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.labels.encoding import JaccardParams, NeighbourLists, join_lists, search
from reid_ray.labels.features import check_features
from reid_ray.labels.hdbscan import hdbscan
from reid_ray.labels.jaccard import graph_of_weights
from reid_ray.labels.kmeans import kmeans
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.neighbours.products import Centre, find_centre
from reid_ray.labels.objective import label_free_objective, reference_graphs
from reid_ray.labels.proxies import Proxies, make_proxies
from reid_ray.labels.quality import ground_truth_scores, label_statistics
from reid_ray.labels.source_term import with_source_term
from reid_ray.types import FeatureRows, FloatArray, IntArray


def checked_centre(features: FeatureRows) -> Centre:
    check_features(features)
    return find_centre(features)


def search_exactly(
    features: FeatureRows,
    params: JaccardParams,
    camids: IntArray | None,
    rows: range | None,
    centre: Centre,
    device: torch.device | str | None,
    memory_mb: int,
) -> NeighbourLists:
    return search(features, params, camids, rows=rows, centre=centre, device=device, memory_mb=memory_mb)


def search_approximately(features: FeatureRows, config: LabelsConfig, centre: Centre) -> NeighbourLists:
    if config.variant != "spcl":
        raise ConfigError(
            f"labels.neighbours={config.neighbours} works with labels.variant=spcl only; '{config.variant}' needs "
            f"labels.neighbours=exact."
        )
    from reid_ray.labels.neighbours.approximate import nearest_approximate  # faiss is an extra

    assert config.neighbours != "exact"

    # `centre` comes from `checked_centre`, so the features are checked.
    return NeighbourLists(
        nearest_approximate(features, JaccardParams.of(config).n_neighbours, method=config.neighbours, checked=True)
    )


def measured_recall(features: FeatureRows, lists: NeighbourLists) -> float:
    from reid_ray.labels.neighbours.approximate import recall

    return recall(features, lists.main)


def join(*parts: NeighbourLists) -> NeighbourLists:
    return parts[0] if len(parts) == 1 else join_lists(parts)


def stack(*parts: csr_array) -> csr_array:
    return parts[0] if len(parts) == 1 else vstack(parts, format="csr")


def transpose(weights: csr_array) -> csr_array:
    return weights.T.tocsr()


def graph_rows(
    weights: csr_array,
    transposed: csr_array,
    dissimilarity: FloatArray | None,
    source_weight: float,
    limit: float,
    rows: range,
) -> csr_array:
    if dissimilarity is None:
        return graph_of_weights(weights, limit, transposed=transposed, rows=rows)
    jaccard_limit = min(1.0, limit / (1 - source_weight) * (1 + 1e-6))  # rounding must not lose a pair at the limit
    part = graph_of_weights(weights, jaccard_limit, transposed=transposed, rows=rows)
    return with_source_term(part, dissimilarity, source_weight, limit=jaccard_limit, first_row=rows.start)


def core_mask(part: csr_array, eps: float, min_samples: int) -> clustering.BoolArray:
    return clustering.core_mask(part, eps=eps, min_samples=min_samples)


def local_forest(part: csr_array, core: clustering.BoolArray, eps: float, first_row: int) -> clustering.Forest:
    return clustering.local_forest(part, core, eps=eps, first_row=first_row)


def border_labels(part: csr_array, core_labels: IntArray, eps: float, first_row: int) -> IntArray:
    return clustering.border_labels(part, core_labels, eps=eps, first_row=first_row)


def hdbscan_labels(graph: csr_array, min_samples: int) -> IntArray:
    return hdbscan(graph, min_cluster_size=max(min_samples, 2), min_samples=min_samples)


def kmeans_labels(features: FeatureRows, config: LabelsConfig, centre: Centre) -> IntArray:
    return kmeans(np.asarray(features[0 : features.shape[0]]), config.n_clusters, seed=0)


def objectives(
    features: FeatureRows,
    labels: IntArray,
    camids: IntArray,
    tracklets: IntArray | None,
    device: torch.device | str | None,
) -> dict[str, float]:
    """The label-free objective of a labelling, and of the features where there are two cameras."""
    cycles = cycle_consistency(features, camids)
    found = {"label_free": label_free_objective(labels, reference_graphs(features, device), tracklets)}
    return found if cycles is None else found | {"cycle_consistency": cycles}


def describe(
    features: FeatureRows,
    labels: IntArray,
    raw: IntArray,
    graph: csr_array | None,
    camids: IntArray,
    true_pids: IntArray | None,
    previous: IntArray | None,
) -> tuple[Proxies, dict[str, Any]]:
    """Centroids and proxies of the clusters, and statistics of the labelling."""
    statistics: dict[str, Any] = label_statistics(raw)
    statistics |= label_free_scores(raw, graph, camids, previous)
    if true_pids is not None:
        statistics |= ground_truth_scores(raw, true_pids)
    return make_proxies(features, labels, camids), statistics
