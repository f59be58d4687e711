"""Contrast of an anchor and its hardest positive with all other identities (ICE, Eq. 6.9)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.similarity import cosine_mat


def hard_instance_loss(anchors: Tensor, targets: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Hard instance contrast: mean over anchors of −log(e^{⟨f,m_k⟩/τ} / (e^{⟨f,m_k⟩/τ} + Σ_j e^{⟨f,m_j⟩/τ})).

    The sum runs over all targets m_j of other identities; m_k is the target of the anchor's identity, the
    anchor's own image included, with the lowest cosine. Identities may have any number of images. An anchor without
    negatives (one identity in the batch) has loss 0.

    Args:
        anchors: [B, D], the student's features of one view.
        targets: [B, D], the teacher's features of another view of the same images, without gradient.
        labels: int64 [B], the (pseudo-)identity of each image.
        temperature: τ, 0.1 in the paper.
    """
    logits = cosine_mat(anchors, targets) / temperature
    same_identity = labels[:, None] == labels[None, :]
    hardest_positive = logits.masked_fill(~same_identity, torch.inf).min(dim=1).values
    negatives = logits.masked_fill(same_identity, -torch.inf)
    candidates = torch.cat([hardest_positive[:, None], negatives], dim=1)
    return F.cross_entropy(candidates, torch.zeros_like(labels))
