"""CMC, mAP and mINP of queries against a gallery, by the standard single-query protocol.

Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015 (CMC, mAP, junk and same-camera
removal); Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021 (mINP).

For each query, gallery images of the same person *and* the same camera are removed from the ranking, because
finding them is not re-identification; so are junk images (pid −1). Distractors (such as Market-1501's pid 0)
stay: they are never correct matches. The other images are ranked by similarity, or by given distances; ties by
gallery index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid_ray.errors import DataError
from reid_ray.evaluation.arguments import Array, Ids, feature_matrix, floats, whole_numbers
from reid_ray.types import UNKNOWN, IntArray

Float64Array: TypeAlias = npt.NDArray[np.float64]
APForm: TypeAlias = Literal["mean", "trapezoid"]

DistanceBlocks: TypeAlias = Iterable[tuple[slice, Array]]
"""Row ranges of the queries, in order and without gaps, each with distances [rows, G] to the gallery."""

MAX_RANK = 50
"""Length of the CMC curve, as in torchreid and fast-reid."""


@dataclass(frozen=True, eq=False)
class RankMetrics:
    """Retrieval metrics over all queries with a valid match. All rates are in 0 … 1.

    Attributes:
        mAP: mean average precision.
        cmc: float64 [50]; `cmc[k-1]` is the share of queries with a match among their first k. In a gallery
            of fewer than 50 images it stays at its last value.
        mINP: mean inverse negative penalty: n hits / rank of the last hit.
        n_queries: number of evaluated queries.
        n_skipped: number of skipped queries: unknown identity or no valid match.
    """

    mAP: float  # noqa: N815  (the field's name)
    cmc: Float64Array
    mINP: float  # noqa: N815
    n_queries: int
    n_skipped: int

    def rank(self, k: int) -> float:
        """The rank-k rate, k = 1 … 50."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"rank({k}): the CMC curve goes from 1 to {len(self.cmc)}")
        return float(self.cmc[k - 1])

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for logs: mAP, R1, R5, R10, mINP, n_queries, n_skipped."""
        return {
            "mAP": self.mAP,
            "R1": self.rank(1),
            "R5": self.rank(5),
            "R10": self.rank(10),
            "mINP": self.mINP,
            "n_queries": self.n_queries,
            "n_skipped": self.n_skipped,
        }


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores of each query; NaN (0 in `first_hit`) for skipped queries.

    Attributes:
        ap: float64 [Q], average precision.
        inp: float64 [Q], n hits / rank of the last hit.
        first_hit: int64 [Q], rank of the first hit, from 1.
    """

    ap: Float64Array
    inp: Float64Array
    first_hit: IntArray

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """bool [Q]: the query is evaluated."""
        return self.first_hit > 0


def rank_metrics(
    query: Array,
    gallery: Array,
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    *,
    ap: APForm = "mean",
    chunk: int = 256,
) -> RankMetrics:
    """CMC, mAP and mINP of the queries that have a valid match.

    The similarity is the dot product, so features should be L2-normalised; then the order is that of the cosine and of
    the Euclidean distance. It is computed in float32 (float64 if either side is float64), on the gallery's device:
    tensors on a GPU are ranked there. With another `chunk`, similarities that differ only by rounding may swap places,
    even those of equal features. No matrix is Q × G: memory is O(chunk × G).

    If the camera of the query or the gallery image is `UNKNOWN`, nothing is removed by the camera rule. A query image
    that is also in the gallery then finds itself: remove it from one of them.

    Args:
        query: [Q, D] retrieval features.
        gallery: [G, D] retrieval features.
        q_pids: [Q] identities; a query with `UNKNOWN` (−1) is skipped.
        g_pids: [G] identities; `UNKNOWN` (−1) is junk and is removed from every ranking.
        q_camids: [Q] cameras, `UNKNOWN` where not known.
        g_camids: [G] cameras, `UNKNOWN` where not known.
        ap: `mean`: mean over hits of (hits so far / rank), as torchreid and fast-reid compute it.
            `trapezoid`: the area under the precision-recall polygon, as Market-1501's original Matlab code
            computes it; a hit at rank r adds the mean of the precisions at r−1 and r (1 for the former when
            r = 1). The two are not comparable.
        chunk: queries ranked at a time.

    Raises:
        DataError: no queries, no gallery, incompatible shapes, NaN or infinite features, ids that are not whole
            numbers, or no query with a match.
    """
    return mean_scores(score_queries(query, gallery, q_pids, g_pids, q_camids, g_camids, ap=ap, chunk=chunk))


def rank_metrics_of_distances(
    blocks: DistanceBlocks, q_pids: Ids, g_pids: Ids, q_camids: Ids, g_camids: Ids, *, ap: APForm = "mean"
) -> RankMetrics:
    """`rank_metrics` of distances instead of features: the smallest comes first, equal ones by gallery index.

    Blocks are read one at a time and not modified, so the Q × G distances need not exist all at once.

    Raises:
        DataError: as `rank_metrics`; distances that are not finite.
        ValueError: blocks that are not the queries in order, or not as wide as the gallery.
    """
    _check_not_empty(len(q_pids), len(g_pids))
    query, gallery = _ids("query", len(q_pids), q_pids, q_camids), _ids("gallery", len(g_pids), g_pids, g_camids)
    return mean_scores(_scores(rankings(query, gallery, _negated(blocks, len(q_pids), len(g_pids))), ap))


