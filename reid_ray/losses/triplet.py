"""Batch-hard triplet losses: an anchor, its farthest positive and its nearest negative (Hermans et al., 2017).

Distances are Euclidean, between features that are not normalised unless `normalize` is set. They are computed from
differences: the expansion into dot products, as in the released codes, loses half of the digits if features are large
and close.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.soft_targets import soft_cross_entropy

Surrogate = Literal["hinge", "softplus"]
"""Function of d_ap − d_an + margin: max(0, ·), or the smooth log(1 + exp(·)), whose gradient never vanishes."""

Reduction = Literal["mean", "sum"]

MIN_SQUARED_DISTANCE = 1e-12
"""Lower bound of squared distances: smaller ones become 1e-6 without gradient, as it would be infinite at 0 (released
codes)."""


class HardPairs(NamedTuple):
    """The triplets of a batch.

    Attributes:
        positives: int64 [B], the farthest image of each anchor's identity; the anchor itself if there is no other.
        negatives: int64 [B], the nearest image of another identity.
        exist: bool [], whether the batch has more than one identity; if not, `negatives` is arbitrary.
    """

    positives: Tensor
    negatives: Tensor
    exist: Tensor


@torch.no_grad()
def hard_pairs(features: Tensor, labels: Tensor) -> HardPairs:
    """The hardest positive and negative of every image; ties are broken arbitrarily.

    Args:
        features: [B, D], not normalised.
        labels: int64 [B].
    """
    return hard_pairs_of_distances(torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist"), labels)


def hard_pairs_of_distances(distances: Tensor, labels: Tensor) -> HardPairs:
    """`hard_pairs` from any distance matrix [B, B], one anchor per row.

    An identity's only image is its own positive, whatever its distance to itself.
    """
    same_identity = labels[:, None] == labels[None, :]
    return HardPairs(
        positives=distances.masked_fill(~same_identity, -torch.inf).argmax(dim=1),
        negatives=distances.masked_fill(same_identity, torch.inf).argmin(dim=1),
        exist=~same_identity.all(),
    )


def triplet_loss(
    features: Tensor,
    labels: Tensor,
    *,
    margin: float | None,
    surrogate: Surrogate = "hinge",
    normalize: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Batch-hard triplet loss with every image as an anchor once.

    With a margin max(0, d_ap − d_an + margin), or its softplus log(1 + exp(d_ap − d_an + margin)). Without a margin
    (soft margin) the softplus of d_ap − d_an, which is MMT's hard softmax-triplet
    −log(exp(d_an) / (exp(d_ap) + exp(d_an))) and the L_tri of thesis Eq. 4.1 in ABMT's released code (there called
    `margin=0`).

    The variants of AM0BH (Sabri et al., Eq. 5 and table 3): BH is the hinge on un-normalised features, whose gradient,
    unlike that of a normalised softmax, has a radial part; BH1 has `normalize=True`; BHsp has `surrogate="softplus"`.
    The paper replaces the hinge [margin + …]₊ by the softplus and keeps the margin; Hermans et al. drop it
    (`margin=None`). Sabri et al. and the thesis (SCR, Eq. 3.2) write a sum over the batch.

    An identity with one image has d_ap ≈ 0, as in the released codes. With one identity in the batch the loss is 0.

    Args:
        features: [B, D].
        labels: int64 [B].
        margin: of distances, ≥ 0; None for the soft margin.
        surrogate: `hinge` or `softplus`; not used without a margin.
        normalize: distances between the features divided by their norms, 0 … 2.
        reduction: over anchors.
    """
    positive, negative, exist = _hard_distances(F.normalize(features) if normalize else features, labels)
    excess = positive - negative + (0.0 if margin is None else margin)
    hinge = margin is not None and surrogate == "hinge"
    losses = F.relu(excess) if hinge else F.softplus(excess)
    return (losses.mean() if reduction == "mean" else losses.sum()) * exist


def soft_triplet_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Softmax-triplet loss with soft targets: mean over anchors of −Σ_k T'_k · log T_k (thesis Eq. 4.6 and 4.7).

    T = softmax(d_ap, d_an) for the student at its own hardest pairs, T' is the same for the teacher's features *at the
    student's pairs*. Eq. 4.6 defines T as the positive's share alone and sums over the batch; the released code of MMT
    and ABMT, which produced the tables, has both shares (a binary cross-entropy) and takes the mean, as here. ABMT's
    terms are cross-branch: the teacher's features are those of the other branch.

    The teacher receives no gradient. With one identity in the batch the loss is 0.

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
