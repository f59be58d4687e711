"""GCL's view generator: structure encoder E_str, decoder G, and MLPs that condition G on identities (thesis §5.3.1).

The architecture is that of DG-Net (Zheng et al., CVPR 2019), with a mesh projection as the structure image. Where paper
and released code differ, this module follows the code: E_str ends in dilated branches (ASPP) that the paper does not
mention, and G has five convolutions after its residual blocks, not four.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from reid_ray.errors import ConfigError
from reid_ray.models.gcl.identity import N_STRIPES, CodeSplit, code_parts
from reid_ray.models.gcl.layers import (
    SLOPE,
    AdaptiveResidualBlock,
    ConvBlock,
    ImageLayerNorm,
    ResidualBlock,
    init_kaiming,
    instance_norm,
)

N_BLOCKS = 4
"""Residual blocks of encoder and decoder; each block of the decoder receives a part of the identity code."""

DILATIONS = (3, 6, 9)


class DilatedBranches(nn.Module):
    """ASPP: a 1×1 convolution and dilated 3×3 ones in parallel, then 1×1. [N, C, H, W] → [N, 2·C, H, W].

    Each branch has C/2 channels; dilated branches begin with a 1×1 block. Instance norm follows all convolutions;
    only the first blocks of the branches have an activation.
    """

    def __init__(self, channels: int, dilations: Sequence[int] = DILATIONS) -> None:
        super().__init__()
        part = channels // 2
        self.branches = nn.ModuleList(
            [
                ConvBlock(channels, part, 1, norm=instance_norm, activation=False),
                *(
                    nn.Sequential(
                        ConvBlock(channels, part, 1, norm=instance_norm),
                        ConvBlock(part, part, 3, dilation=dilation, norm=instance_norm, activation=False),
                    )
                    for dilation in dilations
                ),
            ]
        )
        self.fuse = ConvBlock((1 + len(dilations)) * part, 2 * channels, 1, norm=instance_norm, activation=False)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.fuse(torch.cat([branch(features) for branch in self.branches], dim=1)))


class StructureEncoder(nn.Sequential):
    """E_str: mesh projections [N, 1, H, W] in −1 … 1 → structure [N, 8·width, H/4, W/4]; 380,544 parameters.

    Args:
        width: channels of the first convolution; 16 gives a structure of 128×64×32 for 256×128 images.
        dilations: of the last layer's branches; all below a quarter of the image's height and width.
    """

    def __init__(self, width: int = 16, dilations: Sequence[int] = DILATIONS) -> None:
        super().__init__(
            ConvBlock(1, width, 3, stride=2, norm=instance_norm),
            ConvBlock(width, 2 * width, 3, norm=instance_norm),
            ConvBlock(2 * width, 2 * width, 3, norm=instance_norm),
            ConvBlock(2 * width, 4 * width, 3, stride=2, norm=instance_norm),
            *(ResidualBlock(4 * width, norm=instance_norm) for _ in range(N_BLOCKS)),
            DilatedBranches(4 * width, dilations),
        )
        self.widest = max(dilations)
        self.apply(init_kaiming)

    def forward(self, projections: Tensor) -> Tensor:
        """Encode projections; ConfigError for images that are too small for the dilations' reflected borders."""
        height, width = projections.shape[-2:]
        if min(height, width) <= 4 * self.widest:
            raise ConfigError(
                f"Images of {height}×{width} are too small for a structure encoder with dilation {self.widest}; make "
                f"both sides larger than {4 * self.widest}, or the dilations smaller."
            )
        for layer in self:
            projections = layer(projections)
        return projections


