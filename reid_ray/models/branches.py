"""Asymmetric branches: one trunk, copies of the last stage that differ in depth and pooling (ABMT, thesis §4.3.2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import BranchConfig, ModelConfig
from reid_ray.models.backbone import Backbone, Norm, partial_backbone
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.embedder import Embedder, Embedding, build_embedder
from reid_ray.models.pooling import build_pooling
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.splitting import block_like, in_channels, middle_of

ABMT_BRANCHES = (BranchConfig(pooling="avg"), BranchConfig(pooling="max", n_extra=1))
"""The two branches of the thesis, with 3 and 4 blocks (fig. 4.1). Table 4.4 has a third: `avg`, two extra blocks."""


class AsymmetricEmbedder(nn.Module):
    """Images → one embedding per branch, and their concatenation for retrieval.

    Attributes:
        backbone: images → feature map; all stages but the last.
        branches: feature map → embedding; each has its own last stage, extra blocks, pooling and BN neck.
        bf16: trunk and branches compute in bfloat16; weights, poolings and necks stay float32.
    """

    def __init__(self, backbone: Backbone, branches: Sequence[Embedder], *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.branches = nn.ModuleList(branches)
        self.bf16 = bf16

    @property
    def dim(self) -> int:
        """Size of the retrieval feature: the sum over branches."""
        return sum(cast(Embedder, branch).dim for branch in self.branches)

    def forward(self, images: Tensor) -> tuple[Embedding, ...]:
        """Embed images [N, 3, H, W] (RGB, normalised with ImageNet's mean and standard deviation) by every branch."""
        with bf16_autocast(images, self.bf16):
            feature_map = self.backbone(images)
        return tuple(branch(feature_map) for branch in self.branches)

    def embed(self, images: Tensor) -> Tensor:
        """The retrieval feature [N, dim]: the BN necks' outputs, concatenated, then L2-normalised.

        As in ABMT's released code, branches are not normalised separately, so a branch with larger outputs has more
        weight. The thesis only specifies concatenation.
        """
        return F.normalize(torch.cat([embedding.feature for embedding in self(images)], dim=1))


def build_branches(config: ModelConfig, branches: Sequence[BranchConfig], *, bf16: bool = False) -> AsymmetricEmbedder:
    """The network that `config` and `branches` describe, with initial weights.

    Trunk and last stage get the same weights as in `build_embedder(config)`, the last stage in every branch.
    Extra blocks are random, drawn from torch's global generator branch by branch, as in ABMT's released code:
    convolutions normal (He et al., 2015, by fan-in), batch-norm weights normal around 1. `config.pooling` is not read.

    Raises:
        WeightsError: the weights cannot be loaded or do not fit.
        ConfigError: a backbone that cannot be split.
    """
    whole = build_embedder(config).backbone
    middle_of(whole)  # raises for trunks that cannot be split
    stages = dict(whole.named_children())
    last = {name: stages.pop(name) for name in whole.last}
    blocks = cast(nn.Sequential, last[whole.last[0]])
    norm = partial(GroupBatchNorm, group=config.bn_group, buffers=config.bn_buffers)
    heads = [
        Embedder(
            partial_backbone(
                {**copy.deepcopy(last), "extra": _extra_blocks(blocks[-1], whole.out_channels, branch.n_extra, norm)},
                like=whole,
                out_channels=whole.out_channels,
            ),
            build_pooling(branch.pooling),
            norm(whole.out_channels),
            bf16=bf16,
        )
        for branch in branches
    ]
    return AsymmetricEmbedder(
        partial_backbone(stages, like=whole, out_channels=in_channels(blocks[0])), heads, bf16=bf16
    )


def _extra_blocks(last: nn.Module, channels: int, n_blocks: int, norm: Norm) -> nn.Sequential:
    """Blocks like the last one of a stage."""
    blocks = nn.Sequential(*(block_like(last, channels, norm) for _ in range(n_blocks)))
    for module in blocks.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, GroupBatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return blocks
