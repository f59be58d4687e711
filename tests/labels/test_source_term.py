"""The source-similarity term against the dense formula, and its effect on the labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from seeds import SEEDS
from sklearn.cluster import DBSCAN

from reid_ray.config import LabelsConfig
from reid_ray.labels import jaccard_graph
from reid_ray.labels.refresh import cluster_rows
from reid_ray.labels.source_term import source_dissimilarity, with_source_term

WEIGHT = 0.1


def unit(n, dim=6, seed=0, groups=12):
    """Unit rows around some centres, with duplicates."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(groups, dim))[rng.integers(0, groups, n)] + 0.25 * rng.normal(size=(n, dim))
    rows[1] = rows[0]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dense_term(features, source):
    """v [N], from all distances."""
    distances = ((features[:, None].astype(float) - source[None]) ** 2).sum(2)
    v = (1 - np.exp(-distances)).min(1)
    return v / v.max()


def dense_distance(features, source, weight=WEIGHT, k1=8, k2=3):
    """J' [N, N]: pairs that the graph does not store have J = 1."""
    stored = jaccard_graph(features, k1=k1, k2=k2, max_distance=1.0, variant="cvpr17").tocoo()
    jaccard = np.ones((len(features), len(features)), dtype=np.float32)
    jaccard[stored.row, stored.col] = stored.data
    v = dense_term(features, source).astype(np.float32)
    return (1 - weight) * jaccard + weight * (v[:, None] + v[None, :])


def test_dissimilarity_is_that_of_the_nearest_source_image():
    features, source = unit(70), unit(40, seed=1)
    found = source_dissimilarity(features, source)
    np.testing.assert_allclose(found / found.max(), dense_term(features, source), atol=1e-5)
    np.testing.assert_array_equal(source_dissimilarity(features, source, range(10, 30)), found[10:30])
    np.testing.assert_allclose(source_dissimilarity(features, features), 0, atol=1e-6)


@pytest.mark.parametrize("limit", [0.3, 0.6, 1.0])
def test_graph_holds_all_pairs_up_to_its_cutoff(limit):
    features, source = unit(70), unit(40, seed=1)
    v = dense_term(features, source).astype(np.float32)
    graph = jaccard_graph(features, k1=8, k2=3, max_distance=limit, variant="cvpr17")
    found = with_source_term(graph, v, WEIGHT, limit=limit).tocoo()
    dense = dense_distance(features, source)
    stored = np.full(dense.shape, np.inf, np.float32)
    stored[found.row, found.col] = found.data
    within = dense <= (1 - WEIGHT) * limit - 1e-6
    assert within.sum() > 70
    assert found.data.max() <= (1 - WEIGHT) * limit
    np.testing.assert_allclose(stored[within], dense[within], atol=1e-6)
    part = with_source_term(graph[20:40], v, WEIGHT, limit=limit, first_row=20)
    np.testing.assert_array_equal(part.toarray(), with_source_term(graph, v, WEIGHT, limit=limit)[20:40].toarray())


def config(**settings):
    return LabelsConfig(
        **{"variant": "cvpr17", "k1": 8, "k2": 3, "min_samples": 3, "source_weight": WEIGHT, **settings}
    )


@settings(max_examples=3)
@given(seed=SEEDS)
def test_labels_are_those_of_dbscan_on_the_dense_matrix(seed):
    features, source = unit(120, seed=seed), unit(50, seed=seed + 10)
    dense = dense_distance(features, source)
    camids = np.zeros(120, dtype=np.int64)
    fixed = cluster_rows(features, config(eps=0.4), camids, source=source)
    np.testing.assert_array_equal(fixed.labels, DBSCAN(eps=0.4, min_samples=3, metric="precomputed").fit_predict(dense))
    pairs = np.sort(dense[np.triu_indices(120, 1)])
    eps = pairs[: round(0.01 * len(pairs))].mean()
    estimated = cluster_rows(features, config(rho=0.01), camids, source=source)
    assert estimated.eps == pytest.approx(eps, rel=1e-4)
    without = cluster_rows(features, config(eps=0.4, source_weight=0.0), camids, source=source)
    assert (without.labels == cluster_rows(features, config(eps=0.4), camids).labels).all()
