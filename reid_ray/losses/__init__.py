"""Losses as pure functions of the global batch: features, labels and cameras of all ranks, in the same order.

None of them knows about processes: the caller gathers features across ranks, so that the number of workers
does not change a loss. Similarities are computed in the features' own type, even where autocast is on.
"""

from reid_ray.losses.camera_proxies import inter_camera_loss, intra_camera_loss, updated_proxies
from reid_ray.losses.consistency import soft_consistency_loss
from reid_ray.losses.hard_instance import hard_instance_loss
from reid_ray.losses.memory import (
    ClusterUpdate,
    cluster_memory_loss,
    hybrid_memory_loss,
    update_instance_memory_,
    updated_cluster_memory,
    updated_instance_memory,
)
from reid_ray.losses.proxy import centroid_loss, cross_camera_loss
from reid_ray.losses.soft_targets import soft_cross_entropy
from reid_ray.losses.triplet import HardPairs, hard_pairs, soft_triplet_loss, triplet_loss

__all__ = [
    "ClusterUpdate",
    "HardPairs",
    "centroid_loss",
    "cluster_memory_loss",
    "cross_camera_loss",
    "hard_instance_loss",
    "hard_pairs",
    "hybrid_memory_loss",
    "inter_camera_loss",
    "intra_camera_loss",
    "soft_consistency_loss",
    "soft_cross_entropy",
    "soft_triplet_loss",
    "triplet_loss",
    "update_instance_memory_",
    "updated_cluster_memory",
    "updated_instance_memory",
    "updated_proxies",
]
