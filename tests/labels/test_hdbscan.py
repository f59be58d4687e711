"""Sparse HDBSCAN against a literal implementation of the paper, and against scikit-learn on the dense matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from seeds import SEEDS
from sklearn.cluster import HDBSCAN

from reid_ray.errors import ConfigError
from reid_ray.labels.clustering import number_by_first_member
from reid_ray.labels.hdbscan import LEAST_DISTANCE, hdbscan

pytestmark = pytest.mark.filterwarnings("error")

DistanceMat = npt.NDArray[np.float32]


def to_graph(distance_mat: DistanceMat) -> csr_array:
    """All pairs except those at distance 1, zeros stored."""
    rows, columns = np.nonzero(distance_mat < 1)
    return csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)


def symmetric(distance_mat: npt.NDArray[np.floating]) -> DistanceMat:
    distance_mat = np.triu(distance_mat, 1)
    return (distance_mat + distance_mat.T).astype(np.float32)


def tied_distances(rng: np.random.Generator) -> DistanceMat:
    """0 and powers of two, whose reciprocals add up without rounding; most pairs at distance 1."""
    n_rows = int(rng.integers(1, 40))
    values = rng.choice([0, 1 / 16, 1 / 8, 1 / 4, 1 / 2], (n_rows, n_rows), p=[0.02, 0.2, 0.2, 0.28, 0.3])
    groups = rng.integers(0, int(rng.integers(1, 8)), n_rows)
    near = rng.random((n_rows, n_rows)) < np.where(groups[:, None] == groups, 0.5, rng.choice([0, 0.02]))
    return symmetric(np.where(near, values, 1)) * (1 - np.eye(n_rows, dtype=np.float32))


def untied_distances(rng: np.random.Generator) -> DistanceMat:
    n_rows = int(rng.integers(6, 50))
    groups = rng.integers(0, int(rng.integers(1, 10)), n_rows)
    within = groups[:, None] == groups
    near = rng.random((n_rows, n_rows)) < np.where(within, 0.7, rng.choice([0.01, 0.1]))
    return symmetric(np.where(near, rng.uniform(0.05, np.where(within, 0.6, 0.95)), 1))


def mutual_reachability(distance_mat: DistanceMat, min_samples: int) -> DistanceMat:
    n_rows = len(distance_mat)
    core = np.ones(n_rows, dtype=np.float32)
    if min_samples <= n_rows:
        core = np.sort(distance_mat, axis=1)[:, min_samples - 1]
    reachability = np.maximum(np.maximum(core[:, None], core), np.maximum(distance_mat, np.float32(LEAST_DISTANCE)))
    np.fill_diagonal(reachability, 0)
    return reachability


class Cluster:
    """A cluster of the hierarchy, followed down until it splits or dissolves."""

    def __init__(self, rows: list[int], birth: float, reachability: DistanceMat, min_cluster_size: int) -> None:
        self.rows, self.stability, self.children = rows, 0.0, []
        for height in sorted(set(reachability[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)].tolist()))[::-1]:
            part = reachability[np.ix_(rows, rows)]
            if height > part.max():
                continue
            pieces = connected_components(csr_array(part < height), directed=False)[1]
            groups = [[rows[i] for i in np.flatnonzero(pieces == piece)] for piece in range(pieces.max() + 1)]
            large = [group for group in groups if len(group) >= min_cluster_size]
            left = len(rows) - len(large[0]) if len(large) == 1 else len(rows)
            self.stability += left * (1 / height - birth)
            if len(large) != 1:
                self.children = [Cluster(group, 1 / height, reachability, min_cluster_size) for group in large]
                return
            rows = large[0]

    def chosen(self) -> tuple[float, list[list[int]]]:
        """The most stable selection within this cluster: the cluster itself, or clusters inside it."""
        inside = [child.chosen() for child in self.children]
        total = sum(stability for stability, _ in inside)
        if total > self.stability:
            return total, [rows for _, choice in inside for rows in choice]
        return self.stability, [self.rows]


def by_the_paper(distance_mat: DistanceMat, min_cluster_size: int, min_samples: int) -> npt.NDArray[np.int64]:
    """Remove edges from the longest down, equal lengths together, and collect the components after each step."""
    reachability = mutual_reachability(distance_mat, min_samples)
    root = Cluster(list(range(len(distance_mat))), 0, reachability, min_cluster_size)
    labels = np.full(len(distance_mat), -1, dtype=np.int64)
    for number, rows in enumerate(rows for child in root.children for rows in child.chosen()[1]):
        labels[rows] = number
    return number_by_first_member(labels)


def test_random_cases_contain_clusters() -> None:
    n_clusters = [by_the_paper(tied_distances(np.random.default_rng(seed)), 3, 2).max() + 1 for seed in range(60)]
    assert sum(n > 1 for n in n_clusters) > 20
    assert sum(n == 0 for n in n_clusters) > 3


@settings(max_examples=60)
@given(seed=SEEDS)
@pytest.mark.parametrize("make", [tied_distances, untied_distances])
def test_equals_the_paper(make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    distance_mat = make(rng)
    for min_cluster_size, min_samples in ((2, 1), (3, 2), (4, 4), (2, 5)):
        found = hdbscan(to_graph(distance_mat), min_cluster_size=min_cluster_size, min_samples=min_samples)
        np.testing.assert_array_equal(found, by_the_paper(distance_mat, min_cluster_size, min_samples))
        assert found.dtype == np.int64


@given(seed=SEEDS)
@pytest.mark.parametrize("min_cluster_size", [2, 3, 6])
def test_equals_scikit_learn_without_decisive_ties(seed: int, min_cluster_size: int) -> None:
    """With min_samples=1 only absent pairs are tied. Scikit-learn may put a row that nothing connects into any
    cluster; we into none. And where all parts but one are small, it may take small ones together for a cluster, so that
    the large one is no longer all there is; two more parts see to it that this does not decide."""
    distance_mat = untied_distances(np.random.default_rng(seed))
    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=1, metric="precomputed", copy=True)
    n_rows = len(distance_mat)
    distance_mat = np.pad(distance_mat, (0, 24), constant_values=1)
    for part in (slice(n_rows, n_rows + 12), slice(n_rows + 12, n_rows + 24)):
        distance_mat[part, part] = symmetric(np.random.default_rng(part.start).uniform(0.1, 0.5, (12, 12)))
    expected = model.fit_predict(distance_mat.astype(np.float64))
    parts = connected_components(csr_array(distance_mat < 1), directed=False)[1]
    expected[np.bincount(parts)[parts] < min_cluster_size] = -1
    found = hdbscan(to_graph(distance_mat), min_cluster_size=min_cluster_size, min_samples=1)
    np.testing.assert_array_equal(found, number_by_first_member(expected.astype(np.int64)))


@settings(max_examples=30)
@given(seed=SEEDS)
def test_scikit_learn_differs_only_in_rows_that_join_late(seed: int) -> None:
    """Core distances tie edges. A row that scikit-learn clusters and we do not joins no earlier than the whole cluster
    joins others."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(5), 12)
    points = np.eye(5, 8)[groups] + 0.12 * rng.normal(size=(60, 8))
    distance_mat = symmetric(np.minimum(np.linalg.norm(points[:, None] - points, axis=2) / 2, 1))
    found = hdbscan(to_graph(distance_mat), min_cluster_size=5, min_samples=4)
    model = HDBSCAN(min_cluster_size=5, min_samples=4, metric="precomputed", copy=True)
    expected = model.fit_predict(distance_mat.astype(np.float64))
    assert found.max() == expected.max() >= 1
    reachability = mutual_reachability(distance_mat, 4)
    for cluster in range(found.max() + 1):
        ours = found == cluster
        (number,) = set(expected[ours])
        theirs = expected == number
        assert number >= 0
        others = reachability[np.ix_(ours, ~theirs)].min()
        extra = theirs & ~ours
        assert not extra.any() or reachability[np.ix_(ours, extra)].min() >= others


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        distance_mat = tied_distances(rng)
        order = rng.permutation(len(distance_mat))
        labels = hdbscan(to_graph(distance_mat), min_cluster_size=3)
        shuffled = hdbscan(to_graph(distance_mat[np.ix_(order, order)]), min_cluster_size=3)
        np.testing.assert_array_equal(shuffled, number_by_first_member(labels[order]))


