"""Evaluation: CMC, mAP and mINP, protocols, a hand-crafted baseline, and quality of generated images."""

from reid_ray.evaluation.attribute_accuracy import (
    AttributeAccuracy,
    accuracy_metrics,
    attribute_accuracies,
    mean_accuracy,
)
from reid_ray.evaluation.baselines import colour_histogram
from reid_ray.evaluation.cross_modal import regdb, sysu_mm01
from reid_ray.evaluation.frechet import frechet_distance
from reid_ray.evaluation.inception import inception_features, load_inception
from reid_ray.evaluation.mars import mars
from reid_ray.evaluation.protocols import (
    PROTOCOLS,
    EvaluationProtocol,
    camera_note,
    evaluable,
    evaluate_distances,
    evaluate_table,
    evaluation_note,
    protocol_of,
    why_not,
)
from reid_ray.evaluation.ranking import (
    QueryScores,
    RankMetrics,
    rank_metrics,
    rank_metrics_of_distances,
    ranked_by_distance,
    score_queries,
    top_matches,
)
from reid_ray.evaluation.structural_similarity import (
    dssim_lab,
    gaussian_ssim,
    identity_diversity,
    identity_pairs,
    ssim,
)
from reid_ray.evaluation.trials import (
    TrialMetrics,
    evaluate_regdb,
    evaluate_sysu_mm01,
    read_sysu_permutations,
    sysu_galleries,
)

__all__ = [
    "PROTOCOLS",
    "AttributeAccuracy",
    "EvaluationProtocol",
    "QueryScores",
    "RankMetrics",
    "TrialMetrics",
    "accuracy_metrics",
    "attribute_accuracies",
    "camera_note",
    "colour_histogram",
    "dssim_lab",
    "evaluable",
    "evaluate_distances",
    "evaluate_regdb",
    "evaluate_sysu_mm01",
    "evaluate_table",
    "evaluation_note",
    "frechet_distance",
    "gaussian_ssim",
    "identity_diversity",
    "identity_pairs",
    "inception_features",
    "load_inception",
    "mars",
    "mean_accuracy",
    "protocol_of",
    "rank_metrics",
    "rank_metrics_of_distances",
    "ranked_by_distance",
    "read_sysu_permutations",
    "regdb",
    "score_queries",
    "ssim",
    "sysu_galleries",
    "sysu_mm01",
    "top_matches",
    "why_not",
]
