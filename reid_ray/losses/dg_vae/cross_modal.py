"""Triplets across modalities, and the losses of retrieval (DG-VAE, Eq. 16 and 17).

Every image of a batch is an anchor once; its positive and its negative come from the other modality. The swap
reconstruction uses the same triplets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.errors import DataError
from reid_ray.losses.triplet import MIN_SQUARED_DISTANCE

Partners = Literal["other", "same"]


class CrossModalTriplets(NamedTuple):
    """A triplet for every image of the batch.

    Attributes:
        positives: int64 [B], the position of an image of the same identity.
        negatives: int64 [B], the position of an image of another identity.
    """

    positives: Tensor
    negatives: Tensor


def draw_triplets(
    labels: Tensor, modality: Tensor, generator: torch.Generator, *, partners: Partners = "other"
) -> CrossModalTriplets:
    """Positives and negatives drawn uniformly from all candidates (the paper does not specify how).

    Args:
        labels: int64 [B].
        modality: int64 [B], 0 visible, 1 infrared.
        generator: on the CPU. Seeded by the step, it gives the same triplets for any number of workers.
        partners: `other`: both come from the other modality (§4.2). `same`: both from the anchor's own, as the
            superscripts of Eq. 12 suggest; the positive is another image if there is one, else the anchor itself.

    Raises:
        DataError: an image without a positive or without a negative, on a CPU.
    """
    positive, negative = _candidates(labels, modality, partners)
    scores = torch.rand(2, len(labels), len(labels), generator=generator).to(labels.device)
    return CrossModalTriplets(
        scores[0].masked_fill(~positive, -1.0).argmax(dim=1), scores[1].masked_fill(~negative, -1.0).argmax(dim=1)
    )


@torch.no_grad()
def hardest_triplets(features: Tensor, labels: Tensor, modality: Tensor) -> CrossModalTriplets:
    """The farthest positive and the nearest negative of the other modality, by the loss's distance.

    Args:
        features: [B, D], the means of the identity code.
        labels: int64 [B].
        modality: int64 [B].

    Raises:
        DataError: as `draw_triplets`.
    """
    positive, negative = _candidates(labels, modality, "other")
    unit = F.normalize(features)
    distances = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    return CrossModalTriplets(
        distances.masked_fill(~positive, -torch.inf).argmax(dim=1),
        distances.masked_fill(~negative, torch.inf).argmin(dim=1),
    )


def cross_modal_triplet_loss(
    features: Tensor, triplets: CrossModalTriplets, modality: Tensor, *, margin: float = 0.1
) -> Tensor:
    """L_cmtl (Eq. 17) for one kind of feature: the mean over visible anchors plus the mean over infrared ones.

    The loss of a triplet is max(0, ‖u_a − u_p‖ − ‖u_a − u_n‖ + m) of the L2-normalised features u. The full L_cmtl is
    this loss of the means plus λ_aux = 0.1 times this loss of the samples. A modality without anchors contributes 0.

    Args:
        features: μ or d [B, D].
        triplets: of the batch.
        modality: int64 [B], 0 visible, 1 infrared.
        margin: m.
    """
    unit = F.normalize(features)
    excess = _distance(unit, unit[triplets.positives]) - _distance(unit, unit[triplets.negatives]) + margin
    losses = F.relu(excess)
    means = []
    for code in (0, 1):
        of_modality = modality == code
        means.append((losses * of_modality).sum() / of_modality.sum().clamp(min=1))
    return means[0] + means[1]


def latent_identity_loss(
    mean_logits: Tensor, sample_logits: Tensor | None, labels: Tensor, *, aux_weight: float = 0.1
) -> Tensor:
    """L_id (Eq. 16): cross-entropy of D^C on the means, plus λ_aux times that on the samples; mean over the batch.

    Args:
        mean_logits: D^C(μ_φ) [B, C].
        sample_logits: D^C(d) [B, C]; None if there are no samples (the baseline, λ_aux = 0).
        labels: int64 [B].
        aux_weight: λ_aux.
    """
    loss = F.cross_entropy(mean_logits, labels)
    return loss if sample_logits is None else loss + aux_weight * F.cross_entropy(sample_logits, labels)


def _candidates(labels: Tensor, modality: Tensor, partners: Partners) -> tuple[Tensor, Tensor]:
    """Which images [B, B] may be an anchor's positive and negative."""
    same_identity = labels[:, None] == labels[None, :]
    same_modality = modality[:, None] == modality[None, :]
    if partners == "same":
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        others = same_identity & same_modality & ~itself
        positive = others | (itself & ~others.any(dim=1, keepdim=True))
        negative = ~same_identity & same_modality
    else:
        positive, negative = same_identity & ~same_modality, ~same_identity & ~same_modality
    if labels.device.type == "cpu":
        _check_candidates(positive, negative, labels, partners)
    return positive, negative


def _check_candidates(positive: Tensor, negative: Tensor, labels: Tensor, partners: Partners) -> None:
    """Raise DataError if an image lacks a partner. Skipped on a GPU, where the check would synchronise with the
    device."""
    for candidates, which in ((positive, "the same identity"), (negative, "another identity")):
        lacking = (~candidates.any(dim=1)).nonzero()
        if len(lacking):
            anchor = int(lacking[0])
            raise DataError(
                f"The batch has no image of {which} in {partners} modality for image {anchor} (identity "
                f"{int(labels[anchor])}); sample images of both modalities of at least two identities."
            )


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance of rows, without gradient below 1e-6, as it would be infinite at 0."""
    return (x - y).square().sum(dim=1).clamp(min=MIN_SQUARED_DISTANCE).sqrt()
