"""Evidence lower bounds of HAVANA: of the autoencoder alone (VNAE, Eq. 6), and with its variation distiller (Eq. 13).

x is a feature of the extractor, x̃ its reconstruction, q(z|x) = N(z_μ, z_σ²) the latent distribution that training with
labels shapes, q(v|z,y) that of the variations, and p(z|v,y) = N(z̃_μ, z̃_σ²) the latent distribution as reconstructed
from variation and identity.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.gaussian import DimReduction, Gaussian, kl_divergence, kl_to_standard_normal

Signs = Literal["equation_13", "algorithm_1"]


class ElboTerms(NamedTuple):
    """Terms of a negative evidence lower bound: scalars, each ≥ 0 and a mean over the batch.

    To ablate a term (table 5), set it to zero: `terms._replace(kl_v=zero)`.

    Attributes:
        reconstruction_x: L_reconx, mean squared error of x̃.
        kl_z: L_klz: KL(q(z|x) ‖ N(0, I)) for VNAE and under the covariance constraint, KL(q(z|x) ‖ p(z|v,y)) for HVD
            without it.
        reconstruction_z: L_reconz, mean squared error of z̃_μ; 0 except for HVD under the constraint.
        kl_v: L_klv, KL(q(v|z,y) ‖ N(0, I)); 0 for VNAE.
    """

    reconstruction_x: Tensor
    kl_z: Tensor
    reconstruction_z: Tensor
    kl_v: Tensor


def vnae_terms(x: Tensor, x_decoded: Tensor, z: Gaussian, *, kl_reduction: DimReduction = "sum") -> ElboTerms:
    """The terms of Eq. 6.

    E log p(x|z) is −MSE(x, x̃), a Gaussian of fixed variance, as in algorithm 1.

    Args:
        x: [B, D], without gradient if the extractor is frozen.
        x_decoded: x̃ [B, D], decoded from a sample of z.
        z: q(z|x), mean and std [B, Z].
        kl_reduction: over dimensions. `sum` is the divergence of the equations. Combined with a *mean* squared error it
            has D times the weight that it has in a likelihood of x; `mean` puts both on one scale.
    """
    zero = x_decoded.new_zeros(())
    return ElboTerms(F.mse_loss(x_decoded, x), _mean(kl_to_standard_normal(z), kl_reduction), zero, zero)


def hvd_terms(
    x: Tensor,
    x_decoded: Tensor,
    z: Gaussian,
    v: Gaussian,
    z_decoded: Gaussian,
    *,
    covariance_constraint: bool,
    kl_reduction: DimReduction = "sum",
) -> ElboTerms:
    """The terms of Eq. 13, or their replacements under the covariance constraint z_σ = I (section 4.3).

    Under the constraint the paper replaces KL(q(z|x) ‖ p(z|v,y)) by MSE(z_μ, z̃_μ) + KL(N(z_μ, z_σ²) ‖ N(0, I)). The
    latter is then ½|z_μ|², and z̃_σ is not read.

    Args:
        x, x_decoded, z, kl_reduction: as in `vnae_terms`.
        v: q(v|z,y), mean and std [B, V].
        z_decoded: p(z|v,y), mean and std [B, Z].
        covariance_constraint: z_σ is 1 everywhere; the network must ensure it.
    """
    reconstruction_x, to_normal, zero, _ = vnae_terms(x, x_decoded, z, kl_reduction=kl_reduction)
    kl_v = _mean(kl_to_standard_normal(v), kl_reduction)
    if covariance_constraint:
        return ElboTerms(reconstruction_x, to_normal, F.mse_loss(z_decoded[0], z[0]), kl_v)
    return ElboTerms(reconstruction_x, _mean(kl_divergence(z, z_decoded), kl_reduction), zero, kl_v)


def negative_elbo(terms: ElboTerms, *, beta: float, signs: Signs = "equation_13") -> Tensor:
    """−ELBO = L_reconx + β·(L_klz + L_reconz + L_klv), to be minimised; α and the supervised losses are the caller's.

    Args:
        terms: of `vnae_terms` or `hvd_terms`.
        beta: β; 1 for Market-1501, 2 for MSMT17.
        signs: `equation_13`, in which the divergences are minimised. `algorithm_1`, as printed: L_klz and L_klv are
            defined as −D_KL and *added*, which maximises divergences without an upper bound, so that training diverges.
            It exists to demonstrate that.
    """
    sign = 1 if signs == "equation_13" else -1
    divergences = terms.kl_z + terms.kl_v
    return terms.reconstruction_x + beta * (sign * divergences + terms.reconstruction_z)


def _mean(per_dim: Tensor, reduction: DimReduction) -> Tensor:
    """Mean over the batch of the sum or the mean over dimensions."""
    return torch.mean(per_dim.sum(dim=-1) if reduction == "sum" else per_dim.mean(dim=-1))
