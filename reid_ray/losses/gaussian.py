"""Divergences of Gaussians with diagonal covariance: KL, and three forms of Jensen-Shannon (HAVANA, Eq. 8).

D_JS(p, q) = ½·KL(p ‖ m) + ½·KL(q ‖ m) with the mixture m = ½(p + q) has no closed form for Gaussians, and the paper
gives no estimator. The forms differ in what replaces m:

* `gaussian_mean`: the Gaussian of the averaged moments, μ̄ = ½(μ_p + μ_q) and σ̄² = ½(σ_p² + σ_q²). The divergence then
  equals the Bhattacharyya distance of p and q. It is unbounded.
* `geometric`: the normalised geometric mean √(p·q), a Gaussian of the averaged precisions (Nielsen, Entropy 2019, skew
  ½). It is unbounded too.
* `monte_carlo`: the mixture itself, estimated from samples. Bounded by ln 2, or by 1 in bits, as the paper states for
  D_JS.

In many dimensions the true divergence saturates. For unit Gaussians it depends on the distance d of the means alone:
49 % of its bound at d = 2, 91 % at d = 4, 99.4 % at d = 6 and 99.99 % at d = 8. In 2048 dimensions d = 8 is a
difference of 0.18 per dimension. Nearly all pairs of a batch then have the same divergence, so a triplet loss equals
its margin and has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Literal["gaussian_mean", "monte_carlo", "geometric"]
DimReduction = Literal["sum", "mean"]
Unit = Literal["nats", "bits"]

BLOCK_ELEMENTS = 2**18
"""Elements per intermediate result of a block of pairs; small enough for the cache of one CPU core."""

Gaussian: TypeAlias = tuple[Tensor, Tensor]
"""Mean and standard deviation (> 0) of Gaussians with diagonal covariance, both [..., D]."""


def kl_divergence(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p ‖ q) in nats, per dimension: log(σ_q/σ_p) + (σ_p² + (μ_p − μ_q)²) / 2σ_q² − ½.

    The dimensions are independent, so KL(p ‖ q) of the whole Gaussians is the sum over the last axis.

    Args:
        p, q: of shapes [..., D] that broadcast.

    Returns:
        [..., D].
    """
    (p_mean, p_std), (q_mean, q_std) = p, q
    ratio = p_std / q_std
    return (ratio.square() + ((p_mean - q_mean) / q_std).square() - 1) / 2 - ratio.log()


