"""Samples of Gaussian codes, by hand and by their moments."""

import torch

from reid_ray.models import GaussianCode


def test_a_sample_by_hand() -> None:
    """The point that the checks of DG-VAE's losses start from: μ=(1,−1), σ=(.5,1), ε=(1,−.5)."""
    code = GaussianCode(torch.tensor([1.0, -1.0]), 2 * torch.tensor([0.5, 1.0]).log())
    torch.testing.assert_close(code.std, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(code.sample(torch.tensor([1.0, -0.5])), torch.tensor([1.5, -1.5]))
    assert torch.equal(code.sample(torch.zeros(2)), code.mean)


def test_moments_and_gradients() -> None:
    mean, log_variance = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    noise = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = GaussianCode(mean, log_variance).sample(noise)
    torch.testing.assert_close(samples.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(samples.var(0), log_variance.exp(), atol=0.03, rtol=0)
    inputs = (mean.requires_grad_(), log_variance.requires_grad_(), noise[:3])
    assert torch.autograd.gradcheck(lambda m, lv, n: GaussianCode(m, lv).sample(n), inputs)
