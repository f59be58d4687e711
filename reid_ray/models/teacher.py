"""The mean teacher: an exponential moving average of the student's parameters (thesis Eq. 6.2)."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def make_teacher(student: Network) -> Network:
    """A copy of the student (parameters and buffers) without gradients."""
    return deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θ_teacher ← momentum·θ_teacher + (1 − momentum)·θ_student, in place, for parameters only.

    Buffers are not updated: the teacher runs in training mode, so its running statistics come from its own forward
    passes.
    """
    for mean, latest in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.lerp_(latest, 1 - momentum)
