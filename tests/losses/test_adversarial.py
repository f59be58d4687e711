"""Losses of a discriminator of several scales against plain sums, and the penalty against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reid_ray.losses import R1_WEIGHT, discriminator_loss, generator_loss, r1_penalty


def scores(seed: int, n: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 1, *size, generator=generator, dtype=torch.float64) for size in ((8, 4), (4, 2), (2, 1))]


def naive_mean(function, score: Tensor) -> float:
    values = [function(float(value)) for value in score.flatten()]
    return sum(values) / len(values)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


REAL = {"lsgan": lambda d: (d - 1) ** 2, "log": lambda d: -math.log(sigmoid(d))}
FAKE = {"lsgan": lambda d: d**2, "log": lambda d: -math.log(1 - sigmoid(d))}
GENERATOR = {
    "lsgan": lambda d: 2 * (d - 1) ** 2,
    "log": lambda d: math.log(1 - sigmoid(d)),
    "log-nonsaturating": lambda d: -math.log(sigmoid(d)),
}


def test_numbers_of_the_reference() -> None:
    real, fake = [torch.tensor([[[[0.5]]]])], [torch.tensor([[[[0.25]]]])]
    assert float(discriminator_loss(real, fake)) == pytest.approx(0.3125)
    assert float(generator_loss(fake)) == pytest.approx(1.125)


@pytest.mark.parametrize("kind", ["lsgan", "log"])
@pytest.mark.parametrize("n_views", [1, 3])
def test_discriminator(kind: str, n_views: int) -> None:
    real, views = scores(0), [scores(1 + view) for view in range(n_views)]
    expected = sum(
        naive_mean(FAKE[kind], fake) + naive_mean(REAL[kind], true)
        for view in views
        for fake, true in zip(view, real, strict=True)
    )
    assert float(discriminator_loss(real, *views, kind=kind)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["lsgan", "log", "log-nonsaturating"])
@pytest.mark.parametrize("n_views", [1, 3])
def test_generator(kind: str, n_views: int) -> None:
    views = [scores(1 + view) for view in range(n_views)]
    expected = sum(naive_mean(GENERATOR[kind], fake) for view in views for fake in view)
    assert float(generator_loss(*views, kind=kind)) == pytest.approx(expected)


def test_both_logarithmic_forms_train_the_same_discriminator() -> None:
    real, fake = scores(0), scores(1)
    assert torch.equal(
        discriminator_loss(real, fake, kind="log"), discriminator_loss(real, fake, kind="log-nonsaturating")
    )


def test_logarithms_of_extreme_scores_are_finite() -> None:
    extreme = [torch.tensor([[500.0, -500.0]])]
    for kind in ("log", "log-nonsaturating"):
        assert math.isfinite(float(discriminator_loss(extreme, extreme, kind=kind)))
        assert math.isfinite(float(generator_loss(extreme, kind=kind)))


def test_penalty_of_a_linear_discriminator() -> None:
    weights = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)[:, None, None]
    images = torch.randn(4, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(images, [(weights * images).sum(dim=(1, 2, 3))])
    assert R1_WEIGHT * float(penalty.detach()) == pytest.approx(0.0014)
    for n_scales in (2, 3):
        together = r1_penalty(images, [(weights * images).sum(dim=(1, 2, 3))] * n_scales)
        assert float(together.detach()) == pytest.approx(n_scales * float(penalty.detach()))


def test_penalty_by_finite_differences() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 3, 3).double(), torch.nn.Conv2d(2, 2, 3, stride=2).double()]

    def discriminator(images: Tensor) -> list[Tensor]:
        return [torch.tanh(layer(images)) for layer in layers]

    images = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    expected, step = 0.0, 1e-5
    for image in images:
        for scale in range(2):
            for place in range(image.numel()):
                nudge = torch.zeros_like(image)
                nudge.view(-1)[place] = step
                above, below = (float(discriminator((image + s * nudge)[None])[scale].detach().sum()) for s in (1, -1))
                expected += ((above - below) / (2 * step)) ** 2 / len(images)
    images.requires_grad_()
    penalty = r1_penalty(images, discriminator(images))
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-6)
    penalty.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)
