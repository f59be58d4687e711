"""Losses of DG-VAE (Pu et al., ACM MM 2020): priors, cross-modality triplets, triplet swap reconstruction."""

from reid_ray.losses.dg_vae.cross_modal import (
    CrossModalTriplets,
    cross_modal_triplet_loss,
    draw_triplets,
    hardest_triplets,
    latent_identity_loss,
)
from reid_ray.losses.dg_vae.priors import ambiguity_loss, large_margin_loss, margin_reward, mixture_prior_loss
from reid_ray.losses.dg_vae.swap import (
    IDENTITY_SWAPS,
    RECONSTRUCTED_SWAPS,
    SWAPS,
    DgVaeWeights,
    Role,
    Swap,
    by_role,
    cycle_loss,
    decoded_identity_loss,
    swap_reconstruction_loss,
)

__all__ = [
    "IDENTITY_SWAPS",
    "RECONSTRUCTED_SWAPS",
    "SWAPS",
    "CrossModalTriplets",
    "DgVaeWeights",
    "Role",
    "Swap",
    "ambiguity_loss",
    "by_role",
    "cross_modal_triplet_loss",
    "cycle_loss",
    "decoded_identity_loss",
    "draw_triplets",
    "hardest_triplets",
    "large_margin_loss",
    "latent_identity_loss",
    "margin_reward",
    "mixture_prior_loss",
    "swap_reconstruction_loss",
]
