"""HAVANA's networks on features: an autoencoder whose latent mean retrieves (VNAE), and its variation distiller (HVD).

*HAVANA: Hierarchical and Variation-Normalized Autoencoder for Person Re-Identification*, §3.2 and 3.4. Nothing here
draws random numbers: the noise of every sample is an argument, so that callers can draw it for the global batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "leaky_relu", "tanh"]
Std = Literal["exp", "softplus"]
"""Mapping from a network's output to a standard deviation: exp(½·output), so that the output is the logarithm of the
variance, or log(1 + exp(output))."""


class Gaussian(NamedTuple):
    """Gaussians with diagonal covariance, in the form that the divergences of `reid_ray.losses` expect.

    Attributes:
        mean: [N, D].
        std: [N, D], > 0.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterisation trick: mean + std · noise, with standard normal noise [N, D]."""
        return self.mean + self.std * noise


def build_mlp(in_dim: int, hidden_dim: int, out_dim: int, *, activation: Activation = "relu") -> nn.Sequential:
    """Two linear layers. With all sizes 2048 it has (2048 + 1)·2048·2 = 8,392,704 parameters, HAVANA's f_μ."""
    layers: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh}
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), layers[activation](), nn.Linear(hidden_dim, out_dim))


class GaussianMLP(nn.Module):
    """Vectors [N, in_dim] → Gaussians in out_dim dimensions, by separate two-layer MLPs for mean and deviation (Eq. 4).

    Attributes:
        mean: vectors → mean.
        spread: vectors → input of `std`; None if the deviation is fixed at 1, so that no parameter is without gradient.
        std: mapping from the output of `spread` to the deviation.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        activation: Activation = "relu",
        std: Std = "exp",
        unit_std: bool = False,
    ) -> None:
        super().__init__()
        self.mean = build_mlp(in_dim, hidden_dim, out_dim, activation=activation)
        self.spread = None if unit_std else build_mlp(in_dim, hidden_dim, out_dim, activation=activation)
        self.std: Std = std

    def forward(self, inputs: Tensor) -> Gaussian:
        mean = self.mean(inputs)
        if self.spread is None:
            return Gaussian(mean, torch.ones_like(mean))
        spread = self.spread(inputs)
        return Gaussian(mean, (spread / 2).exp() if self.std == "exp" else F.softplus(spread))


class VNAEOutput(NamedTuple):
    """Output of VNAE for features x [N, D].

    Attributes:
        z: q(z|x), mean and deviation [N, D].
        z_sample: [N, D], a sample of z.
        x_decoded: x̃ [N, D], decoded from the sample.
    """

    z: Gaussian
    z_sample: Tensor
    x_decoded: Tensor


class VNAE(nn.Module):
    """Variation-normalised autoencoder: features x [N, D] → latent distributions and reconstructions (fig. 2).

    Callers apply classifier and triplet loss to the latent mean. The paper specifies size and depth of f_μ only; f_σ
    and the decoder are like it.

    Attributes:
        encoder: q(z|x) = N(f_μ(x), f_σ(x)²); `encoder.mean` is f_μ, the only part needed for retrieval. Under
            the covariance constraint the deviation is 1.
        decoder: z → x̃.
    """

    def __init__(
        self,
        dim: int = 2048,
        hidden_dim: int = 2048,
        *,
        activation: Activation = "relu",
        std: Std = "exp",
        covariance_constraint: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = GaussianMLP(dim, hidden_dim, dim, activation=activation, std=std, unit_std=covariance_constraint)
        self.decoder = build_mlp(dim, hidden_dim, dim, activation=activation)

    def forward(self, x: Tensor, noise: Tensor) -> VNAEOutput:
        """Encode x [N, D], sample z with standard normal noise [N, D], and decode the sample."""
        z = self.encoder(x)
        z_sample = z.sample(noise)
        return VNAEOutput(z, z_sample, self.decoder(z_sample))

    def embed(self, x: Tensor) -> Tensor:
        """The retrieval feature [N, D] of x [N, D]: z_μ, L2-normalised."""
        return F.normalize(self.encoder.mean(x))


class HVDOutput(NamedTuple):
    """Output of HVD for samples of z.

    Attributes:
        v: q(v|z,y), mean and deviation [N, V].
        z_decoded: p(z|v,y) for a sample of v, mean and deviation [N, D].
    """

    v: Gaussian
    z_decoded: Gaussian


class HVD(nn.Module):
    """Hierarchical variation distiller: samples of z with identities y → variations v, and back (fig. 3).

    It is trained with VNAE and removed afterwards. The paper does not specify sizes.

    Attributes:
        encoder: q(v|z,y), from z and the one-hot identity.
        decoder: p(z|v,y), from v and the one-hot identity. Under the covariance constraint its deviation is 1,
            because no loss reads it.
    """

    def __init__(
        self,
        n_identities: int,
        dim: int = 2048,
        hidden_dim: int = 2048,
        variation_dim: int = 256,
        *,
        activation: Activation = "relu",
        std: Std = "exp",
        covariance_constraint: bool = False,
    ) -> None:
        super().__init__()
        self.n_identities = n_identities
        self.encoder = GaussianMLP(dim + n_identities, hidden_dim, variation_dim, activation=activation, std=std)
        self.decoder = GaussianMLP(
            variation_dim + n_identities,
            hidden_dim,
            dim,
            activation=activation,
            std=std,
            unit_std=covariance_constraint,
        )

    def forward(self, z_sample: Tensor, labels: Tensor, noise: Tensor) -> HVDOutput:
        """Distill samples of z [N, D].

        Args:
            z_sample: [N, D].
            labels: int64 [N], 0 … n_identities − 1.
            noise: [N, V], standard normal, for the sample of v.
        """
        one_hot = F.one_hot(labels, self.n_identities).to(z_sample.dtype)
        v = self.encoder(torch.cat([z_sample, one_hot], dim=1))
        return HVDOutput(v, self.decoder(torch.cat([v.sample(noise), one_hot], dim=1)))
