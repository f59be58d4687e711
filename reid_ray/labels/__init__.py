"""The pseudo-label engine: features → neighbours → Jaccard graph → clusters. Usable on its own."""

from reid_ray.labels.clustering import dbscan
from reid_ray.labels.jaccard import jaccard_graph
from reid_ray.labels.neighbours import Neighbours, nearest
from reid_ray.labels.quality import label_statistics, truth_scores
from reid_ray.labels.refresh import labels_from_truth, refresh

__all__ = [
    "Neighbours",
    "dbscan",
    "jaccard_graph",
    "label_statistics",
    "labels_from_truth",
    "nearest",
    "refresh",
    "truth_scores",
]