def test_duplicates_do_not_split_their_cluster() -> None:
    """Two persons; three images of the first are identical. scikit-learn gives them infinite stability."""
    distance_mat = np.ones((14, 14), dtype=np.float32)
    distance_mat[:7, :7] = 0.2
    distance_mat[7:, 7:] = 0.2
    distance_mat[:3, :3] = 0
    np.fill_diagonal(distance_mat, 0)
    labels = hdbscan(to_graph(distance_mat), min_cluster_size=4, min_samples=2)
    assert labels.tolist() == [0] * 7 + [1] * 7


@pytest.mark.parametrize(
    ("distance_mat", "expected"),
    [
        (np.zeros((0, 0)), []),
        (np.zeros((1, 1)), [-1]),
        (np.zeros((5, 5)), [-1] * 5),  # all rows together are no cluster
        (1 - np.eye(5), [-1] * 5),
        (np.kron(1 - np.eye(2), np.ones((3, 3))), [0, 0, 0, 1, 1, 1]),
    ],
)
def test_degenerate_graphs(distance_mat: npt.NDArray[np.float64], expected: list[int]) -> None:
    labels = hdbscan(to_graph(distance_mat.astype(np.float32)), min_cluster_size=2)
    assert labels.tolist() == expected


@pytest.mark.parametrize(("min_cluster_size", "min_samples"), [(1, 1), (2, 0)])
def test_invalid_arguments_are_refused(min_cluster_size: int, min_samples: int) -> None:
    with pytest.raises(ConfigError, match=f"min_cluster_size={min_cluster_size}, min_samples={min_samples}"):
        hdbscan(csr_array((2, 2), dtype=np.float32), min_cluster_size=min_cluster_size, min_samples=min_samples)
