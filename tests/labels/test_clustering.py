"""DBSCAN on the sparse graph against scikit-learn's, on the same graph and on the dense matrix, whole and in blocks.

No GPU is needed: the code for one runs on stand-ins for CuPy and cuML, which offer no more than the real ones do.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from seeds import SEEDS
from sklearn.cluster import DBSCAN

from reid_ray.errors import ConfigError
from reid_ray.labels.clustering import (
    apply_outlier_policy,
    border_labels,
    close_gaps,
    core_mask,
    dbscan,
    first_by_hooking,
    local_forest,
    merge_forests,
    number_by_first_member,
)

pytestmark = pytest.mark.filterwarnings("error")


EPS = 0.55
BACKENDS = ["components", "sklearn", "cupy", "cuml"]


class FakeArray(np.ndarray):
    """Stand-in for CuPy's array: it does not mix with NumPy's."""

    __module__ = "cupy"

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", ())
        assert all(isinstance(value, FakeArray) or np.ndim(value) == 0 for value in (*inputs, *out))
        plain = [value.view(np.ndarray) if isinstance(value, FakeArray) else value for value in inputs]
        if out:
            kwargs["out"] = tuple(value.view(np.ndarray) for value in out)
        found = getattr(ufunc, method)(*plain, **kwargs)
        if out:
            return out[0]
        return found.view(FakeArray) if isinstance(found, np.ndarray) else found

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        assert all(isinstance(part, FakeArray | slice) or np.ndim(part) == 0 for part in parts)
        return super().__getitem__(key)


def as_fake(function: Any) -> Any:
    return lambda *args, **kwargs: function(*args, **kwargs).view(FakeArray)


def fake_cupy(free_bytes: int = 10**9, n_devices: int = 1) -> ModuleType:
    cupy = ModuleType("cupy")
    for name in ("arange", "concatenate", "cumsum", "empty", "flatnonzero", "full", "stack", "where", "zeros"):
        setattr(cupy, name, as_fake(getattr(np, name)))
    for name in ("add", "maximum", "minimum"):
        setattr(cupy, name, getattr(np, name))
    cupy.asarray = as_fake(np.array)
    cupy.asnumpy = lambda array: np.array(array.view(np.ndarray))
    runtime = SimpleNamespace(memGetInfo=lambda: (free_bytes, 2 * free_bytes))
    cupy.cuda = SimpleNamespace(is_available=lambda: n_devices > 0, runtime=runtime)
    return cupy


class FakeCuml:
    """Stand-in for cuML's DBSCAN: its own cluster numbers and arbitrary border points."""

    asked: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        FakeCuml.asked = kwargs

    def fit(self, distances: FakeArray) -> None:
        assert isinstance(distances, FakeArray)
        assert distances.dtype == np.float32
        known = ("eps", "min_samples", "metric")
        model = DBSCAN(**{name: self.asked[name] for name in known}).fit(distances.view(np.ndarray))
        self.core_sample_indices_ = model.core_sample_indices_
        self.labels_ = np.where(model.labels_ >= 0, 1000 - model.labels_, -1)
        self.labels_[np.setdiff1d(np.arange(len(distances)), model.core_sample_indices_)] = 1000


@pytest.fixture(autouse=True)
def _gpu_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    cuml = ModuleType("cuml")
    cuml.cluster = ModuleType("cuml.cluster")
    cuml.cluster.DBSCAN = FakeCuml
    for module in (fake_cupy(), cuml, cuml.cluster):
        monkeypatch.setitem(sys.modules, module.__name__, module)


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
    """Up to 90 rows with few or many neighbours, labelled by scikit-learn from the dense matrix."""
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(1, 90))
    distance_mat = random_distances(n_rows, float(rng.choice([0.5, 2, 4, 8])) / n_rows, rng)
    min_samples = int(rng.integers(1, 7))
    expected = DBSCAN(eps=EPS, min_samples=min_samples, metric="precomputed").fit_predict(distance_mat)
    return RandomCase(distance_mat, min_samples, expected)


@given(seed=SEEDS)
def test_equals_scikit_learn(seed: int) -> None:
    distance_mat, min_samples, expected = random_case(seed)
    for max_distance in (EPS, 0.8):  # the graph may hold pairs beyond eps
        graph = to_graph(distance_mat, max_distance)
        before = graph.copy()
        for backend in ("auto", *BACKENDS):
            labels = dbscan(graph, eps=EPS, min_samples=min_samples, backend=backend)
            np.testing.assert_array_equal(labels, expected)
            assert labels.dtype == np.int64
        for name in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(graph, name), getattr(before, name))


