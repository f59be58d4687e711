"""IS-GAN's generator: identity-related and -unrelated codes, noise and identity → image (§3.3, fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reid_ray.models.backbone import Norm
from reid_ray.models.transposed import DROPOUT_RATE, TransposedDecoder

CHANNELS = (512, 512, 512, 512, 256, 128, 64, 3)
"""Channels of the fully connected layer and of seven transposed convolutions (released code; the paper says six)."""

NOISE_DIM = 128

MAX_TANH = 0.9999
"""Generated values are clamped to ± this before the inverse of tanh, which is infinite at ±1."""


class IsGanGenerator(nn.Module):
    """G: φ_R, φ_U, noise and identity → images in −1 … 1, 16,056,192 parameters for 751 identities.

    The identity is the one-hot vector of the images to generate, or a mixture of two for interpolation. Batch norm
    follows the fully connected layer and the first six convolutions; dropout 0.2 follows the same layers except the
    last. The output is a tanh, so the reconstruction target is `squash(images)`.
    """

    def __init__(
        self,
        n_identities: int,
        norm: Norm,
        *,
        identity_dim: int = 2048,
        unrelated_dim: int = 512,
        noise_dim: int = NOISE_DIM,
        channels: Sequence[int] = CHANNELS,
        start: tuple[int, int] = (6, 2),
        dropout_rate: float = DROPOUT_RATE,
    ) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.decoder = TransposedDecoder(
            identity_dim + unrelated_dim + noise_dim + n_identities,
            channels,
            norm,
            start=start,
            n_dropouts=len(channels) - 2,
            dropout_rate=dropout_rate,
            tanh=True,
        )
        self.decoder.initialise()

    def mask_shapes(self, n: int) -> list[tuple[int, ...]]:
        """Shapes of the six dropout masks for `n` images."""
        return self.decoder.mask_shapes(n)

    def forward(
        self, identity: Tensor, unrelated: Tensor, noise: Tensor, classes: Tensor, masks: Sequence[Tensor] | None
    ) -> Tensor:
        """Generate images [N, 3, H, W].

        Args:
            identity: φ_R [N, K, p] or [N, K·p].
            unrelated: φ_U [N, K, u] or [N, K·u], a sample of E_U's Gaussians.
            noise: [N, noise_dim], standard normal.
            classes: [N, n_identities], one-hot, or a mixture.
            masks: for dropout, as in `TransposedDecoder`; None: no dropout, as in evaluation.
        """
        codes = [identity.flatten(1), unrelated.flatten(1), noise, classes]
        generated: Tensor = self.decoder(torch.cat(codes, dim=1), masks)
        return generated


def squash(images: Tensor) -> Tensor:
    """x̂ = tanh(x), the reconstruction target, for images with ImageNet normalisation.

    The range of G covers it: |x̂| ≤ 0.989867, white in the blue channel.
    """
    return images.tanh()


def unsquash(generated: Tensor) -> Tensor:
    """The inverse of `squash`, for display: images with ImageNet normalisation."""
    return generated.clamp(-MAX_TANH, MAX_TANH).atanh()
