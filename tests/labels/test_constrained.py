"""Clusters under constraints, against the definition by loops over sets of rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickling_executor import Elsewhere
from scipy.sparse import csr_array

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError
from reid_ray.labels.clustering import core_mask, dbscan, local_forest
from reid_ray.labels.constrained import Groups, constrained_labels, without_rows
from reid_ray.labels.constraints import Constraints
from reid_ray.labels.executor import SerialExecutor
from reid_ray.labels.refresh import cluster_rows, refresh
from reid_ray.types import Features, FloatArray, IntArray

pytestmark = pytest.mark.filterwarnings("error")

EPS = 0.5
Pairs = list[tuple[int, int]]


class Case(NamedTuple):
    distances: npt.NDArray[np.float32]
    same: Pairs
    different: Pairs
    junk: list[int]
    min_samples: int

    @property
    def constraints(self) -> Constraints:
        same, different = (np.array(pairs, dtype=np.int64).reshape(-1, 2) for pairs in (self.same, self.different))
        return Constraints(same, different, np.array(self.junk, dtype=np.int64))


def oracle(case: Case) -> list[int]:
    """The five steps, with a group as a set of rows."""
    distances, n_rows = case.distances, len(case.distances)
    near = distances <= np.float32(EPS)
    for row in case.junk:
        near[row, :] = near[:, row] = False
    core = [bool(near[row].sum() >= case.min_samples) for row in range(n_rows)]

    component = {}
    for row in range(n_rows):
        if core[row] and row not in component:
            number, pending = len(set(component.values())), [row]
            while pending:
                at = pending.pop()
                component[at] = number
                pending += [
                    other for other in range(n_rows) if near[at, other] and core[other] and other not in component
                ]

    group = [{row} for row in range(n_rows)]

    def join(one: int, other: int, *, forced: bool = False) -> bool:
        if group[one] is group[other]:
            return False
        sides = group[one], group[other]
        crossing = any(
            (a in sides[0] and b in sides[1]) or (a in sides[1] and b in sides[0]) for a, b in case.different
        )
        if crossing and not forced:
            return False
        union = sides[0] | sides[1]
        for row in union:
            group[row] = union
        return True

    def weight(distance: np.float32) -> int:
        return round((1 - float(distance)) * 2**30)

    for one, other in case.same:
        join(one, other, forced=True)
    while True:
        candidates = []
        for one in range(n_rows):
            for other in range(one + 1, n_rows):
                a, b = ([row for row in group[at] if core[row]] for at in (one, other))
                close = sum(weight(distances[i, j]) for i in a for j in b if near[i, j])
                if close and group[one] is not group[other] and (one, other) == (min(group[one]), min(group[other])):
                    candidates.append((-(close / (len(a) * len(b))), one, other))
        joined = next((pair for pair in sorted(candidates) if join(*pair[1:])), None)
        if joined is None:
            break
    borders = [
        (component[to], distances[row, to], to, row)
        for row in range(n_rows)
        for to in component
        if near[row, to] and not any(core[member] for member in group[row])
    ]
    for _, _, to, row in sorted(borders):
        if not any(core[member] for member in group[row]):
            join(row, to)

    dense = {
        min(row for row in members if core[row]): members for members in group if any(core[row] for row in members)
    }
    others = {min(members): members for members in group if len(members) > 1 and not any(core[row] for row in members)}
    labels = [-1] * n_rows
    for label, members in enumerate([clusters[key] for clusters in (dense, others) for key in sorted(clusters)]):
        for row in members:
            labels[row] = label
    return labels


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small graphs with ties and duplicates; constraints that agree with a random truth, so they do not contradict."""
    n_rows = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = np.where(
        rng.random((n_rows, n_rows)) < draw(st.sampled_from([0.1, 0.25, 0.5])), rng.integers(0, 12, (n_rows,) * 2), 20
    )
    steps = np.triu(steps, 1)
    truth = rng.integers(0, draw(st.sampled_from([1, 2, 4])), n_rows)
    junk = np.flatnonzero(rng.random(n_rows) < draw(st.sampled_from([0, 0.15])))
    rows = np.setdiff1d(np.arange(n_rows), junk)
    pairs = [tuple(rng.choice(rows, 2)) for _ in range(draw(st.integers(0, 10)))] if len(rows) else []
    same = [(int(a), int(b)) for a, b in pairs if truth[a] == truth[b]]
    different = [(int(a), int(b)) for a, b in pairs if truth[a] != truth[b]]
    return Case(((steps + steps.T) / 20).astype(np.float32), same, different, junk.tolist(), draw(st.integers(1, 4)))


def labels_of(case: Case, n_blocks: int = 1) -> IntArray:
    rows, columns = np.nonzero(case.distances <= 0.8)
    graph = csr_array((case.distances[rows, columns], (rows, columns)), case.distances.shape)
    bounds = np.linspace(0, len(case.distances), n_blocks + 1).astype(int).tolist()
    blocks = [range(low, high) for low, high in pairwise(bounds)]
    junk = np.isin(np.arange(len(case.distances)), case.junk)
    parts = [without_rows(graph[own.start : own.stop], junk, own.start) for own in blocks]
    core = np.concatenate([core_mask(part, eps=EPS, min_samples=case.min_samples) for part in parts])
    forests = [local_forest(part, core, eps=EPS, first_row=own.start) for part, own in zip(parts, blocks, strict=True)]
    return constrained_labels(parts, core, forests, case.constraints, EPS, blocks, SerialExecutor())


