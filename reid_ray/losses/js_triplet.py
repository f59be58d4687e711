"""Batch-hard triplet loss on distributions, by a Jensen-Shannon divergence (HAVANA, Eq. 9)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.gaussian import (
    DimReduction,
    Divergence,
    Unit,
    js_divergence,
    pairwise_js_divergence,
)
from reid_ray.losses.triplet import hard_pairs_of_distances


def js_triplet_loss(
    mean: Tensor,
    std: Tensor,
    labels: Tensor,
    *,
    margin: float,
    divergence: Divergence = "gaussian_mean",
    reduction: DimReduction = "sum",
    unit: Unit = "nats",
    noise: Tensor | None = None,
) -> Tensor:
    """Eq. 9: mean over anchors of max(0, D_JS(z_a, z_p) − D_JS(z_a, z_n) + γ), z = N(mean, std²).

    p is the distribution of the anchor's identity with the largest divergence from it, n that of another identity with
    the smallest. The paper does not specify how triplets are formed; this is batch-hard mining as in `triplet_loss`.
    Pairs are mined without gradient (`pairwise_js_divergence`); only the 2·B mined divergences, of B², are computed
    with gradient.

    With std = 1 (the covariance constraint) the closed forms are ⅛·|mean_a − mean_b|². An identity with one image has
    D_JS(z_a, z_p) = 0. With one identity in the batch the loss is 0.

    Args:
        mean: [B, D].
        std: [B, D], > 0.
        labels: int64 [B].
        margin: γ, of divergences; 0.5 in the paper.
        divergence: the form of D_JS; see `reid_ray.losses.gaussian`.
        reduction: over dimensions, as in `js_divergence`.
        unit: `nats`, or `bits`, in which the paper states that D_JS is bounded by 1 (true for `monte_carlo` only).
        noise: [S, B, D], standard normal, for `monte_carlo`; the same whatever the number of workers.

    Raises:
        ValueError: `monte_carlo` without noise.
    """
    gaussians = (mean, std)
    divergences = pairwise_js_divergence(gaussians, divergence=divergence, reduction=reduction, unit=unit, noise=noise)
    pairs = hard_pairs_of_distances(divergences, labels)
    others = torch.stack([pairs.positives, pairs.negatives])  # [2, B]
    to_positive, to_negative = js_divergence(
        gaussians,
        (mean[others], std[others]),
        divergence=divergence,
        reduction=reduction,
        unit=unit,
        p_noise=None if noise is None else noise[:, None],
        q_noise=None if noise is None else noise[:, others],
    )
    return F.relu(to_positive - to_negative + margin).mean() * pairs.exist
