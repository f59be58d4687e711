"""The label-free objective against loops over all pairs, its limits, and cases with a known better labelling."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csr_array

from reid_ray.labels import encoding
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.jaccard import jaccard_graph
from reid_ray.labels.objective import (
    CLOSE,
    LADDER_EPS,
    Reference,
    consensus_f1,
    graph_f1,
    make_reference,
    objective_scores,
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


def expected_f1(labels: IntArray, probability: Callable[[int, int], float]) -> float:
    """The definition, pair by pair."""
    joined = both = same = 0.0
    for i, j in combinations(range(len(labels)), 2):
        together = bool(labels[i] == labels[j] != -1)
        joined += together
        both += together * probability(i, j)
        same += probability(i, j)
    return 2 * both / (joined + same) if both else 0.0


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("rows_per_block", [5, 10_000])
def test_scores_equal_loops_over_pairs(seed: int, rows_per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ROWS_PER_BLOCK", rows_per_block)
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(0, 40))
    graph, labels = random_graph(rng, n_rows), labels_of(rng, n_rows)
    ladder = tuple(labels_of(rng, n_rows) for _ in range(rng.integers(1, 5)))
    dense = np.ones((n_rows, n_rows), dtype=np.float32)
    dense[graph.tocoo().coords] = graph.data

    def near(i: int, j: int) -> float:
        return float(dense[i, j] <= np.float32(CLOSE))

    def agreed(i: int, j: int) -> float:
        return sum(bool(rung[i] == rung[j] != -1) for rung in ladder) / len(ladder)

    scores = objective_scores(labels, Reference(graph, ladder))
    assert scores["graph_f1"] == pytest.approx(expected_f1(labels, near))
    assert scores["consensus_f1"] == pytest.approx(expected_f1(labels, agreed))
    assert scores["label_free"] == pytest.approx(math.sqrt(scores["graph_f1"] * scores["consensus_f1"]))
    assert all(type(value) is float and 0 <= value <= 1 for value in scores.values())


def test_scores_do_not_depend_on_the_names_of_clusters() -> None:
    rng = np.random.default_rng(0)
    graph, labels, ladder = random_graph(rng, 40), labels_of(rng, 40), (labels_of(rng, 40),)
    renamed = np.where(labels < 0, -1, 1000 - labels)
    assert objective_scores(renamed, Reference(graph, ladder)) == objective_scores(labels, Reference(graph, ladder))


def test_a_labelling_that_equals_its_reference_scores_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, -1])
    near = np.equal.outer(labels, labels) & (labels >= 0)
    np.fill_diagonal(near, True)
    rows, columns = np.nonzero(near)
    graph = csr_array((np.where(rows == columns, 0, 0.2).astype(np.float32), (rows, columns)), near.shape)
    assert graph_f1(labels, graph) == consensus_f1(labels, [labels, labels]) == 1
    assert graph_f1(np.full(6, -1), graph) == consensus_f1(np.full(6, -1), [labels]) == 0
    assert consensus_f1(labels, [np.full(6, -1)]) == 0


def test_chains_are_not_clusters() -> None:
    """Ten people in a row, each close to the next: joining them is worse than keeping them apart."""
    labels = np.repeat(np.arange(10), 4)
    distance_mat = np.where(np.abs(np.subtract.outer(labels, labels)) <= 0, 0.2, 1).astype(np.float32)
    for person in range(9):
        distance_mat[4 * person + 3, 4 * person + 4] = distance_mat[4 * person + 4, 4 * person + 3] = 0.4
    np.fill_diagonal(distance_mat, 0)
    rows, columns = np.nonzero(distance_mat < 1)
    graph = csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)
    assert len(set(dbscan(graph, eps=0.45, min_samples=2).tolist())) == 1
    assert graph_f1(labels, graph) > 0.9 > 0.3 > graph_f1(np.zeros(40, dtype=np.int64), graph)


@pytest.mark.parametrize("n_rows", [0, 1, 5, 60])
def test_reference_is_made_of_the_features_alone(make_features: Callable[..., FloatArray], n_rows: int) -> None:
    features = make_features(n_rows, 2) if n_rows else np.empty((0, 7), dtype=np.float32)
    reference = make_reference(features, "cpu")
    graph = jaccard_graph(features, k1=20, k2=6, max_distance=max(LADDER_EPS), device="cpu")
    for rung, eps in zip(reference.ladder, LADDER_EPS, strict=True):
        np.testing.assert_array_equal(rung, dbscan(graph, eps=eps, min_samples=4))
    assert reference.graph.shape == (n_rows, n_rows)


@pytest.mark.parametrize("seed", range(3))
def test_objective_prefers_the_people_to_parts_and_unions_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(30), 12)
    features = rng.standard_normal((30, 48))[people] + 0.9 * rng.standard_normal((360, 48))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    reference = make_reference(features, "cpu")

    def objective(labels: IntArray) -> float:
        return objective_scores(labels, reference)["label_free"]

    halves, pairs = 2 * people + rng.integers(0, 2, 360), people // 2
    some = np.where(rng.random(360) < 0.3, -1, people)
    worse = [halves, pairs, some, people // 6, np.zeros(360, dtype=np.int64), np.arange(360), rng.permutation(people)]
    assert all(objective(people) > objective(labels) + 0.1 for labels in worse)
