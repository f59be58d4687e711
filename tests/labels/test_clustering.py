"""DBSCAN on the sparse graph against scikit-learn's, on the same graph and on the dense matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_array
from sklearn.cluster import DBSCAN

from reid_ray.errors import ConfigError
from reid_ray.labels import dbscan

pytestmark = pytest.mark.filterwarnings("error")

EPS = 0.55


def to_graph(distance_mat: npt.NDArray[np.float32], max_distance: float) -> csr_array:
    """Pairs up to `max_distance`, zeros stored."""
    rows, columns = np.nonzero(distance_mat <= max_distance)
    return csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)


def random_distances(n_rows: int, density: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Symmetric, in steps of 0.05 (so that many pairs lie on eps exactly), with zeros off the diagonal."""
    steps = np.where(rng.random((n_rows, n_rows)) < density, rng.integers(0, 20, (n_rows, n_rows)), 20)
    steps = np.triu(steps, 1)
    steps += steps.T
    return (steps / 20).astype(np.float32)


def from_pairs(n_rows: int, pairs: list[tuple[int, int]]) -> csr_array:
    distance_mat = np.ones((n_rows, n_rows), dtype=np.float32)
    np.fill_diagonal(distance_mat, 0)
    for i, j in pairs:
        distance_mat[i, j] = distance_mat[j, i] = 0.1
    return to_graph(distance_mat, 0.9)


class RandomCase(NamedTuple):
    distance_mat: npt.NDArray[np.float32]
    min_samples: int
    expected: npt.NDArray[np.int64]


def random_case(seed: int) -> RandomCase:
    """Fewer than 90 rows, from no neighbours to many, labelled by scikit-learn from the dense matrix."""
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(1, 90))
    distance_mat = random_distances(n_rows, float(rng.choice([0.5, 2, 4, 8])) / n_rows, rng)
    min_samples = int(rng.integers(1, 7))
    expected = DBSCAN(eps=EPS, min_samples=min_samples, metric="precomputed").fit_predict(distance_mat)
    return RandomCase(distance_mat, min_samples, expected)


@pytest.mark.parametrize("seed", range(100))
def test_equals_scikit_learn(seed: int) -> None:
    distance_mat, min_samples, expected = random_case(seed)
    for max_distance in (EPS, 0.8):  # the graph may hold pairs beyond eps
        graph = to_graph(distance_mat, max_distance)
        before = graph.copy()
        for backend in ("auto", "components", "sklearn"):
            labels = dbscan(graph, eps=EPS, min_samples=min_samples, backend=backend)
            np.testing.assert_array_equal(labels, expected)
            assert labels.dtype == np.int64
        for name in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(graph, name), getattr(before, name))


def test_random_cases_hold_what_matters() -> None:
    """The comparison is worth something only if it meets points between two clusters, and clusters whose first
    member is a border point."""
    n_contested = n_led_by_border = 0
    for seed in range(100):
        distance_mat, min_samples, labels = random_case(seed)
        near = distance_mat <= np.float32(EPS)
        core = near.sum(axis=1) >= min_samples
        n_contested += sum(len(set(labels[near[i] & core])) > 1 for i in np.flatnonzero(~core))
        n_led_by_border += sum(not core[np.argmax(labels == cluster)] for cluster in range(labels.max() + 1))
    assert n_contested > 10
    assert n_led_by_border > 10


@pytest.mark.parametrize("backend", ["components", "sklearn"])
def test_border_point_goes_to_the_lowest_cluster(backend: str) -> None:
    first = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    second = [(5, 6), (5, 7), (6, 7), (5, 8), (6, 8), (7, 8)]
    graph = from_pairs(9, [*first, *second, (8, 4), (3, 4)])
    assert dbscan(graph, eps=0.2, min_samples=4, backend=backend).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("backend", ["components", "sklearn"])
def test_clusters_are_numbered_by_first_core_point_not_by_first_member(backend: str) -> None:
    """Row 0 is a border of the cluster around row 4, whose first core comes after the cluster of rows 1 to 3."""
    graph = from_pairs(8, [(0, 4), (1, 2), (1, 3), (2, 3), (4, 5), (4, 6), (4, 7)])
    assert dbscan(graph, eps=0.2, min_samples=3, backend=backend).tolist() == [1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("backend", ["components", "sklearn"])
@pytest.mark.parametrize(("min_samples", "expected"), [(1, [0, 1, 2]), (2, [-1, -1, -1])])
def test_nothing_near_anything(backend: str, min_samples: int, expected: list[int]) -> None:
    assert dbscan(from_pairs(3, []), eps=0.5, min_samples=min_samples, backend=backend).tolist() == expected


@pytest.mark.parametrize("backend", ["components", "sklearn"])
def test_one_cluster_without_outliers(backend: str) -> None:
    distances = np.zeros((12, 12), dtype=np.float32)
    assert dbscan(to_graph(distances, 0.5), eps=0.5, min_samples=4, backend=backend).tolist() == [0] * 12


@pytest.mark.parametrize("backend", ["components", "sklearn"])
def test_no_rows(backend: str) -> None:
    labels = dbscan(csr_array((0, 0), dtype=np.float32), eps=0.5, min_samples=4, backend=backend)
    assert labels.shape == (0,)
    assert labels.dtype == np.int64


@pytest.mark.parametrize("backend", ["components", "sklearn"])
def test_eps_is_included_in_float32_whatever_type_it_has(backend: str) -> None:
    """float32(0.55) is a little more than 0.55, and still counts as 0.55."""
    distance_mat = np.array([[0, EPS], [EPS, 0]], dtype=np.float32)
    for eps in (EPS, np.float64(EPS), np.float32(EPS)):
        assert dbscan(to_graph(distance_mat, 0.9), eps=eps, min_samples=2, backend=backend).tolist() == [0, 0]


def test_long_indices() -> None:
    """Graphs of more than 2³¹ entries have int64 indices."""
    graph = from_pairs(5, [(0, 1), (1, 2), (3, 4)])
    graph.indices, graph.indptr = graph.indices.astype(np.int64), graph.indptr.astype(np.int64)
    assert dbscan(graph, eps=0.5, min_samples=2).tolist() == [0, 0, 0, 1, 1]


def test_unknown_backend_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="Unknown DBSCAN backend 'cuml'; use auto, components, sklearn"):
        dbscan(from_pairs(2, []), eps=0.5, min_samples=1, backend="cuml")  # type: ignore[arg-type]
