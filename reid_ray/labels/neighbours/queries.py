"""The nearest rows of a set for vectors from outside it, exactly, in one pass over the set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.features import READ_ROWS, blocks, read
from reid_ray.labels.neighbours.exact import Neighbours
from reid_ray.types import FeatureRows, FloatArray

QUERIES_AT_A_TIME = 256
"""Queries of a pass over the set: their products with a block are this times `READ_ROWS` numbers."""


def nearest_to(
    queries: FloatArray, features: FeatureRows, k: int, *, allowed: npt.NDArray[np.bool_] | None = None
) -> Neighbours:
    """The k rows of `features` with the largest dot product with each query, best first; ties by row number.

    The order is that of float64 dot products rounded to float32, as in `nearest`, so it does not depend on block sizes
    or the BLAS library: products in float32 with a bound on their error only exclude rows.

    Args:
        queries: float32 [Q, D], L2-normalised.
        features: float32 [N, D], L2-normalised, read in blocks.
        allowed: bool [N], the rows that may be found; default all.

    Returns:
        Lists of min(k, N) rows; padded with −1 and similarity −inf where fewer are allowed.

    Raises:
        ConfigError: k below 1.
        DataError: widths that differ, a query that is not finite.
    """
    check_queries(queries, features, k)
    k = min(k, features.shape[0])
    indices = np.full((len(queries), k), -1, dtype=np.int32)
    similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
    if not k:
        return Neighbours(indices, similarities)
    for part in blocks(len(queries), QUERIES_AT_A_TIME):
        _scan(np.ascontiguousarray(queries[part], np.float32), features, allowed, indices[part], similarities[part])
    return Neighbours(indices, similarities)


def check_queries(queries: FloatArray, features: FeatureRows, k: int) -> None:
    """Raise the errors of `nearest_to`."""
    if k < 1:
        raise ConfigError(f"k, the number of neighbours, must be at least 1; got k={k}.")
    if queries.ndim != 2 or queries.shape[1] != features.shape[1]:
        raise DataError(
            f"Queries {list(queries.shape)} do not fit features of size {features.shape[1]}; use the same model for "
            f"both."
        )
    if not np.isfinite(queries).all():
        raise DataError("A query's feature is not finite; the network has diverged, or the image is damaged.")


def _scan(
    queries: FloatArray,
    features: FeatureRows,
    allowed: npt.NDArray[np.bool_] | None,
    indices: npt.NDArray[np.int32],
    similarities: FloatArray,
) -> None:
    """Fill the lists of some queries by one pass over the features."""
    k = indices.shape[1]
    error = _product_error(queries)
    for rows in blocks(features.shape[0], READ_ROWS):
        block = read(features, rows)
        products = queries @ block.T
        if allowed is not None:
            products[:, ~allowed[rows]] = -np.inf
        for i, values in enumerate(products):
            level = similarities[i, -1]
            if len(values) > k:
                level = max(level, np.partition(values, -k)[-k] - error[i])
            inside = np.flatnonzero((values >= level - error[i]) & (values > -np.inf))
            if len(inside):
                exact = (block[inside].astype(np.float64) @ queries[i].astype(np.float64)).astype(np.float32)
                columns = np.concatenate([indices[i], (rows.start + inside).astype(np.int32)])
                scores = np.concatenate([similarities[i], exact])
                # An empty place of a list has similarity −inf, which no row has: it stays behind all rows.
                best = np.lexsort((columns, -scores))[:k]
                indices[i], similarities[i] = columns[best], scores[best]


def _product_error(queries: FloatArray) -> FloatArray:
    """float32 [Q]: bound on |float32 product − exact product|, in any order of summation, for rows of norm up to 1.01.

    γ_D·‖q‖·‖x‖ (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and the rounding of the exact one.
    """
    unit = np.finfo(np.float32).eps / 2
    bound = 1.01 * (queries.shape[1] + 2) * unit * np.linalg.norm(queries.astype(np.float64), axis=1) + 2 * unit
    return np.asarray(np.nextafter(bound.astype(np.float32), np.float32(np.inf)), dtype=np.float32)