def test_random_cases_cover_the_special_cases() -> None:
    """The random graphs must contain points between two clusters, and clusters whose first member is a border point."""
    n_contested = n_led_by_border = 0
    for seed in range(100):
        distance_mat, min_samples, labels = random_case(seed)
        near = distance_mat <= np.float32(EPS)
        core = near.sum(axis=1) >= min_samples
        n_contested += sum(len(set(labels[near[i] & core])) > 1 for i in np.flatnonzero(~core))
        n_led_by_border += sum(not core[np.argmax(labels == cluster)] for cluster in range(labels.max() + 1))
    assert n_contested > 10
    assert n_led_by_border > 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_border_point_goes_to_the_lowest_cluster(backend: str) -> None:
    first = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    second = [(5, 6), (5, 7), (6, 7), (5, 8), (6, 8), (7, 8)]
    graph = from_pairs(9, [*first, *second, (8, 4), (3, 4)])
    assert dbscan(graph, eps=0.2, min_samples=4, backend=backend).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_clusters_are_numbered_by_first_core_point_not_by_first_member(backend: str) -> None:
    """Row 0 is a border of the cluster around row 4, whose first core comes after the cluster of rows 1 to 3."""
    graph = from_pairs(8, [(0, 4), (1, 2), (1, 3), (2, 3), (4, 5), (4, 6), (4, 7)])
    assert dbscan(graph, eps=0.2, min_samples=3, backend=backend).tolist() == [1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("min_samples", "expected"), [(1, [0, 1, 2]), (2, [-1, -1, -1])])
def test_no_pair_within_eps(backend: str, min_samples: int, expected: list[int]) -> None:
    assert dbscan(from_pairs(3, []), eps=0.5, min_samples=min_samples, backend=backend).tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_cluster_without_outliers(backend: str) -> None:
    distances = np.zeros((12, 12), dtype=np.float32)
    assert dbscan(to_graph(distances, 0.5), eps=0.5, min_samples=4, backend=backend).tolist() == [0] * 12


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: str) -> None:
    labels = dbscan(csr_array((0, 0), dtype=np.float32), eps=0.5, min_samples=4, backend=backend)
    assert labels.shape == (0,)
    assert labels.dtype == np.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_eps_is_inclusive_in_float32_for_any_dtype(backend: str) -> None:
    """float32(0.55) is slightly more than 0.55 and must still count as 0.55."""
    distance_mat = np.array([[0, EPS], [EPS, 0]], dtype=np.float32)
    for eps in (EPS, np.float64(EPS), np.float32(EPS)):
        assert dbscan(to_graph(distance_mat, 0.9), eps=eps, min_samples=2, backend=backend).tolist() == [0, 0]


def test_long_indices() -> None:
    """Graphs of more than 2³¹ entries have int64 indices."""
    graph = from_pairs(5, [(0, 1), (1, 2), (3, 4)])
    graph.indices, graph.indptr = graph.indices.astype(np.int64), graph.indptr.astype(np.int64)
    assert dbscan(graph, eps=0.5, min_samples=2).tolist() == [0, 0, 0, 1, 1]


@settings(max_examples=60)
@given(seed=SEEDS)
def test_any_split_into_blocks_gives_the_same_labels(seed: int) -> None:
    """Blocks of one row, empty ones, and forests merged in any order; read-only arrays, as in Ray's object store."""
    distance_mat, min_samples, expected = random_case(seed)
    graph = to_graph(distance_mat, 0.8)
    rng = np.random.default_rng(seed)
    n_rows = len(distance_mat)
    n_cuts = int(rng.choice([0, 1, 3, 2 * n_rows]))
    bounds = [0, *np.sort(rng.integers(0, n_rows + 1, n_cuts)), n_rows]
    blocks = [(int(low), graph[low:high]) for low, high in pairwise(bounds)]
    for array in (array for _, rows in blocks for array in (rows.data, rows.indices, rows.indptr)):
        array.setflags(write=False)
    core = np.concatenate([core_mask(rows, eps=EPS, min_samples=min_samples) for _, rows in blocks])
    core.setflags(write=False)
    forests = [local_forest(rows, core, eps=EPS, first_row=first) for first, rows in blocks]
    for forest in forests:
        assert forest.shape[1] <= max(core.sum() - 1, 0)
        assert core[forest].all()
    core_labels = merge_forests(core, [forests[i] for i in rng.permutation(len(forests))])
    np.testing.assert_array_equal(core_labels, np.where(core, expected, -1))
    core_labels.setflags(write=False)
    labels = [border_labels(rows, core_labels, eps=EPS, first_row=first) for first, rows in blocks]
    np.testing.assert_array_equal(np.concatenate(labels), expected)


