"""The search behind `neighbours.nearest`: candidate lists from approximate products, then exact scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reid_ray.labels.features import READ_ROWS, blocks, read
from reid_ray.labels.neighbours import kernels
from reid_ray.labels.neighbours.device import (
    block_similarities,
    count_candidates,
    exact_similarities,
    no_candidates,
    offer,
)
from reid_ray.labels.neighbours.products import Centre, Operand, prepare, product
from reid_ray.labels.threads import on_threads
from reid_ray.types import FeatureRows, FloatArray, IntArray

IndexArray = npt.NDArray[np.int32]

BLOCK_ROWS = 4096
"""Maximum number of rows of a block of similarities."""

BLOCK_COLUMNS = 1024
"""Columns of a block of similarities."""

ROWS_AGAINST_ALL = 256
"""Rows per batch that are scored against all rows because the bound excludes too few candidates."""

GATHERED_ELEMENTS = 2**27
"""Elements of feature rows gathered on a GPU at a time."""


@dataclass(frozen=True)
class ListSpec:
    """A list of neighbours to find for each row.

    Attributes:
        k: length of the list, without the row itself.
        relation: which rows are eligible: `kernels.ANY`, or `SAME` or `OTHER` for rows of the same or another group.
        largest: find the largest similarities, or the smallest.
    """

    k: int
    relation: int = kernels.ANY
    largest: bool = True


@dataclass(frozen=True)
class Search:
    """The features, the lists to find and the arithmetic; `run` searches for a range of rows.

    Attributes:
        features: [N, D].
        centre: of all rows.
        specs: the lists to find; all are filled from the same products.
        groups: int64 [N]; empty if no list uses groups.
        device: where products are computed.
        bf16: compute products in bfloat16.
    """

    features: FeatureRows
    centre: Centre
    specs: tuple[ListSpec, ...]
    groups: IntArray
    device: torch.device
    bf16: bool

    def rows_at_a_time(self, n_rows: int, memory_mb: int) -> int:
        """Number of rows whose lists fit into `memory_mb` together with the blocks."""
        dim = self.features.shape[1]
        blocks_mb = 4 * (2 * BLOCK_COLUMNS * dim + BLOCK_ROWS * (dim + BLOCK_COLUMNS)) / 2**20
        list_mb = 8 * sum(_capacity(spec.k) for spec in self.specs) / 2**20
        return int(min(max(BLOCK_ROWS, (memory_mb - blocks_mb) / list_mb), max(n_rows, 1)))

    def run(
        self, rows: range, *, symmetric: bool, on_rows: Callable[[int], None] | None = None
    ) -> list[tuple[IndexArray, FloatArray]]:
        """Indices and similarities [R, k] of each list, best first, padded with −1 and 0.

        Args:
            symmetric: `rows` is all rows, so each block updates the lists of its rows and of its columns.
            on_rows: called after each block with its number of rows.
        """
        lists = [_Lists(rows, spec) for spec in self.specs]
        for block in blocks(len(rows), BLOCK_ROWS):
            own = range(rows.start + block.start, rows.start + block.stop)
            if self.device.type == "cpu":
                self._scan(lists, own, symmetric=symmetric)
            else:
                self._scan_on_device(lists, own)
            if on_rows:
                on_rows(len(own))
        return [self._best(found) for found in lists]

    def _operand(self, rows: range) -> Operand:
        return prepare(read(self.features, slice(rows.start, rows.stop)), self.centre, bf16=self.bf16)

    def _scan(self, lists: list[_Lists], own: range, *, symmetric: bool) -> None:
        """Offer all rows to the lists of the rows `own`; if symmetric, also offer `own` to the lists of later rows."""
        operand = self._operand(own)
        n_rows, numbers = self.features.shape[0], np.arange(own.start, own.stop, dtype=np.int64)
        ahead = [range(own.start, own.stop), range(own.stop, n_rows)] if symmetric else [range(n_rows)]
        for others in (part[block] for part in ahead for block in blocks(len(part), BLOCK_COLUMNS)):
            if symmetric and others.stop <= own.stop:
                # A block on the diagonal; the other blocks of these rows are covered by symmetry.
                columns = operand.part(slice(others.start - own.start, others.stop - own.start))
                height, above = others.stop - own.start, others.start - own.start
            else:
                columns = self._operand(others)
                height = above = len(own)
            similarities = product(operand.matrix[:height], columns.matrix, bf16=self.bf16).numpy()
            for found in lists:
                lists_of_rows, lists_of_columns = found.positions(own), found.positions(others)
                found.set_margins(lists_of_rows, operand)
                head = (similarities, found.sign, columns.offsets, numbers, lists_of_rows.start, others.start)
                on_threads(kernels.scan_rows, height, *head, self.groups, *found.arrays)
                if symmetric and above:
                    found.set_margins(lists_of_columns, columns)
                    upper = similarities[:above]
                    head = (upper, found.sign, operand.offsets, numbers, lists_of_columns.start, others.start)
                    on_threads(kernels.scan_columns, len(others), *head, self.groups, *found.arrays)

    def _scan_on_device(self, lists: list[_Lists], own: range) -> None:
        """The same with `topk` on a GPU, for the lists of `own` only."""
        device = self.device
        operand = self._operand(own)
        matrix, bounds = operand.matrix.to(device), torch.from_numpy(operand.bounds).to(device)
        own_rows = torch.arange(own.start, own.stop, device=device)
        groups = torch.from_numpy(self.groups).to(device)
        best = [no_candidates(len(own), found.capacity, device) for found in lists]
        for block in blocks(self.features.shape[0], BLOCK_COLUMNS):
            columns = self._operand(range(block.start, block.stop))
            offsets = torch.from_numpy(columns.offsets).to(device)
            similarities = block_similarities(matrix, columns.matrix.to(device), offsets, bf16=self.bf16)
            rows = torch.arange(block.start, block.stop, device=device)
            best = [
                offer(so_far, similarities, own_rows, rows, groups, relation=found.relation, sign=float(found.sign))
                for so_far, found in zip(best, lists, strict=True)
            ]
        for found, candidates in zip(lists, best, strict=True):
            at = found.positions(own)
            found.set_margins(at, operand)
            found.counts[at] = count_candidates(candidates.values, bounds, found.k).cpu().numpy()
            found.values[at] = candidates.values.cpu().numpy()
            found.columns[at] = candidates.rows.int().cpu().numpy()

    def _best(self, found: _Lists) -> tuple[IndexArray, FloatArray]:
        """Score the candidates exactly and select the best k."""
        n = len(found.rows)
        indices = np.full((n, found.k), -1, dtype=np.int32)
        similarities = np.zeros((n, found.k), dtype=np.float32)
        on_threads(kernels.shrink_lists, n, found.k, found.margins, found.values, found.columns, found.counts)
        scores = found.values  # reuse the buffer: approximate values are no longer needed
        if self.device.type == "cpu":
            self._score(found, scores)
        else:
            self._score_on_device(found, scores)
        scores *= found.sign
        on_threads(kernels.select_best, n, found.k, found.columns, found.counts, scores, indices, similarities)
        overflowed = np.flatnonzero(found.counts == kernels.FULL)
        if self.bf16:
            parts = [
                self._search_in_float32(found, overflowed[batch], indices, similarities)
                for batch in blocks(len(overflowed), BLOCK_ROWS)
            ]
            overflowed = np.concatenate([*parts, overflowed[:0]])
        for batch in blocks(len(overflowed), ROWS_AGAINST_ALL):
            self._search_in_float32st_all(found, overflowed[batch], indices, similarities)
        similarities *= found.sign
        return indices, similarities

    def _score(self, found: _Lists, scores: FloatArray) -> None:
        first = found.rows.start
        for own in blocks(len(found.rows), BLOCK_ROWS):
            rows = read(self.features, slice(first + own.start, first + own.stop))
            self._score_rows(rows, found.columns[own], found.counts[own], scores[own])

    def _score_rows(self, rows: FloatArray, columns: IndexArray, counts: IndexArray, scores: FloatArray) -> None:
        """Exact similarities of rows [R, D] with those in their lists."""
        n_rows = self.features.shape[0]
        for block in blocks(n_rows, n_rows if isinstance(self.features, np.ndarray) else READ_ROWS):
            others = read(self.features, block)
            on_threads(kernels.score_lists, len(rows), rows, others, block.start, columns, counts, scores)

    def _score_on_device(self, found: _Lists, scores: FloatArray) -> None:
        n_rows, dim = self.features.shape
        first, width = found.rows.start, max(int(found.counts.max(initial=1)), 1)
        for own in blocks(len(found.rows), max(1, GATHERED_ELEMENTS // (width * dim))):
            rows = torch.tensor(read(self.features, slice(first + own.start, first + own.stop))).to(self.device)
            columns = torch.from_numpy(found.columns[own, :width].astype(np.int64)).to(self.device)
            for block in blocks(n_rows, BLOCK_ROWS):
                at, rank = torch.nonzero((columns >= block.start) & (columns < block.stop), as_tuple=True)
                others = torch.tensor(read(self.features, block)).to(self.device)
                exact = exact_similarities(rows, others, at, columns[at, rank] - block.start)
                scores[own.start + at.cpu().numpy(), rank.cpu().numpy()] = exact.cpu().numpy()

    def _search_in_float32(
        self, found: _Lists, at: IntArray, indices: IndexArray, similarities: FloatArray
    ) -> IntArray:
        """Repeat the search for some rows in float32, with a tighter bound; return the rows that still overflow."""
        n_rows = self.features.shape[0]
        numbers = found.rows.start + at
        own = self._gather(numbers)
        operand = prepare(own, self.centre, bf16=False)
        lists = _Lists(range(len(at)), found.spec)
        lists.set_margins(slice(0, len(at)), operand)
        for block in blocks(n_rows, BLOCK_COLUMNS):
            columns = prepare(read(self.features, block), self.centre, bf16=False)
            values = product(operand.matrix, columns.matrix, bf16=False).numpy()
            head = (values, lists.sign, columns.offsets, numbers, 0, block.start, self.groups)
            on_threads(kernels.scan_rows, len(at), *head, *lists.arrays)
        on_threads(kernels.shrink_lists, len(at), lists.k, lists.margins, lists.values, lists.columns, lists.counts)
        self._score_rows(own, lists.columns, lists.counts, lists.values)
        lists.values *= lists.sign
        best = np.full((len(at), lists.k), -1, dtype=np.int32), np.zeros((len(at), lists.k), dtype=np.float32)
        on_threads(kernels.select_best, len(at), lists.k, lists.columns, lists.counts, lists.values, *best)
        indices[at], similarities[at] = best
        return np.asarray(at[lists.counts == kernels.FULL])

    def _gather(self, numbers: IntArray) -> FloatArray:
        """float32 [len(numbers), D]: the rows with these numbers."""
        if isinstance(self.features, np.ndarray):
            return np.asarray(self.features[numbers], dtype=np.float32)
        return np.concatenate([read(self.features, slice(row, row + 1)) for row in numbers])

    def _search_in_float32st_all(
        self, found: _Lists, at: IntArray, indices: IndexArray, similarities: FloatArray
    ) -> None:
        """Score some rows exactly against all rows."""
        n_rows = self.features.shape[0]
        rows = found.rows.start + at
        own = self._gather(rows)
        scores = np.empty((len(at), n_rows), dtype=np.float32)
        for block in blocks(n_rows, READ_ROWS):
            others = read(self.features, block)
            on_threads(kernels.score_rows, len(others), own, others, scores[:, block])
        scores *= found.sign
        scores[np.arange(len(at)), rows] = -np.inf
        if found.relation != kernels.ANY:
            same = self.groups[rows][:, None] == self.groups
            scores[same != (found.relation == kernels.SAME)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, : found.k]
        best = np.take_along_axis(scores, order, axis=1)
        indices[at, : order.shape[1]] = np.where(np.isfinite(best), order, -1)
        similarities[at, : order.shape[1]] = np.where(np.isfinite(best), best, 0)


class _Lists:
    """Candidate lists of some rows with approximate similarities (negated to find the smallest)."""

    def __init__(self, rows: range, spec: ListSpec) -> None:
        n = len(rows)
        self.rows = rows
        self.spec = spec
        self.k = spec.k
        self.relation = spec.relation
        self.capacity = _capacity(spec.k)
        self.sign = np.float32(1 if spec.largest else -1)
        self.margins = np.zeros(n, dtype=np.float32)
        self.values = np.zeros((n, self.capacity), dtype=np.float32)
        self.columns = np.empty((n, self.capacity), dtype=np.int32)
        self.counts = np.zeros(n, dtype=np.int32)
        self.thresholds = np.full(n, -np.inf, dtype=np.float32)

    @property
    def arrays(self) -> tuple[int, int, FloatArray, FloatArray, IndexArray, IndexArray, FloatArray]:
        """Arguments in the order of the kernels."""
        return self.relation, self.k, self.margins, self.values, self.columns, self.counts, self.thresholds

    def positions(self, rows: range) -> slice:
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def set_margins(self, lists: slice, operand: Operand) -> None:
        """Set the margin below the k-th value within which candidates stay: twice the error bound."""
        self.margins[lists] = 2 * operand.bounds


def _capacity(k: int) -> int:
    """Buffer length of a list of k: also holds candidates that the bound cannot exclude, and slack between shrinks."""
    return max(4 * k, k + 96)
