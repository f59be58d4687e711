"""Attributes as classifiers of two or more values on pieces of a feature (AM0BH-Attr, Sabri et al., Eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.angular_margin import margined_cosines
from reid_ray.types import UNKNOWN


def attribute_loss(
    features: Tensor,
    attributes: Tensor,
    weights: Tensor,
    *,
    scale: float,
    margin: float,
    angular_guard: bool = True,
    n_values: Tensor | None = None,
) -> Tensor:
    """Eq. 3: the sum over M attributes of a normalised softmax with angular margin on one piece of the feature each.

    Piece k, entries k·Q … (k+1)·Q − 1, is divided by its norm, as are the weights of its classes. Each attribute
    contributes its mean over the images where it is known, so that unknown values neither add to the loss nor dilute
    it; an attribute that is known for no image adds 0. If all values are known, this is Eq. 3.

    Args:
        features: [B, M·Q], of any norm.
        attributes: int64 [B, M], 0 … n−1, or −1 where not known.
        weights: [M, V, Q], a row per value of an attribute; V is 2 if all are binary, as in the paper.
        scale: s, the same as that of the identities.
        margin: m, the same as that of the identities.
        angular_guard: as in `margined_cosines`.
        n_values: int64 [M], number of values of each attribute, at most V; rows of `weights` beyond it are not read.
            None: V for all.
    """
    n_attributes, greatest, piece_dim = weights.shape
    pieces = features.reshape(-1, n_attributes, piece_dim)
    # In the features' own type, not autocast's, as all similarities here.
    with torch.autocast(features.device.type, enabled=False):
        cosines = torch.einsum(
            "bmq,mvq->bmv", F.normalize(pieces, dim=2), F.normalize(weights.to(features.dtype), dim=2)
        )
    known = attributes != UNKNOWN
    values = attributes.clamp(min=0)  # any class, where not known
    logits = scale * margined_cosines(cosines, values, margin=margin, angular_guard=angular_guard)
    if n_values is not None:
        absent = torch.arange(greatest, device=n_values.device) >= n_values[:, None]
        logits = logits.masked_fill(absent, -torch.inf)
    losses = F.cross_entropy(logits.transpose(1, 2), values, reduction="none")
    return ((losses * known).sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()
