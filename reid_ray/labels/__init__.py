"""The pseudo-label engine: features → neighbours → Jaccard graph → clusters. Usable without the rest of the package."""

from reid_ray.labels.clustering import dbscan
from reid_ray.labels.encoding import JaccardParams, encode, search
from reid_ray.labels.features import open_features
from reid_ray.labels.hdbscan import hdbscan
from reid_ray.labels.jaccard import graph_of_weights, jaccard_graph
from reid_ray.labels.kmeans import kmeans
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.neighbours import Neighbours, nearest, nearest_by_camera
from reid_ray.labels.objective import label_free_objective, reference_graphs
from reid_ray.labels.quality import ground_truth_scores, label_statistics
from reid_ray.labels.refresh import ClusteringResult, cluster_rows, labels_from_ground_truth, refresh
from reid_ray.labels.reliability import Reliable, reliable_labels
from reid_ray.labels.thresholds import eps_for_share

__all__ = [
    "ClusteringResult",
    "JaccardParams",
    "Neighbours",
    "Reliable",
    "cluster_rows",
    "dbscan",
    "encode",
    "eps_for_share",
    "graph_of_weights",
    "ground_truth_scores",
    "hdbscan",
    "jaccard_graph",
    "kmeans",
    "label_free_objective",
    "label_free_scores",
    "label_statistics",
    "labels_from_ground_truth",
    "nearest",
    "nearest_by_camera",
    "open_features",
    "reference_graphs",
    "refresh",
    "reliable_labels",
    "search",
]