def score_queries(
    query: Array,
    gallery: Array,
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    *,
    ap: APForm = "mean",
    chunk: int = 256,
) -> QueryScores:
    """AP, INP and first hit of each query; as `rank_metrics`, but queries need not have a match."""
    return _scores(rankings(*compared(query, gallery, q_pids, g_pids, q_camids, g_camids, chunk)), ap)


def top_matches(
    query: Array,
    gallery: Array,
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    k: int = 10,
    *,
    chunk: int = 256,
) -> IntArray:
    """The first k gallery images of each query's ranking, after the protocol's removals.

    Arguments and errors as `rank_metrics`. A query without a known pid or a match is ranked like any other.

    Returns:
        int64 [Q, k], rows of `gallery`; −1 where fewer than k are left.
    """
    return _first_matches(rankings(*compared(query, gallery, q_pids, g_pids, q_camids, g_camids, chunk)), k)


def ranked_by_distance(
    distances: Array, q_pids: Ids, g_pids: Ids, q_camids: Ids, g_camids: Ids, k: int = 10
) -> tuple[QueryScores, IntArray]:
    """`score_queries` and `top_matches` of distances [Q, G]: the smallest comes first, equal ones by gallery index.

    Raises:
        DataError: as `rank_metrics`; distances that are not finite.
    """
    query, gallery = _ids("query", len(q_pids), q_pids, q_camids), _ids("gallery", len(g_pids), g_pids, g_camids)
    blocks = _negated([(slice(0, len(q_pids)), distances)], len(q_pids), len(g_pids))
    ranked = list(rankings(query, gallery, blocks))
    return _scores(ranked, "mean"), _first_matches(ranked, k)


def _first_matches(ranked: Iterable[Ranking], k: int) -> IntArray:
    """int64 [Q, k]; −1 where a ranking is shorter."""
    if k < 1:
        raise ValueError(f"k={k}: at least one match is required")
    parts = []
    for ranking in ranked:
        order = ranking.order[:, :k]
        position = torch.arange(order.shape[1], device=order.device)
        parts.append(order.masked_fill(position >= ranking.n_kept[:, None], -1).cpu().numpy())
    matches = np.concatenate(parts)
    return np.pad(matches, ((0, 0), (0, k - matches.shape[1])), constant_values=-1)


@dataclass(frozen=True)
class ImageIds:
    """Validated query or gallery: pids [N] and camids [N], int64, on one device."""

    pids: Tensor
    camids: Tensor


RemovalRule: TypeAlias = Callable[[ImageIds, ImageIds], Tensor]
"""Queries and gallery → the images removed from each query's ranking, bool [B, G]."""


@dataclass(frozen=True)
class Ranking:
    """Rankings of B queries: `order` int64 [B, G] has the ranking in its first `n_kept` [B] places.

    `is_hit` bool [B, G] is aligned with `order`, and false beyond these places.
    """

    order: Tensor
    n_kept: Tensor
    is_hit: Tensor


def same_person_and_camera(query: ImageIds, gallery: ImageIds) -> Tensor:
    """The images that the single-query protocol removes: bool [B, G]."""
    same_camera = (query.camids[:, None] == gallery.camids) & (query.camids != UNKNOWN)[:, None]
    return (query.pids[:, None] == gallery.pids) & same_camera


def rankings(
    query: ImageIds,
    gallery: ImageIds,
    blocks: Iterable[tuple[slice, Tensor]],
    rule: RemovalRule = same_person_and_camera,
) -> Iterator[Ranking]:
    """Rank queries without junk by their similarities [B, G] to the gallery, which are overwritten."""
    is_junk = gallery.pids == UNKNOWN
    for rows, similarity_mat in blocks:
        block = ImageIds(query.pids[rows], query.camids[rows])
        same_pid = block.pids[:, None] == gallery.pids
        removed = rule(block, gallery) | is_junk
        similarity_mat.masked_fill_(removed, -torch.inf)
        order = torch.sort(similarity_mat, dim=1, descending=True, stable=True).indices
        yield Ranking(order, (~removed).sum(dim=1), (same_pid & ~removed).gather(1, order))


def _products(query: Tensor, gallery: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(query), chunk):
        rows = slice(start, start + chunk)
        # Under autocast (evaluation within a training loop) the product would be bf16 and change the ranking.
        with torch.autocast(query.device.type, enabled=False):
            yield rows, query[rows] @ gallery.T