class CodeToNorms(nn.Module):
    """MLPs from identity codes to the weights and biases of the decoder's adaptive norms; 11,544,576 parameters.

    Each residual block has an MLP for weights and one for biases, from its own part of the code: three linear layers
    with leaky ReLU between them.

    Args:
        code_dim: size of the whole code.
        channels: of the residual blocks.
        hidden: of the MLPs.
        split: how the code is divided, see `code_parts`.
    """

    def __init__(
        self,
        code_dim: int,
        channels: int,
        *,
        hidden: int = 512,
        n_stripes: int = N_STRIPES,
        split: CodeSplit = "channels",
    ) -> None:
        super().__init__()
        self.n_stripes = n_stripes
        self.split: CodeSplit = split
        sizes = (code_dim // N_BLOCKS, hidden, hidden, 2 * channels)
        self.weights = nn.ModuleList(_mlp(sizes) for _ in range(N_BLOCKS))
        self.biases = nn.ModuleList(_mlp(sizes) for _ in range(N_BLOCKS))
        self.apply(init_kaiming)

    def forward(self, code: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Code [N, code_dim] → weights and biases of each residual block, [N, 2·channels] each."""
        parts = code_parts(code, N_BLOCKS, self.split, self.n_stripes)
        return [
            (weights(part), biases(part))
            for weights, biases, part in zip(self.weights, self.biases, parts, strict=True)
        ]


class Decoder(nn.Module):
    """G without its MLPs: structure and adaptive norms → images; 1,455,555 parameters.

    No activation at the end: images are in ImageNet's normalised space, and are clamped for display only.

    Args:
        channels: of the structure; 128.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.blocks = nn.ModuleList(AdaptiveResidualBlock(channels) for _ in range(N_BLOCKS))
        self.to_image = nn.Sequential(
            nn.Upsample(scale_factor=2),
            ConvBlock(channels, half, 5, norm=ImageLayerNorm),
            nn.Upsample(scale_factor=2),
            ConvBlock(half, quarter, 5, norm=ImageLayerNorm),
            ConvBlock(quarter, quarter, 3),
            ConvBlock(quarter, quarter, 3),
            ConvBlock(quarter, 3, 1, activation=False),
        )
        self.apply(init_kaiming)

    def forward(self, structure: Tensor, norms: list[tuple[Tensor, Tensor]]) -> Tensor:
        features = structure
        for block, (weights, biases) in zip(self.blocks, norms, strict=True):
            features = block(features, weights, biases)
        return cast(Tensor, self.to_image(features))


class ViewGenerator(nn.Module):
    """E_str and G in one module, with one optimizer: 13,380,675 parameters.

    A generated image depends only on its own projection and code, not on its batch.

    Args:
        code_dim: size of the identity codes (`IdentityEncoder.code_dim`); 8192.
        width: channels of the structure encoder's first convolution; the structure has eight times as many.
        dilations: of the structure encoder's last layer.
        hidden: of the MLPs.
        n_stripes: number of stripes of the identity codes.
        code_split: `channels` (released code) or `stripes`, see `code_parts`.
    """

    def __init__(
        self,
        code_dim: int = 8192,
        *,
        width: int = 16,
        dilations: Sequence[int] = DILATIONS,
        hidden: int = 512,
        n_stripes: int = N_STRIPES,
        code_split: CodeSplit = "channels",
    ) -> None:
        super().__init__()
        self.structure = StructureEncoder(width, dilations)
        self.norms = CodeToNorms(code_dim, 8 * width, hidden=hidden, n_stripes=n_stripes, split=code_split)
        self.decoder = Decoder(8 * width)

    def forward(self, projections: Tensor, code: Tensor) -> Tensor:
        """Projections [N, 1, H, W] in −1 … 1 and codes [N, code_dim] → images [N, 3, H, W]; H, W: multiples of 4."""
        return self.decode(self.structure(projections), code)

    def decode(self, structure: Tensor, code: Tensor) -> Tensor:
        """Images from structures [N, C, H/4, W/4]: a structure can be reused with several codes, as in a cycle."""
        return cast(Tensor, self.decoder(structure, self.norms(code)))


def _mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])
