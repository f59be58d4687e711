"""DBSCAN that obeys constraints on pairs of rows, in blocks of rows.

The definition, of which `tests/labels/test_constrained.py` has a slow version:

1. **Junk** leaves the graph: it counts as no neighbour and gets no label. Core points are those of DBSCAN on the rest.
2. **Same** pairs form groups, and rows without such a pair are groups of one. A `same` pair does not make a row a core
   point.
3. **Core points**: the two groups of largest mean closeness are joined, again and again, unless a `different` pair has
   a row in each. Closeness is 1 − distance between core points, 0 beyond eps, averaged over the pairs of core points;
   of equal ones the groups with the lowest rows go first. It ends when no closeness above 0 is left to join. Without
   `different` pairs these are the connected components of DBSCAN. With them, a cluster comes apart by average linkage:
   every part stays with the side that it is closer to as a whole. (Single linkage, in order of the shortest edges, lets
   one bridge decide, and cuts small pieces off.)
4. **Border edges** (from groups without a core point to core points) are taken in order of (number of the core point's
   cluster in DBSCAN without constraints, distance, core row, row). Each adds its group, if it is not in a cluster yet,
   to that of the core point, unless a `different` pair forbids it.
5. Groups with a core point are clusters, numbered by the first one. After them, numbered by their first rows, come
   groups of two or more rows without a core point. Everything else is an outlier.

Without constraints the labels are those of `clustering.dbscan`. Only the edges of components that contain a `different`
pair leave the workers.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from reid_ray.labels.clustering import BoolArray, Forest, merge_forests, row_of_entry
from reid_ray.labels.constraints import Constraints
from reid_ray.labels.executor import Executor
from reid_ray.types import OUTLIER, FloatArray, IntArray

Rows = npt.NDArray[np.int32]


class Edges(NamedTuple):
    """Pairs of rows of a graph.

    Attributes:
        distances: float32 [E].
        rows, others: int32 [E].
    """

    distances: FloatArray
    rows: Rows
    others: Rows


def without_rows(graph_rows: csr_array, left_out: BoolArray, first_row: int) -> csr_array:
    """Rows of a graph in which the rows `left_out` (bool [N]) have no neighbours, not even themselves.

    Their distances become infinite; the stored pairs stay.
    """
    rows = row_of_entry(graph_rows) + first_row
    data = np.where(left_out[rows] | left_out[graph_rows.indices], np.float32(np.inf), graph_rows.data)
    return csr_array((data, graph_rows.indices, graph_rows.indptr), graph_rows.shape)


def edges_between(graph_rows: csr_array, chosen: BoolArray, eps: float, first_row: int) -> Edges:
    """Edges up to eps between chosen rows (bool [N]), each read in its lower row only."""
    rows = row_of_entry(graph_rows) + np.int32(first_row)
    kept = graph_rows.data <= np.float32(eps)
    kept &= graph_rows.indices > rows
    kept &= chosen[rows] & chosen[graph_rows.indices]
    return Edges(graph_rows.data[kept], rows[kept], graph_rows.indices[kept].astype(np.int32))


def edges_to_cores(
    graph_rows: csr_array, free: BoolArray, paired: BoolArray, core_labels: IntArray, eps: float, first_row: int
) -> Edges:
    """Edges up to eps from free rows to core points, in the order of step 4 within a row.

    Args:
        free: bool [N], rows that are in no cluster yet.
        paired: bool [N], rows that a constraint names. Of the other rows only the first edge is returned: nothing
            can forbid it.
        core_labels: int64 [N], labels of the core points by DBSCAN without constraints.
    """
    rows = row_of_entry(graph_rows) + np.int32(first_row)
    kept = np.flatnonzero(
        (graph_rows.data <= np.float32(eps)) & free[rows] & (core_labels[graph_rows.indices] != OUTLIER)
    )
    cores, distances, rows = graph_rows.indices[kept], graph_rows.data[kept], rows[kept]
    order = np.lexsort((cores, distances, core_labels[cores], rows))
    cores, distances, rows = cores[order], distances[order], rows[order]
    kept_rows = np.ones(len(rows), dtype=np.bool_)
    kept_rows[1:] = paired[rows[1:]] | (rows[1:] != rows[:-1])
    return Edges(distances[kept_rows], rows[kept_rows], cores[kept_rows].astype(np.int32))


class Groups:
    """A partition of rows that is only joined, and never across a `different` pair.

    Args:
        first: int64 [N], the lowest row of each row's group at the start.
        different: int64 [K, 2], pairs of rows of two groups.
    """

    def __init__(self, first: IntArray, different: IntArray) -> None:
        self._above: list[int] = first.tolist()
        self._apart: dict[int, set[int]] = {}
        for one, other in different.tolist():
            one, other = self.first(one), self.first(other)
            self._apart.setdefault(one, set()).add(other)
            self._apart.setdefault(other, set()).add(one)

    def first(self, row: int) -> int:
        """The lowest row of the group."""
        above = self._above
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    def join(self, one: int, other: int) -> bool:
        """Join the groups of two rows; False if a pair forbids it or they are one group."""
        low, high = sorted((self.first(one), self.first(other)))
        if low == high or high in self._apart.get(low, ()):
            return False
        self._above[high] = low
        for enemy in self._apart.pop(high, ()):
            self._apart[enemy].remove(high)
            self._apart[enemy].add(low)
            self._apart.setdefault(low, set()).add(enemy)
        return True

    def firsts(self) -> IntArray:
        """int64 [N]: the lowest row of each row's group."""
        return np.array([self.first(row) for row in range(len(self._above))], dtype=np.int64)


