"""ResNet trunks with a choice of strides, normalisation and IBN-a.

* Strides: re-identification uses stride 1 in the last stage. ResNet v1 files have the stride of a
  bottleneck in its 1×1 convolution, torchvision (v1.5) in the 3×3; the weights fit both, but the functions
  differ.
* IBN-a (Pan et al., "Two at Once", ECCV 2018): in the first three stages a bottleneck's first normalisation
  is instance norm for half of the channels, which removes appearance such as the colours of a camera.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from reid_ray.models.backbone import Backbone, Norm, StrideIn
from reid_ray.models.residual import LAYOUTS, Bottleneck, ResNet

NARROW = "resnet18_narrow"


class InstanceBatchNorm(nn.Module):
    """IBN-a: instance norm of the first half of the channels, batch norm of the rest. [N, C, H, W] → same.

    The parameters are called `IN.*` and `BN.*`, as in the published IBN-Net weights.
    """

    def __init__(self, num_features: int, norm: Norm) -> None:
        super().__init__()
        self.n_instance = num_features // 2
        self.IN = nn.InstanceNorm2d(self.n_instance, affine=True)
        self.BN = norm(num_features - self.n_instance)

    def forward(self, features: Tensor) -> Tensor:
        instance, batch = features[:, : self.n_instance], features[:, self.n_instance :]
        output = torch.cat([self.IN(instance), self.BN(batch)], dim=1)
        # Instance norm falls back to NCHW, and so would the convolutions after it.
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        return output.contiguous(memory_format=torch.channels_last) if channels_last else output


def build_resnet(name: str, *, stride_in: StrideIn, last_stride: int, norm: Norm) -> Backbone:
    """A trunk with random weights (torchvision's initialisation).

    Args:
        name: `resnet18`, `resnet34`, `resnet50`, `resnet101`, `ibn_resnet50` or `resnet18_narrow`.
        stride_in: location of a bottleneck's stride: `conv1` (1×1) or `conv2` (3×3, torchvision). Networks
            of basic blocks (resnet18, resnet34) have it in their first convolution in any case.
        last_stride: stride of the last stage, 1 or 2.
        norm: number of channels → normalisation layer.
    """
    resnet: Any = ResNet(LAYOUTS[name.removeprefix("ibn_")], norm)
    stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    has_bottlenecks = isinstance(stages[0][0], Bottleneck)
    for stage, stride in zip(stages[1:], (2, 2, last_stride), strict=True):
        set_stride(stage[0], stride, stride_in if has_bottlenecks else "conv1")
    if name.startswith("ibn_"):
        for stage in stages[:3]:
            for block in stage:
                block.bn1 = InstanceBatchNorm(block.conv1.out_channels, norm)
    out_channels = cast(int, resnet.fc.in_features)
    return Backbone(
        {name: child for name, child in resnet.named_children() if name not in ("avgpool", "fc")},
        out_channels=out_channels,
        stride_in=stride_in if has_bottlenecks else None,
        middle="layer3",
        last=("layer4",),
    )


def set_stride(block: nn.Module, stride: int, stride_in: StrideIn) -> None:
    """Set the stride of the first block of a stage, in one of its convolutions and in the shortcut."""
    for name in ("conv1", "conv2"):
        value = stride if name == stride_in else 1
        cast(nn.Conv2d, getattr(block, name)).stride = (value, value)
    shortcut = cast(nn.Sequential, block.downsample)
    cast(nn.Conv2d, shortcut[0]).stride = (stride, stride)
