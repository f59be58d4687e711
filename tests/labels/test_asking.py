"""Which pairs to ask about: the worth of each question against loops, and cases with an obvious answer."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reid_ray.labels.asking import Question, questions
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.constraints import Constraints

pytestmark = pytest.mark.filterwarnings("error")


def to_graph(distances: npt.NDArray[np.float32]) -> csr_array:
    rows, columns = np.nonzero(distances <= 0.9)
    return csr_array((distances[rows, columns], (rows, columns)), distances.shape)


def blocks(sizes: list[int], within: float, between: dict[tuple[int, int], float]) -> npt.NDArray[np.float32]:
    """Distances of groups of rows: `within` a group, `between` two of them, 1 elsewhere."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    distances = np.where(group[:, None] == group, within, 1.0)
    for (a, b), distance in between.items():
        distances[np.ix_(group == a, group == b)] = distances[np.ix_(group == b, group == a)] = distance
    np.fill_diagonal(distances, 0)
    return distances.astype(np.float32)


def pairs(*found: tuple[int, int]) -> npt.NDArray[np.int64]:
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def test_large_near_clusters_come_first() -> None:
    distances = blocks([5, 4, 3], 0.2, {(0, 1): 0.7, (1, 2): 0.8})
    labels = np.repeat([0, 1, 2], [5, 4, 3])
    first, second = questions(to_graph(distances), labels, 5)
    assert first[:3] == (0, 5, "merge")
    assert first.probability == pytest.approx(0.3 / 0.8)
    assert first.worth == pytest.approx(20 * 0.3 / 0.8)
    assert second[:3] == (5, 9, "merge")


def test_a_cluster_of_two_halves_is_asked_about() -> None:
    distances = blocks([4, 6], 0.1, {(0, 1): 0.5})
    (found,) = questions(to_graph(distances), np.zeros(10, dtype=np.int64), 5)
    assert found[:3] == (0, 4, "split")
    assert found.worth == pytest.approx((1 - 0.5 / 0.9) * 24)


def test_answered_questions_are_not_asked_again() -> None:
    graph, whole = to_graph(blocks([4, 6], 0.1, {(0, 1): 0.5})), np.zeros(10, dtype=np.int64)
    (other,) = questions(graph, whole, 5, Constraints(same=pairs((0, 4))))
    assert other[:2] != (0, 4)
    assert other.worth < 1
    halves = np.repeat([0, 1], [4, 6])
    assert questions(graph, halves, 5)[0][:3] == (0, 4, "merge")
    assert not questions(graph, halves, 5, Constraints(different=pairs((3, 9))))


def test_junk_is_never_asked_about() -> None:
    distances = blocks([4, 1], 0.2, {(0, 1): 0.6})
    labels = np.array([0, 0, 0, 0, -1])
    assert questions(to_graph(distances), labels, 5)[0][:3] == (0, 4, "merge")
    assert not questions(to_graph(distances), labels, 5, Constraints(junk=np.array([4])))


def oracle(distances: npt.NDArray[np.float32], labels: list[int]) -> set[Question]:
    """Questions about merging, by loops."""
    singles = [label if label != -1 else 100 + row for row, label in enumerate(labels)]
    units = [[row for row, unit in enumerate(singles) if unit == name] for name in sorted(set(singles))]
    close = np.where(distances <= 0.9, 1 - distances.astype(np.float64), 0)

    def within(rows: list[int]) -> float:
        values = [close[i, j] for i, j in combinations(rows, 2)]
        return float(np.mean(values)) if values else np.inf

    def medoid(rows: list[int]) -> int:
        return max(rows, key=lambda row: (round(sum(close[row, other] for other in rows), 9), -row))

    found = set()
    for a, b in combinations(units, 2):
        mean = float(np.mean([close[i, j] for i in a for j in b]))
        reference = min(within(a), within(b))
        chance = min(1, mean / (max(reference, 1e-300) if np.isfinite(reference) else 1))
        if mean:
            found.add(Question(medoid(a), medoid(b), "merge", round(chance * len(a) * len(b), 6), round(chance, 6)))
    return found


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_merges_equal_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.triu(np.where(rng.random((16, 16)) < 0.4, rng.integers(1, 18, (16, 16)), 20), 1)
    distances = ((steps + steps.T) / 20).astype(np.float32)
    labels = dbscan(to_graph(distances), eps=0.4, min_samples=3)
    found = {
        question._replace(worth=round(question.worth, 6), probability=round(question.probability, 6))
        for question in questions(to_graph(distances), labels, 1000)
        if question.kind == "merge"
    }
    assert found == oracle(distances, labels.tolist())