def _negated(blocks: DistanceBlocks, n_queries: int, n_gallery: int) -> Iterator[tuple[slice, Tensor]]:
    """Distances as similarities, in float32 or float64, on the CPU."""
    n_seen = 0
    for rows, block in blocks:
        distances = floats(block).cpu()
        if rows.start != n_seen or distances.shape != (rows.stop - rows.start, n_gallery):
            raise ValueError(
                f"{rows} came with distances {list(distances.shape)}; the next query is {n_seen} of {n_queries}, and "
                f"the gallery has {n_gallery} images"
            )
        if not distances.isfinite().all():
            raise DataError(
                f"The distances of queries {rows.start} to {rows.stop - 1} hold NaN or infinity; check the features "
                f"they come from."
            )
        n_seen = rows.stop
        yield rows, -distances
    if n_seen != n_queries:
        raise ValueError(f"distances of {n_seen} queries, but ids of {n_queries}")


def _scores(ranked: Iterable[Ranking], ap: APForm) -> QueryScores:
    if ap not in ("mean", "trapezoid"):
        raise ValueError(f"ap={ap!r}: use 'mean' or 'trapezoid'")
    return join_scores([score_hits(ranking.is_hit, ap) for ranking in ranked])


def join_scores(parts: Sequence[QueryScores]) -> QueryScores:
    """Concatenate the scores of consecutive blocks of queries."""
    return QueryScores(
        ap=np.concatenate([part.ap for part in parts]),
        inp=np.concatenate([part.inp for part in parts]),
        first_hit=np.concatenate([part.first_hit for part in parts]),
    )


def mean_scores(scores: QueryScores) -> RankMetrics:
    """Means over the queries with a match; `DataError` if there are none."""
    valid = scores.valid
    n_queries = int(valid.sum())
    if n_queries == 0:
        raise DataError(
            f"None of the {len(valid)} queries has a match in the gallery: evaluation needs gallery "
            f"images of the queries' identities by other cameras; check pids and camids of both splits."
        )
    hits_per_rank = np.bincount(scores.first_hit[valid], minlength=MAX_RANK + 1)[1 : MAX_RANK + 1]
    return RankMetrics(
        mAP=float(scores.ap[valid].mean()),
        cmc=np.cumsum(hits_per_rank) / n_queries,
        mINP=float(scores.inp[valid].mean()),
        n_queries=n_queries,
        n_skipped=len(valid) - n_queries,
    )


def score_hits(is_hit: Tensor, ap: APForm) -> QueryScores:
    """Scores of B queries from their hits bool [B, G] in ranking order, from the list of hits alone."""
    query_of_hit, position = is_hit.nonzero().cpu().numpy().T
    rank = position + 1.0
    n_queries = is_hit.shape[0]
    n_hits = np.bincount(query_of_hit, minlength=n_queries)
    last = np.cumsum(n_hits) - 1
    first = last - n_hits + 1
    nth = np.arange(len(rank)) - first[query_of_hit] + 1.0

    gain = nth / rank
    if ap == "trapezoid":
        before = np.where(rank > 1, (nth - 1) / np.maximum(rank - 1, 1), 1.0)
        gain = (before + gain) / 2

    valid = n_hits > 0
    scores = QueryScores(np.full(n_queries, np.nan), np.full(n_queries, np.nan), np.zeros(n_queries, np.int64))
    scores.ap[valid] = np.bincount(query_of_hit, gain, minlength=n_queries)[valid] / n_hits[valid]
    scores.inp[valid] = n_hits[valid] / rank[last[valid]]
    scores.first_hit[valid] = rank[first[valid]]
    return scores


def compared(
    query: Array, gallery: Array, q_pids: Ids, g_pids: Ids, q_camids: Ids, g_camids: Ids, chunk: int
) -> tuple[ImageIds, ImageIds, Iterator[tuple[slice, Tensor]]]:
    """Arguments of `rankings`, from features, on the gallery's device."""
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: at least one query is ranked at a time")
    _check_not_empty(len(query), len(gallery))
    g_features, q_features = feature_matrix("gallery", gallery), feature_matrix("query", query)
    g_ids = _ids("gallery", len(gallery), g_pids, g_camids, g_features.device)
    q_ids = _ids("query", len(query), q_pids, q_camids, g_features.device)
    if q_features.shape[1] != g_features.shape[1]:
        raise DataError(
            f"Query features have {q_features.shape[1]} dimensions and gallery features {g_features.shape[1]}; extract "
            f"both with the same weights."
        )
    dtype = torch.promote_types(q_features.dtype, g_features.dtype)
    q_features, g_features = q_features.to(g_features.device, dtype), g_features.to(dtype)
    return q_ids, g_ids, _products(q_features, g_features, chunk)


def _check_not_empty(n_queries: int, n_gallery: int) -> None:
    if n_queries == 0:
        raise DataError("There are no query images to evaluate: the data needs a query split.")
    if n_gallery == 0:
        raise DataError("There are query images but no gallery to search: the data needs a gallery split.")


def _ids(name: str, n_images: int, pids: Ids, camids: Ids, device: torch.device | None = None) -> ImageIds:
    columns = []
    for column_name, ids in (("pids", pids), ("camids", camids)):
        column = whole_numbers(f"{name} {column_name}", ids).to(device or "cpu", torch.int64)
        if column.shape != (n_images,):
            raise DataError(
                f"The {name} has {n_images} images and {column_name} of shape {list(column.shape)}; pass one per image."
            )
        columns.append(column)
    return ImageIds(*columns)
