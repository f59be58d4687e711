"""The standard network: backbone, global pooling, BN neck (Luo et al., CVPRW 2019)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.models.backbone import Backbone
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.pooling import build_pooling
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.trunks import build_backbone
from reid_ray.models.weights import load_backbone_weights, load_torchvision_weights


class Embedding(NamedTuple):
    """Output for a batch of images, in float32 or better.

    Attributes:
        pooled: [N, C], before the BN neck.
        feature: [N, C], after it, not normalised (its norm is near √C).
    """

    pooled: Tensor
    feature: Tensor


class Embedder(nn.Module):
    """Images → vectors whose cosine similarity measures whether two images show the same person.

    Attributes:
        backbone: images → feature map.
        pooling: feature map → vector.
        neck: batch norm of the vectors; its bias stays 0, because cosines require features centred at 0.
        bf16: the backbone computes in bfloat16; weights, pooling and neck stay float32.
    """

    def __init__(self, backbone: Backbone, pooling: nn.Module, neck: GroupBatchNorm, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.neck = neck
        self.neck.bias.requires_grad_(False)
        self.bf16 = bf16

    @property
    def dim(self) -> int:
        """Size C of the features."""
        return self.backbone.out_channels

    def forward(self, images: Tensor) -> Embedding:
        """Embed images [N, 3, H, W]: RGB, normalised with ImageNet's mean and standard deviation."""
        with bf16_autocast(images, self.bf16):
            feature_map = self.backbone(images)
        # Under autocast the map is bf16: cast before pooling, so that the mean is not rounded to 8 bits.
        at_least_float32 = torch.promote_types(feature_map.dtype, torch.float32)
        pooled = self.pooling(feature_map.to(at_least_float32))
        return Embedding(pooled, self.neck(pooled))

    def embed(self, images: Tensor) -> Tensor:
        """The retrieval feature [N, C]: the BN neck's output, L2-normalised."""
        return F.normalize(self(images).feature)


def build_embedder(config: ModelConfig, *, bf16: bool = False) -> Embedder:
    """The network that `config` describes, with initial weights.

    Random weights (`weights: null`) are torchvision's initialisation, drawn from torch's global generator;
    a backbone's file or `torchvision` covers everything except pooling and neck.

    Raises:
        WeightsError: the weights cannot be loaded or do not fit.
        ConfigError: a timm network that does not exist or cannot be used as a backbone.
    """
    norm = partial(GroupBatchNorm, group=config.bn_group, buffers=config.bn_buffers)
    backbone = build_backbone(config.backbone, stride_in=config.stride_in, last_stride=config.last_stride, norm=norm)
    weights = config.weights_of()
    if weights == "torchvision":
        load_torchvision_weights(backbone, config.backbone)
    elif weights is not None:
        load_backbone_weights(backbone, weights)
    if not config.stem_relu:
        if not hasattr(backbone, "relu"):
            raise ConfigError(f"model.stem_relu=false is for ResNets; model.backbone is {config.backbone}.")
        del backbone.relu
    return Embedder(backbone, build_pooling(config.pooling), norm(backbone.out_channels), bf16=bf16)
