"""Retrieval between visible and infrared images: the rules of SYSU-MM01 and RegDB, for one trial.

Wu et al., *RGB-Infrared Cross-Modality Person Re-Identification*, ICCV 2017 (SYSU-MM01); Nguyen et al., Sensors 2017
(RegDB), in the protocol of Ye et al., AAAI 2018. Whole protocols of ten trials are in `trials`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reid_ray.evaluation.arguments import Array, Ids
from reid_ray.evaluation.ranking import (
    ImageIds,
    QueryScores,
    Ranking,
    RankMetrics,
    compared,
    join_scores,
    mean_scores,
    rank_metrics,
    rankings,
    score_hits,
)
from reid_ray.types import IntArray

INFRARED_INDOORS = 3
SAME_ROOM = 2
"""SYSU-MM01's cameras 3 and 2 show the same room."""


def sysu_mm01(
    query: Array, gallery: Array, q_pids: Ids, g_pids: Ids, q_camids: Ids, g_camids: Ids, *, chunk: int = 256
) -> RankMetrics:
    """CMC, mAP and mINP of SYSU-MM01 for the gallery of one trial.

    * A query of camera 3 ignores *all* gallery images of camera 2, which shows the same room, regardless of the person.
      Nothing else is removed: query and gallery have no camera in common.
    * The CMC counts people, not images: the ranking is reduced to the first image of each person, and a query's rank is
      the position of its person. mAP (mean over hits of hits so far / rank) and mINP use the whole ranking.
    * Queries without a match are left out of all three and counted in `n_skipped`. In indoor search these are 1,595 of
      the 3,803.

    Similarities, ties and memory are as in `rank_metrics`, so L2-normalise the features. In the single-shot gallery a
    person has up to four images, so the image-level CMC is a different number.

    Args:
        query: [Q, D] features of infrared images.
        gallery: [G, D] features of the visible images sampled for one trial (`trials.sysu_galleries`).
        q_pids: [Q].
        g_pids: [G].
        q_camids: [Q], numbered as in the dataset: 3 and 6.
        g_camids: [G], numbered as in the dataset: 1, 2, 4, 5 (a table's cameras count from 0: add 1).
        chunk: queries ranked at a time.

    Raises:
        DataError: as `rank_metrics`.
    """
    q_ids, g_ids, blocks = compared(query, gallery, q_pids, g_pids, q_camids, g_camids, chunk)
    people, person_of_image = torch.unique(g_ids.pids, return_inverse=True)
    parts = []
    for ranking in rankings(q_ids, g_ids, blocks, _ignores_the_same_room):
        scores = score_hits(ranking.is_hit, "mean")
        parts.append(QueryScores(scores.ap, scores.inp, _person_ranks(ranking, person_of_image, len(people), scores)))
    return mean_scores(join_scores(parts))


def regdb(query: Array, gallery: Array, q_pids: Ids, g_pids: Ids, *, chunk: int = 256) -> RankMetrics:
    """CMC, mAP and mINP of RegDB in one direction: all images of the other modality are ranked, and none is removed.

    Plain image-level metrics; arguments and errors as `rank_metrics`.
    """
    q_camids, g_camids = np.zeros(len(q_pids), np.int64), np.ones(len(g_pids), np.int64)
    return rank_metrics(query, gallery, q_pids, g_pids, q_camids, g_camids, chunk=chunk)


def _ignores_the_same_room(query: ImageIds, gallery: ImageIds) -> Tensor:
    return (query.camids == INFRARED_INDOORS)[:, None] & (gallery.camids == SAME_ROOM)


def _person_ranks(ranking: Ranking, person_of_image: Tensor, n_people: int, scores: QueryScores) -> IntArray:
    """int64 [B]: rank of each query's person among people, from 1; 0 if the person is not in the ranking."""
    n_queries, n_images = ranking.order.shape
    # Images that the rule removes are behind all others, so behind the query's person too.
    position = torch.arange(n_images, device=ranking.order.device).expand(n_queries, -1)
    first_seen = torch.full((n_queries, n_people), n_images, device=position.device)
    first_seen = first_seen.scatter_reduce(1, person_of_image[ranking.order], position, "amin")
    own = torch.from_numpy(scores.first_hit).to(position.device)[:, None] - 1
    ranks: IntArray = ((first_seen < own).sum(dim=1) + 1).cpu().numpy()
    return np.where(scores.valid, ranks, 0)
