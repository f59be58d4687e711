"""Numba kernels of the Jaccard graph, each over a block of rows.

They release the GIL, so blocks run on Python threads. One thread computes a whole row and sums in ascending column
order: the result does not depend on the number of threads, and J(i, j) = J(j, i) to the last bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@numba.njit(cache=True, nogil=True)
def _reciprocal(indices: Array, row: int, size: int) -> Array:
    """k-reciprocal neighbours: those j in the first `size` of `row` that have `row` in their own first `size`."""
    found = np.empty(size, dtype=np.int32)
    n = 0
    for j in indices[row, :size]:
        if j < 0:  # the row has fewer neighbours
            break
        for back in indices[j, :size]:
            if back == row:
                found[n] = j
                n += 1
                break
    return found[:n]


@numba.njit(cache=True, nogil=True)
def expanded_sets(indices: Array, k_full: int, k_half: int, first: int, last: int) -> tuple[Array, Array]:
    """Expanded k-reciprocal sets of rows first … last−1.

    A candidate's half set is added if more than two thirds of it are in the set (Zhong et al., CVPR 2017, Eq. 4).

    Args:
        indices: int32 [N, ≥ k_full], the row itself first.

    Returns:
        counts int64 [last − first] and the sets one after the other, int32, each ascending.
    """
    n_rows = len(indices)
    largest_set = min(n_rows, k_full * (1 + k_half))
    in_base = np.zeros(n_rows, dtype=np.uint8)
    in_set = np.zeros(n_rows, dtype=np.uint8)
    counts = np.empty(last - first, dtype=np.int64)
    columns = np.empty((last - first) * 2 * k_full + largest_set, dtype=np.int32)
    used = 0
    for row in range(first, last):
        if used + largest_set > len(columns):
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
            if 3 * common > 2 * len(half):
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
def joined_sets(
    within: Array, k_within: int, across: Array, k_across: int, first: int, last: int
) -> tuple[Array, Array]:
    """k-reciprocal sets of rows first … last−1 within their camera and across cameras, joined (CA-Jaccard, CVPR 2024).

    Args:
        within: int32 [N, ≥ k_within], neighbours of the same camera, the row itself first.
        across: int32 [N, ≥ k_across], neighbours of other cameras.

    Returns as `expanded_sets`. The two sets share no row.
    """
    counts = np.empty(last - first, dtype=np.int64)
    columns = np.empty((last - first) * (k_within + k_across), dtype=np.int32)
    used = 0
    for row in range(first, last):
        start = used
        for j in _reciprocal(within, row, k_within):
            columns[used] = j
            used += 1
        for j in _reciprocal(across, row, k_across):
            columns[used] = j
            used += 1
        columns[start:used].sort()
        counts[row - first] = used - start
    return counts, columns[:used].copy()


@numba.njit(cache=True, nogil=True)
def known_similarities(
    indices: Array,
    similarities: Array,
    first_row: int,
    indptr: Array,
    columns: Array,
    values_out: Array,
    start: int,
    stop: int,
) -> None:
    """Look up similarities of stored pairs in the neighbour lists, for rows start … stop−1 counted from `first_row`.

    Args:
        indices, similarities: int32 and float32 [N, k], the lists of all rows.
        indptr, columns: the pairs, in CSR.
        values_out: float32, one per pair; pairs in no list keep their value.
    """
    place = np.full(len(indices), -1, dtype=np.int32)
    for at in range(start, stop):
        row = first_row + at
        for n in range(indices.shape[1]):
            if indices[row, n] >= 0:
                place[indices[row, n]] = n
        for pair in range(indptr[at], indptr[at + 1]):
            column = columns[pair]
            if place[column] >= 0:
                values_out[pair] = similarities[row, place[column]]
                continue
            for n in range(indices.shape[1]):
                if indices[column, n] == row:
                    values_out[pair] = similarities[column, n]
                    break
        for n in range(indices.shape[1]):
            if indices[row, n] >= 0:
                place[indices[row, n]] = -1


@numba.njit(cache=True, nogil=True)
def set_weights(similarities: Array, scale: Array, indptr: Array, weights: Array, start: int, stop: int) -> None:
    """float32: exp(−d²/scale of the row), d² = 2 − 2·cos, of the stored pairs of rows start … stop−1; rows sum to 1.

    d² is clamped to [0, 4] against rounding, so every weight is positive; `jaccard_rows` relies on this.
    """
    for row in range(start, stop):
        total = 0.0
        for pair in range(indptr[row], indptr[row + 1]):
            squared = 2.0 - 2.0 * np.float64(similarities[pair])
            total += np.exp(-min(max(squared, 0.0), 4.0) / scale[row])
        for pair in range(indptr[row], indptr[row + 1]):
            squared = 2.0 - 2.0 * np.float64(similarities[pair])
            weights[pair] = np.float32(np.exp(-min(max(squared, 0.0), 4.0) / scale[row]) / total)


@numba.njit(cache=True, nogil=True)
def _distance(shared: np.float32) -> np.float32:
    """J = 1 − m/(2 − m), at least 0."""
    return max(np.float32(0.0), np.float32(1.0) - shared / (np.float32(2.0) - shared))


@numba.njit(cache=True, nogil=True)
def jaccard_rows(
    indptr: Array,
    columns: Array,
    values: Array,
    t_indptr: Array,
    t_rows: Array,
    t_values: Array,
    max_distance: np.float32,
    first: int,
    last: int,
) -> tuple[Array, Array, Array]:
    """Distances J ≤ `max_distance` of rows first … last−1 to all rows, from m = Σ_c min(V_ic, V_jc).

    Args:
        indptr, columns, values: V in CSR, columns ascending, values positive (a sum of 0 means "not met yet").
        t_indptr, t_rows, t_values: its transpose in CSR.

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
            if j == row or _distance(sums[j]) <= max_distance:
                kept_columns[used] = j
                used += 1
            else:
                sums[j] = 0.0
        kept_columns[start:used].sort()
        for at in range(start, used):
            j = kept_columns[at]
            kept_values[at] = np.float32(0.0) if j == row else _distance(sums[j])
            sums[j] = 0.0
        counts[row - first] = used - start
    return counts, kept_columns[:used].copy(), kept_values[:used].copy()


