"""Contrast of images with proxies of pseudo-identities: cluster centroids, and camera proxies (ICE, §6.3.2).

Where the text and the released code, which produced the published tables, differ, both variants are available.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.similarity import cosine_mat, dot_mat

CrossReduction = Literal["sum_over_cameras", "mean"]
ProxyNormalization = Literal["cosine", "released"]


def centroid_loss(
    features: Tensor,
    labels: Tensor,
    centroids: Tensor,
    *,
    temperature: float,
    label_smoothing: float,
    normalize: bool,
) -> Tensor:
    """Camera-agnostic proxy loss, Eq. 6.5: mean over the batch of −log softmax(f·p / τ_a) of the own cluster.

    The published tables: τ_a = 0.5, label smoothing 0.1 (target 0.9 + 0.1/C for the own cluster, 0.1/C for
    others; not in the text), and `normalize=False`: f is the output of the BN neck, whose norm is near √D =
    45, so that the softmax is about 45 times sharper than Eq. 6.5 read literally.

    Args:
        features: [B, D], the student's, before normalisation.
        labels: int64 [B], the cluster of each image, 0 … C−1; no outliers.
        centroids: [C, D], mean of the members' unit features; used as they are.
        temperature: τ_a.
        label_smoothing: share of the target that is spread uniformly over all clusters.
        normalize: divide the features by their norm first.
    """
    anchors = F.normalize(features) if normalize else features
    logits = dot_mat(anchors, centroids) / temperature
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def cross_camera_loss(
    features: Tensor,
    labels: Tensor,
    camids: Tensor,
    proxies: Tensor,
    proxy_labels: Tensor,
    proxy_camids: Tensor,
    *,
    temperature: float,
    n_negatives: int,
    own_camera_positive: bool,
    reduction: CrossReduction,
    normalization: ProxyNormalization,
) -> Tensor:
    """Cross-camera proxy loss, Eq. 6.7 (without the weight 0.5 of Eq. 6.8).

    For an anchor of cluster a, the positives are the camera proxies of a and the negatives the
    `n_negatives` proxies of other clusters that are most similar to the anchor. The loss is −1/|P| Σ_{p∈P}
    log softmax(⟨f, p⟩ / τ_c), the softmax being over all positives and the negatives. (Eq. 6.7 writes a sum
    of N_neg + 1 terms; the released code has one softmax with a uniform target, as here.)

    Corner cases: with fewer proxies of other clusters, all are negatives; an anchor without a positive is
    left out of all means; when there is no such anchor, or no proxy at all, the loss is 0.

    Args:
        features: [B, D], the student's, of any norm.
        labels: int64 [B], the cluster of each image.
        camids: int64 [B].
        proxies: [M, D].
        proxy_labels: int64 [M], the cluster of each proxy.
        proxy_camids: int64 [M], the camera of each proxy.
        temperature: τ_c, 0.07 in the paper.
        n_negatives: N_neg, 50 in the paper.
        own_camera_positive: the proxy of the anchor's own camera is a positive too (released code);
            otherwise it is left out of the softmax (Eq. 6.7, i ≠ b).
        reduction: `sum_over_cameras`: the sum, over the cameras in the batch, of the means over each
            camera's anchors (released code); `mean`: the mean over all anchors (Eq. 6.7).
        normalization: `cosine`: each proxy is divided by its norm. `released`: a slip in the authors' code,
            each dimension is divided by its norm over all proxies instead.
    """
    if not len(proxies):
        return features.sum() * 0.0
    logits = _proxy_similarities(features, proxies, normalization) / temperature
    own_cluster = labels[:, None] == proxy_labels[None, :]
    positive = own_cluster
    if not own_camera_positive:
        positive = own_cluster & (camids[:, None] != proxy_camids[None, :])

    n_positives = positive.sum(dim=1)
    counted = n_positives > 0
    hardest = logits.masked_fill(own_cluster, -torch.inf).topk(min(n_negatives, len(proxies))).values
    # Ignored anchors still need a finite logarithm: inf · 0 would be nan.
    in_softmax = positive | ~counted[:, None]
    candidates = torch.cat([logits.masked_fill(~in_softmax, -torch.inf), hardest], dim=1)
    mean_positive = (logits * positive).sum(dim=1) / n_positives.clamp(min=1)
    losses = candidates.logsumexp(dim=1) - mean_positive
    return (losses * counted / mean_sizes(camids, counted, reduction).clamp(min=1)).sum()


def _proxy_similarities(features: Tensor, proxies: Tensor, normalization: ProxyNormalization) -> Tensor:
    if normalization == "cosine":
        return cosine_mat(features, proxies)
    return dot_mat(F.normalize(features), F.normalize(proxies, dim=0))


def mean_sizes(camids: Tensor, counted: Tensor, reduction: CrossReduction) -> Tensor:
    """Number [B] of anchors in the mean that each anchor belongs to."""
    if reduction == "mean":
        return counted.sum().expand(len(camids))
    same_camera = camids[:, None] == camids[None, :]
    return (same_camera & counted[None, :]).sum(dim=1)
