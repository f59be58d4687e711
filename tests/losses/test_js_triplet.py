"""The JS triplet loss against loops over all triplets, and what becomes of its gradient in many dimensions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reid_ray.losses import js_divergence, js_triplet_loss, kl_divergence, kl_to_standard_normal
from reid_ray.losses.gaussian import Divergence

LABELS = {
    "equal": [0, 0, 1, 1, 2, 2],
    "ragged and shuffled": [7, 2, 7, 7, 5, 2, 7, 9],
    "singletons": [3, 1, 2],
}
FORMS: tuple[Divergence, ...] = ("gaussian_mean", "geometric", "monte_carlo")


def naive_loss(mean: Tensor, std: Tensor, labels: list[int], margin: float, noise: Tensor | None, **settings) -> Tensor:
    def js(i: int, j: int) -> Tensor:
        sampled = {} if noise is None else {"p_noise": noise[:, i], "q_noise": noise[:, j]}
        return js_divergence((mean[i], std[i]), (mean[j], std[j]), **settings, **sampled)

    losses = []
    for a, label in enumerate(labels):
        positives = [js(a, j) for j, other in enumerate(labels) if other == label]
        negatives = [js(a, j) for j, other in enumerate(labels) if other != label]
        losses.append((max(positives, key=Tensor.item) - min(negatives, key=Tensor.item) + margin).clamp(min=0))
    return torch.stack(losses).mean()


def random_batch(n: int, dim: int, seed: int, divergence: Divergence) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, dim, generator=generator, dtype=torch.float64, requires_grad=True)
    std = (0.3 + torch.rand(n, dim, generator=generator, dtype=torch.float64)).requires_grad_()
    noise = torch.randn(4, n, dim, generator=generator, dtype=torch.float64) if divergence == "monte_carlo" else None
    return mean, std, noise


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("unit", ["nats", "bits"])
@pytest.mark.parametrize("divergence", FORMS)
@pytest.mark.parametrize("kind", list(LABELS))
def test_equals_a_loop_over_triplets_with_its_gradient(kind: str, divergence: Divergence, unit: str, reduction: str):
    labels = LABELS[kind]
    settings = {"divergence": divergence, "unit": unit, "reduction": reduction}
    for seed in range(3):
        mean, std, noise = random_batch(len(labels), 3, seed, divergence)
        found = js_triplet_loss(mean, std, torch.tensor(labels), margin=0.5, noise=noise, **settings)
        expected = naive_loss(mean, std, labels, 0.5, noise, **settings)
        torch.testing.assert_close(found, expected)
        for gradient, wanted in zip(
            torch.autograd.grad(found, (mean, std)), torch.autograd.grad(expected, (mean, std)), strict=True
        ):
            torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("divergence", ["gaussian_mean", "geometric"])
def test_with_unit_deviations_it_is_a_triplet_loss_of_squared_distances(divergence: Divergence):
    labels = torch.tensor(LABELS["equal"])
    mean, _, _ = random_batch(6, 4, 0, divergence)
    distances = torch.cdist(mean, mean).square() / 8
    same = labels[:, None] == labels[None, :]
    hardest = distances.masked_fill(~same, 0).amax(1) - distances.masked_fill(same, torch.inf).amin(1)
    found = js_triplet_loss(mean, torch.ones_like(mean), labels, margin=0.5, divergence=divergence)
    torch.testing.assert_close(found, (hardest + 0.5).clamp(min=0).mean())


def test_duplicates_and_one_identity():
    mean, std = torch.ones(4, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    for labels, expected in (([0, 0, 1, 1], 0.5), ([2, 2, 2, 2], 0.0)):
        loss = js_triplet_loss(mean, std, torch.tensor(labels), margin=0.5)
        assert loss.item() == expected
        assert all(not gradient.any() for gradient in torch.autograd.grad(loss, (mean, std)))


def test_noisy_samples_are_taken_less_seriously():
    """The paper's first claim for it: with a larger deviation the same means give a smaller divergence."""
    mean, _, _ = random_batch(2, 4, 0, "gaussian_mean")
    divergences = [
        js_divergence((mean[0], torch.full((4,), s)), (mean[1], torch.full((4,), s))).item() for s in (0.5, 1.0, 2.0)
    ]
    assert divergences == sorted(divergences, reverse=True)


def test_in_many_dimensions_the_true_divergence_saturates_and_its_gradient_vanishes():
    """Unit Gaussians with means half a deviation apart per dimension: easy to mistake in 4 dimensions, not in 2048."""
    labels = torch.tensor(LABELS["equal"])
    losses, norms = [], []
    for dim in (4, 2048):
        generator = torch.Generator().manual_seed(0)
        mean = (0.5 * torch.randn(6, dim, generator=generator)).requires_grad_()
        noise = torch.randn(8, 6, dim, generator=generator)
        for divergence in ("monte_carlo", "gaussian_mean"):
            loss = js_triplet_loss(mean, torch.ones(6, dim), labels, margin=0.5, divergence=divergence, noise=noise)
            losses.append(loss.item())
            norms.append(torch.autograd.grad(loss, mean)[0].norm().item())
    sampled_few, closed_few, sampled_many, closed_many = norms
    assert min(sampled_few, closed_few, closed_many) > 1e-2
    assert sampled_many < 1e-6
    assert math.isclose(losses[2], 0.5, abs_tol=1e-6)  # the margin: d_ap = d_an = ln 2


def test_the_noise_is_an_argument():
    mean, std, noise = random_batch(6, 3, 0, "monte_carlo")
    labels = torch.tensor(LABELS["equal"])
    losses = {
        js_triplet_loss(mean, std, labels, margin=0.5, divergence="monte_carlo", noise=each).item()
        for each in (noise, noise, -noise)
    }
    assert len(losses) == 2
    with pytest.raises(ValueError, match="noise"):
        js_triplet_loss(mean, std, labels, margin=0.5, divergence="monte_carlo")


@pytest.mark.parametrize("divergence", FORMS)
def test_a_common_shift_of_the_means_changes_nothing(divergence: Divergence):
    """Only the divergence from the standard normal distribution knows where the origin is."""
    mean, std, noise = random_batch(6, 3, 0, divergence)
    labels, settings = torch.tensor(LABELS["equal"]), {"margin": 0.5, "divergence": divergence, "noise": noise}
    shifted = mean + torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        js_triplet_loss(shifted, std, labels, **settings), js_triplet_loss(mean, std, labels, **settings)
    )
    torch.testing.assert_close(
        kl_divergence((shifted, std), (shifted.roll(1, 0), std)), kl_divergence((mean, std), (mean.roll(1, 0), std))
    )
    assert not torch.allclose(kl_to_standard_normal((shifted, std)), kl_to_standard_normal((mean, std)))