def kl_to_standard_normal(gaussian: Gaussian) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, per dimension: ½(σ² + μ² − 1) − log σ; ½μ² where σ = 1."""
    mean, std = gaussian
    return (std.square() + mean.square() - 1) / 2 - std.log()


def js_divergence(
    p: Gaussian,
    q: Gaussian,
    *,
    divergence: Divergence = "gaussian_mean",
    reduction: DimReduction = "sum",
    unit: Unit = "nats",
    p_noise: Tensor | None = None,
    q_noise: Tensor | None = None,
) -> Tensor:
    """Jensen-Shannon divergence of paired Gaussians, in one of the forms of this module.

    Args:
        p, q: of shapes [..., D] that broadcast.
        divergence: the form.
        reduction: `sum`: the divergence of the D-dimensional Gaussians, which is a sum over dimensions in the closed
            forms. `mean`: the mean over dimensions of the divergences of their one-dimensional marginals.
        unit: `bits` divides by ln 2.
        p_noise, q_noise: [S, ..., D], standard normal samples for `monte_carlo`: the samples of p are μ_p + σ_p·noise.
            The estimate is unbiased; from few samples it can be negative.

    Returns:
        [...].

    Raises:
        ValueError: `monte_carlo` without noise.
    """
    if divergence == "monte_carlo":
        if p_noise is None or q_noise is None:
            raise ValueError("divergence='monte_carlo' needs standard normal noise for both Gaussians")
        values = _sampled(p, q, p_noise, q_noise, reduction)
    else:
        per_dim = CLOSED_FORMS[divergence](p, q)
        values = per_dim.sum(dim=-1) if reduction == "sum" else per_dim.mean(dim=-1)
    return values / math.log(2) if unit == "bits" else values


@torch.no_grad()
def pairwise_js_divergence(
    gaussians: Gaussian,
    *,
    divergence: Divergence = "gaussian_mean",
    reduction: DimReduction = "sum",
    unit: Unit = "nats",
    noise: Tensor | None = None,
) -> Tensor:
    """`js_divergence` of all pairs of B Gaussians, [B, B], without gradient.

    Memory is O(B² + B·D). The closed forms need a logarithm or a quotient per dimension and pair, which a matrix
    product cannot compute: they run over blocks of rows, for one half of the matrix. `monte_carlo` computes the
    log-densities of all samples under all Gaussians with two matrix products, in float64 because their differences are
    small; with `reduction="mean"` it runs in blocks like the closed forms.

    Args:
        gaussians: mean and std [B, D].
        noise: [S, B, D]; all pairs of a Gaussian share its samples.
        divergence, reduction, unit: as in `js_divergence`.
    """
    mean, std = gaussians
    if divergence == "monte_carlo" and reduction == "sum" and noise is not None:
        values = _sampled_pairwise((mean.double(), std.double()), noise.double()).to(mean.dtype)
        return values / math.log(2) if unit == "bits" else values
    n_samples = 1 if noise is None else len(noise)
    n_rows = max(1, BLOCK_ELEMENTS // (n_samples * mean.numel()))
    values = mean.new_empty(len(mean), len(mean))
    for start in range(0, len(mean), n_rows):
        rows, columns = slice(start, start + n_rows), slice(start, None)
        block = js_divergence(
            (mean[rows, None], std[rows, None]),
            (mean[columns], std[columns]),
            divergence=divergence,
            reduction=reduction,
            unit=unit,
            p_noise=None if noise is None else noise[:, rows, None],
            q_noise=None if noise is None else noise[:, None, columns],
        )
        values[rows, columns] = block
        values[columns, rows] = block.t()
    return values


def _gaussian_mean(p: Gaussian, q: Gaussian) -> Tensor:
    """½KL(p ‖ g) + ½KL(q ‖ g), per dimension, simplified: ¼(μ_p−μ_q)²/(σ_p²+σ_q²) + ½log((σ_p²+σ_q²)/(2σ_pσ_q))."""
    (p_mean, p_std), (q_mean, q_std) = p, q
    variance_sum = p_std.square() + q_std.square()
    distance = (p_mean - q_mean).square() / (4 * variance_sum)
    return distance + (variance_sum / (2 * p_std * q_std)).log() / 2


def _geometric(p: Gaussian, q: Gaussian) -> Tensor:
    """½KL(p ‖ g) + ½KL(q ‖ g), per dimension; g has the precision ½(1/σ_p² + 1/σ_q²) and the mean weighted by it."""
    (p_mean, p_std), (q_mean, q_std) = p, q
    p_precision, q_precision = p_std.square().reciprocal(), q_std.square().reciprocal()
    total = p_precision + q_precision
    g = ((p_precision * p_mean + q_precision * q_mean) / total, (2 / total).sqrt())
    return (kl_divergence(p, g) + kl_divergence(q, g)) / 2


CLOSED_FORMS: dict[Divergence, Callable[[Gaussian, Gaussian], Tensor]] = {
    "gaussian_mean": _gaussian_mean,
    "geometric": _geometric,
}


def _sampled(p: Gaussian, q: Gaussian, p_noise: Tensor, q_noise: Tensor, reduction: DimReduction) -> Tensor:
    """Mean over samples of ½log(p/m) at those of p and ½log(q/m) at those of q."""
    total = torch.zeros((), dtype=p[0].dtype, device=p[0].device)
    for (mean, std), (other_mean, other_std), noise in ((p, q, p_noise), (q, p, q_noise)):
        # log(other/own) at own's samples, where own's exponent is −½·noise².
        standardised = (mean + std * noise - other_mean) / other_std
        log_ratio = (noise.square() - standardised.square()) / 2 + (std / other_std).log()
        if reduction == "sum":
            total = total + _log_share(log_ratio.sum(dim=-1)).mean(dim=0) / 2
        else:
            total = total + _log_share(log_ratio).mean(dim=-1).mean(dim=0) / 2
    return total


def _sampled_pairwise(gaussians: Gaussian, noise: Tensor) -> Tensor:
    """`_sampled` of all pairs, [B, B]. (x − μ_j)²/σ_j² is expanded, so that sums over dimensions are products."""
    mean, std = gaussians
    mean = mean - mean.mean(dim=0)  # the expansion loses fewer digits around the centre
    samples = mean + std * noise
    precision = std.square().reciprocal()
    exponents = samples.square() @ precision.t() - 2 * (samples @ (mean * precision).t())
    # [S, B, B]: log-density of i's sample under Gaussian j, up to a constant.
    log_density = -(exponents + (mean.square() * precision).sum(dim=1)) / 2 - std.log().sum(dim=1)
    own = log_density.diagonal(dim1=1, dim2=2)[:, :, None]
    of_own_samples = _log_share(log_density - own).mean(dim=0)
    return (of_own_samples + of_own_samples.t()) / 2


def _log_share(log_ratio: Tensor) -> Tensor:
    """log(own/m) from log(other/own): ln 2 − log(1 + other/own)."""
    return math.log(2) - F.softplus(log_ratio)
