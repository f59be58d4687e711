"""The label-free objective against loops over all pairs, its limits, and cases with a known better labelling."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from seeds import SEEDS

from reid_ray.labels import encoding
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.jaccard import jaccard_graph
from reid_ray.labels.objective import (
    CLOSE,
    MARGIN,
    REFERENCE_DISTANCE,
    close_f1,
    label_free_objective,
    reference_graphs,
    separates,
)
from reid_ray.types import FloatArray, IntArray

pytestmark = pytest.mark.filterwarnings("error")


def labels_of(rng: np.random.Generator, n_rows: int) -> IntArray:
    """With outliers, gaps, and clusters of one."""
    labels = rng.integers(-1, int(rng.integers(1, 2 + n_rows)), n_rows)
    return np.where(labels < 0, -1, 3 * labels)


def random_graph(rng: np.random.Generator, n_rows: int) -> csr_array:
    """Symmetric, diagonal stored, zeros and distances of exactly `CLOSE` among the stored pairs."""
    distance_mat = rng.choice([0, 0.3, CLOSE, 0.8, 1], (n_rows, n_rows)).astype(np.float32)
    distance_mat = np.triu(distance_mat, 1)
    distance_mat += distance_mat.T
    rows, columns = np.nonzero(distance_mat < 1)
    return csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(0, 40), has_tracklets=st.booleans())
@pytest.mark.parametrize("rows_per_block", [5, 10_000])
def test_objective_equals_loops_over_pairs(
    rows_per_block: int, seed: int, n_rows: int, has_tracklets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ROWS_PER_BLOCK", rows_per_block)
    rng = np.random.default_rng(seed)
    labels, graphs = labels_of(rng, n_rows), [random_graph(rng, n_rows) for _ in range(2)]
    tracklets = rng.integers(-1, 8, n_rows) if has_tracklets else None
    expected = []
    for graph in graphs:
        dense = np.ones((n_rows, n_rows), dtype=np.float32)
        dense[graph.tocoo().coords] = graph.data
        pairs = list(combinations(range(n_rows), 2))
        joined = {(i, j) for i, j in pairs if labels[i] == labels[j] != -1}
        close = {(i, j) for i, j in pairs if dense[i, j] <= np.float32(CLOSE)}
        if tracklets is not None:
            close |= {(i, j) for i, j in pairs if tracklets[i] == tracklets[j] != -1}
        both = len(joined & close)
        precision, recall = both / max(1, len(joined)), both / max(1, len(close))
        expected.append(2 * precision * recall / (precision + recall) if both else 0.0)
        assert close_f1(labels, graph, tracklets) == pytest.approx(expected[-1])
        renamed = np.where(labels < 0, -1, 1000 - labels)
        assert close_f1(renamed, graph, tracklets) == close_f1(labels, graph, tracklets)
    assert label_free_objective(labels, graphs, tracklets) == pytest.approx(max(expected))
    unknown = np.full(n_rows, -1)
    assert label_free_objective(labels, graphs, unknown) == label_free_objective(labels, graphs)


def test_one_if_close_pairs_are_the_clusters() -> None:
    labels = np.array([0, 0, 0, 1, 1, -1])
    same = np.equal.outer(labels, labels) & (labels >= 0)
    np.fill_diagonal(same, True)
    rows, columns = np.nonzero(same)
    graph = csr_array((np.where(rows == columns, 0, 0.2).astype(np.float32), (rows, columns)), same.shape)
    assert close_f1(labels, graph) == 1
    assert close_f1(np.full(6, -1), graph) == close_f1(np.arange(6), graph) == 0


def test_chains_are_not_clusters() -> None:
    """Ten people in a row, each linked to the next by one pair: joining them is worse than keeping them apart."""
    labels = np.repeat(np.arange(10), 4)
    distance_mat = np.where(np.equal.outer(labels, labels), 0.2, 1).astype(np.float32)
    for last in range(3, 39, 4):
        distance_mat[last, last + 1] = distance_mat[last + 1, last] = 0.4
    np.fill_diagonal(distance_mat, 0)
    rows, columns = np.nonzero(distance_mat < 1)
    graph = csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)
    chained = dbscan(graph, eps=0.45, min_samples=2)
    assert set(chained.tolist()) == {0}
    assert close_f1(labels, graph) > 0.9 > 0.3 > close_f1(chained, graph)


@pytest.mark.parametrize("n_rows", [0, 1, 5, 60])
def test_references_depend_on_the_features_only(make_features: Callable[..., FloatArray], n_rows: int) -> None:
    features = make_features(n_rows, 2) if n_rows else np.empty((0, 7), dtype=np.float32)
    for k1, graph in zip((30, 20), reference_graphs(features, "cpu"), strict=True):
        alone = jaccard_graph(features, k1=k1, k2=6, max_distance=REFERENCE_DISTANCE, device="cpu")
        np.testing.assert_array_equal(graph.toarray(), alone.toarray())
        np.testing.assert_array_equal(graph.indices, alone.indices)


@settings(max_examples=3)
@given(seed=SEEDS)
def test_objective_prefers_the_people_to_parts_and_unions_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(30), 12)
    features = rng.standard_normal((30, 48))[people] + 0.9 * rng.standard_normal((360, 48))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    graphs = reference_graphs(features, "cpu")
    halves, pairs = 2 * people + rng.integers(0, 2, 360), people // 2
    some = np.where(rng.random(360) < 0.3, -1, people)
    best = label_free_objective(people, graphs)
    for worse in (halves, pairs, some, people // 6, np.zeros_like(people), np.arange(360), rng.permutation(people)):
        assert best > label_free_objective(worse, graphs) + 0.1


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.5], False), ([0.5, 0.5 + MARGIN / 2, 0.5], False), ([0.1, 0.5, 0.5], False), ([0.5, 0.5, 0.6], True)],
)
def test_equal_scores_separate_nothing(scores: list[float], expected: bool) -> None:
    assert separates(scores) == expected
