"""Softmax on the sphere: cosines to class weights, with an additive angular margin for the true class.

Sabri et al., *Joint Discriminative and Metric Embedding Learning for Person Re-ID*, Eq. 2, after ArcFace (Deng et al.,
CVPR 2019). Without a margin it is the plain normalised softmax (NormFace, SphereReID), the AM0 of the paper's table 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.similarity import cosine_mat


def angular_margin_loss(
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    scale: float,
    margin: float,
    angular_guard: bool = True,
) -> Tensor:
    """Eq. 2: mean over the batch of −log(e^{s·cos(α_y+m)} / (e^{s·cos(α_y+m)} + Σ_{j≠y} e^{s·cos α_j})).

    α_j is the angle between a feature and the weights of class j. Both are divided by their norms and there is no bias,
    so the loss depends on directions only, and its gradient is tangent to the sphere.

    Args:
        features: [B, D], of any norm.
        labels: int64 [B], 0 … C−1.
        weights: [C, D], a row per class, of any norm.
        scale: s, > 0. Not given in the paper; SphereReID uses 14.
        margin: m, radians, 0 … π; 0 is AM0, 0.5 the paper's AM.
        angular_guard: as in `margined_cosines`.
    """
    cosines = cosine_mat(features, weights)
    return F.cross_entropy(
        scale * margined_cosines(cosines, labels, margin=margin, angular_guard=angular_guard), labels
    )


def margined_cosines(cosines: Tensor, labels: Tensor, *, margin: float, angular_guard: bool = True) -> Tensor:
    """Cosines with cos(α + m) in place of cos α for the labelled class; the others are unchanged.

    Args:
        cosines: [..., C].
        labels: int64 [...], 0 … C−1.
        margin: m, radians, 0 … π.
        angular_guard: for α + m > π, where cos(α + m) would rise again as the feature turns away, the target is
            cos α − m·sin m instead, which keeps falling. If false, the plain cosine of Eq. 2.
    """
    if margin == 0:
        return cosines
    target = cosines.gather(-1, labels[..., None])
    shifted = target * math.cos(margin) - _sine(target) * math.sin(margin)
    if angular_guard:
        beyond = target < -math.cos(margin)  # α > π − m
        shifted = torch.where(beyond, target - margin * math.sin(margin), shifted)
    return cosines.scatter(-1, labels[..., None], shifted)


def _sine(cosine: Tensor) -> Tensor:
    """sin α ≥ 0. 0 without gradient where 1 − cos² rounds to 0, since the gradient would be infinite."""
    square = 1 - cosine.square()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
