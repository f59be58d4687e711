"""Tracklets, the ordered frames of one person by one camera: sampling of frames, and a table of tracklets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError
from reid_ray.types import UNKNOWN, IntArray

Sampling = Literal["even", "random"]
"""`even_frames` or `random_frames`: E and R in SCR."""


def even_frames(n_frames: int, n_samples: int) -> IntArray:
    """Frames ⌊(i + ½)·n/T⌋, i = 0 … T−1: the middles of T equal spans (SCR's sampling E).

    A tracklet of fewer than T frames repeats its frames; a single frame is repeated T times.

    Args:
        n_frames: n ≥ 1.
        n_samples: T ≥ 1.

    Returns:
        int64 [T], ascending.
    """
    _check_counts(n_frames, n_samples)
    return (2 * np.arange(n_samples) + 1) * n_frames // (2 * n_samples)


def random_frames(n_frames: int, n_samples: int, rng: np.random.Generator) -> IntArray:
    """T random frames in temporal order (SCR's sampling R).

    Frames are sampled without replacement if there are at least T; a shorter tracklet has each frame ⌊T/n⌋ times and T
    mod n of them once more. Temporal order keeps temporal parts meaningful: beginning, middle and end.

    Args:
        n_frames: n ≥ 1.
        n_samples: T ≥ 1.
        rng: advanced by the call.

    Returns:
        int64 [T], ascending.
    """
    _check_counts(n_frames, n_samples)
    every = np.tile(np.arange(n_frames), n_samples // n_frames)
    chosen = rng.choice(n_frames, n_samples % n_frames, replace=False)
    return np.sort(np.concatenate([every, chosen])).astype(np.int64)


def sample_frames(
    tracklets: Sequence[IntArray], items: IntArray, n_frames: int, rng: np.random.Generator, *, sampling: Sampling
) -> IntArray:
    """Frames of the sampled tracklets in temporal order: int64 [..., n_frames], row numbers.

    Args:
        tracklets: rows of each tracklet in temporal order (`tracklet_rows`).
        items: int64 [...], numbers of tracklets.
        n_frames: T ≥ 1.
        rng: advanced by random sampling, item by item.
        sampling: `even` or `random`.
    """
    drawn = []
    for rows in (tracklets[item] for item in items.ravel().tolist()):
        frames = even_frames(len(rows), n_frames) if sampling == "even" else random_frames(len(rows), n_frames, rng)
        drawn.append(rows[frames])
    return np.array(drawn, dtype=np.int64).reshape(*items.shape, n_frames)


def number_tracklets(table: ImageTable) -> IntArray:
    """The tracklet of each row, int64 [N], numbered 0 … K−1 by first appearance.

    The same number in two splits means two tracklets, so that a tracklet may be both query and gallery. An image
    without a tracklet counts as a tracklet of one frame.
    """
    if not len(table):
        return np.empty(0, dtype=np.int64)
    tracklets = table.tracklets
    names, named = np.unique(tracklets, return_inverse=True)
    alone = np.flatnonzero(tracklets == UNKNOWN)
    named[alone] = len(names) + np.arange(len(alone))
    codes = {split: code for code, split in enumerate(SPLITS)}
    splits = np.array([codes[split] for split in table.arrow["split"].to_pylist()])
    _, first, numbers = np.unique(splits * (len(names) + len(alone)) + named, return_index=True, return_inverse=True)
    by_appearance = np.empty(len(first), dtype=np.int64)
    by_appearance[np.argsort(first)] = np.arange(len(first))
    return by_appearance[numbers]


def tracklet_rows(numbers: IntArray) -> list[IntArray]:
    """The rows of each tracklet in ascending order, which is temporal order.

    Args:
        numbers: int64 [N], 0 … K−1 without gaps, as `number_tracklets` gives them.
    """
    sizes = np.bincount(numbers, minlength=0) if len(numbers) else np.zeros(0, dtype=np.int64)
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1]) if len(sizes) else []


def tracklet_table(table: ImageTable) -> ImageTable:
    """A table with a row per tracklet: that of its first image, with its path, pid, camid, split and other columns.

    Row k is tracklet k of `number_tracklets(table)`, so that features pooled by these numbers fit the table, and every
    protocol and report reads tracklets as if they were images.

    Raises:
        DataError: a tracklet whose images have different pids or cameras.
    """
    numbers = number_tracklets(table)
    _, first = np.unique(numbers, return_index=True)
    for column, values in (("pid", table.pids), ("camid", table.camids)):
        differs = np.flatnonzero(values != values[first][numbers])
        if len(differs):
            _refuse(table, column, values, row=int(differs[0]), first=int(first[numbers[differs[0]]]))
    return table.take(first)


def _refuse(table: ImageTable, column: str, values: IntArray, *, row: int, first: int) -> None:
    paths = table.paths
    raise DataError(
        f"{table.name}: tracklet {table.tracklets[row]} has images of {column} {values[first]} ({paths[first]}) and "
        f"{values[row]} ({paths[row]}); a tracklet is one person by one camera: give them tracklets of their own."
    )


def _check_counts(n_frames: int, n_samples: int) -> None:
    if n_frames < 1 or n_samples < 1:
        raise ValueError(f"{n_samples} samples of {n_frames} frames: there must be at least one of each")
