"""GCL's discriminators: PatchGANs of the same architecture on an image at three scales (thesis §5.4.2)."""

from __future__ import annotations

from torch import Tensor, nn

from reid_ray.models.gcl.layers import ConvBlock, ResidualBlock, init_normal

N_SCALES = 3


class PatchDiscriminator(nn.Sequential):
    """Images [N, 3, H, W] → one number per patch, [N, 1, H/4, W/4], high for real ones; 341,857 parameters.

    No norms, so that the gradient penalty of an image does not depend on others.
    """

    def __init__(self, width: int = 32, n_blocks: int = 4) -> None:
        super().__init__(
            ConvBlock(3, width, 1),
            ConvBlock(width, width, 3),
            ConvBlock(width, width, 3, stride=2),
            ConvBlock(width, width, 3),
            ConvBlock(width, 2 * width, 3, stride=2),
            *(ResidualBlock(2 * width) for _ in range(n_blocks)),
            nn.Conv2d(2 * width, 1, 1),
        )
        self.apply(init_normal)


class MultiScaleDiscriminator(nn.Module):
    """D: a `PatchDiscriminator` with its own weights for each scale; 1,025,571 parameters for three.

    Each scale halves the previous one by averaging 3×3 pixels; averages at the border exclude padding.
    """

    def __init__(self, width: int = 32, n_scales: int = N_SCALES, n_blocks: int = 4) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(width, n_blocks) for _ in range(n_scales))
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Scores of images [N, 3, H, W]: [N, 1, H/4, W/4], [N, 1, H/8, W/8], …"""
        scores = []
        for scale in self.scales:
            scores.append(scale(images))
            images = self.downsample(images)
        return scores
