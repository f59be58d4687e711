"""Soft consistency: augmentation should not change an image's similarities to the batch (ICE, §6.3.4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.similarity import cosine_mat


def soft_consistency_loss(prediction_a: Tensor, prediction_b: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Mean over rows of KL(Q‖P), P = softmax(⟨f, m⟩ / τ) (Eq. 6.10), Q = softmax(⟨t, t⟩ / τ) (6.11).

    Each row covers the whole batch, the image itself included. Eq. 6.12 prints D_KL(P‖Q); the released code, which
    produced the published tables, computes KL(Q‖P) as here. The teacher's Q is the target and receives no gradient.

    Args:
        prediction_a: f [B, D], the student's features of a strong view.
        prediction_b: m [B, D], the teacher's features of another strong view of the same images.
        target: t [B, D], the teacher's features of the images without augmentation.
        temperature: τ, 0.4 in the paper.
    """
    log_p = F.log_softmax(cosine_mat(prediction_a, prediction_b) / temperature, dim=1)
    q = F.softmax(cosine_mat(target, target) / temperature, dim=1).detach()
    return F.kl_div(log_p, q, reduction="batchmean")
