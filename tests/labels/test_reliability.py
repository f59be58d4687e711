"""The reliability criterion against sets of images, in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from reid_ray.labels import reliable_labels
from reid_ray.types import IntArray


def members(labels: list[int], image: int) -> frozenset[int]:
    """The image's cluster; an outlier's is itself."""
    if labels[image] == -1:
        return frozenset([image])
    return frozenset(other for other, label in enumerate(labels) if label == labels[image])


def naive(
    tight: list[int], normal: list[int], loose: list[int], threshold: Fraction | None
) -> tuple[set[frozenset[int]], Fraction | None]:
    """Clusters that stay, as sets of images, and the threshold."""

    def overlap(image: int, other: list[int]) -> Fraction:
        a, b = members(normal, image), members(other, image)
        return Fraction(len(a & b), len(a | b))

    clusters = {members(normal, image) for image in range(len(normal)) if normal[image] != -1}
    independence = {cluster: max(overlap(image, loose) for image in cluster) for cluster in clusters}
    if threshold is None:
        dependence = sorted(1 - score for cluster, score in independence.items() if len(cluster) > 1)
        if not dependence:
            return set(), None
        threshold = 1 - dependence[min(len(dependence) - 1, int(np.round(len(dependence) * 0.9)))]
    kept = set()
    for cluster in clusters:
        if independence[cluster] >= threshold:
            best = max(overlap(image, tight) for image in cluster)
            left = frozenset(image for image in cluster if overlap(image, tight) == best)
            if len(left) > 1:
                kept.add(left)
    return kept, threshold


def draw(seed: int, n_images: int, n_clusters: int, outliers: float) -> tuple[IntArray, IntArray, IntArray]:
    """Clusters that split in one labelling, merge in another, and lose or gain single images in both."""
    rng = np.random.default_rng(seed)
    normal = rng.integers(n_clusters, size=n_images)
    tight = 2 * normal + (rng.random(n_images) < 0.3)
    loose = normal // rng.integers(1, 3)
    for labels in (tight, normal, loose):
        moved = rng.random(n_images) < 0.1
        labels[moved] = rng.permutation(labels)[moved]
        labels[rng.random(n_images) < outliers] = -1
    return tight, normal, loose


@pytest.mark.parametrize("outliers", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("n_clusters", [1, 5, 20])
def test_against_sets(n_clusters: int, outliers: float) -> None:
    for seed in range(8):
        tight, normal, loose = draw(seed, 60, n_clusters, outliers)
        for given in (None, Fraction(1, 2), Fraction(1, 1)):
            expected, threshold = naive(tight.tolist(), normal.tolist(), loose.tolist(), given)
            found = reliable_labels(tight, normal, loose, None if given is None else float(given))
            clusters = {members(found.labels.tolist(), image) for image in np.flatnonzero(found.labels >= 0)}
            assert clusters == expected
            assert found.threshold == (None if threshold is None else float(threshold))
            assert found.labels.dtype == np.int64
            assert set(found.labels.tolist()) <= {-1, *range(len(expected))}


def test_order_of_clusters_is_kept() -> None:
    tight, normal, loose = draw(3, 200, 20, 0.1)
    labels, _ = reliable_labels(tight, normal, loose)
    order = [int(normal[labels == label][0]) for label in range(labels.max() + 1)]
    assert len(order) > 5
    assert order == sorted(order)


def test_labellings_that_agree_change_nothing() -> None:
    normal = np.array([0, 1, -1, 0, 1, 2, 2])
    labels, threshold = reliable_labels(normal + 5 * (normal >= 0), normal, normal)
    assert labels.tolist() == normal.tolist()
    assert threshold == 1


def test_a_merging_cluster_goes_and_a_split_one_keeps_its_largest_part() -> None:
    normal = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    tight = np.array([0, 0, 0, -1, 5, 1, 1, 2, 2, 2])
    loose = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])  # independence 1, 2/5 and 3/5
    labels, _ = reliable_labels(tight, normal, loose, threshold=0.5)
    assert labels.tolist() == [0, 0, 0, -1, -1, -1, -1, 1, 1, 1]


@pytest.mark.parametrize(("n_clusters", "position"), [(1, 0), (2, 1), (5, 4), (10, 9), (15, 14), (25, 22), (45, 40)])
def test_position_of_the_threshold(n_clusters: int, position: int) -> None:
    """0.9·5, 0.9·25 and 0.9·45 are halves: 4.5 → 4, 22.5 → 22, 40.5 → 40."""
    sizes = np.arange(2, n_clusters + 2)  # with one stranger each, independence is size / (size + 1)
    normal = np.repeat(np.arange(n_clusters), sizes)
    normal = np.concatenate([normal, np.full(n_clusters, -1)])
    loose = np.concatenate([normal[:-n_clusters], np.arange(n_clusters)])
    _, threshold = reliable_labels(normal, normal, loose)
    size = sizes[::-1][position]
    assert threshold == size / (size + 1)


def test_empty_labelling() -> None:
    empty = np.zeros(0, dtype=np.int64)
    labels, threshold = reliable_labels(empty, empty, empty)
    assert len(labels) == 0
    assert threshold is None
