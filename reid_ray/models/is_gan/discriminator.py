"""IS-GAN's discriminator: one trunk with a domain head (real or generated) and a class head (which identity)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from torch import Tensor, nn

from reid_ray.models.transposed import SLOPE

Heads = Literal["same_size", "kernel4"]
InputTanh = Literal["both", "real_only"]

CHANNELS = (32, 64, 128, 256, 256)


class Judgement(NamedTuple):
    """Output of the discriminator.

    Attributes:
        domain: logits [N, 1, h, w] of patches being real; 1×12×4 for 384×128 images, 1×10×2 with `kernel4`.
        classes: logits [N, n_identities].
    """

    domain: Tensor
    classes: Tensor


class PatchTrunk(nn.Sequential):
    """Images [N, in_channels, H, W] → map [N, C, H/2ⁿ, W/2ⁿ] by n convolutions, 1,738,976 parameters with the defaults.

    Kernel 4, stride 2, padding 1, bias; instance norm without parameters after all but the first; leaky ReLU 0.2.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, in_channels: int = 3) -> None:
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(zip((in_channels, *channels), channels, strict=False)):
            layers.append(nn.Conv2d(n_in, n_out, 4, stride=2, padding=1))
            if i:
                layers.append(nn.InstanceNorm2d(n_out))
            layers.append(nn.LeakyReLU(SLOPE))
        super().__init__(*layers)


class DomainHead(nn.Sequential):
    """Map [N, C, h, w] → logits of patches being real.

    `same_size`: two 3×3 blocks and a 3×3 convolution to [N, 1, h, w], the 12×4 map of the paper.
    `kernel4`: the released code's block and convolution with kernel 4, to [N, 1, h−2, w−2].
    """

    def __init__(self, channels: int, heads: Heads) -> None:
        size = 3 if heads == "same_size" else 4
        blocks = [_block(channels, size) for _ in range(2 if heads == "same_size" else 1)]
        super().__init__(*blocks, nn.Conv2d(channels, 1, size, padding=1))


class ClassHead(nn.Module):
    """Map [N, C, h, w] → logits [N, n_identities]: one block, global average, a linear layer.

    The released class head averages over 12×4 positions of an 11×3 map, which fails, so it cannot have produced the
    tables. `same_size` is a 3×3 block that keeps the size; `kernel4` is the released block (without an activation) with
    the average over its whole map.
    """

    def __init__(self, channels: int, n_identities: int, heads: Heads) -> None:
        super().__init__()
        block = _block(channels, 3 if heads == "same_size" else 4)
        self.block = block if heads == "same_size" else block[:-1]
        self.classifier = nn.Linear(channels, n_identities)

    def forward(self, feature_map: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.block(feature_map).mean(dim=(2, 3))))


class IsGanDiscriminator(nn.Module):
    """D_D and D_C: images → logits of patches being real, and identity logits.

    3,704,528 parameters for 751 identities with the heads `same_size`, 4,033,744 with `kernel4`. Norms are instance
    norms without parameters, so that the output for an image does not depend on the batch.

    Attributes:
        input_tanh: `both`: every input goes through a tanh first, as in the released code: real images (with
            ImageNet normalisation) become `squash(x)`, generated ones get a second tanh. Then |generated| ≤ 0.7616,
            which makes them easy to detect. `real_only`: generated images are unchanged.
    """

    def __init__(
        self,
        n_identities: int,
        *,
        channels: Sequence[int] = CHANNELS,
        heads: Heads = "same_size",
        input_tanh: InputTanh = "both",
    ) -> None:
        super().__init__()
        self.input_tanh = input_tanh
        self.trunk = PatchTrunk(channels)
        self.domain = DomainHead(channels[-1], heads)
        self.classes = ClassHead(channels[-1], n_identities, heads)

    def forward(self, images: Tensor, *, generated: bool) -> Judgement:
        """Judge images [N, 3, H, W]: real ones with ImageNet normalisation, or generated ones in −1 … 1."""
        squashed = images.tanh() if self.input_tanh == "both" or not generated else images
        feature_map = self.trunk(squashed)
        return Judgement(self.domain(feature_map), self.classes(feature_map))


def _block(channels: int, size: int) -> nn.Sequential:
    """A convolution that keeps the number of channels, and with kernel size 3 the size of the map."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, size, padding=1), nn.InstanceNorm2d(channels), nn.LeakyReLU(SLOPE)
    )
