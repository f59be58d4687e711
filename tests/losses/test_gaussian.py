"""Divergences against torch.distributions and numerical integration, pair by pair; and the numbers of the sheet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl

from reid_ray.losses import gaussian, js_divergence, kl_divergence, kl_to_standard_normal, pairwise_js_divergence
from reid_ray.losses.gaussian import Divergence, Gaussian

FORMS: tuple[Divergence, ...] = ("gaussian_mean", "geometric", "monte_carlo")


def random_gaussians(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(*shape, generator=generator, dtype=torch.float64)
    std = 0.3 + 1.5 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return mean.to(dtype), std.to(dtype)


def of_one_dimension(mean: float, std: float) -> Gaussian:
    return torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64)


def noise_of(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integrated_js(p: tuple[float, float], q: tuple[float, float]) -> float:
    """The true divergence of two one-dimensional Gaussians, by a sum over a grid."""
    x = np.linspace(-40, 40, 200_001)
    logs = [-0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi)) for mean, std in (p, q)]
    of_mixture = np.logaddexp(*logs) - math.log(2)
    return float(sum(np.exp(log) * (log - of_mixture) for log in logs).sum() / 2 * (x[1] - x[0]))


def through_a_gaussian(p: Gaussian, q: Gaussian, middle: Gaussian) -> Tensor:
    """½KL(p ‖ middle) + ½KL(q ‖ middle), summed over dimensions, by torch.distributions."""
    return sum(kl.kl_divergence(Normal(*each), Normal(*middle)).sum(-1) for each in (p, q)) / 2


def naive_js(p: Gaussian, q: Gaussian, divergence: Divergence) -> Tensor:
    (p_mean, p_std), (q_mean, q_std) = p, q
    if divergence == "gaussian_mean":
        return through_a_gaussian(p, q, ((p_mean + q_mean) / 2, ((p_std**2 + q_std**2) / 2).sqrt()))
    precision = (p_std**-2 + q_std**-2) / 2
    mean = (p_mean / p_std**2 + q_mean / q_std**2) / 2 / precision
    return through_a_gaussian(p, q, (mean, precision**-0.5))


def naive_sampled_js(p: Gaussian, q: Gaussian, p_noise: Tensor, q_noise: Tensor) -> float:
    """Log-densities of the D-dimensional Gaussians and their mixture, sample by sample."""
    total = 0.0
    for (mean, std), noise in ((p, p_noise), (q, q_noise)):
        for eps in noise:
            x = mean + std * eps
            own, *both = (Normal(*g).log_prob(x).sum() for g in ((mean, std), p, q))
            mixture = torch.logsumexp(torch.stack(both), dim=0) - math.log(2)
            total += (own - mixture).item() / 2 / len(noise)
    return total


def test_kl_divergences():
    for seed in range(3):
        p, q = random_gaussians(seed, 5, 3), random_gaussians(seed + 10, 5, 3)
        torch.testing.assert_close(kl_divergence(p, q), kl.kl_divergence(Normal(*p), Normal(*q)))
        standard = torch.zeros_like(p[0]), torch.ones_like(p[1])
        torch.testing.assert_close(kl_to_standard_normal(p), kl_divergence(p, standard))
        assert not kl_divergence(p, p).abs().max() > 1e-12
    mean = torch.randn(4, 3)
    torch.testing.assert_close(kl_to_standard_normal((mean, torch.ones(4, 3))), mean.square() / 2)


@pytest.mark.parametrize("divergence", ["gaussian_mean", "geometric"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_closed_forms(divergence: Divergence, reduction: str, unit: str):
    for seed in range(4):
        p, q = random_gaussians(seed, 6, 5), random_gaussians(seed + 10, 6, 5)
        found = js_divergence(p, q, divergence=divergence, reduction=reduction, unit=unit)
        expected = naive_js(p, q, divergence) / (5 if reduction == "mean" else 1)
        torch.testing.assert_close(found, expected / math.log(2) if unit == "bits" else expected)
        torch.testing.assert_close(found, js_divergence(q, p, divergence=divergence, reduction=reduction, unit=unit))
        assert not js_divergence(p, p, divergence=divergence).abs().max() > 1e-12


def test_gaussian_mean_is_the_bhattacharyya_distance():
    """−log ∫ √(p·q), by a sum over a grid."""
    x = torch.linspace(-40, 40, 200_001, dtype=torch.float64)
    for seed in range(3):
        p, q = random_gaussians(seed, 1), random_gaussians(seed + 10, 1)
        overlap = ((Normal(*p).log_prob(x) + Normal(*q).log_prob(x)) / 2).exp().sum() * (x[1] - x[0])
        torch.testing.assert_close(js_divergence(p, q), -overlap.log())


@pytest.mark.parametrize("divergence", ["gaussian_mean", "geometric"])
def test_two_unit_gaussians_at_distance_two(divergence: Divergence):
    p, q = of_one_dimension(0, 1), of_one_dimension(2, 1)
    assert js_divergence(p, q, divergence=divergence).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("p", "q"), [((0, 1), (2, 1)), ((0, 1), (0, 3)), ((-1, 0.5), (1, 2)), ((0, 1), (0, 1))])
def test_samples_approach_the_integral(p: tuple[float, float], q: tuple[float, float]):
    found = js_divergence(
        of_one_dimension(*p),
        of_one_dimension(*q),
        divergence="monte_carlo",
        p_noise=noise_of(0, 100_000, 1),
        q_noise=noise_of(1, 100_000, 1),
    )
    assert found.item() == pytest.approx(integrated_js(p, q), abs=5e-3)


def test_samples_of_several_dimensions():
    """`sum` is the divergence of the whole Gaussians, `mean` that of their marginals on average."""
    p, q = random_gaussians(0, 4), random_gaussians(1, 4)
    noises = {"p_noise": noise_of(2, 5, 4), "q_noise": noise_of(3, 5, 4)}
    found = js_divergence(p, q, divergence="monte_carlo", **noises)
    assert found.item() == pytest.approx(naive_sampled_js(p, q, *noises.values()))
    marginals = [
        naive_sampled_js((p[0][[d]], p[1][[d]]), (q[0][[d]], q[1][[d]]), *(noise[:, [d]] for noise in noises.values()))
        for d in range(4)
    ]
    found = js_divergence(p, q, divergence="monte_carlo", reduction="mean", **noises)
    assert found.item() == pytest.approx(np.mean(marginals))


def test_the_share_of_the_bound_that_the_docstring_names():
    for distance, share, digits in ((2, 0.49, 2), (4, 0.91, 2), (6, 0.994, 3), (8, 0.9999, 4)):
        assert round(integrated_js((0, 1), (distance, 1)) / math.log(2), digits) == share


def test_sampled_divergence_is_bounded():
    far = (torch.full((1,), 1e3, dtype=torch.float64), torch.full((1,), 0.1, dtype=torch.float64))
    noises = {"p_noise": noise_of(0, 8, 1), "q_noise": noise_of(1, 8, 1)}
    for unit, bound in (("nats", math.log(2)), ("bits", 1.0)):
        found = js_divergence(of_one_dimension(0, 1), far, divergence="monte_carlo", unit=unit, **noises)
        assert found.item() == pytest.approx(bound)


@pytest.mark.parametrize("block_elements", [1, 40, 2**18])
@pytest.mark.parametrize("unit", ["nats", "bits"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("divergence", FORMS)
def test_pairwise_is_the_paired_form_of_every_pair(
    monkeypatch: pytest.MonkeyPatch, divergence: Divergence, reduction: str, unit: str, block_elements: int
):
    monkeypatch.setattr(gaussian, "BLOCK_ELEMENTS", block_elements)
    mean, std = random_gaussians(0, 7, 3)
    mean[5], std[5] = mean[2], std[2]
    noise = noise_of(1, 4, 7, 3) if divergence == "monte_carlo" else None
    settings = {"divergence": divergence, "reduction": reduction, "unit": unit}
    found = pairwise_js_divergence((mean, std), noise=noise, **settings)
    for i in range(7):
        for j in range(7):
            sampled = {} if noise is None else {"p_noise": noise[:, i], "q_noise": noise[:, j]}
            expected = js_divergence((mean[i], std[i]), (mean[j], std[j]), **settings, **sampled)
            torch.testing.assert_close(found[i, j], expected, rtol=1e-9, atol=1e-12)


def test_pairs_of_far_gaussians_keep_their_digits_in_float32():
    """Two close groups far apart: the expanded squares of float32 would know a log-density to about 10."""
    mean, std = random_gaussians(0, 6, 4, dtype=torch.float32)
    mean = mean * 0.3 + torch.tensor([1e4, -1e4]).repeat(3)[:, None]
    noise = noise_of(1, 3, 6, 4).float()
    found = pairwise_js_divergence((mean, std), divergence="monte_carlo", noise=noise)
    exact = pairwise_js_divergence((mean.double(), std.double()), divergence="monte_carlo", noise=noise.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_noise_is_needed_for_samples():
    p = random_gaussians(0, 3, 2)
    with pytest.raises(ValueError, match="noise"):
        js_divergence(p, p, divergence="monte_carlo")
    with pytest.raises(ValueError, match="noise"):
        pairwise_js_divergence(p, divergence="monte_carlo")