def link_by_average(groups: Groups, edges: Edges, counted: BoolArray) -> None:
    """Join groups in descending order of mean closeness, as far as `different` pairs allow.

    Args:
        edges: between counted rows, each once.
        counted: bool [N], rows whose pairs the mean is over.
    """
    near: dict[int, dict[int, int]] = {}
    for row, other, weight in zip(edges.rows.tolist(), edges.others.tolist(), _weights(edges), strict=True):
        one, two = groups.first(row), groups.first(other)
        if one != two:
            for here, there in ((one, two), (two, one)):
                sums = near.setdefault(here, {})
                sums[there] = sums.get(there, 0) + weight
    sizes = Counter(map(groups.first, np.flatnonzero(counted).tolist()))
    dates = dict.fromkeys(near, 0)

    def entry(one: int, other: int) -> tuple[float, int, int, int, int]:
        low, high = min(one, other), max(one, other)
        return -(near[low][high] / (sizes[low] * sizes[high])), low, high, dates[low], dates[high]

    heap = [entry(one, other) for one in near for other in near[one] if one < other]
    heapq.heapify(heap)
    while heap:
        _, low, high, low_date, high_date = heapq.heappop(heap)
        if (dates.get(low), dates.get(high)) != (low_date, high_date):
            continue
        own, gone = near[low], near.pop(high)
        del own[high], gone[low]
        if not groups.join(low, high):  # never: both only grow
            near[high] = gone
            continue
        del dates[high]
        dates[low] += 1
        sizes[low] += sizes.pop(high)
        for other, weight in gone.items():
            own[other] = near[other][low] = own.get(other, 0) + weight
            del near[other][high]
        for other in own:
            heapq.heappush(heap, entry(low, other))


def _weights(edges: Edges) -> list[int]:
    """Closeness in units of 2⁻³⁰: sums of whole numbers do not depend on their order."""
    weights: list[int] = np.rint((1 - edges.distances.astype(np.float64)) * 2**30).astype(np.int64).tolist()
    return weights


def constrained_labels(
    parts: Sequence[Any],
    core: BoolArray,
    forests: Sequence[Forest],
    constraints: Constraints,
    eps: float,
    rows: Sequence[range],
    workers: Executor,
) -> IntArray:
    """int64 [N]: labels by steps 2 to 5.

    Args:
        parts: handles to row blocks of the graph, after `without_rows`.
        core: bool [N], core points.
        forests: of each block (`clustering.local_forest`).
        rows: of each block.
    """
    core_labels = merge_forests(core, forests)
    same = [constraints.same.T.astype(np.int32)]
    everywhere = np.ones(len(core), dtype=np.bool_)
    by_same, joined = (_first_rows(everywhere, links) for links in (same, [*same, *forests]))
    ends = joined[constraints.different]
    contested = np.isin(joined, ends[ends[:, 0] == ends[:, 1]])
    groups = Groups(np.where(contested, by_same, joined), constraints.different)
    chosen = core & contested
    if chosen.any():
        link_by_average(groups, _gathered(workers, edges_between, parts, rows, chosen, eps), chosen)

    first = groups.firsts()
    has_core = np.zeros(len(core), dtype=np.bool_)
    has_core[first[core]] = True
    paired = np.zeros(len(core), dtype=np.bool_)
    paired[np.concatenate([constraints.same.ravel(), constraints.different.ravel()])] = True
    edges = _gathered(workers, edges_to_cores, parts, rows, ~has_core[first], paired, core_labels, eps)
    order = np.lexsort((edges.rows, edges.others, edges.distances, core_labels[edges.others]))
    for row, other in zip(edges.rows[order].tolist(), edges.others[order].tolist(), strict=True):
        if not has_core[groups.first(row)] and groups.join(row, other):
            has_core[groups.first(row)] = True
    return _numbered(groups.firsts(), core)


def _first_rows(members: BoolArray, links: Sequence[Forest]) -> IntArray:
    """int64 [N]: the lowest row that links connect each row to."""
    labels = merge_forests(members, links)
    return np.unique(labels, return_index=True)[1].astype(np.int64)[labels]


def _gathered(workers: Executor, function: Any, parts: Sequence[Any], rows: Sequence[range], *arguments: Any) -> Edges:
    """Edges of all blocks."""
    found = workers.get(
        [workers.run(function, part, *arguments, own.start) for part, own in zip(parts, rows, strict=True)]
    )
    return Edges(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _numbered(first: IntArray, core: BoolArray) -> IntArray:
    """Labels of step 5 from the lowest row of each row's group."""
    n_rows = len(first)
    key = np.arange(n_rows, 2 * n_rows)
    np.minimum.at(key, first[core], np.flatnonzero(core))
    clustered = (key[first] < n_rows) | (np.bincount(first, minlength=n_rows)[first] > 1)
    labels = np.full(n_rows, OUTLIER, dtype=np.int64)
    labels[clustered] = np.unique(key[first[clustered]], return_inverse=True)[1]
    return labels
