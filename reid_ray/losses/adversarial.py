"""A discriminator of several scales against several generated views: least squares or logarithms, R1 penalty.

GCL, thesis Eq. 5.3: the equation is the logarithmic form, the released code uses least squares with a penalty on the
gradient at real images (R1; Mescheder et al., ICML 2018), as DG-Net does.

A discriminator returns a list of tensors, one per scale, of any shape: scores per patch, high for real images. Terms
are means within a scale, and sums over scales and over generated views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Scores = Sequence[Tensor]
GanLoss = Literal["lsgan", "log", "log-nonsaturating"]

R1_WEIGHT = 0.01


def discriminator_loss(real: Scores, *generated: Scores, kind: GanLoss = "lsgan") -> Tensor:
    """Discriminator loss: mean(D(v)²) + mean((D(x) − 1)²) for each generated view v and each scale.

    The term of the real images counts once for each generated view. With `log` the scores are logits and the loss is
    −mean log D(x) − mean log(1 − D(v)).

    Args:
        real: scores of the images x.
        generated: scores of generated images, which must be detached from the generator; one list for each view.
        kind: `lsgan` (released code) or the logarithmic form of Eq. 5.3.
    """
    if kind == "lsgan":
        real_term = _sum((score - 1).square().mean() for score in real)
        fake_terms = [_sum(score.square().mean() for score in scores) for scores in generated]
    else:
        real_term = _sum(F.softplus(-score).mean() for score in real)
        fake_terms = [_sum(F.softplus(score).mean() for score in scores) for scores in generated]
    return _sum(fake_terms) + len(generated) * real_term


def generator_loss(*generated: Scores, kind: GanLoss = "lsgan") -> Tensor:
    """Generator loss: 2·mean((D(v) − 1)²) for each generated view v and each scale.

    Args:
        generated: scores of generated images; one list for each view.
        kind: `lsgan` (released code, with its factor 2); `log`: mean log(1 − D(v)), as Eq. 5.3 is printed, which
            saturates where the discriminator is confident; `log-nonsaturating`: −mean log D(v), the usual
            non-saturating form.
    """
    scores = [score for scores in generated for score in scores]
    if kind == "lsgan":
        return 2 * _sum((score - 1).square().mean() for score in scores)
    if kind == "log":
        return -_sum(F.softplus(score).mean() for score in scores)
    return _sum(F.softplus(-score).mean() for score in scores)


def r1_penalty(images: Tensor, real: Scores) -> Tensor:
    """Σ over scales of mean over images of |∂ΣD(x)/∂x|², to be weighted with `R1_WEIGHT`.

    The squares are summed over an image's channels and pixels at its full size, whatever the scale. In the released
    code the penalty counts once for each generated view, as the real images' term does.

    Args:
        images: x [B, 3, H, W], real ones, with `requires_grad`.
        real: the discriminator's scores of `images`; an image's must not depend on the others (no batch norm).
    """
    gradients = (torch.autograd.grad(score.sum(), images, create_graph=True)[0] for score in real)
    return _sum(gradient.square().sum() / len(images) for gradient in gradients)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