@numba.njit(cache=True, nogil=True)
def silhouettes(
    indptr: Array,
    columns: Array,
    distances: Array,
    labels: Array,
    sizes: Array,
    absent: float,
    values: Array,
    first: int,
    last: int,
) -> None:
    """Silhouettes of rows first … last−1; rows without one keep their value.

    Sums closeness (`absent` − distance, 0 for absent pairs) per cluster of the row's stored pairs.

    Args:
        indptr, columns, distances: float32 in CSR, diagonal stored; none is larger than `absent`.
        labels: int64 [N], without gaps, negative where a row is in no cluster.
        sizes: int64 [n_clusters].
        values: float64 [N], the output.
    """
    sums = np.zeros(len(sizes), dtype=np.float64)
    touched = np.empty(len(sizes), dtype=np.int64)
    for row in range(first, last):
        own = labels[row]
        if own < 0 or sizes[own] == 1:
            continue
        n = 0
        for at in range(indptr[row], indptr[row + 1]):
            cluster = labels[columns[at]]
            closeness = absent - np.float64(distances[at])
            if cluster < 0 or closeness == 0.0:
                continue
            if sums[cluster] == 0.0:
                touched[n] = cluster
                n += 1
            sums[cluster] += closeness
        a = absent - (sums[own] - absent) / (sizes[own] - 1)  # without the row itself, at distance 0
        sums[own] = 0.0
        nearest = 0.0
        for cluster in touched[:n]:
            nearest = max(nearest, sums[cluster] / sizes[cluster])
            sums[cluster] = 0.0
        b = absent - nearest
        if max(a, b) > 0.0:
            values[row] = (b - a) / max(a, b)


@numba.njit(cache=True, nogil=True)
def close_pairs(
    indptr: Array, columns: Array, distances: Array, labels: Array, limit: float, first: int, last: int
) -> tuple[int, int]:
    """Ordered pairs up to `limit` in rows first … last−1, without the diagonal: those in one cluster, and all.

    Args:
        indptr, columns, distances: float32 in CSR.
        labels: int64 [N], negative where a row is in no cluster.
    """
    joined = 0
    close = 0
    for row in range(first, last):
        own = labels[row]
        for at in range(indptr[row], indptr[row + 1]):
            column = columns[at]
            if column != row and distances[at] <= limit:
                close += 1
                if own >= 0 and labels[column] == own:
                    joined += 1
    return joined, close
