"""Hard instance contrast against Eq. 6.9 written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid_ray.losses import hard_instance_loss

LABELS = {
    "equal": [0, 0, 1, 1, 2, 2],
    "ragged and shuffled": [7, 2, 7, 7, 5, 2, 7, 9],
    "singletons": [3, 1, 2],
    "one identity": [4, 4, 4],
    "one image": [0],
}


def naive_loss(anchors: Tensor, targets: Tensor, labels: list[int], temperature: float) -> Tensor:
    losses = []
    for anchor, label in zip(anchors, labels, strict=True):
        positives, negatives = [], []
        for target, target_label in zip(targets, labels, strict=True):
            cosine = (anchor * target).sum() / (anchor.norm() * target.norm())
            (positives if target_label == label else negatives).append(cosine)
        positive = (min(positives, key=Tensor.item) / temperature).exp()
        losses.append(-(positive / (positive + sum((s / temperature).exp() for s in negatives))).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", list(LABELS))
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_and_gradient(kind: str, temperature: float, dtype: torch.dtype) -> None:
    torch.manual_seed(len(kind))
    labels = LABELS[kind]
    anchors = torch.randn(len(labels), 5, dtype=dtype, requires_grad=True)
    same_anchors = anchors.detach().clone().requires_grad_()
    targets = torch.randn(len(labels), 5, dtype=dtype)
    loss = hard_instance_loss(anchors, targets, torch.tensor(labels), temperature=temperature)
    expected = naive_loss(same_anchors, targets, labels, temperature)
    loss.backward()
    expected.backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected, **tolerance)
    torch.testing.assert_close(anchors.grad, same_anchors.grad, **tolerance)


def test_without_negatives_the_loss_is_zero() -> None:
    anchors = torch.randn(3, 5, requires_grad=True)
    loss = hard_instance_loss(anchors, torch.randn(3, 5), torch.zeros(3, dtype=torch.int64), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not anchors.grad.any()


def test_own_target_can_be_the_hardest_positive() -> None:
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    loss = hard_instance_loss(anchors, targets, torch.tensor([0, 1]), temperature=1.0)
    e = torch.e
    expected = -(torch.tensor([e**-1 / (e**-1 + 1), e / (e + 1)]).log()).mean()
    torch.testing.assert_close(loss, expected)
