"""HAVANA's networks: sizes of the paper, samples by hand, and what depends on what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.models import HVD, VNAE, Gaussian, build_mlp

DIM, HIDDEN, V, N_IDS = 6, 5, 3, 4


def small(**settings) -> tuple[VNAE, HVD]:
    torch.manual_seed(0)
    vnae = VNAE(DIM, HIDDEN, **settings)
    return vnae.double(), HVD(N_IDS, DIM, HIDDEN, V, **settings).double()


def noise_of(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_paper():
    with torch.device("meta"):
        vnae, constrained = VNAE(), VNAE(covariance_constraint=True)
    assert n_parameters(vnae.encoder.mean) == (2048 + 1) * 2048 * 2 == 8_392_704
    assert n_parameters(vnae) == 3 * 8_392_704
    assert n_parameters(constrained) == 2 * 8_392_704


@pytest.mark.parametrize("std", ["exp", "softplus"])
@pytest.mark.parametrize(
    ("activation", "function"), [("relu", F.relu), ("leaky_relu", F.leaky_relu), ("tanh", torch.tanh)]
)
def test_step_by_step(std: str, activation: str, function):
    vnae, hvd = small(std=std, activation=activation)
    x, labels = noise_of(0, 7, DIM), torch.tensor([0, 3, 3, 1, 0, 2, 3])
    z_noise, v_noise = noise_of(1, 7, DIM), noise_of(2, 7, V)

    def mlp(layers: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
        first, second = layers[0], layers[2]
        return function(inputs @ first.weight.t() + first.bias) @ second.weight.t() + second.bias

    def deviation(raw: torch.Tensor) -> torch.Tensor:
        return raw.exp().sqrt() if std == "exp" else (1 + raw.exp()).log()

    z_mean, z_std = mlp(vnae.encoder.mean, x), deviation(mlp(vnae.encoder.spread, x))
    z_sample = z_mean + z_std * z_noise
    found = vnae(x, z_noise)
    for value, expected in zip(
        (*found.z, found.z_sample, found.x_decoded), (z_mean, z_std, z_sample, mlp(vnae.decoder, z_sample)), strict=True
    ):
        torch.testing.assert_close(value, expected)

    one_hot = torch.eye(N_IDS, dtype=torch.float64)[labels]
    given = torch.cat([z_sample, one_hot], dim=1)
    v_mean, v_std = mlp(hvd.encoder.mean, given), deviation(mlp(hvd.encoder.spread, given))
    given = torch.cat([v_mean + v_std * v_noise, one_hot], dim=1)
    distilled = hvd(z_sample, labels, v_noise)
    for value, expected in zip(
        (*distilled.v, *distilled.z_decoded),
        (v_mean, v_std, mlp(hvd.decoder.mean, given), deviation(mlp(hvd.decoder.spread, given))),
        strict=True,
    ):
        torch.testing.assert_close(value, expected)


def test_retrieval_reads_the_mean_alone():
    vnae, _ = small()
    x = noise_of(0, 3, DIM)
    mean = vnae.encoder(x).mean
    torch.testing.assert_close(vnae.embed(x), mean / mean.norm(dim=1, keepdim=True))
    before = vnae.embed(x)
    for module in (vnae.encoder.spread, vnae.decoder):
        for parameter in module.parameters():
            nn.init.constant_(parameter, 0.1)
    assert torch.equal(vnae.embed(x), before)


@pytest.mark.parametrize("constrained", [False, True])
def test_every_parameter_gets_a_gradient(constrained: bool):
    """Also under the covariance constraint, which would leave the deviations without one if they were there."""
    vnae, hvd = small(covariance_constraint=constrained)
    encoded = vnae(noise_of(0, 5, DIM), noise_of(1, 5, DIM))
    distilled = hvd(encoded.z_sample, torch.tensor([0, 1, 2, 3, 3]), noise_of(2, 5, V))
    total = encoded.x_decoded.square().sum() + sum(value.square().sum() for value in distilled.v)
    total = total + distilled.z_decoded.mean.square().sum()
    if not constrained:
        total = total + distilled.z_decoded.std.square().sum()
    total.backward()
    assert all(parameter.grad is not None for module in (vnae, hvd) for parameter in module.parameters())


def test_covariance_constraint():
    vnae, hvd = small(covariance_constraint=True)
    encoded = vnae(noise_of(0, 5, DIM), noise_of(1, 5, DIM))
    assert (encoded.z.std == 1).all()
    torch.testing.assert_close(encoded.z_sample, encoded.z.mean + noise_of(1, 5, DIM))
    distilled = hvd(encoded.z_sample, torch.zeros(5, dtype=torch.int64), noise_of(2, 5, V))
    assert (distilled.z_decoded.std == 1).all()
    assert not (distilled.v.std == 1).all()


def test_rows_do_not_depend_on_each_other():
    """So that slices of the global noise give every worker the samples that one process would have drawn."""
    vnae, hvd = small()
    x, labels, z_noise, v_noise = noise_of(0, 6, DIM), torch.arange(6) % N_IDS, noise_of(1, 6, DIM), noise_of(2, 6, V)
    whole = vnae(x, z_noise)
    distilled = hvd(whole.z_sample, labels, v_noise)
    for rows in (slice(0, 3), slice(3, 6)):
        part = vnae(x[rows], z_noise[rows])
        torch.testing.assert_close(part.x_decoded, whole.x_decoded[rows])
        again = hvd(part.z_sample, labels[rows], v_noise[rows])
        torch.testing.assert_close(again.z_decoded.mean, distilled.z_decoded.mean[rows])


def test_sampling_without_noise_is_the_mean():
    gaussian = Gaussian(torch.ones(2, 3), torch.full((2, 3), 2.0))
    assert torch.equal(gaussian.sample(torch.zeros(2, 3)), gaussian.mean)
    assert torch.equal(gaussian.sample(torch.ones(2, 3)), gaussian.mean + 2)


def test_build_mlp():
    assert n_parameters(build_mlp(2, 3, 4)) == (2 + 1) * 3 + (3 + 1) * 4
