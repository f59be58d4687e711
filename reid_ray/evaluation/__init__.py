"""Retrieval measured: CMC, mAP and mINP, what can be evaluated, and a hand-made baseline to beat."""

from reid_ray.evaluation.baselines import colour_histogram
from reid_ray.evaluation.protocols import camera_note, evaluable, evaluate_distances, evaluate_table
from reid_ray.evaluation.ranking import (
    QueryScores,
    RankMetrics,
    rank_metrics,
    rank_metrics_of_distances,
    score_queries,
    top_matches,
)

__all__ = [
    "QueryScores",
    "RankMetrics",
    "camera_note",
    "colour_histogram",
    "evaluable",
    "evaluate_distances",
    "evaluate_table",
    "rank_metrics",
    "rank_metrics_of_distances",
    "score_queries",
    "top_matches",
]
