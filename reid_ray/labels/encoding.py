"""From neighbours to k-reciprocal weights V (Zhong et al., CVPR 2017), sparse.

Neighbours → k-reciprocal sets, expanded by half sets → weights that sum to 1 in each row → query expansion, the mean of
V over the nearest rows. Every function works on a range of rows, so workers can split the rows.
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
"""Minimum number of rows per thread task."""

MAX_BLOCKS = 256
"""Maximum number of blocks: each allocates a few zeroed arrays of length N."""

LEAST_SCALE = 1e-5
"""Floor of the divisor of `cvpr17`, for identical rows: the d² that float32 similarities cannot distinguish from 0."""


@dataclass(frozen=True)
class JaccardParams:
    """Parameters of the k-reciprocal encoding.

    Attributes:
        variant: `spcl`, `cvpr17` or `camera`.
        k1: neighbours of the k-reciprocal sets; for `camera` those from other cameras.
        k2: neighbours of the query expansion, including self; 1 disables it. For `camera` those from other cameras.
        k1_within, k2_within: for `camera`, those from the row's own camera; k2_within includes the row itself.
    """

    variant: Variant = "spcl"
    k1: int = 30
    k2: int = 6
    k1_within: int = 5
    k2_within: int = 2

    @classmethod
    def of(cls, config: LabelsConfig) -> JaccardParams:
        """The parameters that a configuration sets."""
        return cls(config.variant, config.k1, config.k2, config.k1_within, config.k2_within)

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ConfigError(f"Unknown Jaccard variant '{self.variant}'; use {', '.join(get_args(Variant))}.")
        if not all(map(is_count, (self.k1, self.k2, self.k1_within, self.k2_within))):
            raise ConfigError(
                f"k1 and k2 must be whole numbers of at least 1; got k1={self.k1}, "
                f"k2={self.k2}, k1_within={self.k1_within}, k2_within={self.k2_within}."
            )

    @property
    def by_camera(self) -> bool:
        return self.variant == "camera"

    @property
    def k_full(self) -> int:
        """Neighbours tested for reciprocity, including self (`spcl` and `cvpr17`)."""
        return self.k1 if self.variant == "spcl" else self.k1 + 1

    @property
    def k_half(self) -> int:
        """The same for half sets; `round` rounds half to even, as in the published code."""
        return round(self.k1 / 2) + 1

    @property
    def n_neighbours(self) -> int:
        """Neighbours to search for, including self (`spcl` and `cvpr17`)."""
        return max(self.k_full, self.k_half, self.k2)


@dataclass(frozen=True)
class NeighbourLists:
    """The neighbours that an encoding is computed from.

    Attributes:
        main: from all cameras or, for `camera`, from the row's own camera; the row itself first.
        across: from other cameras; None unless `camera`.
    """

    main: Neighbours
    across: Neighbours | None = None

    def __len__(self) -> int:
        return len(self.main.indices)


def search(
    features: FeatureRows,
    params: JaccardParams,
    camids: IntArray | None = None,
    *,
    rows: range | None = None,
    centre: Centre | None = None,
    device: torch.device | str | None = None,
    memory_mb: int = 1024,
    on_rows: Callable[[int], None] | None = None,
) -> NeighbourLists:
    """The neighbours that `params` needs, of some rows or all; arguments and errors as in `neighbours.nearest`."""
    if not params.by_camera:
        least = params.variant == "cvpr17"
        return NeighbourLists(
            nearest(
                features,
                params.n_neighbours,
                rows=rows,
                least=least,
                centre=centre,
                device=device,
                memory_mb=memory_mb,
                on_rows=on_rows,
            )
        )
    if camids is None:
        raise ConfigError("The Jaccard variant 'camera' needs the camera of each row; pass camids, or use 'spcl'.")
    within, across = nearest_by_camera(
        features,
        camids,
        max(params.k1_within + 1, params.k2_within),
        max(params.k1 + 1, params.k2),
        rows=rows,
        centre=centre,
        device=device,
        memory_mb=memory_mb,
        on_rows=on_rows,
    )
    return NeighbourLists(within, across)


def join_lists(parts: Sequence[NeighbourLists]) -> NeighbourLists:
    """Concatenate the lists of consecutive ranges of rows."""
    across = [part.across for part in parts if part.across is not None]
    return NeighbourLists(join([part.main for part in parts]), join(across) if across else None)


def encode(features: FeatureRows, lists: NeighbourLists, params: JaccardParams) -> csr_array:
    """V, with query expansion: float32 [N, N], rows sum to 1, columns ascend."""
    weights = reciprocal_weights(features, lists, params)
    return expand_queries(weights, lists, params)


def reciprocal_weights(
    features: FeatureRows, lists: NeighbourLists, params: JaccardParams, rows: range | None = None
) -> csr_array:
    """V before query expansion, of some rows or all: float32 [R, N].

    | variant | neighbours tested K, half H (including self) | weight of neighbour j of i |
    |---|---|---|
    | `spcl` | k1, round(k1/2)+1 | exp(−(2 − 2·cos)) |
    | `cvpr17` | k1+1, round(k1/2)+1 | exp(−d²/max d² of the row), d² = 2 − 2·cos |
    | `camera` | k1_within+1 of its camera, k1+1 of others, no half sets | exp(−(2 − 2·cos)) |

    Args:
        lists: of all rows, even if only some are encoded.
    """
    rows = range(len(lists)) if rows is None else rows
    sets = over_blocks(lambda first, last: _sets(lists, params, first, last), rows)
    indptr = make_indptr([counts for counts, _ in sets])
    columns = _joined([found for _, found in sets], np.int32)
    similarities = _similarities(features, lists, rows, indptr, columns)
    scale = _scale(lists.main, params)[rows.start : rows.stop]
    weights = np.empty(len(columns), dtype=np.float32)
    over_blocks(lambda a, b: graph_kernels.set_weights(similarities, scale, indptr, weights, a, b), range(len(rows)))
    return csr_array((weights, columns, indptr), (len(rows), len(lists)))


def expand_queries(
    weights: csr_array, lists: NeighbourLists, params: JaccardParams, rows: range | None = None
) -> csr_array:
    """Mean of V over the nearest rows of some rows or all. `weights` holds all rows."""
    rows = range(len(lists)) if rows is None else rows
    own = slice(rows.start, rows.stop)
    if lists.across is None:
        members = lists.main.indices[own, : params.k2]
    elif params.k2 == 1:
        members = lists.main.indices[own, :1]
    else:
        within, across = lists.main.indices[own, : params.k2_within], lists.across.indices[own, : params.k2]
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


def _sets(lists: NeighbourLists, params: JaccardParams, first: int, last: int) -> tuple[IntArray, IndexArray]:
    """Sizes and members of the sets of rows first … last−1."""
    indices = lists.main.indices
    if lists.across is not None:
        others = lists.across.indices
        k_within, k_across = min(params.k1_within + 1, indices.shape[1]), min(params.k1 + 1, others.shape[1])
        within: tuple[IntArray, IndexArray] = graph_kernels.joined_sets(
            indices, k_within, others, k_across, first, last
        )
        return within
    k_full, k_half = min(params.k_full, indices.shape[1]), min(params.k_half, indices.shape[1])
    expanded: tuple[IntArray, IndexArray] = graph_kernels.expanded_sets(indices, k_full, k_half, first, last)
    return expanded


def _similarities(
    features: FeatureRows, lists: NeighbourLists, rows: range, indptr: IntArray, columns: IndexArray
) -> FloatArray:
    """Similarities of the stored pairs: from the neighbour lists if either row lists the other, else computed."""
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


def _scale(neighbours: Neighbours, params: JaccardParams) -> npt.NDArray[np.float64]:
    """float64 [N]: divisor of d² of each row."""
    if params.variant != "cvpr17":
        return np.ones(len(neighbours.indices))
    assert neighbours.least is not None, "search(…, least=True) for cvpr17"
    return np.maximum(2 - 2 * neighbours.least.astype(np.float64), LEAST_SCALE)


def over_blocks(function: Callable[[int, int], Any], rows: range) -> list[Any]:
    """Results of `function(first, last)` for all blocks of rows, computed on threads, in order."""
    size = max(ROWS_PER_BLOCK, -(-len(rows) // MAX_BLOCKS))
    starts = range(rows.start, rows.stop, size)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(lambda first: function(first, min(first + size, rows.stop)), starts))


def make_indptr(counts: list[IntArray]) -> IntArray:
    """CSR row pointers from the row sizes of each block."""
    return np.concatenate([[0], np.cumsum(_joined(counts, np.int64))]).astype(np.int64)


def _joined(parts: list[Any], dtype: type) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
