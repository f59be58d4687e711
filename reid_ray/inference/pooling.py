"""Items of a retrieval protocol: images, or tracklets pooled from the features of their frames."""

from __future__ import annotations

import numpy as np

from reid_ray.data.table import ImageTable
from reid_ray.data.temporal_pooling import TemporalPooling, pool_tracklets
from reid_ray.data.tracklets import number_tracklets, tracklet_table
from reid_ray.types import FeatureRows, FloatArray, IntArray

EVERY_FRAME = TemporalPooling(n_parts=1, n_frames=None)
"""The mean of all frames."""


def tracklet_features(features: FeatureRows, numbers: IntArray, pooling: TemporalPooling = EVERY_FRAME) -> FloatArray:
    """L2-normalised features of tracklets, float32 [K, n_parts·D].

    Args:
        features: [N, D] of frames, read in blocks: only one block is in memory.
        numbers: int64 [N], the tracklet of each row (`number_tracklets`).
        pooling: how frames become one feature.
    """
    pooled = pool_tracklets(features, numbers, pooling)
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    return np.asarray(pooled / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def pooled_items(
    features: FeatureRows, table: ImageTable, pooling: TemporalPooling | None
) -> tuple[FloatArray, ImageTable]:
    """Features and table of the items to compare.

    Args:
        features: [N, D] of the table's images.
        pooling: of tracklets; None keeps images.

    Returns:
        features [K, …] and a table with one row per item, with splits in the order of `table`.

    Raises:
        DataError: a tracklet whose images have different pids or cameras.
    """
    if pooling is None:
        return np.asarray(features[0 : len(table)]), table
    return tracklet_features(features, number_tracklets(table), pooling), tracklet_table(table)


def query_then_gallery(table: ImageTable) -> ImageTable:
    """The query rows of a table, followed by its gallery rows."""
    splits = np.array(table.arrow["split"].to_pylist())
    return table.take(np.concatenate([np.flatnonzero(splits == name) for name in ("query", "gallery")]))
