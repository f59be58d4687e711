"""GCL's view-invariant contrast between an image, its generated view and a memory of images (thesis Eq. 5.6-5.8).

Each loss is a cross-entropy over one positive and the same K negatives,

    mean over the batch of log(1 + Σ_k exp(sim(a, M_k)/τ) / exp(positive/τ)),

with cosines sim. The memory's rows take no gradient: update them after the loss (`update_instance_memory_`).
`draw_contrast` draws positives and negatives beforehand and passes them to the losses as row indices.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.similarity import cosine_mat
from reid_ray.types import IntArray

InstancePositive = Literal["memory", "feature"]
Positives = Literal["independent", "shared"]
NegativesFrom = Literal["generated", "original"]

TEMPERATURE = 0.04
MAX_NEGATIVES = 8192
MARKET_IMAGES = 12936
"""Images in Market-1501's training split, for which the paper found 8192 negatives best."""


class ContrastDraws(NamedTuple):
    """Memory rows that a batch is contrasted with.

    Attributes:
        positives: int64 [B], j⁺ of L_vi, a row of the image's own cluster.
        generated_positives: int64 [B], j⁺⁺ of L''_vi.
        negatives: int64 [B, K], distinct rows of other labels.
    """

    positives: Tensor
    generated_positives: Tensor
    negatives: Tensor


class ViewContrast(NamedTuple):
    """The three losses of a batch; the paper's L_all contains their sum.

    Attributes:
        original: L_vi (5.6), image against memory.
        instance: L'_vi (5.7), generated view against its own image.
        generated: L''_vi (5.8), generated view against memory.
    """

    original: Tensor
    instance: Tensor
    generated: Tensor


def scaled_negatives(n_images: int) -> int:
    """K for a training set of `n_images`: the paper's 8192, or the same fraction of a set smaller than Market-1501."""
    return min(MAX_NEGATIVES, n_images * MAX_NEGATIVES // MARKET_IMAGES)


def draw_contrast(
    rows: Tensor, clusters: Tensor, keys: Tensor, *, n_negatives: int, positives: Positives = "independent"
) -> ContrastDraws:
    """Draw positives and negatives for a (global) batch from random keys, without synchronising with the device.

    A positive is drawn uniformly from the image's cluster, the image itself included. Negatives are drawn without
    replacement from all rows of other clusters; each image has its own.

    Args:
        rows: int64 [B], the memory's rows of the images.
        clusters: int64 [N], cluster of each row; an outlier is a cluster of its own (`memory_groups`).
        keys: [2, B, N], independent and uniform in 0 … 1. The row with the largest key in the cluster is drawn, and the
            rows with the largest keys outside it.
        n_negatives: K, at most `most_negatives`.
        positives: `independent` draws for original and generated views (released code), or one draw shared by both, as
            the paper's single f_pos suggests.
    """
    own = clusters[rows][:, None] == clusters
    first, second = (torch.where(own, part, -1.0).argmax(dim=1) for part in keys)
    negatives = torch.where(own, -1.0, keys[0]).topk(n_negatives, dim=1).indices
    return ContrastDraws(first, first if positives == "shared" else second, negatives)


def most_negatives(sizes: IntArray) -> int:
    """Number of negatives available to every image: all rows except those of the largest cluster.

    Args:
        sizes: int64 [G], rows of each cluster.
    """
    return int(sizes.sum() - sizes.max(initial=0))


def view_contrast_losses(
    features: Tensor,
    generated: Tensor,
    rows: Tensor,
    memory: Tensor,
    draws: ContrastDraws,
    *,
    temperature: float = TEMPERATURE,
    instance_positive: InstancePositive = "memory",
    negatives_from: NegativesFrom = "generated",
) -> ViewContrast:
    """L_vi, L'_vi and L''_vi of a batch (Eq. 5.6-5.8).

    Args:
        features: f [B, D], of the images, of any norm.
        generated: f_new [B, D], of their novel views.
        rows: int64 [B], the images' own rows of the memory.
        memory: M [N, D], as it was before this batch.
        draws: positives and negatives, on the memory's device.
        temperature: τ.
        instance_positive: what L'_vi attracts a generated view to: the image's row of the `memory` (released code), or
            its current `feature` (Eq. 5.7), which then receives a gradient too.
        negatives_from: the anchor a in the sum over negatives of all three losses: `generated` views (better in the
            paper) or `original` images.
    """
    negatives = _negatives(generated if negatives_from == "generated" else features, memory, draws)
    instances = memory[rows] if instance_positive == "memory" else features
    return ViewContrast(
        original=_contrast(features, memory[draws.positives], negatives, temperature),
        instance=_contrast(generated, instances, negatives, temperature),
        generated=_contrast(generated, memory[draws.generated_positives], negatives, temperature),
    )


def original_contrast_loss(
    features: Tensor, memory: Tensor, draws: ContrastDraws, *, temperature: float = TEMPERATURE
) -> Tensor:
    """L_vi without a generator (woGAN in table 5.3): both positive and negatives are compared with the image's own
    feature.

    Args:
        features: f [B, D], of any norm.
        memory: M [N, D].
        draws: `positives` and `negatives` are used.
        temperature: τ.
    """
    return _contrast(features, memory[draws.positives], _negatives(features, memory, draws), temperature)


def _negatives(anchors: Tensor, memory: Tensor, draws: ContrastDraws) -> Tensor:
    """Cosines [B, K]. All N are computed: a matrix product is cheaper than gathering B·K rows."""
    return cosine_mat(anchors, memory).gather(1, draws.negatives)


def _contrast(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean of log(1 + Σ exp(negatives/τ) / exp(cosine of anchor and positive/τ))."""
    positive = (F.normalize(anchors) * F.normalize(positives.to(anchors.dtype))).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, negatives], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