def test_more_forests_than_a_byte_can_count() -> None:
    """The same pair from 256 blocks is still a pair."""
    forest = np.array([[0], [2]], dtype=np.int32)
    assert merge_forests(np.ones(3, dtype=bool), [forest] * 256).tolist() == [0, 1, 0]
    assert merge_forests(np.ones(3, dtype=bool), []).tolist() == [0, 1, 2]


@settings(max_examples=30)
@given(seed=SEEDS, n_rows=st.integers(1, 300), is_path=st.booleans())
def test_hooking_finds_the_first_row_of_each_component(seed: int, n_rows: int, is_path: bool) -> None:
    rng = np.random.default_rng(seed)
    heads, tails = rng.integers(0, n_rows, (2, int(n_rows * rng.choice([0, 0.3, 0.7, 3])))).astype(np.int32)
    if is_path:  # in random order: long to follow
        order = rng.permutation(n_rows).astype(np.int32)
        heads, tails = order[:-1], order[1:]
    groups = connected_components(csr_array((np.ones(len(heads)), (heads, tails)), (n_rows, n_rows)), directed=False)[1]
    expected = [int(np.flatnonzero(groups == group)[0]) for group in groups]
    assert first_by_hooking(heads, tails, n_rows).tolist() == expected


def test_cuml_gets_a_memory_limit() -> None:
    graph = from_pairs(5, [(0, 1), (1, 2)])
    dbscan(graph, eps=0.5, min_samples=2, backend="cuml")
    assert FakeCuml.asked["metric"] == "precomputed"
    assert 256 <= FakeCuml.asked["max_mbytes_per_batch"] < 900


def test_cuml_is_refused_if_the_matrix_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(free_bytes=2 * 10**8))
    with pytest.raises(ConfigError, match=r"matrix, which takes 0\.0 GB .* 0\.2 GB is available, so use the backend"):
        dbscan(from_pairs(5, []), eps=0.5, min_samples=2, backend="cuml")


@pytest.mark.parametrize("backend", ["cupy", "cuml"])
def test_missing_gpu_backends_are_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(n_devices=0))
    with pytest.raises(ConfigError, match=f"backend '{backend}' needs a CUDA device"):
        dbscan(from_pairs(5, []), eps=0.5, min_samples=2, backend=backend)
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(ConfigError, match=f"needs {backend} and CuPy, but .* is not installed; pip install"):
        dbscan(from_pairs(5, []), eps=0.5, min_samples=2, backend=backend)


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown DBSCAN backend 'gpu'; use auto, components, cupy, cuml, sklearn"):
        dbscan(from_pairs(2, []), eps=0.5, min_samples=1, backend="gpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "closed", "by_first_member"),
    [
        ([], [], []),
        ([-1, -1], [-1, -1], [-1, -1]),
        ([7, -1, 3, 3, 7, 9], [1, -1, 0, 0, 1, 2], [0, -1, 1, 1, 0, 2]),
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([5, 5, 5], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_numbers_without_gaps(labels: list[int], closed: list[int], by_first_member: list[int]) -> None:
    given = np.array(labels, dtype=np.int64)
    assert close_gaps(given).tolist() == closed
    assert number_by_first_member(given).tolist() == by_first_member
    assert given.tolist() == labels


@pytest.mark.parametrize(
    ("labels", "singletons"),
    [([], []), ([-1, -1], [0, 1]), ([4, -1, 2, -1, 4], [1, 2, 0, 3, 1]), ([0, 0], [0, 0])],
)
def test_outlier_policies(labels: list[int], singletons: list[int]) -> None:
    given = np.array(labels, dtype=np.int64)
    assert apply_outlier_policy(given, "drop").tolist() == close_gaps(given).tolist()
    assert apply_outlier_policy(given, "singleton").tolist() == singletons


def test_unknown_outlier_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown outlier policy 'keep'; use drop or singleton"):
        apply_outlier_policy(np.array([0]), "keep")  # type: ignore[arg-type]
