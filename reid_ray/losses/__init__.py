"""Losses as pure functions of the global batch: features, labels and cameras of all ranks, in the same order.

None of them knows about processes: the caller gathers features across ranks, so that the number of workers
does not change a loss. Similarities are computed in the features' own type, even where autocast is on.
"""

from reid_ray.losses.consistency import soft_consistency_loss
from reid_ray.losses.hard_instance import hard_instance_loss
from reid_ray.losses.proxy import centroid_loss, cross_camera_loss

__all__ = ["centroid_loss", "cross_camera_loss", "hard_instance_loss", "soft_consistency_loss"]
