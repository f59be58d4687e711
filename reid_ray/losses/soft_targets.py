"""Cross-entropy with a teacher's prediction in place of a label (mean teacher, MMT, ABMT)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over rows of −Σ_c softmax(teacher)_c · log softmax(student)_c (thesis Eq. 4.4 and 4.5).

    The equations sum over the batch; the released code of MMT and ABMT, which produced the tables, takes the mean.
    ABMT's terms are cross-branch: pass one branch of the student with the other branch of the teacher. The teacher
    receives no gradient.

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C], over the same classes.
    """
    return F.cross_entropy(student_logits, F.softmax(teacher_logits.detach(), dim=1))
