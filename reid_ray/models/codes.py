"""Gaussian codes of variational encoders: mean and log-variance, and samples with the caller's noise."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class GaussianCode(NamedTuple):
    """Gaussians with diagonal covariance, one per code.

    Attributes:
        mean: μ [..., D].
        log_variance: ln σ² [..., D].
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def std(self) -> Tensor:
        """σ [..., D]."""
        return (self.log_variance / 2).exp()

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterisation trick: μ + σ·noise, with standard normal noise [..., D].

        The caller draws noise for the global batch and slices it, so that it does not depend on the number of workers.
        """
        return self.mean + self.std * noise
