"""Search for people: an extensible index of crops by a model's features, with a threshold for the same person."""

from reid_ray.search.build import Addition, build_index
from reid_ray.search.choose import threshold_of_clusters, threshold_of_labels
from reid_ray.search.index import Index, Matches
from reid_ray.search.threshold import Threshold, choose_threshold

__all__ = [
    "Addition",
    "Index",
    "Matches",
    "Threshold",
    "build_index",
    "choose_threshold",
    "threshold_of_clusters",
    "threshold_of_labels",
]
