"""Build a backbone by its name."""

from __future__ import annotations

from reid_ray.models.backbone import Backbone, Norm, StrideIn
from reid_ray.models.osnet import build_osnet
from reid_ray.models.resnet import build_resnet
from reid_ray.models.timm_backbone import PREFIX, build_timm_backbone


def build_backbone(name: str, *, stride_in: StrideIn, last_stride: int, norm: Norm) -> Backbone:
    """A trunk with random weights.

    Args:
        name: a backbone of `config.model`, or `timm:NAME`.
        stride_in: location of a bottleneck's stride: `conv1` (1×1) or `conv2` (3×3, torchvision); for ResNets only.
        last_stride: stride of a ResNet's last stage, 1 or 2; other networks have their own strides.
        norm: number of channels → normalisation layer; for timm's networks a `GroupBatchNorm`.

    Raises:
        ConfigError: timm has no such network, or it cannot be used as a backbone.
    """
    if name.startswith(PREFIX):
        return build_timm_backbone(name.removeprefix(PREFIX), norm)
    if name.startswith("osnet_"):
        return build_osnet(name, norm)
    return build_resnet(name, stride_in=stride_in, last_stride=last_stride, norm=norm)
