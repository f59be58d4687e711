"""From features to pseudo-labels: means, proxies and statistics against loops; degenerate labellings; the digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reid_ray.config import LabelsConfig
from reid_ray.labels import (
    dbscan,
    jaccard_graph,
    label_free_objective,
    labels_from_ground_truth,
    reference_graphs,
    refresh,
)
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.labels.refresh import cluster_rows, ground_truth_labels
from reid_ray.types import Features, FloatArray, IntArray, Labels

pytestmark = pytest.mark.filterwarnings("error")

QUALITY = {"ari", "nmi", "pairwise_precision", "pairwise_recall", "pairwise_f1"}
LABEL_FREE = {"clustered_share", "largest_share", "effective_clusters", "size_gini", "silhouette"}
CAMERAS = {"camera_entropy", "camera_mix", "cross_camera_share"}
COUNTS = {"n_images", "n_clusters", "n_outliers", "outlier_share", "size_median", "size_max", "sizes"}
SECONDS = {f"{stage}_seconds" for stage in ("neighbours", "encoding", "graph", "clusters")}


def people(n_ids: int, n_images: int, *, dim: int = 300, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Well separated identities in random order, over more than two blocks of dimensions."""
    rng = np.random.default_rng(seed)
    pids = rng.permutation(np.repeat(np.arange(n_ids), n_images))
    features = rng.normal(size=(n_ids, dim))[pids] + 0.3 * rng.normal(size=(len(pids), dim))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), pids


def assert_means_are_right(found: Labels, features: FloatArray, camids: IntArray) -> None:
    """Check centroids and proxies against loops over the labels."""
    members = [features[found.labels == cluster].astype(np.float64) for cluster in range(found.n_clusters)]
    assert all(len(rows) for rows in members), "labels have no gaps"
    assert found.labels.max(initial=-1) == found.n_clusters - 1
    assert found.centroids.shape == (found.n_clusters, features.shape[1])
    for centroid, rows in zip(found.centroids, members, strict=True):
        np.testing.assert_allclose(centroid, rows.mean(axis=0), atol=1e-7)
    expected = sorted(
        {(camid, label) for camid, label in zip(camids, found.labels, strict=True) if camid != -1 and label != -1}
    )
    assert list(zip(found.proxy_camids, found.proxy_labels, strict=True)) == expected
    assert found.proxies.shape == (len(expected), features.shape[1])
    for proxy, (camid, label) in zip(found.proxies, expected, strict=True):
        mean = features[(camids == camid) & (found.labels == label)].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(proxy, mean / np.linalg.norm(mean), atol=1e-6)
    for array in (found.labels, found.proxy_labels, found.proxy_camids):
        assert array.dtype == np.int64
    for array in (found.centroids, found.proxies):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


@pytest.mark.parametrize("cameras", ["several", "one", "none", "some unknown", "far numbers"])
def test_refresh_finds_people(cameras: str) -> None:
    features, pids = people(6, 10)
    camids = {
        "several": np.random.default_rng(1).integers(0, 4, len(pids)),
        "one": np.zeros(len(pids), dtype=np.int64),
        "none": np.full(len(pids), -1),
        "some unknown": np.random.default_rng(1).integers(-1, 3, len(pids)),
        "far numbers": np.random.default_rng(1).choice([0, 7, 2**62], len(pids)),
    }[cameras]
    config = LabelsConfig(k1=9, k2=3)
    found = refresh(Features(features, 4), config, camids, version=5, true_pids=pids, device="cpu")
    assert found.version == 5
    assert found.n_clusters == 6
    assert_means_are_right(found, features, camids)
    assert set(found.statistics) == COUNTS | SECONDS | QUALITY | LABEL_FREE | (
        {"eps"} | CAMERAS if cameras not in ("none", "one") else {"eps"}
    )
    assert found.statistics["ari"] == 1
    assert (np.linalg.norm(found.centroids, axis=1) < 0.999).all(), "centroids are plain means"
    graph = jaccard_graph(features, k1=9, k2=3, max_distance=0.55, device="cpu")
    np.testing.assert_array_equal(found.labels, dbscan(graph, eps=0.55, min_samples=4))


def test_settings_take_effect(make_clustered: Callable[..., FloatArray]) -> None:
    features, camids = make_clustered(120, 0, noise=0.6), np.zeros(120, dtype=np.int64)
    settings = {"k1": 9, "k2": 3, "eps": 0.7, "min_samples": 3, "variant": "spcl"}
    others = {"k1": 14, "k2": 6, "eps": 0.5, "min_samples": 6, "variant": "cvpr17"}
    first = refresh(Features(features, 0), LabelsConfig(**settings), camids, version=0, device="cpu").labels
    for key, value in others.items():
        changed = settings | {key: value}
        found = refresh(Features(features, 0), LabelsConfig(**changed), camids, version=0, device="cpu").labels
        assert not np.array_equal(found, first), key
        k1, k2, eps, min_samples, variant = changed.values()
        graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=eps, variant=variant, device="cpu")
        np.testing.assert_array_equal(found, dbscan(graph, eps=eps, min_samples=min_samples))


