"""K-means: clusters, numbering and corner cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.errors import ConfigError
from reid_ray.labels.kmeans import kmeans

pytestmark = pytest.mark.filterwarnings("error")


def three_groups(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    groups = np.concatenate([[2, 0, 0, 1], rng.integers(0, 3, 40)])
    features = np.eye(3, 8)[groups] + 0.05 * rng.normal(size=(44, 8))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), groups


@settings(max_examples=5)
@given(seed=SEEDS)
def test_finds_groups_and_numbers_them_by_first_member(seed: int) -> None:
    features, groups = three_groups(np.random.default_rng(seed))
    number = {2: 0, 0: 1, 1: 2}
    labels = kmeans(features, 3, seed=seed)
    assert labels.tolist() == [number[group] for group in groups]
    assert labels.dtype == np.int64


@pytest.mark.parametrize("n_clusters", [1, 7, 60])
def test_every_row_is_in_the_cluster_of_its_nearest_mean(
    n_clusters: int, make_clustered: Callable[..., np.ndarray]
) -> None:
    """The fixed point of Lloyd's algorithm."""
    features = make_clustered(200, 0, noise=0.6)
    labels = kmeans(features, n_clusters, seed=0)
    assert sorted(set(labels)) == list(range(n_clusters))
    means = np.stack([features[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    distances = np.linalg.norm(features[:, None] - means[None], axis=2)
    assert (distances[np.arange(200), labels] <= distances.min(axis=1) + 1e-5).all()


def test_deterministic_for_a_seed(make_clustered: Callable[..., np.ndarray]) -> None:
    features = make_clustered(600, 1, noise=1.5)
    first = kmeans(features, 20, seed=3)
    np.testing.assert_array_equal(kmeans(features, 20, seed=3), first)
    assert (kmeans(features, 20, seed=4) != first).any()


def test_a_cluster_per_row() -> None:
    features = np.eye(6, dtype=np.float32)
    assert kmeans(features, 6, seed=0).tolist() == list(range(6))


def test_fewer_distinct_features_than_clusters() -> None:
    features = np.repeat(np.eye(2, dtype=np.float32), [3, 2], axis=0)
    assert kmeans(features, 4, seed=0).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("n_rows", "n_clusters"), [(0, 1), (3, 4), (3, 0)])
def test_invalid_n_clusters_is_refused(n_rows: int, n_clusters: int) -> None:
    with pytest.raises(ConfigError, match=f"got n_clusters={n_clusters} and N={n_rows}"):
        kmeans(np.ones((n_rows, 2), dtype=np.float32), n_clusters, seed=0)
