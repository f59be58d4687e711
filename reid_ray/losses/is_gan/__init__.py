"""Losses of IS-GAN (Eom & Ham, NeurIPS 2019). The generator's domain loss is `reid_ray.losses.generator_loss`."""

from reid_ray.losses.is_gan.domain import discriminator_domain_loss
from reid_ray.losses.is_gan.objectives import (
    STAGE_WEIGHTS,
    IsGanWeights,
    class_loss,
    part_identity_loss,
    unrelated_kl_loss,
)
from reid_ray.losses.is_gan.shuffling import (
    draw_part_mask,
    draw_positives,
    identity_shuffling_loss,
    part_shuffling_loss,
    shuffle_parts,
)

__all__ = [
    "STAGE_WEIGHTS",
    "IsGanWeights",
    "class_loss",
    "discriminator_domain_loss",
    "draw_part_mask",
    "draw_positives",
    "identity_shuffling_loss",
    "part_identity_loss",
    "part_shuffling_loss",
    "shuffle_parts",
    "unrelated_kl_loss",
]
