"""From neighbours to k-reciprocal weights V (Zhong et al., CVPR 2017), sparse.

Neighbours → k-reciprocal sets, expanded by half sets → weights that sum to 1 in each row → query expansion, the mean of
V over the nearest rows. Every function works on a range of rows, so that workers can share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError
from reid_ray.labels import graph_kernels
from reid_ray.labels.arguments import is_count
from reid_ray.labels.neighbours.exact import (
    IndexArray,
    Neighbours,
    join,
    nearest,
    nearest_by_camera,
    similarities_of_pairs,
)
from reid_ray.labels.neighbours.products import Centre
from reid_ray.types import FeatureRows, FloatArray, IntArray

Variant = Literal["spcl", "cvpr17", "camera"]

ROWS_PER_BLOCK = 512
"""Rows that a thread takes at a time, at least."""

MAX_BLOCKS = 256
"""Blocks in all, at most: each needs a few zeroed arrays of length N."""

LEAST_SCALE = 1e-5
"""d² that float32 similarities cannot tell from 0: the floor of what `cvpr17` divides by, for rows that are all one."""


@dataclass(frozen=True)
class JaccardParams:
    """What is encoded.

    Attributes:
        variant: `spcl`, `cvpr17` or `camera`.
        k1: neighbours of the k-reciprocal sets; for `camera` those of other cameras.
        k2: neighbours of the query expansion, self counted; 1 switches it off. For `camera` those of other cameras.
        k1_within, k2_within: for `camera`, those of the row's own camera; k2_within counts the row itself.
    """

    variant: Variant = "spcl"
    k1: int = 30
    k2: int = 6
    k1_within: int = 5
    k2_within: int = 2

    @classmethod
    def of(cls, config: LabelsConfig) -> JaccardParams:
        """The encoding that a configuration asks for."""
        return cls(config.variant, config.k1, config.k2, config.k1_within, config.k2_within)

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ConfigError(f"Unknown Jaccard variant '{self.variant}'; use {', '.join(get_args(Variant))}.")
        if not all(map(is_count, (self.k1, self.k2, self.k1_within, self.k2_within))):
            raise ConfigError(
                f"k1 and k2 count neighbours, so each is a whole number of at least 1; here k1={self.k1}, "
                f"k2={self.k2}, k1_within={self.k1_within}, k2_within={self.k2_within}."
            )

    @property
    def by_camera(self) -> bool:
        return self.variant == "camera"

    @property
    def k_full(self) -> int:
        """Neighbours tested for reciprocity, self counted (`spcl` and `cvpr17`)."""
        return self.k1 if self.variant == "spcl" else self.k1 + 1

    @property
    def k_half(self) -> int:
        """The same for half sets; `round` is to even, as in the published codes."""
        return round(self.k1 / 2) + 1

    @property
    def n_neighbours(self) -> int:
        """Neighbours to search for, self counted (`spcl` and `cvpr17`)."""
        return max(self.k_full, self.k_half, self.k2)


@dataclass(frozen=True)
class NeighbourLists:
    """The neighbours that a scheme works from.

    Attributes:
        main: of all cameras, or, by camera, those of the row's own; the row itself first.
        across: those of other cameras; None unless by camera.
    """

    main: Neighbours
    across: Neighbours | None = None

    def __len__(self) -> int:
        return len(self.main.indices)


def search(
    features: FeatureRows,
    scheme: JaccardParams,
    camids: IntArray | None = None,
    *,
    rows: range | None = None,
    centre: Centre | None = None,
    device: torch.device | str | None = None,
    memory_mb: int = 1024,
    on_rows: Callable[[int], None] | None = None,
) -> NeighbourLists:
    """The neighbours that `scheme` needs, of some rows or of all; arguments and errors as `neighbours.nearest`."""
    if not scheme.by_camera:
        least = scheme.variant == "cvpr17"
        return NeighbourLists(
            nearest(
                features,
                scheme.n_neighbours,
                rows=rows,
                least=least,
                centre=centre,
                device=device,
                memory_mb=memory_mb,
                on_rows=on_rows,
            )
        )
    if camids is None:
        raise ConfigError("The Jaccard variant 'camera' needs the camera of each row; give camids, or use 'spcl'.")
    within, across = nearest_by_camera(
        features,
        camids,
        max(scheme.k1_within + 1, scheme.k2_within),
        max(scheme.k1 + 1, scheme.k2),
        rows=rows,
        centre=centre,
        device=device,
        memory_mb=memory_mb,
        on_rows=on_rows,
    )
    return NeighbourLists(within, across)


def join_lists(parts: Sequence[NeighbourLists]) -> NeighbourLists:
    """The lists of all rows, from those of consecutive ranges."""
    across = [part.across for part in parts if part.across is not None]
    return NeighbourLists(join([part.main for part in parts]), join(across) if across else None)


def encode(features: FeatureRows, lists: NeighbourLists, scheme: JaccardParams) -> csr_array:
    """V, with query expansion: float32 [N, N], rows sum to 1, columns ascend."""
    weights = reciprocal_weights(features, lists, scheme)
    return expand_queries(weights, lists, scheme)


def reciprocal_weights(
    features: FeatureRows, lists: NeighbourLists, scheme: JaccardParams, rows: range | None = None
) -> csr_array:
    """V before query expansion, of some rows or of all: float32 [R, N].

    | variant | neighbours tested K, half H (self counted) | weight of neighbour j of i |
    |---|---|---|
    | `spcl` | k1, round(k1/2)+1 | exp(−(2 − 2·cos)) |
    | `cvpr17` | k1+1, round(k1/2)+1 | exp(−d²/max d² of the row), d² = 2 − 2·cos |
    | `camera` | k1_within+1 of its camera, k1+1 of others, no half sets | exp(−(2 − 2·cos)) |

    Args:
        lists: of all rows, whichever are encoded.
    """
    rows = range(len(lists)) if rows is None else rows
    sets = over_blocks(lambda first, last: _sets(lists, scheme, first, last), rows)
    indptr = make_indptr([counts for counts, _ in sets])
    columns = _joined([found for _, found in sets], np.int32)
    similarities = _similarities(features, lists, rows, indptr, columns)
    scale = _scale(lists.main, scheme)[rows.start : rows.stop]
    weights = np.empty(len(columns), dtype=np.float32)
    over_blocks(lambda a, b: graph_kernels.set_weights(similarities, scale, indptr, weights, a, b), range(len(rows)))
    return csr_array((weights, columns, indptr), (len(rows), len(lists)))


def expand_queries(
    weights: csr_array, lists: NeighbourLists, scheme: JaccardParams, rows: range | None = None
) -> csr_array:
    """Mean of V over the nearest rows of some rows, or of all; `weights` holds all rows."""
    rows = range(len(lists)) if rows is None else rows
    own = slice(rows.start, rows.stop)
    if lists.across is None:
        members = lists.main.indices[own, : scheme.k2]
    elif scheme.k2 == 1:
        members = lists.main.indices[own, :1]
    else:
        within, across = lists.main.indices[own, : scheme.k2_within], lists.across.indices[own, : scheme.k2]
        members = np.concatenate([within, across], axis=1)
    if members.shape[1] == 1:
        return weights if len(rows) == weights.shape[0] else weights[own]
    present = members >= 0
    counts = present.sum(axis=1)
    shares = np.repeat((1 / counts).astype(np.float32), counts)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    mean = csr_array((shares, members[present], indptr), (len(rows), weights.shape[0]))
    expanded = mean @ weights
    expanded.sort_indices()
    return expanded


def _sets(lists: NeighbourLists, scheme: JaccardParams, first: int, last: int) -> tuple[IntArray, IndexArray]:
    """Sizes and members of the sets of rows first … last−1."""
    indices = lists.main.indices
    if lists.across is not None:
        others = lists.across.indices
        k_within, k_across = min(scheme.k1_within + 1, indices.shape[1]), min(scheme.k1 + 1, others.shape[1])
        within: tuple[IntArray, IndexArray] = graph_kernels.joined_sets(
            indices, k_within, others, k_across, first, last
        )
        return within
    k_full, k_half = min(scheme.k_full, indices.shape[1]), min(scheme.k_half, indices.shape[1])
    expanded: tuple[IntArray, IndexArray] = graph_kernels.expanded_sets(indices, k_full, k_half, first, last)
    return expanded


def _similarities(
    features: FeatureRows, lists: NeighbourLists, rows: range, indptr: IntArray, columns: IndexArray
) -> FloatArray:
    """Similarities of the stored pairs: from the neighbour lists, where either row has the other; else computed."""
    similarities = np.full(len(columns), np.nan, dtype=np.float32)
    for part in (lists.main, lists.across):
        if part is not None:
            over_blocks(
                lambda a, b, p=part: graph_kernels.known_similarities(  # type: ignore[misc]
                    p.indices, p.similarities, rows.start, indptr, columns, similarities, a, b
                ),
                range(len(rows)),
            )
    missing = np.flatnonzero(np.isnan(similarities))
    if len(missing):
        owners = (rows.start + np.searchsorted(indptr, missing, side="right") - 1).astype(np.int32)
        found = over_blocks(
            lambda a, b: similarities_of_pairs(features, owners[a:b], columns[missing[a:b]]), range(len(missing))
        )
        similarities[missing] = np.concatenate(found)
    return similarities


def _scale(neighbours: Neighbours, scheme: JaccardParams) -> npt.NDArray[np.float64]:
    """float64 [N]: what the d² of each row are divided by."""
    if scheme.variant != "cvpr17":
        return np.ones(len(neighbours.indices))
    assert neighbours.least is not None, "search(…, least=True) for cvpr17"
    return np.maximum(2 - 2 * neighbours.least.astype(np.float64), LEAST_SCALE)


def over_blocks(function: Callable[[int, int], Any], rows: range) -> list[Any]:
    """`function(first, last)` for all blocks of rows, on threads, in order."""
    size = max(ROWS_PER_BLOCK, -(-len(rows) // MAX_BLOCKS))
    starts = range(rows.start, rows.stop, size)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(lambda first: function(first, min(first + size, rows.stop)), starts))


def make_indptr(counts: list[IntArray]) -> IntArray:
    """Where rows begin, from their sizes by block."""
    return np.concatenate([[0], np.cumsum(_joined(counts, np.int64))]).astype(np.int64)


def _joined(parts: list[Any], dtype: type) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