@pytest.mark.parametrize("n_rows", [0, 1, 2, 40])
@pytest.mark.parametrize("variant", ["spcl", "cvpr17"])
@pytest.mark.parametrize("min_samples", [1, 4, 41])
def test_degenerate_features(
    make_features: Callable[..., FloatArray], n_rows: int, variant: str, min_samples: int
) -> None:
    """Identical, zero or very few features: a valid labelling with finite numbers and no warning."""
    features = make_features(n_rows, 0)
    camids = np.arange(n_rows) % 3 - 1
    config = LabelsConfig(k1=30, k2=6, min_samples=min_samples, variant=variant)
    found = refresh(Features(features, 0), config, camids, version=0, true_pids=np.arange(n_rows), device="cpu")
    assert len(found.labels) == n_rows
    assert found.statistics["n_clusters"] == found.n_clusters
    if min_samples > n_rows:
        assert found.n_clusters == 0
        assert (found.labels == -1).all()
        assert found.centroids.shape == found.proxies.shape == (0, features.shape[1])
        assert found.proxy_labels.shape == found.proxy_camids.shape == (0,)
    if min_samples == 1:
        assert (found.labels >= 0).all()
    assert all(np.isfinite(value) for value in found.statistics.values() if isinstance(value, (int, float)))
    assert np.isfinite(found.proxies).all()
    assert np.isfinite(found.centroids).all()


@pytest.mark.parametrize("clusterer", ["dbscan", "kmeans"])
def test_the_objective_is_logged_where_it_is_asked_for(clusterer: str) -> None:
    values, _ = people(8, 15)
    config, camids = LabelsConfig(clusterer=clusterer, n_clusters=9), np.arange(120) % 2
    plain, scored = (
        refresh(Features(values, 0), config.model_copy(update={"objective": objective}), camids, version=0)
        for objective in (False, True)
    )
    assert scored.digest() == plain.digest()
    assert not {"label_free", "cycle_consistency"} & plain.statistics.keys()
    assert scored.statistics["cycle_consistency"] == cycle_consistency(values, camids)
    assert scored.statistics["label_free"] == label_free_objective(scored.labels, reference_graphs(values)) > 0


def test_labels_from_ground_truth() -> None:
    features, pids = people(5, 4)
    true_pids = pids * 11 + 3
    true_pids[[0, 7]] = -1
    camids = np.random.default_rng(2).integers(-1, 3, len(pids))
    found = labels_from_ground_truth(Features(features, 2), true_pids, camids, version=3)
    assert found.version == 3
    assert set(found.statistics) == COUNTS
    np.testing.assert_array_equal(found.labels, np.where(true_pids == -1, -1, (true_pids - 3) // 11))
    assert_means_are_right(found, features, camids)


def test_labels_from_no_ground_truth() -> None:
    features, pids = people(2, 3)
    unknown = np.full(len(pids), -1)
    found = labels_from_ground_truth(Features(features, 0), unknown, unknown, version=0)
    assert found.n_clusters == 0
    assert_means_are_right(found, features, unknown)


def test_ground_truth_alone_takes_no_features() -> None:
    """The same labels and statistics as with features, without centroids and proxies."""
    pids = np.array([7, -1, 3, 7, 9, 3, -1])
    found = ground_truth_labels(pids)
    with_features = labels_from_ground_truth(
        Features(np.eye(7, dtype=np.float32), 0), pids, np.zeros(7, dtype=np.int64), version=0
    )
    assert found.labels.tolist() == [1, -1, 0, 1, 2, 0, -1]
    np.testing.assert_array_equal(found.labels, with_features.labels)
    assert found.statistics == with_features.statistics
    assert found.version == 0
    assert len(found.centroids) == len(found.proxies) == 0
    assert ground_truth_labels(np.full(3, -1)).n_clusters == 0


def test_proxy_whose_mean_is_zero_is_zero() -> None:
    features = np.array([[1, 0], [-1, 0], [0, 1], [0, 1]], dtype=np.float32)
    found = labels_from_ground_truth(
        Features(features, 0), np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int64), version=0
    )
    assert found.proxies.tolist() == [[0, 0], [0, 1]]


def test_digest_covers_everything_that_training_reads() -> None:
    features, pids = people(5, 8)
    camids = np.arange(len(pids)) % 3

    def once() -> Labels:
        return refresh(Features(features, 0), LabelsConfig(k1=9, k2=3), camids, version=1, device="cpu")

    found = once()
    assert once().digest() == found.digest()
    assert replace(found, statistics={}).digest() == found.digest()
    others = [replace(found, version=2)]
    for name in ("labels", "centroids", "proxies", "proxy_labels", "proxy_camids"):
        changed = getattr(found, name).copy()
        changed.flat[-1] += 1
        others += [replace(found, **{name: changed}), replace(found, **{name: getattr(found, name)[:-1]})]
    digests = {other.digest() for other in [found, *others]}
    assert len(digests) == len(others) + 1


def test_reliable_members_only_and_the_threshold_of_the_first_refresh():
    """Against three separate clusterings; later refreshes keep the threshold of the first."""
    from reid_ray.labels.reliability import reliable_labels

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(14, 8))[rng.integers(0, 14, 160)] + 0.35 * rng.normal(size=(160, 8))
    values = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    camids = np.zeros(160, dtype=np.int64)
    config = LabelsConfig(k1=10, k2=3, eps=0.5, min_samples=3, reliability=0.08)

    def clusters(eps):
        return cluster_rows(values, config.model_copy(update={"eps": eps, "reliability": None}), camids).labels

    by_hand = [clusters(eps) for eps in (0.42, 0.5, 0.58)]
    expected = reliable_labels(*by_hand)
    first = refresh(Features(values, 0), config, camids, version=0)
    assert (first.labels == expected.labels).all()
    assert first.threshold == expected.threshold
    assert (first.labels != by_hand[1]).any()
    strict = replace(first, threshold=0.99)
    later = refresh(Features(values, 1), config, camids, version=1, previous=strict)
    assert (later.labels == reliable_labels(*by_hand, threshold=0.99).labels).all()
    assert later.threshold == 0.99
