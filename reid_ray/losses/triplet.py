"""Triplets of an anchor, its farthest image of the same identity and its nearest of another (Hermans et al., 2017).

Distances are Euclidean, between pooled features that are not normalised. They are summed from differences: products,
as the released codes compute them, lose half of the digits where features are large and close.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.soft_targets import soft_cross_entropy

MIN_SQUARED_DISTANCE = 1e-12
"""Below it a distance counts as 1e-6 and has no gradient, which would be infinite at 0 (as in the released codes)."""


class HardPairs(NamedTuple):
    """The triplets of a batch.

    Attributes:
        positives: int64 [B], the farthest image of each anchor's identity; the anchor itself where it has no other.
        negatives: int64 [B], the nearest image of another identity.
        exist: bool [], whether the batch has more than one identity; without, `negatives` means nothing.
    """

    positives: Tensor
    negatives: Tensor
    exist: Tensor


@torch.no_grad()
def hard_pairs(features: Tensor, labels: Tensor) -> HardPairs:
    """The hardest positive and negative of every image; among equally far ones, either.

    Args:
        features: [B, D], not normalised.
        labels: int64 [B].
    """
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same_identity = labels[:, None] == labels[None, :]
    return HardPairs(
        positives=distances.masked_fill(~same_identity, -torch.inf).argmax(dim=1),
        negatives=distances.masked_fill(same_identity, torch.inf).argmin(dim=1),
        exist=~same_identity.all(),
    )


def triplet_loss(features: Tensor, labels: Tensor, *, margin: float | None) -> Tensor:
    """Batch-hard triplet loss: mean over the batch, every image being an anchor once.

    Without a margin (soft margin) log(1 + exp(d_ap − d_an)), which is MMT's hard softmax-triplet
    −log(exp(d_an) / (exp(d_ap) + exp(d_an))) and the L_tri of thesis Eq. 4.1 in ABMT's released code (there called
    `margin=0`); with a margin max(0, d_ap − d_an + margin).

    An identity with one image has d_ap ≈ 0, as in the released codes. With one identity in the batch the loss is 0.

    Args:
        features: [B, D], pooled, not normalised.
        labels: int64 [B].
        margin: of distances, ≥ 0; None for the soft margin.
    """
    positive, negative, exist = _hard_distances(features, labels)
    excess = positive - negative
    losses = F.softplus(excess) if margin is None else F.relu(excess + margin)
    return losses.mean() * exist


def soft_triplet_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Softmax-triplet loss with soft targets: mean over anchors of −Σ_k T'_k · log T_k (thesis Eq. 4.6 and 4.7).

    T = softmax(d_ap, d_an) of the student at its own hardest pairs, T' the same of the teacher's features *at the
    student's pairs*. Eq. 4.6 defines T as the positive's share alone and sums over the batch; the released code of
    MMT and ABMT, which made the tables, has both shares (a binary cross-entropy) and takes the mean, as here. ABMT's
    terms are cross-branch: the teacher's features are those of the other branch.

    The teacher takes no gradient. With one identity in the batch the loss is 0.

    Args:
        student: [B, D], pooled, not normalised.
        teacher: [B, D'], of the same images.
        labels: int64 [B].
    """
    pairs = hard_pairs(student, labels)
    loss = soft_cross_entropy(_pair_distances(student, pairs), _pair_distances(teacher.detach(), pairs))
    return loss * pairs.exist


def _hard_distances(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pairs = hard_pairs(features, labels)
    positive, negative = _pair_distances(features, pairs).unbind(dim=1)
    return positive, negative, pairs.exist


def _pair_distances(features: Tensor, pairs: HardPairs) -> Tensor:
    """Distances [B, 2] of each image to its positive and to its negative."""
    others = features[torch.stack([pairs.positives, pairs.negatives], dim=1)]
    squares = (features[:, None] - others).square().sum(dim=2)
    return squares.clamp(min=MIN_SQUARED_DISTANCE).sqrt()
