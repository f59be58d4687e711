"""Soft cross-entropy against Eq. 4.4 written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid_ray.losses import soft_cross_entropy


def naive_loss(student: Tensor, teacher: Tensor) -> Tensor:
    total = torch.zeros((), dtype=student.dtype)
    for row, target in zip(student, teacher, strict=True):
        for p, q in zip(row.exp() / row.exp().sum(), target.exp() / target.exp().sum(), strict=True):
            total = total - q * p.log()
    return total / len(student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_images", "n_classes"), [(1, 1), (1, 4), (6, 9)])
def test_loss_and_gradient(n_images: int, n_classes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n_images)
    student = (2 * torch.randn(n_images, n_classes, dtype=dtype)).requires_grad_()
    same_student = student.detach().clone().requires_grad_()
    teacher = torch.randn(n_images, n_classes, dtype=dtype)
    loss, expected = soft_cross_entropy(student, teacher), naive_loss(same_student, teacher)
    loss.backward()
    expected.backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected, **tolerance)
    torch.testing.assert_close(student.grad, same_student.grad, **tolerance)


def test_equal_predictions_are_the_minimum_and_its_value_is_the_entropy() -> None:
    torch.manual_seed(0)
    student = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    loss = soft_cross_entropy(student, student.detach() + 7)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)
    entropy = torch.distributions.Categorical(logits=student).entropy().mean()
    torch.testing.assert_close(loss, entropy)


def test_the_teacher_takes_no_gradient_and_large_logits_do_not_overflow() -> None:
    student = torch.tensor([[1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1e4]], requires_grad=True)
    loss = soft_cross_entropy(student, teacher)
    loss.backward()
    assert loss.item() == 1e4
    assert teacher.grad is None
