"""The attribute loss against one angular margin loss per attribute, over the images of which it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid_ray.losses import angular_margin_loss, attribute_loss

N, M, Q = 7, 4, 3
SIZES = [2, 4, 2, 3]


def naive_loss(features: Tensor, attributes: Tensor, weights: Tensor, sizes: list[int], **settings: float) -> Tensor:
    total = features.new_zeros(())
    for k, size in enumerate(sizes):
        rows = [i for i in range(len(features)) if attributes[i, k] >= 0]
        if rows:
            piece = features[rows, k * Q : (k + 1) * Q]
            total = total + angular_margin_loss(piece, attributes[rows, k], weights[k, :size], **settings)
    return total


def random_batch(seed: int, sizes: list[int], unknown: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack([torch.randint(0, size, (N,), generator=generator) for size in sizes], dim=1)
    values[torch.rand(N, M, generator=generator) < unknown] = -1
    features = torch.randn(N, M * Q, generator=generator, dtype=torch.float64)
    return features, values, torch.randn(M, max(sizes), Q, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sizes", [[2] * M, SIZES], ids=["binary", "of several values"])
@pytest.mark.parametrize("unknown", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_equals_a_loss_per_attribute(margin: float, unknown: float, sizes: list[int]):
    settings = {"scale": 30.0, "margin": margin}
    for seed in range(4):
        features, attributes, weights = random_batch(seed, sizes, unknown)
        if seed == 3:
            attributes[:, 1] = -1  # known of no image
        inputs, same = [(features.clone().requires_grad_(), weights.clone().requires_grad_()) for _ in range(2)]
        n_values = None if sizes == [2] * M else torch.tensor(sizes)
        loss = attribute_loss(inputs[0], attributes, inputs[1], n_values=n_values, **settings)
        expected = naive_loss(same[0], attributes, same[1], sizes, **settings)
        torch.testing.assert_close(loss, expected)
        for found, wanted in zip(
            torch.autograd.grad(loss, inputs),
            torch.autograd.grad(expected, same, allow_unused=True) if expected.requires_grad else (None, None),
            strict=True,
        ):
            torch.testing.assert_close(found, torch.zeros_like(found) if wanted is None else wanted)


def test_with_everything_known_it_is_the_mean_over_the_batch_of_the_sum_over_attributes():
    """Eq. 3 term by term."""
    features, attributes, weights = random_batch(0, [2] * M, 0.0)
    total = 0.0
    for i in range(N):
        for k in range(M):
            piece = features[i : i + 1, k * Q : (k + 1) * Q]
            total += angular_margin_loss(piece, attributes[i : i + 1, k], weights[k], scale=14, margin=0.5).item()
    assert attribute_loss(features, attributes, weights, scale=14, margin=0.5).item() == pytest.approx(total / N)


def test_an_unknown_value_is_not_a_value():
    features, attributes, weights = random_batch(1, [2] * M, 0.4)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(attribute_loss(features, attributes, weights, scale=30, margin=0.5), features)
    unknown = (attributes == -1)[:, :, None].expand(N, M, Q).reshape(N, M * Q)
    assert unknown.any()
    assert not gradient[unknown].any()
    assert (gradient[~unknown] != 0).all()


def test_the_guard_is_passed_on():
    features, attributes, weights = random_batch(2, [2] * M, 0.0)
    features = -weights[torch.arange(M), attributes].reshape(N, M * Q)
    bare = attribute_loss(features, attributes, weights, scale=30, margin=1.0, angular_guard=False)
    assert attribute_loss(features, attributes, weights, scale=30, margin=1.0) > bare
