"""Soft consistency against Eq. 6.10–6.12 written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid_ray.losses import soft_consistency_loss


def row(anchor: Tensor, others: Tensor, temperature: float) -> Tensor:
    exponents = [((anchor * other).sum() / (anchor.norm() * other.norm()) / temperature).exp() for other in others]
    return torch.stack(exponents) / sum(exponents)


def naive_loss(student: Tensor, teacher: Tensor, teacher_weak: Tensor, temperature: float) -> Tensor:
    losses = []
    for feature, weak in zip(student, teacher_weak, strict=True):
        p, q = row(feature, teacher, temperature), row(weak, teacher_weak, temperature)
        losses.append(sum(q[j] * (q[j] / p[j]).log() for j in range(len(q))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_images", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.4, 0.05])
def test_loss_and_gradient(n_images: int, temperature: float, dtype: torch.dtype) -> None:
    torch.manual_seed(n_images)
    student = torch.randn(n_images, 5, dtype=dtype, requires_grad=True)
    same_student = student.detach().clone().requires_grad_()
    teacher, teacher_weak = torch.randn(2, n_images, 5, dtype=dtype)
    loss = soft_consistency_loss(student, teacher, teacher_weak, temperature=temperature)
    expected = naive_loss(same_student, teacher, teacher_weak, temperature)
    loss.backward()
    expected.backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected, **tolerance)
    torch.testing.assert_close(student.grad, same_student.grad, **tolerance)


def test_equal_similarities_are_the_minimum() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    constant = features.detach()
    loss = soft_consistency_loss(features, constant, constant, temperature=0.4)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(features.grad, torch.zeros_like(features))


def test_the_target_takes_no_gradient() -> None:
    target = torch.randn(4, 3, requires_grad=True)
    student = torch.randn(4, 3, requires_grad=True)
    soft_consistency_loss(student, torch.randn(4, 3), target, temperature=0.4).backward()
    assert target.grad is None
    assert student.grad is not None
