"""Numba kernels of the neighbour search: candidates from blocks of approximate similarities, and exact scores.

All release the GIL. Each row (or column) of a block belongs to one thread, and the final lists do not depend on the
order of the blocks.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHUNK = 64
"""Similarities compared with the threshold at once; few chunks contain one above it."""

ANY, SAME, OTHER = 0, 1, 2
"""Which pairs of rows are eligible, by their groups."""

FULL = np.int32(-1)
"""Count of a list that overflowed: more rows are within the bound than the list can hold."""


@numba.njit(cache=True, nogil=True)
def _shrink(values: Array, columns: Array, n: int, k: int, margin: np.float32) -> tuple[int, np.float32]:
    """Drop candidates that cannot be among the k best; return the number that stay and the new threshold."""
    threshold = np.partition(values[:n], n - k)[n - k] - margin
    kept = 0
    for at in range(n):
        if values[at] >= threshold:
            values[kept] = values[at]
            columns[kept] = columns[at]
            kept += 1
    return kept, threshold


@numba.njit(cache=True, nogil=True)
def _push(
    values: Array,
    columns: Array,
    counts: Array,
    thresholds: Array,
    row: int,
    k: int,
    margin: np.float32,
    value: np.float32,
    column: int,
) -> None:
    """Append a candidate to a row's list; shrink the list when it is full."""
    n = counts[row]
    if n == values.shape[1]:
        kept, threshold = _shrink(values[row], columns[row], n, k, margin)
        thresholds[row] = threshold
        if kept > values.shape[1] - values.shape[1] // 8:
            counts[row] = FULL
            thresholds[row] = np.inf
            return
        counts[row] = n = kept
        if value < threshold:
            return
    values[row, n] = value
    columns[row, n] = column
    counts[row] = n + 1


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "reassoc", "nsz"})
def scan_rows(
    product: Array,
    sign: np.float32,
    offsets: Array,
    rows: Array,
    first_list: int,
    first_column: int,
    groups: Array,
    relation: int,
    k: int,
    margins: Array,
    values: Array,
    columns: Array,
    counts: Array,
    thresholds: Array,
    start: int,
    stop: int,
) -> None:
    """Offer the columns of a block to the lists of its rows start … stop−1.

    Args:
        product: float32 [R, C]; product + `offsets` [C] is the similarity of `rows` [R] with rows `first_column` ….
        first_list: index of the list of `rows[0]`; the other lists follow.
        sign: 1 to find the largest, −1 to find the smallest (values are then stored negated).
        groups, relation: int64 [N] and the eligible pairs: `ANY`, of one group (`SAME`), or of two groups (`OTHER`).
    """
    n_columns = product.shape[1]
    for r in range(start, stop):
        row = rows[r]
        at = first_list + r
        if counts[at] == FULL:
            continue
        for begin in range(0, n_columns, CHUNK):
            end = min(begin + CHUNK, n_columns)
            best = np.float32(-np.inf)
            for c in range(begin, end):
                best = max(best, sign * (product[r, c] + offsets[c]))
            if best < thresholds[at]:
                continue
            for c in range(begin, end):
                value = sign * (product[r, c] + offsets[c])
                column = first_column + c
                if value < thresholds[at] or column == row:
                    continue
                if relation != ANY and (groups[column] == groups[row]) != (relation == SAME):
                    continue
                _push(values, columns, counts, thresholds, at, k, margins[at], value, column)


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "reassoc", "nsz"})
def scan_columns(
    product: Array,
    sign: np.float32,
    offsets: Array,
    rows: Array,
    first_list: int,
    first_column: int,
    groups: Array,
    relation: int,
    k: int,
    margins: Array,
    values: Array,
    columns: Array,
    counts: Array,
    thresholds: Array,
    start: int,
    stop: int,
) -> None:
    """The transposed `scan_rows`: offer the rows of a block to the lists of its columns start … stop−1.

    Here `offsets` is [R] and `first_list` is the list of the first column. Rows and columns must be disjoint.
    """
    passed = np.empty(CHUNK, dtype=np.uint8)
    for r in range(product.shape[0]):
        row = rows[r]
        offset = offsets[r]
        for begin in range(start, stop, CHUNK):
            end = min(begin + CHUNK, stop)
            any_passed = np.uint8(0)
            for c in range(begin, end):
                above = np.uint8(sign * (product[r, c] + offset) >= thresholds[first_list + c])
                passed[c - begin] = above
                any_passed |= above
            if not any_passed:
                continue
            for c in range(begin, end):
                if not passed[c - begin]:
                    continue
                column = first_column + c
                at = first_list + c
                value = sign * (product[r, c] + offset)
                if counts[at] == FULL:
                    continue
                if relation != ANY and (groups[column] == groups[row]) != (relation == SAME):
                    continue
                _push(values, columns, counts, thresholds, at, k, margins[at], value, row)


