"""Split a backbone into a shared trunk, computed once, and later stages, which several networks copy."""

from __future__ import annotations

import copy
from typing import Literal, cast

from torch import Tensor, nn

from reid_ray.errors import ConfigError
from reid_ray.models.backbone import Backbone, Norm, partial_backbone
from reid_ray.models.osnet import OmniScaleBlock
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.residual import BasicBlock, Bottleneck
from reid_ray.models.resnet import set_stride

SplitAt = Literal["conv4_1", "conv4_end"]
"""Last block of the trunk: the first (MGN, IS-GAN) or the last one of the third stage."""


class SharedBackbone(nn.Module):
    """Images [N, 3, H, W] → the feature map [N, C, H/16, W/16] that is the input of all encoders.

    Attributes:
        bf16: the trunk computes in bfloat16.
    """

    def __init__(self, backbone: Backbone, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.bf16 = bf16

    def forward(self, images: Tensor) -> Tensor:
        with bf16_autocast(images, self.bf16):
            return cast(Tensor, self.backbone(images))


def split_backbone(backbone: Backbone, at: SplitAt = "conv4_1") -> tuple[Backbone, Backbone]:
    """Trunk and remaining stages, whose composition is `backbone`. Both use its layers, without a copy.

    A ResNet-50 has 2,957,376 parameters up to conv4_1 and 20,550,656 after it. The trunk's feature map has 1/16 of the
    image's height and width for both values of `at`, also in an OSNet, where conv4 is the last stage of blocks.

    Raises:
        ConfigError: a backbone that cannot be split.
    """
    layers = dict(backbone.named_children())
    names = list(layers)
    middle = cast(nn.Sequential, layers[middle_of(backbone)])
    at_middle = names.index(middle_of(backbone))
    n_blocks = 1 if at == "conv4_1" else len(middle)
    before, after = names[:at_middle], names[at_middle + 1 :]
    rest = {middle_of(backbone): middle[n_blocks:]} if n_blocks < len(middle) else {}
    return (
        partial_backbone(
            {**{name: layers[name] for name in before}, middle_of(backbone): middle[:n_blocks]},
            like=backbone,
            out_channels=out_channels(middle[-1]),
        ),
        partial_backbone(
            rest | {name: layers[name] for name in after}, like=backbone, out_channels=backbone.out_channels
        ),
    )


def middle_of(backbone: Backbone) -> str:
    """The stage at which a backbone is split.

    Raises:
        ConfigError: the backbone has none.
    """
    if backbone.middle is None:
        raise ConfigError(
            "This model.backbone cannot be split, which the method or model.branches needs; use a ResNet or an OSNet, "
            "or a method with a single branch."
        )
    return backbone.middle


def copy_stages(stages: Backbone, last_stride: int) -> Backbone:
    """An independent copy of a backbone's last stages; for ResNets with `last_stride` in the last one."""
    copied = copy.deepcopy(stages)
    if hasattr(copied, "layer4"):  # an OSNet has no strides: its size does not change after the trunk
        set_stride(cast(nn.Sequential, copied.layer4)[0], last_stride, copied.stride_in or "conv1")
    return copied


def out_channels(block: nn.Module) -> int:
    """Output channels of a residual block."""
    if isinstance(block, OmniScaleBlock):
        return block.n_out
    residual = cast(Bottleneck | BasicBlock, block)
    return int(residual.conv1.out_channels * residual.expansion)


def in_channels(block: nn.Module) -> int:
    """Input channels of a residual block."""
    return block.n_in if isinstance(block, OmniScaleBlock) else int(cast(BasicBlock, block).conv1.in_channels)


def block_like(block: nn.Module, channels: int, norm: Norm) -> nn.Module:
    """A new residual block of the same type, from `channels` to `channels`."""
    if isinstance(block, OmniScaleBlock):
        return OmniScaleBlock(channels, channels, norm, ain=block.ain, instance_norm=block.IN is not None)
    residual = cast(Bottleneck | BasicBlock, block)
    made: nn.Module = type(residual)(channels, channels // residual.expansion, norm_layer=norm)
    return made
