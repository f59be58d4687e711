"""DG-VAE's decoders, of feature maps and (table 3) of images, and the discriminators of both.

[R] marks choices of this project that the paper does not specify.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reid_ray.models.backbone import Norm
from reid_ray.models.is_gan.discriminator import CHANNELS as IMAGE_DISCRIMINATOR_CHANNELS
from reid_ray.models.is_gan.discriminator import DomainHead, PatchTrunk
from reid_ray.models.transposed import DROPOUT_RATE, SLOPE, TransposedDecoder

MAP_CHANNELS = (512, 512, 512, 1024)
"""Channels of the fully connected layer and three transposed convolutions, up to 1024×24×8 [R]: the first of IS-GAN."""

IMAGE_CHANNELS = (*MAP_CHANNELS, 512, 256, 128, 3)
"""The same, and the "four more" of table 3, up to 3×384×128 [R]: half the channels at twice the size."""

MAP_DISCRIMINATOR_CHANNELS = (128, 64, 32)

SAME_SIZE = (1, 2, 1, 2)
"""Padding (left, right, top, bottom) with which a convolution of kernel 4 keeps a map's size."""


class CodeDecoder(nn.Module):
    """G_θ: codes d and a → feature map, or image.

    The fully connected layer and all transposed convolutions except the last are followed by batch norm and leaky ReLU
    0.2, in the decoder of maps also by dropout 0.2. Unlike IS-GAN, it has no noise and no one-hot identity.
    """

    def __init__(self, decoder: TransposedDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.decoder.initialise()

    def mask_shapes(self, n: int) -> list[tuple[int, ...]]:
        """Shapes of the dropout masks for `n` codes."""
        return self.decoder.mask_shapes(n)

    def forward(self, identity: Tensor, ambiguity: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        """Decode d [N, D] and a [N, A]; masks as in `TransposedDecoder`, None in evaluation."""
        decoded: Tensor = self.decoder(torch.cat([identity, ambiguity], dim=1), masks)
        return decoded


def build_map_decoder(
    norm: Norm,
    *,
    in_dim: int = 2560,
    channels: Sequence[int] = MAP_CHANNELS,
    start: tuple[int, int] = (6, 2),
    dropout_rate: float = DROPOUT_RATE,
) -> CodeDecoder:
    """The decoder of feature maps [N, 1024, 24, 8]: 17,042,944 parameters, a linear output.

    Table 3 says 16.26 million parameters and 1.23 GFLOP; no natural choice of layers matches both.
    """
    return CodeDecoder(TransposedDecoder(in_dim, channels, norm, start=start, dropout_rate=dropout_rate))


def build_image_decoder(
    norm: Norm,
    *,
    in_dim: int = 2560,
    channels: Sequence[int] = IMAGE_CHANNELS,
    start: tuple[int, int] = (6, 2),
    dropout_rate: float = DROPOUT_RATE,
) -> CodeDecoder:
    """The decoder of images [N, 3, 384, 128] in −1 … 1 (table 3), with four more transposed convolutions.

    28,062,976 parameters (table 3: 31.22 million). The four cost 4.9 billion multiplications, which agrees with the
    additional 4.8 GFLOP of the table. As in IS-GAN, the last batch norm has no dropout after it, and the output is a
    tanh with the target `squash(images)` [R].
    """
    return CodeDecoder(
        TransposedDecoder(
            in_dim,
            channels,
            norm,
            start=start,
            n_dropouts=len(channels) - 2,
            dropout_rate=dropout_rate,
            tanh=True,
        )
    )


class MapDiscriminator(nn.Sequential):
    """PatchGAN on feature maps [N, 1024, h, w] → logits [N, 1, h/2, w/2] of patches being encoded, not decoded.

    Four convolutions with kernel 4, the first with stride 2, instance norm without parameters and leaky ReLU 0.2
    between them; the later ones keep the size. 2,261,729 parameters; the widths are inferred from the 2.26 million of
    table 3 [R].
    """

    def __init__(self, in_channels: int = 1024, channels: Sequence[int] = MAP_DISCRIMINATOR_CHANNELS) -> None:
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(zip((in_channels, *channels), channels, strict=False)):
            if i:
                layers += [nn.ZeroPad2d(SAME_SIZE), nn.Conv2d(n_in, n_out, 4), nn.InstanceNorm2d(n_out)]
            else:
                layers.append(nn.Conv2d(n_in, n_out, 4, stride=2, padding=1))
            layers.append(nn.LeakyReLU(SLOPE))
        super().__init__(*layers, nn.ZeroPad2d(SAME_SIZE), nn.Conv2d(channels[-1], 1, 4))


class ImageDiscriminator(nn.Sequential):
    """PatchGAN on images in −1 … 1, real ones squashed: IS-GAN's trunk and domain head, without its class head [R].

    2,921,441 parameters; table 3 has 15.88 million more with its discriminator than without.
    """

    def __init__(self, channels: Sequence[int] = IMAGE_DISCRIMINATOR_CHANNELS) -> None:
        super().__init__(PatchTrunk(channels), DomainHead(channels[-1], "same_size"))
