"""Invalid arguments of the label engine raise an error; they never change the result silently."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array, csr_array

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError, DataError
from reid_ray.labels import dbscan, jaccard_graph, refresh
from reid_ray.labels.arguments import DistanceGraph, check_neighbourhood
from reid_ray.types import Features, FloatArray

MakeClustered = Callable[..., FloatArray]
GRAPH = {"k1": 6, "k2": 3, "device": "cpu"}


@pytest.fixture
def features(make_clustered: MakeClustered) -> FloatArray:
    return make_clustered(60, 0)


# How far a graph reaches


def test_eps_beyond_the_graph_names_both(features: FloatArray):
    graph = jaccard_graph(features, max_distance=0.3, **GRAPH)
    assert graph.max_distance == 0.3
    with pytest.raises(ConfigError, match=r"holds pairs up to max_distance=0\.3, so eps=0\.9 would miss neighbours"):
        dbscan(graph, eps=0.9, min_samples=4)
    wider = jaccard_graph(features, max_distance=0.9, **GRAPH)
    at_limit = dbscan(graph, eps=0.3, min_samples=4)
    np.testing.assert_array_equal(at_limit, dbscan(wider, eps=0.3, min_samples=4))
    assert (at_limit != dbscan(wider, eps=0.9, min_samples=4)).any(), "the wider graph must give another clustering"


@pytest.mark.parametrize("limit", [0.1, 0.55, 1 / 3, 0.7, 0.30000001])
def test_eps_equal_to_the_cutoff_is_accepted_despite_rounding(features: FloatArray, limit: float):
    graph = jaccard_graph(features, max_distance=limit, **GRAPH)
    dbscan(graph, eps=limit, min_samples=4)
    dbscan(graph, eps=float(np.float32(limit)), min_samples=4)


def test_eps_of_one_is_refused_because_such_pairs_are_not_stored(features: FloatArray):
    with pytest.raises(ConfigError, match="must be below 1"):
        dbscan(jaccard_graph(features, max_distance=1.0, **GRAPH), eps=1.0, min_samples=4)


def test_cutoff_is_kept_by_copies_and_dropped_by_derived_matrices(features: FloatArray):
    graph = jaccard_graph(features, max_distance=0.6, **GRAPH)
    assert isinstance(graph, csr_array)
    assert pickle.loads(pickle.dumps(graph)).max_distance == 0.6
    for other in (graph[:5], graph + graph, graph.T.tocsr()):
        assert getattr(other, "max_distance", None) is None
    plain = csr_array(graph)
    dbscan(plain, eps=0.9, min_samples=4)  # of another's graph nobody knows how far it reaches


@pytest.mark.parametrize("eps", [-1, -1e-9, float("nan"), float("inf")])
def test_invalid_eps_is_refused(eps: float):
    with pytest.raises(ConfigError, match="eps must be a distance of at least 0"):
        dbscan(csr_array((3, 3), dtype=np.float32), eps=eps, min_samples=1)


@pytest.mark.parametrize("backend", ["components", "sklearn"])
def test_eps_of_zero_joins_duplicates(backend: Any):
    distances = np.array([0, 0, 0.5, 0, 0, 0.5, 0.5, 0.5, 0], dtype=np.float32)
    graph = csr_array((distances, [0, 1, 2] * 3, [0, 3, 6, 9]), (3, 3))
    assert dbscan(graph, eps=0, min_samples=2, backend=backend).tolist() == [0, 0, -1]


@pytest.mark.parametrize("min_samples", [0, -3, 2.5, True, None, "4"])
def test_invalid_min_samples_is_refused(min_samples: Any):
    with pytest.raises(ConfigError, match="min_samples must be a whole number"):
        dbscan(csr_array((3, 3), dtype=np.float32), eps=0.5, min_samples=min_samples)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (np.zeros((3, 3)), "got ndarray"),
        ([[0.0]], "got list"),
        (csc_array((3, 3)), "got csc_array"),
        (csr_array((3, 4)), r"square; got the shape \[3, 4\]"),
    ],
)
def test_invalid_graph_is_refused(graph: Any, message: str):
    with pytest.raises(DataError, match=message):
        dbscan(graph, eps=0.5, min_samples=2)


@pytest.mark.parametrize("max_distance", [-1, 1.5, float("nan"), -1e-9])
def test_invalid_max_distance_is_refused(features: FloatArray, max_distance: float):
    with pytest.raises(ConfigError, match="max_distance must be a Jaccard distance from 0 to 1"):
        jaccard_graph(features, max_distance=max_distance, **GRAPH)


# Features


def test_no_rows_give_an_empty_graph():
    graph = jaccard_graph(np.empty((0, 8), np.float32), max_distance=0.5, **GRAPH)
    assert (graph.shape, graph.max_distance) == ((0, 0), 0.5)
    assert dbscan(graph, eps=0.5, min_samples=2).shape == (0,)


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_fewer_rows_than_neighbours(make_clustered: MakeClustered, n_rows: int):
    labels = dbscan(jaccard_graph(make_clustered(n_rows, 0), max_distance=0.5, **GRAPH), eps=0.5, min_samples=1)
    assert labels.shape == (n_rows,)


def test_lists_and_tensors_are_accepted_as_features(features: FloatArray):
    expected = jaccard_graph(features, max_distance=0.5, **GRAPH).toarray()
    for same in (features.tolist(), torch.from_numpy(features), torch.from_numpy(features).requires_grad_()):
        np.testing.assert_array_equal(jaccard_graph(same, max_distance=0.5, **GRAPH).toarray(), expected)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], r"got the shape \[0\]"),
        ([1.0, 0.0], r"got the shape \[2\]"),
        ([[1.0], [1.0, 2.0]], "got list"),
        ([["a"]], "got list"),
        (None, r"got the shape \[\]|got NoneType"),
        (np.array([["a"]]), "must be numbers"),
        (np.zeros((2, 2, 2)), r"got the shape \[2, 2, 2\]"),
        (np.full((3, 2), np.nan), "row 0 is not finite"),
        (np.full((3, 2), 5.0), "has norm"),
    ],
)
def test_invalid_features_are_refused(features: Any, message: str):
    with pytest.raises(DataError, match=message):
        jaccard_graph(features, max_distance=0.5, **GRAPH)


@pytest.mark.parametrize("camids", [[0, 1], ["a"] * 60, np.zeros(60), np.zeros((60, 1), int)])
def test_camids_must_be_one_per_row(features: FloatArray, camids: Any):
    with pytest.raises(DataError, match="camids must be 60 whole numbers"):
        jaccard_graph(features, max_distance=0.5, variant="camera", camids=camids, **GRAPH)


@pytest.mark.parametrize("k1", [0, 2.5, True])
def test_invalid_k1_is_refused(features: FloatArray, k1: Any):
    with pytest.raises(ConfigError, match=r"whole numbers? of at least 1"):
        jaccard_graph(features, k1=k1, k2=1, max_distance=0.5)


# More neighbours than images


@pytest.mark.parametrize(
    ("settings", "n_images", "message"),
    [
        ({"k1": 3000}, 640, r"labels\.k1=3000 needs at least 3001 images, but there are 640"),
        ({"k1": 30}, 30, r"labels\.k1=30 needs at least 31 images"),
        ({"k1": 5, "k2": 41}, 40, r"labels\.k2=41 needs at least 41"),
        ({"k1": 5, "min_samples": 41}, 40, r"labels\.min_samples=41"),
        ({"clusterer": "kmeans", "n_clusters": 500}, 499, r"labels\.n_clusters=500 needs at least 500"),
    ],
)
def test_more_neighbours_than_images_are_refused_with_both_numbers(
    settings: dict[str, Any], n_images: int, message: str
):
    config = LabelsConfig.model_validate(settings)
    with pytest.raises(ConfigError, match=message):
        check_neighbourhood(config, n_images)
    check_neighbourhood(config, 10_000)


# What users report, and is right


def test_gaps_in_identities_and_one_camera(features: FloatArray):
    """Identities −1, 0 and with gaps, all of one camera: clusters do not depend on them, and scores are finite."""
    pids = np.repeat([-1, 0, 7, 1000, 10**12, 3], 10)
    config = LabelsConfig(k1=6, k2=3)
    found = refresh(Features(features, 0), config, np.zeros(60, np.int64), version=0, true_pids=pids)
    others = refresh(Features(features, 0), config, np.full(60, -1), version=0, true_pids=None)
    np.testing.assert_array_equal(found.labels, others.labels)
    clustered = found.labels[found.labels >= 0]
    assert set(clustered) == set(range(found.n_clusters))
    assert all(np.isfinite(value) for value in found.statistics.values() if isinstance(value, float))


def test_the_graph_is_never_n_by_n(make_clustered: MakeClustered):
    """Stored entries grow with the number of images, not with its square."""
    small, large = (jaccard_graph(make_clustered(n, 0), max_distance=0.55, **GRAPH) for n in (200, 800))
    assert large.nnz < 6 * small.nnz
    assert isinstance(large, DistanceGraph)