@settings(max_examples=400)
@given(cases(), st.integers(1, 5))
def test_equals_the_definition(case: Case, n_blocks: int) -> None:
    labels = labels_of(case, n_blocks)
    assert labels.tolist() == oracle(case)
    assert all(labels[a] == labels[b] != -1 for a, b in case.same if a != b)
    assert all(labels[a] != labels[b] or labels[a] == -1 for a, b in case.different)
    assert (labels[case.junk] == -1).all()
    bare = case._replace(same=[], different=[], junk=[])
    rows, columns = np.nonzero(case.distances <= 0.8)
    graph = csr_array((case.distances[rows, columns], (rows, columns)), case.distances.shape)
    np.testing.assert_array_equal(labels_of(bare), dbscan(graph, eps=EPS, min_samples=case.min_samples))


def chain(distances: list[float]) -> npt.NDArray[np.float32]:
    """Rows on a line: only neighbours are near, at the given distances."""
    matrix = np.ones((len(distances) + 1,) * 2, dtype=np.float32)
    np.fill_diagonal(matrix, 0)
    for row, distance in enumerate(distances):
        matrix[row, row + 1] = matrix[row + 1, row] = distance
    return matrix


def test_a_cluster_comes_apart_where_it_is_thinnest() -> None:
    case = Case(chain([0.1, 0.2, 0.4, 0.1, 0.3]), [], [(0, 5)], [], 2)
    assert labels_of(case).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_border_point_stays_with_its_cluster_of_dbscan_even_if_another_is_nearer() -> None:
    """Row 4 is next to both clusters; a constraint on it with row 9, which is far from everything, changes nothing."""
    distances = np.ones((10, 10), dtype=np.float32)
    distances[:4, :4] = distances[5:9, 5:9] = 0.2
    distances[3, 4] = distances[4, 3] = 0.4
    distances[8, 4] = distances[4, 8] = 0.1
    np.fill_diagonal(distances, 0)
    apart = [[], [(4, 9)], [(4, 0)]]
    assert [labels_of(Case(distances, [], different, [], 4))[4] for different in apart] == [0, 0, 1]


def test_two_outliers_that_are_the_same_are_a_cluster() -> None:
    case = Case(chain([0.1, 0.1, 0.9, 0.9]), [(3, 4)], [], [], 3)
    assert labels_of(case).tolist() == [0, 0, 0, 1, 1]


def test_junk_is_no_neighbour() -> None:
    """Row 1 held the cluster together."""
    case = Case(chain([0.1, 0.1, 0.1, 0.1]), [], [], [1], 2)
    assert labels_of(case).tolist() == [-1, -1, 0, 0, 0]


def test_groups_remember_what_was_apart() -> None:
    groups = Groups(np.arange(5), np.array([[0, 1], [3, 4]]))
    assert groups.join(1, 2)
    assert groups.join(3, 0)
    assert not groups.join(2, 3)
    assert not groups.join(4, 0)
    assert groups.join(4, 2)
    assert groups.firsts().tolist() == [0, 1, 1, 0, 1]


SETTINGS = {
    "eps": LabelsConfig(k1=8, k2=3, eps=0.6, min_samples=3),
    "rho": LabelsConfig(variant="cvpr17", k1=8, k2=3, rho=0.02, min_samples=3),
    "singletons": LabelsConfig(k1=8, k2=3, eps=0.4, min_samples=4, outliers="singleton"),
    "reliability": LabelsConfig(k1=8, k2=3, eps=0.6, min_samples=3, reliability=0.02),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_any_number_of_workers_gives_the_same_labels(setting: str, make_features: Callable[..., FloatArray]) -> None:
    values, rng = make_features(90, 3), np.random.default_rng(5)
    truth, camids = rng.integers(0, 12, 90), rng.integers(3, size=90)
    pairs = rng.integers(3, 90, (60, 2))
    agree = truth[pairs[:, 0]] == truth[pairs[:, 1]]
    constraints = Constraints(pairs[agree], pairs[~agree], np.arange(3))
    features, config = Features(values, 0), SETTINGS[setting]
    found = [
        refresh(features, config, camids, version=0, device="cpu", workers=workers, constraints=constraints)
        for workers in (None, Elsewhere(3), Elsewhere(200))
    ]
    assert len({labels.digest() for labels in found}) == 1
    labels = found[0].labels
    one, other = constraints.different.T
    assert ((labels[one] != labels[other]) | (labels[one] == -1)).all()
    assert (labels[:3] == -1).all()
    assert found[0].statistics["n_different"] == (~agree).sum()


@pytest.mark.parametrize("clusterer", ["hdbscan", "kmeans"])
def test_other_clusterers_are_refused(clusterer: str, make_clustered: Callable[..., FloatArray]) -> None:
    with pytest.raises(ConfigError, match=r"Constraints need labels\.clusterer=dbscan"):
        cluster_rows(
            make_clustered(20, 0), LabelsConfig(clusterer=clusterer), np.zeros(20, np.int64), constraints=Constraints()
        )
