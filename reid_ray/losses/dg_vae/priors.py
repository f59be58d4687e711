"""DG-VAE's priors: a mixture of Gaussians for identity, a standard Gaussian for the rest (Eq. 6 to 9 and 11).

Pu et al., *Dual Gaussian-based Variational Subspace Disentanglement for Visible-Infrared Person Re-Identification*, ACM
MM 2020. Two of the printed equations degenerate; the intended form is the default and the printed one a setting:

* Eq. 6 adds ln det σ where the KL divergence subtracts it. As printed the loss has no lower bound as σ → 0, the
  opposite of the larger variance for outliers that the text describes.
* Eq. 8 measures the distance of the sample to its *own encoder's* mean, not to the mean of its identity, and subtracts
  the margin from it, which makes the true identity easier. No term bounds the margin, so gradient descent drives it to
  infinity and the loss to 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LogDet = Literal["minus", "plus"]
GmmForm = Literal["sampled", "closed"]
LmcForm = Literal["intent", "printed", "printed_variance"]
LatentReduction = Literal["sum", "mean"]


def mixture_prior_loss(
    mean: Tensor,
    log_variance: Tensor,
    sample: Tensor,
    class_means: Tensor,
    labels: Tensor,
    *,
    logdet: LogDet = "minus",
    form: GmmForm = "sampled",
    reduction: LatentReduction = "sum",
) -> Tensor:
    """L_gmm (Eq. 6): KL(N(μ, σ²) ‖ N(M_y, I)) up to a constant, mean over the batch.

    Args:
        mean: μ_φ [B, D].
        log_variance: ln σ_φ² [B, D].
        sample: d = μ + σ·ε [B, D].
        class_means: M [C, D].
        labels: y, int64 [B].
        logdet: `minus`: −Σ ln σ + …, the divergence. `plus`: as printed.
        form: `sampled`: −Σ ln σ + ½‖d − M_y‖², as in Eq. 6. `closed`: its expectation, ½ Σ (σ² + (μ − M_y)² − 1 −
            2 ln σ), which with `minus` is the exact divergence.
        reduction: over dimensions; `sum` as printed.
    """
    own_mean = class_means[labels]
    log_std = log_variance / 2
    if form == "sampled":
        quadratic = (sample - own_mean).square() / 2
    else:
        quadratic = (log_variance.exp() + (mean - own_mean).square() - 1) / 2
    return _reduce(quadratic - log_std if logdet == "minus" else quadratic + log_std, reduction).mean()


def large_margin_loss(
    mean: Tensor,
    log_variance: Tensor,
    sample: Tensor,
    class_means: Tensor,
    margins: Tensor,
    labels: Tensor,
    *,
    form: LmcForm = "intent",
    reduction: LatentReduction = "sum",
) -> Tensor:
    """L_lmc (Eq. 7): cross-entropy over the identities' distances, mean over the batch.

    The logit of another identity c is −‖d − M_c‖². In 2048 dimensions these distances are thousands, so that the
    softmax is saturated; `reduction="mean"` divides them by the number of dimensions.

    Args:
        mean, log_variance, sample, class_means, labels: as in `mixture_prior_loss`.
        margins: α ≥ 0 [C].
        form: the logit of the true identity. `intent`: −(‖d − M_y‖² + α_y), so that the margin makes it harder.
            `printed`: Eq. 8, −((d − μ)ᵀ σ⁻¹ (d − μ) − α_y). `printed_variance`: the same with σ⁻², the Mahalanobis
            distance named in the text; it equals Σ ε² and depends on no parameter except α.
        reduction: over dimensions; `sum` as printed.
    """
    distances = torch.cdist(sample, class_means, compute_mode="donot_use_mm_for_euclid_dist").square()
    if reduction == "mean":
        distances = distances / sample.shape[1]
    rows = labels[:, None]
    if form == "intent":
        own = distances.gather(1, rows)[:, 0] + margins[labels]
    else:
        power = 1 if form == "printed" else 2
        scaled = (sample - mean).square() / (log_variance * (power / 2)).exp()
        own = _reduce(scaled, reduction) - margins[labels]
    return F.cross_entropy(-distances.scatter(1, rows, own[:, None]), labels)


def margin_reward(margins: Tensor) -> Tensor:
    """−mean(α), which rewards large margins as AdaptiveFace does (Liu et al., CVPR 2019); its weight is 0.01.

    Eq. 7 and 8 have no such term. Without it, the `intent` form of L_lmc drives the margins to 0.
    """
    return -margins.mean()


def ambiguity_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """L_ambi (Eq. 11): Σ (μ² + σ² − ln σ² − 1) over dimensions, mean over the batch; twice KL(N(μ, σ²) ‖ N(0, I)).

    With it on the identity code instead of L_gmm, DG-VAE is the two-Gaussian row of table 2.

    Args:
        mean: μ_ψ [B, A].
        log_variance: ln σ_ψ² [B, A].
    """
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()


def _reduce(per_dimension: Tensor, reduction: LatentReduction) -> Tensor:
    """[B, D] → [B]."""
    return per_dimension.sum(dim=1) if reduction == "sum" else per_dimension.mean(dim=1)
