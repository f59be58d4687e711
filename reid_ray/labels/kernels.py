"""Numba kernels of the Jaccard graph, each over a block of rows.

They hold no interpreter lock, so blocks run on Python threads. A row is computed whole, by one thread, with sums taken in
ascending column order: nothing depends on the number of threads, and J(i, j) = J(j, i) to the last bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

EXPANSION_SHARE = 2.0 / 3.0
"""Share of a candidate's half set that must lie in the set it joins (Zhong et al., CVPR 2017, Eq. 4)."""

Array = npt.NDArray[Any]


@numba.njit(cache=True, nogil=True)
def _reciprocal(indices: Array, row: int, size: int) -> Array:
    """Neighbours j among the first `size` of `row` that have `row` among their own first `size`."""
    found = np.empty(size, dtype=np.int32)
    n = 0
    for j in indices[row, :size]:
        for back in indices[j, :size]:
            if back == row:
                found[n] = j
                n += 1
                break
    return found[:n]


@numba.njit(cache=True, nogil=True)
def expanded_sets(indices: Array, k_full: int, k_half: int, first: int, last: int) -> tuple[Array, Array]:
    """Expanded k-reciprocal sets of rows first … last−1.

    Args:
        indices: int32 [N, ≥ k_full], the row itself first.

    Returns:
        counts int64 [last − first] and the sets one after the other, int32, each ascending.
    """
    n_rows = len(indices)
    in_base = np.zeros(n_rows, dtype=np.uint8)
    in_set = np.zeros(n_rows, dtype=np.uint8)
    counts = np.empty(last - first, dtype=np.int64)
    columns = np.empty((last - first) * 2 * k_full + n_rows, dtype=np.int32)
    used = 0
    for row in range(first, last):
        if used + n_rows > len(columns):
            columns = np.concatenate((columns, np.empty(len(columns), dtype=np.int32)))
        start = used
        base = _reciprocal(indices, row, k_full)
        for j in base:
            in_base[j] = 1
            in_set[j] = 1
            columns[used] = j
            used += 1
        for candidate in base:
            half = _reciprocal(indices, candidate, k_half)
            common = 0
            for j in half:
                common += in_base[j]
            if common > EXPANSION_SHARE * len(half):
                for j in half:
                    if not in_set[j]:
                        in_set[j] = 1
                        columns[used] = j
                        used += 1
        for j in columns[start:used]:
            in_set[j] = 0
        for j in base:
            in_base[j] = 0
        columns[start:used].sort()
        counts[row - first] = used - start
    return counts, columns[:used].copy()


@numba.njit(cache=True, nogil=True)
def pair_similarities(features: Array, indptr: Array, columns: Array, first: int, last: int) -> Array:
    """float32: dot product of the row's and the column's feature, for each stored pair of rows first … last−1."""
    offset = indptr[first]
    values = np.empty(indptr[last] - offset, dtype=np.float32)
    for row in range(first, last):
        for at in range(indptr[row], indptr[row + 1]):
            values[at - offset] = np.dot(features[row], features[columns[at]])
    return values


@numba.njit(cache=True, nogil=True)
def jaccard_rows(
    indptr: Array,
    columns: Array,
    values: Array,
    t_indptr: Array,
    t_rows: Array,
    t_values: Array,
    max_distance: float,
    first: int,
    last: int,
) -> tuple[Array, Array, Array]:
    """Jaccard distances ≤ `max_distance` of rows first … last−1 to all rows: J = 1 − m/(2 − m), m = Σ_c min(V_ic, V_jc).

    Args:
        indptr, columns, values: V in CSR, columns ascending.
        t_indptr, t_rows, t_values: its transpose in CSR, rows ascending.

    Returns:
        counts int64 [last − first], columns int32 (ascending in each row) and distances float32.
    """
    n_rows = len(indptr) - 1
    sums = np.zeros(n_rows, dtype=np.float32)
    touched = np.empty(n_rows, dtype=np.int32)
    counts = np.empty(last - first, dtype=np.int64)
    kept_columns = np.empty(n_rows + 1024, dtype=np.int32)
    kept_values = np.empty(n_rows + 1024, dtype=np.float32)
    used = 0
    for row in range(first, last):
        n = 0
        for at in range(indptr[row], indptr[row + 1]):
            value = values[at]
            column = columns[at]
            for other in range(t_indptr[column], t_indptr[column + 1]):
                j = t_rows[other]
                if sums[j] == 0.0:
                    touched[n] = j
                    n += 1
                sums[j] += min(value, t_values[other])
        if used + n > len(kept_columns):
            kept_columns = np.concatenate((kept_columns, np.empty(len(kept_columns) + n, dtype=np.int32)))
            kept_values = np.concatenate((kept_values, np.empty(len(kept_values) + n, dtype=np.float32)))
        start = used
        for j in touched[:n]:
            shared = sums[j]
            distance = max(np.float32(0.0), np.float32(1.0) - shared / (np.float32(2.0) - shared))
            if j == row:
                distance = np.float32(0.0)
            if distance <= max_distance:
                kept_columns[used] = j
                used += 1
            else:
                sums[j] = 0.0
        kept_columns[start:used].sort()
        for at in range(start, used):
            j = kept_columns[at]
            shared = sums[j]
            sums[j] = 0.0
            distance = max(np.float32(0.0), np.float32(1.0) - shared / (np.float32(2.0) - shared))
            kept_values[at] = np.float32(0.0) if j == row else distance
        counts[row - first] = used - start
    return counts, kept_columns[:used].copy(), kept_values[:used].copy()
