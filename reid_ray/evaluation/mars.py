"""MARS (Zheng et al., ECCV 2016): queries and gallery are tracklets, each with one feature."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reid_ray.data.table import ImageTable
from reid_ray.evaluation.arguments import Array, Ids
from reid_ray.evaluation.ranking import APForm, RankMetrics, rank_metrics
from reid_ray.evaluation.tables import has_valid_match, missing_part
from reid_ray.types import UNKNOWN

DISTRACTOR = 0
"""The pid of distractors: tracklets of people who are not in any query."""


def mars(
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
    """Tracklet-to-tracklet search with the cross-camera rule; mAP is the primary metric.

    A row is a tracklet, so pool features first (`reid_ray.data.temporal_pooling`). Gallery tracklets of the query's pid
    *and* camera are removed from its ranking, including the query itself: MARS's 1,980 queries are also in its gallery,
    where they are matches for queries by other cameras. Distractors (pid 0) stay and are never a match; a distractor
    query is skipped. Junk (pid −1, "00-1" on disk) is removed from every ranking; keeping it costs half a point to one
    point.

    Args:
        query: [Q, D] L2-normalised.
        gallery: [G, D] L2-normalised.
        q_pids: [Q].
        g_pids: [G].
        q_camids: [Q].
        g_camids: [G].
        ap, chunk: as in `rank_metrics`.

    Raises:
        DataError: as `rank_metrics`.
    """
    pids = q_pids.cpu().numpy() if isinstance(q_pids, Tensor) else np.asarray(q_pids)
    identified = np.where(pids == DISTRACTOR, UNKNOWN, pids)
    return rank_metrics(query, gallery, identified, g_pids, q_camids, g_camids, ap=ap, chunk=chunk)


def mars_evaluable(table: ImageTable) -> str | None:
    """None if the tracklets of an image table can be evaluated, otherwise a one-line reason."""
    reason = missing_part(table)
    if reason is not None:
        return reason
    if "tracklet" not in table.arrow.column_names:
        return (
            f"{table.name} cannot be evaluated by tracklets: it has no column 'tracklet'; data.tracklets=true makes "
            f"them for the layouts market1501 and folder."
        )
    query, gallery = table.split("query"), table.split("gallery")
    if not has_valid_match(query.where(query.pids != DISTRACTOR), gallery):
        return f"{table.name} cannot be evaluated: the gallery has no tracklet of a query's person by another camera."
    return None
