"""Reconstruction of images and codes against loops over entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid_ray.losses import feature_reconstruction_loss, image_reconstruction_loss


def tensors(n: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(n)]


def naive_mean_difference(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return sum(abs(x - y) for x, y in pairs) / len(pairs)


def test_images() -> None:
    images, reconstructed, cycled = tensors(3, 2, 3, 4, 5)
    expected = naive_mean_difference(images, reconstructed) + naive_mean_difference(images, cycled)
    assert float(image_reconstruction_loss(images, reconstructed, cycled).detach()) == pytest.approx(expected)


@pytest.mark.parametrize("views", ["ori+cycle", "new+cycle"])
def test_codes(views: str) -> None:
    codes, reconstructed, novel, cycled = tensors(4, 3, 8)
    loss = feature_reconstruction_loss(codes, reconstructed=reconstructed, novel=novel, cycled=cycled, views=views)
    used, unused = (reconstructed, novel) if views == "ori+cycle" else (novel, reconstructed)
    expected = naive_mean_difference(codes, used) + naive_mean_difference(codes, cycled)
    assert float(loss.detach()) == pytest.approx(expected)
    loss.backward()
    assert codes.grad is None, "the codes of the images are targets"
    assert unused.grad is None
    torch.testing.assert_close(used.grad, (used - codes).detach().sign() / 24)
