"""The neighbour search in a few lines of NumPy: the definition that the fast search has to match.

Quadratic in memory and time. The tests compare `exact` with it; nothing else uses it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reid_ray.types import FloatArray, IntArray

Lists = tuple[npt.NDArray[np.int32], FloatArray]
"""Indices int32 [N, k] and similarities float32 [N, k], best first; −1 and 0 where a row has fewer neighbours."""


def similarities(features: FloatArray) -> FloatArray:
    """float32 [N, N]: dot products in float64, rounded to float32."""
    wide = features.astype(np.float64)
    return np.asarray(wide @ wide.T, dtype=np.float32)


def nearest(features: FloatArray, k: int) -> Lists:
    """The k nearest rows of each row: the row itself, then by descending similarity, ties by row number."""
    return _best(features, np.ones((len(features), len(features)), dtype=bool), k)


def nearest_by_camera(features: FloatArray, camids: IntArray, k_within: int, k_across: int) -> tuple[Lists, Lists]:
    """The nearest rows of the same camera, the row itself first, and those of other cameras."""
    same = camids[:, None] == camids
    return _best(features, same, k_within), _best(features, ~same, k_across)


def least(features: FloatArray) -> FloatArray:
    """float32 [N]: the smallest similarity of each row to any row."""
    return np.asarray(similarities(features).min(axis=1, initial=np.inf))


def _best(features: FloatArray, allowed: npt.NDArray[np.bool_], k: int) -> Lists:
    similarity_mat = similarities(features)
    keys = np.where(np.eye(len(features), dtype=bool), np.inf, similarity_mat)
    keys = np.where(allowed, keys, -np.inf)
    order = np.argsort(-keys, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(allowed, order, axis=1)
    values = np.take_along_axis(similarity_mat, order, axis=1)
    return np.where(found, order, -1).astype(np.int32), np.where(found, values, 0).astype(np.float32)
