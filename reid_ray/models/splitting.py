"""A ResNet split in a trunk, computed once, and the stages after it, of which several networks have their own copy."""

from __future__ import annotations

import copy
from typing import Literal, cast

from torch import Tensor, nn

from reid_ray.models.precision import bf16_autocast
from reid_ray.models.residual import BasicBlock, Bottleneck
from reid_ray.models.resnet import Backbone, partial_backbone, set_stride

SplitAt = Literal["conv4_1", "conv4_end"]
"""The last block of the trunk: the first of the third stage (MGN, IS-GAN), or its last."""


class SharedBackbone(nn.Module):
    """Images [N, 3, H, W] → the feature map [N, C, H/16, W/16] that all encoders start from.

    Attributes:
        bf16: it computes in bfloat16.
    """

    def __init__(self, backbone: Backbone, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.bf16 = bf16

    def forward(self, images: Tensor) -> Tensor:
        with bf16_autocast(images, self.bf16):
            return cast(Tensor, self.backbone(images))


def split_backbone(backbone: Backbone, at: SplitAt = "conv4_1") -> tuple[Backbone, Backbone]:
    """Trunk and remaining stages, which together compute what `backbone` does. Both use its layers, without a copy.

    A ResNet-50 has 2,957,376 parameters up to conv4_1 and 20,550,656 after it. The trunk's feature map has 1/16 of the
    image's height and width either way.
    """
    layers = dict(backbone.named_children())
    third, fourth = cast(nn.Sequential, layers.pop("layer3")), layers.pop("layer4")
    n_blocks = 1 if at == "conv4_1" else len(third)
    rest = {"layer3": third[n_blocks:], "layer4": fourth} if n_blocks < len(third) else {"layer4": fourth}
    shared_channels = out_channels(third[-1])
    return (
        partial_backbone({**layers, "layer3": third[:n_blocks]}, like=backbone, out_channels=shared_channels),
        partial_backbone(rest, like=backbone, out_channels=backbone.out_channels),
    )


def copy_stages(stages: Backbone, last_stride: int) -> Backbone:
    """An independent copy of a backbone's last stages, with its own stride of the last one."""
    copied = copy.deepcopy(stages)
    first = cast(nn.Sequential, copied.layer4)[0]
    set_stride(first, last_stride, copied.stride_in or "conv1")
    return copied


def out_channels(block: nn.Module) -> int:
    """Channels that a residual block gives."""
    residual = cast(Bottleneck | BasicBlock, block)
    return int(residual.conv1.out_channels * residual.expansion)
