"""Pool features of frames to features of tracklets (SCR, thesis §3.4.3: temporal partition pooling).

Features of frames are extracted as for any images and pooled afterwards, so that neither training nor extraction
depends on tracklets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy.sparse

from reid_ray.data.tracklets import Sampling, even_frames, random_frames
from reid_ray.types import FeatureRows, FloatArray, IntArray

BLOCK_ROWS = 4096
"""Frames whose features are in memory at once."""


@dataclass(frozen=True)
class TemporalPooling:
    """Settings for pooling the features of a tracklet.

    Table 3.5 compares TP (`n_parts=1`) with TPP (`n_parts=3`), and random sampling (R) with even sampling (E), each of
    15 frames.

    Attributes:
        n_parts: temporal parts, in the order of time; each is averaged, and the averages are concatenated. 1 is the
            average of all.
        n_frames: sampled frames, a multiple of `n_parts`, as many in each part; None takes every frame once, part p
            being ⌊p·n/P⌋ … ⌊(p+1)·n/P⌋ of n frames, and at least one.
        sampling: `even` or `random`.
        seed: of random sampling. A tracklet's frames depend on it and on the tracklet's number alone.
    """

    n_parts: int = 3
    n_frames: int | None = 15
    sampling: Sampling = "even"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_parts < 1 or (self.n_frames is not None and (self.n_frames < 1 or self.n_frames % self.n_parts)):
            raise ValueError(f"{self.n_frames} frames cannot be cut in {self.n_parts} equal parts")

    def parts(self, n_frames: int, tracklet: int) -> list[IntArray]:
        """The frames of each part of a tracklet, repeated ones repeated.

        Args:
            n_frames: frames that the tracklet has, ≥ 1.
            tracklet: its number.
        """
        if self.n_frames is None:
            bounds = [p * n_frames // self.n_parts for p in range(self.n_parts + 1)]
            return [np.arange(start, max(start + 1, stop)) for start, stop in pairwise(bounds)]
        if self.sampling == "even":
            frames = even_frames(n_frames, self.n_frames)
        else:
            frames = random_frames(n_frames, self.n_frames, np.random.default_rng((self.seed, tracklet)))
        return np.split(frames, self.n_parts)


def pool_tracklets(
    features: FeatureRows, tracklets: IntArray, pooling: TemporalPooling, *, order: IntArray | None = None
) -> FloatArray:
    """Features [K, n_parts·D] of tracklets from features [N, D] of their frames.

    The features are read once, in blocks of contiguous rows, and only blocks with sampled frames: memory is that of the
    result and of one block, however long a tracklet is. A tracklet of one frame has the feature of that frame, n_parts
    times. Nothing is normalised: TP of unit features is shorter than 1, TPP of unit features up to √n_parts long.

    Args:
        features: [N, D].
        tracklets: int64 [N], the tracklet of each row, 0 … K−1 without gaps, as `number_tracklets` gives them; the rows
            of a tracklet need not follow each other.
        pooling: settings.
        order: [N], sort key of frames within their tracklet, ties by row; None: by row.

    Raises:
        ValueError: tracklets that are not as many as the rows, or have gaps.
    """
    n_rows, dim = features.shape
    sizes = np.bincount(tracklets, minlength=1) if len(tracklets) else np.zeros(0, dtype=np.int64)
    if len(tracklets) != n_rows or not sizes.all():
        raise ValueError(f"{len(tracklets)} tracklet numbers for {n_rows} features; give each a number, without gaps")
    rows, cells, weights = _weights(tracklets, sizes, pooling, order)
    pooled = np.zeros((len(sizes) * pooling.n_parts, dim), dtype=np.float32)
    for start in range(0, n_rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n_rows)
        entries = slice(*np.searchsorted(rows, (start, stop)))
        if entries.start == entries.stop:
            continue
        met, cell = np.unique(cells[entries], return_inverse=True)
        averaging = scipy.sparse.csr_array(
            (weights[entries], (cell, rows[entries] - start)), shape=(len(met), stop - start)
        )
        pooled[met] += averaging @ features[start:stop]
    return pooled.reshape(len(sizes), pooling.n_parts * dim)


def _weights(
    tracklets: IntArray, sizes: IntArray, pooling: TemporalPooling, order: IntArray | None
) -> tuple[IntArray, IntArray, npt.NDArray[np.float32]]:
    """Row, cell (tracklet · n_parts + part) and weight of each sampled frame, by row; repetitions are merged."""
    in_time = np.lexsort((np.arange(len(tracklets)), tracklets) if order is None else (order, tracklets))
    first = np.cumsum(sizes) - sizes
    rows, cells, weights = [], [], []
    for tracklet, (start, size) in enumerate(zip(first.tolist(), sizes.tolist(), strict=True)):
        for part, frames in enumerate(pooling.parts(size, tracklet)):
            distinct, counts = np.unique(frames, return_counts=True)
            rows.append(in_time[start + distinct])
            cells.append(np.full(len(distinct), tracklet * pooling.n_parts + part))
            weights.append(counts / len(frames))
    if not rows:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    joined = np.concatenate(rows)
    by_row = np.argsort(joined, kind="stable")
    return joined[by_row], np.concatenate(cells)[by_row], np.concatenate(weights)[by_row].astype(np.float32)
