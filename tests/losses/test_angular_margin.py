"""Angular margin softmax against Eq. 2 written with angles, and against the numbers of the sheet."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses import angular_margin_loss


def naive_loss(
    features: Tensor, labels: list[int], weights: Tensor, scale: float, margin: float, *, guard: bool
) -> Tensor:
    """Eq. 2 image by image, by the angle itself."""
    losses = []
    for feature, label in zip(features, labels, strict=True):
        cosines = [feature @ weight / (feature.norm() * weight.norm()) for weight in weights]
        angle = torch.acos(cosines[label])
        target = torch.cos(angle + margin)
        if guard and angle + margin > math.pi:
            target = cosines[label] - margin * math.sin(margin)
        others = sum((scale * cosine).exp() for j, cosine in enumerate(cosines) if j != label)
        losses.append(-((scale * target).exp() / ((scale * target).exp() + others)).log())
    return torch.stack(losses).mean()


def random_batch(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Labels with repeats and absent classes; some features nearly opposite to their class, where the guard acts."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 1, 0, 2])
    features = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    features[1] = -2 * weights[3] + 0.1 * features[1]
    features[4] = weights[0] + 0.1 * features[4]
    return features.to(dtype), labels, weights.to(dtype)


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_equals_the_formula_with_its_gradient(scale: float, margin: float, guard: bool):
    for seed in range(4):
        features, labels, weights = random_batch(seed)
        results = []
        for compute in (
            lambda f, w, labels=labels: angular_margin_loss(
                f, labels, w, scale=scale, margin=margin, angular_guard=guard
            ),
            lambda f, w, labels=labels: naive_loss(f, labels.tolist(), w, scale, margin, guard=guard),
        ):
            inputs = features.clone().requires_grad_(), weights.clone().requires_grad_()
            loss = compute(*inputs)
            results.append((loss.detach(), *torch.autograd.grad(loss, inputs)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_margin_it_is_the_cross_entropy_of_scaled_cosines(dtype: torch.dtype):
    features, labels, weights = random_batch(0, dtype)
    expected = F.cross_entropy(14 * F.normalize(features) @ F.normalize(weights).t(), labels)
    torch.testing.assert_close(angular_margin_loss(features, labels, weights, scale=14, margin=0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("margin", "expected"), [(0.0, 0.551444714), (0.5, 0.605175528)])
def test_feature_at_its_class_and_square_to_the_others(margin: float, expected: float, dtype: torch.dtype):
    features = torch.tensor([[2.0, 0, 0]], dtype=dtype, requires_grad=True)
    loss = angular_margin_loss(features, torch.tensor([0]), torch.eye(3, dtype=dtype), scale=1, margin=margin)
    assert loss.item() == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 1e-9)
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_only_directions_count(margin: float):
    """The paper's point: no gradient leaves the sphere, which the triplet loss adds."""
    features, labels, weights = random_batch(1)
    loss = angular_margin_loss(features, labels, weights, scale=30, margin=margin)
    norms = torch.rand(6, 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(
        angular_margin_loss(features * norms, labels, 7 * weights, scale=30, margin=margin), loss
    )
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(angular_margin_loss(features, labels, weights, scale=30, margin=margin), features)
    torch.testing.assert_close((gradient * features).sum(dim=1), torch.zeros(6, dtype=torch.float64))


def loss_at(angle: float, margin: float, *, guard: bool) -> float:
    feature = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
    labels = torch.tensor([0])
    return angular_margin_loss(feature, labels, weights, scale=5, margin=margin, angular_guard=guard).item()


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.5])
def test_the_guard_keeps_the_loss_rising_with_the_angle(margin: float):
    angles = [i * math.pi / 100 for i in range(101)]
    guarded = [loss_at(angle, margin, guard=True) for angle in angles]
    assert guarded == sorted(guarded)
    bare = [loss_at(angle, margin, guard=False) for angle in angles]
    assert bare != sorted(bare)
    below = [i for i, angle in enumerate(angles) if angle + margin < math.pi]
    assert [guarded[i] for i in below] == [bare[i] for i in below]


def test_gradients_are_finite_where_a_feature_is_its_class_or_its_opposite():
    for direction in (1.0, -1.0):
        for dtype in (torch.float32, torch.float64):
            weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
            features = (direction * weights[:1]).requires_grad_()
            loss = angular_margin_loss(features, torch.tensor([0]), weights, scale=30, margin=0.5)
            assert torch.autograd.grad(loss, features)[0].isfinite().all()


def test_half_precision_autocast_does_not_reach_the_cosines():
    features, labels, weights = random_batch(2, torch.float32)
    expected = angular_margin_loss(features, labels, weights, scale=30, margin=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(angular_margin_loss(features, labels, weights, scale=30, margin=0.5), expected)
