"""Quality of features without identities: do nearest neighbours lead to another camera and back?

From an image, go to its nearest image of another camera, and from there to the nearest image of the first camera. With
features that tell people apart across cameras, the walk returns to the image or to one like it: its neighbours within a
camera, mostly further frames of the same walk, are found by any features. Features that describe cameras or backgrounds
send many images through the same few images of the other camera, and the walk ends elsewhere; so it does if features
of different people coincide.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reid_ray.labels.clustering import BoolArray
from reid_ray.labels.features import blocks, read_rows
from reid_ray.types import UNKNOWN, FeatureRows, FloatArray, IntArray

N_ALIKE = 5
"""Nearest images of its own camera at which a walk may end; with 3 to 12 the score ranks models about equally well."""

ROWS, SIMILARITIES = 2048, 2**25
"""Rows of a product, and its similarities with all images of a camera (128 MB), at most."""


def cycle_consistency(features: FeatureRows, camids: IntArray, *, n_alike: int = N_ALIKE) -> float | None:
    """Share of walks to each other camera and back that end at the image or at one of its nearest; 0 … 1.

    Images that are as near as the end of the walk count as nearer, so features that coincide do not score. Time is
    quadratic, as in a neighbour search; memory is linear, with at most `SIMILARITIES` of a product.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N]; images of unknown camera are left out.
        n_alike: images of the same camera that are near enough.

    Returns:
        None with fewer than two cameras.
    """
    rows = np.argsort(camids, kind="stable")
    rows = rows[camids[rows] != UNKNOWN]
    cameras, starts = np.unique(camids[rows], return_index=True)
    if len(cameras) < 2:
        return None
    values = read_rows(features, np.sort(rows))[np.argsort(np.argsort(rows))]
    own = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True)]
    nearest = _nearest_by_camera(values, own)
    n_consistent = 0
    for camera, members in enumerate(own):
        others = np.delete(np.arange(len(own)), camera)
        for at in _row_blocks(members, members):
            ends = nearest[nearest[at][:, others], camera]  # [rows, cameras − 1]
            n_consistent += int(_is_alike(values, at, members, ends, n_alike).sum())
    return n_consistent / (len(rows) * (len(own) - 1))


def _row_blocks(rows: slice, members: slice) -> Iterator[IntArray]:
    """The numbers of some rows, in blocks whose products with all members are within `SIMILARITIES`."""
    n_rows = max(1, min(ROWS, SIMILARITIES // (members.stop - members.start)))
    for block in blocks(rows.stop - rows.start, n_rows):
        yield np.arange(rows.start + block.start, rows.start + block.stop)


def _nearest_by_camera(values: FloatArray, own: list[slice]) -> IntArray:
    """int64 [N, C], the row of each camera that is nearest to each row of another; −1 for its own camera."""
    nearest = np.full((len(values), len(own)), -1, dtype=np.int64)
    for camera, members in enumerate(own):
        for others in (slice(0, members.start), slice(members.stop, len(values))):
            for at in _row_blocks(others, members):
                nearest[at, camera] = members.start + (values[at] @ values[members].T).argmax(axis=1)
    return nearest


def _is_alike(values: FloatArray, at: IntArray, members: slice, ends: IntArray, n_alike: int) -> BoolArray:
    """bool [R, C − 1], whether ends of walks are the rows `at` or among their nearest of the same camera."""
    similarity_mat = values[at] @ values[members].T
    own = at - members.start
    similarity_mat[np.arange(len(at)), own] = -np.inf
    reached = np.take_along_axis(similarity_mat, ends - members.start, axis=1)
    n_as_near = np.stack([(similarity_mat >= each[:, None]).sum(axis=1) for each in reached.T], axis=1)
    alike: BoolArray = (ends == at[:, None]) | (n_as_near <= n_alike)
    return alike
