"""Losses as pure functions of the global batch: features, labels and cameras of all ranks, in the same order.

Losses do not communicate: the caller gathers features across ranks, so that the number of workers does not change a
loss. Similarities are computed in the features' own type, even where autocast is on.
"""

from reid_ray.losses.adversarial import R1_WEIGHT, GanLoss, discriminator_loss, generator_loss, r1_penalty
from reid_ray.losses.angular_margin import angular_margin_loss, margined_cosines
from reid_ray.losses.attributes import attribute_loss
from reid_ray.losses.camera_proxies import inter_camera_loss, intra_camera_loss, updated_proxies
from reid_ray.losses.consistency import soft_consistency_loss
from reid_ray.losses.elbo import ElboTerms, hvd_terms, negative_elbo, vnae_terms
from reid_ray.losses.gaussian import js_divergence, kl_divergence, kl_to_standard_normal, pairwise_js_divergence
from reid_ray.losses.hard_instance import hard_instance_loss
from reid_ray.losses.js_triplet import js_triplet_loss
from reid_ray.losses.memory import (
    ClusterUpdate,
    cluster_memory_loss,
    hybrid_memory_loss,
    memory_groups,
    update_instance_memory_,
    updated_cluster_memory,
    updated_instance_memory,
)
from reid_ray.losses.proxy import centroid_loss, cross_camera_loss
from reid_ray.losses.reconstruction import FeatureViews, feature_reconstruction_loss, image_reconstruction_loss
from reid_ray.losses.soft_targets import soft_cross_entropy
from reid_ray.losses.triplet import (
    HardPairs,
    hard_pairs,
    hard_pairs_of_distances,
    soft_triplet_loss,
    triplet_loss,
)
from reid_ray.losses.view_contrast import (
    ContrastDraws,
    ViewContrast,
    draw_contrast,
    most_negatives,
    original_contrast_loss,
    scaled_negatives,
    view_contrast_losses,
)

__all__ = [
    "R1_WEIGHT",
    "ClusterUpdate",
    "ContrastDraws",
    "ElboTerms",
    "FeatureViews",
    "GanLoss",
    "HardPairs",
    "ViewContrast",
    "angular_margin_loss",
    "attribute_loss",
    "centroid_loss",
    "cluster_memory_loss",
    "cross_camera_loss",
    "discriminator_loss",
    "draw_contrast",
    "feature_reconstruction_loss",
    "generator_loss",
    "hard_instance_loss",
    "hard_pairs",
    "hard_pairs_of_distances",
    "hvd_terms",
    "hybrid_memory_loss",
    "image_reconstruction_loss",
    "inter_camera_loss",
    "intra_camera_loss",
    "js_divergence",
    "js_triplet_loss",
    "kl_divergence",
    "kl_to_standard_normal",
    "margined_cosines",
    "memory_groups",
    "most_negatives",
    "negative_elbo",
    "original_contrast_loss",
    "pairwise_js_divergence",
    "r1_penalty",
    "scaled_negatives",
    "soft_consistency_loss",
    "soft_cross_entropy",
    "soft_triplet_loss",
    "triplet_loss",
    "update_instance_memory_",
    "updated_cluster_memory",
    "updated_instance_memory",
    "updated_proxies",
    "view_contrast_losses",
    "vnae_terms",
]
