"""Similarity matrices, the first step of every loss here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dot_mat(a: Tensor, b: Tensor) -> Tensor:
    """Dot products [A, B] of the rows of `a` [A, D] and `b` [B, D], in the type of `a`, never in autocast's.

    A bf16 similarity has steps of 0.004; at a temperature of 0.07 that is 6 % of a probability.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.to(a.dtype).t()


def cosine_mat(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [A, B] of the rows of `a` [A, D] and `b` [B, D]; 0 for a row of zeros."""
    return dot_mat(F.normalize(a), F.normalize(b))
