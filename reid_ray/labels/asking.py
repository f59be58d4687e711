"""Which pairs of images to show to a person, so that an answer corrects as many labels as possible.

A question compares the most typical images (medoids) of two groups of rows:

* **merge**: two clusters near each other, or a cluster and an outlier. If they are the same, |A|·|B| pairs of images
  are missing from the labels.
* **split**: the two halves of a cluster, around its medoid and a second one that represents as much as possible of what
  the first does not. If they are different, |A|·|B| pairs of images are wrong.

How likely the halves or clusters are the same is estimated by p = closeness between them / closeness within them (the
lower of the two), at most 1; closeness is 1 − distance, 0 for absent pairs, averaged over pairs. A question is worth
the expected number of pairs that its answer corrects: p·|A|·|B| to merge, (1 − p)·|A|·|B| to split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reid_ray.labels.clustering import row_of_entry
from reid_ray.labels.constraints import Constraints
from reid_ray.types import OUTLIER, IntArray

Doubles = npt.NDArray[np.float64]

ASKED_DISTANCE = 0.9
"""Cutoff of the graph for questions: clusters that should be one are farther apart than eps."""

N_QUESTIONS = 200
"""Questions of a gallery."""


class Question(NamedTuple):
    """Are these two images of one person?

    Attributes:
        row, other: rows of the images.
        kind: what the answer "same" does to the labels (`merge`), or "different" (`split`).
        worth: expected number of pairs of images whose labels the answer corrects.
        probability: estimate that the images are the same, 0 … 1.
    """

    row: int
    other: int
    kind: Literal["merge", "split"]
    worth: float
    probability: float


def questions(graph: csr_array, labels: IntArray, n: int, constraints: Constraints | None = None) -> list[Question]:
    """The n questions that are worth most, most valuable first; fewer if there are not as many.

    A cluster is in a second question only after every other cluster has had its turn, because the answer to the first
    may change it. Questions that the constraints answer are not asked.

    Args:
        graph: float32 [N, N], as `dbscan` takes it, with pairs up to `ASKED_DISTANCE`.
        labels: int64 [N], clusters that obey the constraints.
    """
    constraints = constraints or Constraints()
    units = _units(labels, constraints)
    closeness = _closeness(graph)
    medoids = _medoids(closeness, units)
    found = [*_merges(closeness, units, medoids, constraints), *_splits(closeness, units, medoids, constraints)]
    return _in_turns(sorted(found, key=lambda question: (-question.worth, question[:2])), units, n)


def typical_rows(graph: csr_array, labels: IntArray) -> tuple[IntArray, list[Question]]:
    """The medoid of each cluster, and the question about its halves for each cluster that has two.

    Args:
        graph, labels: as in `questions`.

    Returns:
        int64 [n_clusters] rows, and the questions in the order of the clusters.
    """
    closeness = _closeness(graph)
    medoids = _medoids(closeness, labels)
    return medoids, list(_splits(closeness, labels, medoids, Constraints()))


def _closeness(graph: csr_array) -> csr_array:
    return csr_array((1 - graph.data.astype(np.float64), graph.indices, graph.indptr), graph.shape)


def _units(labels: IntArray, constraints: Constraints) -> IntArray:
    """int64 [N]: clusters, then one unit for each outlier; `OUTLIER` for junk."""
    units = labels.copy()
    single = labels == OUTLIER
    single[constraints.junk] = False
    units[single] = labels.max(initial=OUTLIER) + 1 + np.arange(single.sum())
    return units


def _medoids(closeness: csr_array, units: IntArray) -> IntArray:
    """The row of each unit with the largest total closeness to its unit; the lowest of ties."""
    rows = row_of_entry(closeness)
    inside = units[rows] == units[closeness.indices]
    totals = np.bincount(rows[inside], weights=closeness.data[inside], minlength=len(units))
    order = np.lexsort((np.arange(len(units)), -totals, units))
    order = order[units[order] != OUTLIER]
    medoids: IntArray = order[np.unique(units[order], return_index=True)[1]]
    return medoids


def _merges(closeness: csr_array, units: IntArray, medoids: IntArray, constraints: Constraints) -> Iterator[Question]:
    """Questions about every two units with a stored pair between them."""
    n_units, known = len(medoids), units != OUTLIER
    members = csr_array((np.ones(known.sum()), (np.flatnonzero(known), units[known])), (len(units), n_units))
    sums = (members.T @ closeness @ members).tocoo()
    sizes = np.bincount(units[known], minlength=n_units)
    within = np.full(n_units, np.inf)  # a single image: the other side decides
    diagonal = sums.row == sums.col
    total = np.zeros(n_units)
    total[sums.row[diagonal]] = sums.data[diagonal]
    several = sizes > 1
    within[several] = _mean(total[several] - sizes[several], sizes[several] * (sizes[several] - 1))
    apart = {tuple(sorted(pair)) for pair in units[constraints.different].tolist()}
    above = sums.row < sums.col
    first, second = sums.row[above], sums.col[above]
    n_pairs = sizes[first] * sizes[second]
    probability = _probability(sums.data[above] / n_pairs, np.minimum(within[first], within[second]))
    for a, b, count, chance in zip(
        first.tolist(), second.tolist(), n_pairs.tolist(), probability.tolist(), strict=True
    ):
        if (a, b) not in apart and chance > 0:
            yield Question(int(medoids[a]), int(medoids[b]), "merge", chance * count, chance)


def _splits(closeness: csr_array, units: IntArray, medoids: IntArray, constraints: Constraints) -> Iterator[Question]:
    """A question about the two halves of every cluster that has two."""
    n_rows = len(units)
    links = csr_array((np.ones(len(constraints.same)), tuple(constraints.same.T)), (n_rows, n_rows))
    same = connected_components(links, directed=False)[1]
    order = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[order], np.arange(len(medoids) + 1))
    for unit, medoid in enumerate(medoids.tolist()):
        rows = order[starts[unit] : starts[unit + 1]]
        if len(rows) < 2:
            continue
        block = closeness[rows][:, rows].tocsr()
        covered = block[np.flatnonzero(same[rows] == same[medoid])].max(axis=0).toarray().ravel()
        gains = np.bincount(
            row_of_entry(block), weights=np.maximum(block.data - covered[block.indices], 0), minlength=len(rows)
        )
        second = int(gains.argmax())
        if gains[second] <= 0:
            continue
        nearer = block[[second]].toarray().ravel() > covered
        halves = [np.flatnonzero(side) for side in (~nearer, nearer)]
        between = block[halves[0]][:, halves[1]].sum() / (len(halves[0]) * len(halves[1]))
        within = min(_closeness_within(block, half) for half in halves)
        chance = float(_probability(np.array([between]), np.array([within]))[0])
        if chance < 1:
            row, other = sorted((medoid, int(rows[second])))
            yield Question(row, other, "split", (1 - chance) * len(halves[0]) * len(halves[1]), chance)


def _closeness_within(block: csr_array, half: IntArray) -> float:
    """Mean closeness of the pairs of some rows; infinite for one row."""
    n = len(half)
    return float((block[half][:, half].sum() - n) / (n * (n - 1))) if n > 1 else np.inf


def _mean(total: Doubles, count: IntArray) -> Doubles:
    mean: Doubles = total / count
    return mean


def _probability(between: Doubles, within: Doubles) -> Doubles:
    """p of the module's description; with a single image on both sides the closeness itself."""
    reference = np.where(np.isfinite(within), np.maximum(within, np.finfo(np.float64).tiny), 1)
    return np.minimum(between / reference, 1)


def _in_turns(ordered: Iterable[Question], units: IntArray, n: int) -> list[Question]:
    """The first n questions; a unit's second one follows the first ones of all others."""
    turns: dict[int, int] = {}
    dated: list[tuple[int, int, Question]] = []
    for question in ordered:
        sides = {int(units[question.row]), int(units[question.other])}
        turn = max(turns.get(side, 0) for side in sides)
        turns |= dict.fromkeys(sides, turn + 1)
        dated.append((turn, len(dated), question))
    return [question for _, _, question in sorted(dated)[:n]]
