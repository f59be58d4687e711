"""IS-GAN's domain discriminator (Eq. 6): its loss on real and generated patches, with noisy targets.

The generator's is `reid_ray.losses.generator_loss` of logits, summed over the sets: `log-nonsaturating` as in the
released code, `log` as Eq. 6 is printed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NOISY_REAL = (0.7, 1.0)
NOISY_GENERATED = (0.0, 0.3)
"""Ranges of noisy targets in the released code."""


def discriminator_domain_loss(
    real: Tensor,
    generated: Sequence[Tensor],
    *,
    real_noise: Tensor | None = None,
    generated_noise: Sequence[Tensor] | None = None,
) -> Tensor:
    """The discriminator's loss: BCE of real patches, plus that of each generated set (Eq. 6).

    Each is a mean over patches, and the sets are summed. Targets are 1 and 0; with noise u ~ U(0, 1) for each patch
    they are 0.7 + 0.3·u and 0.3·u, as in the released code. The noise is the caller's, drawn for the global batch.
    The generated images must be detached.

    Args:
        real: logits [N, 1, h, w].
        generated: logits of each set, of any shapes.
        real_noise: of `real`'s shape; None: the target 1.
        generated_noise: of the shapes of `generated`; None: the target 0.
    """
    loss = F.binary_cross_entropy_with_logits(real, _targets(real, real_noise, NOISY_REAL, 1.0))
    noises = generated_noise if generated_noise is not None else [None] * len(generated)
    for logits, noise in zip(generated, noises, strict=True):
        loss = loss + F.binary_cross_entropy_with_logits(logits, _targets(logits, noise, NOISY_GENERATED, 0.0))
    return loss


def _targets(logits: Tensor, noise: Tensor | None, bounds: tuple[float, float], plain: float) -> Tensor:
    low, high = bounds
    return torch.full_like(logits, plain) if noise is None else low + (high - low) * noise.to(logits.dtype)