@numba.njit(cache=True, nogil=True)
def shrink_lists(k: int, margins: Array, values: Array, columns: Array, counts: Array, start: int, stop: int) -> None:
    """Drop candidates that cannot be among the k best from lists start … stop−1."""
    for at in range(start, stop):
        if counts[at] > k:
            counts[at], _ = _shrink(values[at], columns[at], counts[at], k, margins[at])


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def similarity(a: Array, b: Array) -> np.float32:
    """The exact similarity of two rows: their dot product in float64, rounded to float32.

    Symmetric, and independent of block, device and worker.
    """
    total = 0.0
    for d in range(len(a)):
        total += np.float64(a[d]) * np.float64(b[d])
    return np.float32(total)


@numba.njit(cache=True, nogil=True)
def score_lists(
    own: Array,
    others: Array,
    first_other: int,
    columns: Array,
    counts: Array,
    scores: Array,
    start: int,
    stop: int,
) -> None:
    """Exact similarities of rows start … stop−1 with the candidates in their lists that are in `others`.

    Args:
        own: float32 [R, D], the rows that own the lists.
        others: float32 [M, D], rows `first_other` … of the matrix.
        scores: float32, shaped like `columns`; written where the column is in `others`.
    """
    last = first_other + len(others)
    for at in range(start, stop):
        for n in range(counts[at]):
            column = columns[at, n]
            if first_other <= column < last:
                scores[at, n] = similarity(own[at], others[column - first_other])


@numba.njit(cache=True, nogil=True)
def select_best(
    k: int,
    columns: Array,
    counts: Array,
    scores: Array,
    indices: Array,
    similarities: Array,
    start: int,
    stop: int,
) -> None:
    """Write the k best of lists start … stop−1, by descending score, ties by row number."""
    for at in range(start, stop):
        n = counts[at]
        if n < 0:
            continue
        by_column = np.argsort(columns[at, :n])
        order = by_column[np.argsort(-scores[at, :n][by_column], kind="mergesort")]
        for rank in range(min(k, n)):
            indices[at, rank] = columns[at, order[rank]]
            similarities[at, rank] = scores[at, order[rank]]


@numba.njit(cache=True, nogil=True)
def score_rows(own: Array, others: Array, scores: Array, start: int, stop: int) -> None:
    """scores[i, j] = the similarity of own[i] and others[j], for j = start … stop−1."""
    for j in range(start, stop):
        for i in range(len(own)):
            scores[i, j] = similarity(own[i], others[j])


@numba.njit(cache=True, nogil=True)
def pair_similarities(
    own: Array, first_own: int, others: Array, first_other: int, pair_rows: Array, pair_columns: Array
) -> Array:
    """float32 [P]: similarities of pairs of rows; `own` and `others` start at rows `first_own` and `first_other`."""
    scores = np.empty(len(pair_rows), dtype=np.float32)
    for at in range(len(pair_rows)):
        scores[at] = similarity(own[pair_rows[at] - first_own], others[pair_columns[at] - first_other])
    return scores


@numba.njit(cache=True, nogil=True)
def dots(matrix: Array, vector: Array, answers: Array, start: int, stop: int) -> None:
    """answers[r] = matrix[r] · vector, in float64, for r = start … stop−1."""
    for r in range(start, stop):
        answers[r] = similarity(matrix[r], vector)
