"""IS-GAN's encoders: a shared backbone, and two sets of part branches, identity-related and -unrelated (§3.2, 3.3).

Eom & Ham, *Learning Disentangled Representation for Robust Person Re-identification*, NeurIPS 2019. A branch has its
own copy of the ResNet stages after conv4_1 and partitions its map into horizontal stripes: none for part-1, two for
part-2, three for part-3. Each branch gives a vector for the whole map and one per stripe: K = 8 parts in total.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.models.backbone import Norm
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.codes import GaussianCode
from reid_ray.models.embedder import build_embedder
from reid_ray.models.partitions import PartClassifiers, Partition, pool_parts
from reid_ray.models.pooling import build_pooling
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.splitting import SharedBackbone, copy_stages, split_backbone
from reid_ray.models.transposed import initialise_like_mgn

STRIPES = (1, 2, 3)
"""Stripes of the branches part-1, part-2 and part-3. The rows of table 3 are subsets, such as (1, 3)."""

IDENTITY_DIM = 256
"""p, the size of an identity-related part; with K = 8 parts φ_R has 2048 dimensions."""

UNRELATED_DIM = 64
"""Size of an identity-unrelated part; with K = 8 parts φ_U has 512 dimensions."""


class PartBranch(nn.Module):
    """Shared feature map → vectors [N, n_parts, C]: the whole map, then its stripes from the top.

    Attributes:
        backbone: the branch's own stages.
        partition: its horizontal stripes; a single stripe is the whole map only.
        pooling: map or stripe → vector.
        bf16: the stages compute in bfloat16; pooling stays in float32 or better.
    """

    def __init__(self, backbone: nn.Module, n_stripes: int, pooling: nn.Module, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.partition = Partition(f"part-{n_stripes}", stripes=n_stripes)
        self.pooling = pooling
        self.bf16 = bf16

    @property
    def n_parts(self) -> int:
        """Number of vectors, for the whole map and its stripes: 1, 3, 4 for one, two, three stripes."""
        return self.partition.n_vectors

    def forward(self, shared: Tensor) -> Tensor:
        with bf16_autocast(shared, self.bf16):
            feature_map = self.backbone(shared)
        feature_map = feature_map.to(torch.promote_types(feature_map.dtype, torch.float32))
        return torch.stack(pool_parts(feature_map, self.partition, self.pooling), dim=1)


class PartBranches(nn.Module):
    """Shared feature map → vectors [N, K, C] of all branches, in their order: g1 · g2, p2₀, p2₁ · g3, p3₀, p3₁, p3₂."""

    def __init__(self, branches: Sequence[PartBranch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    @property
    def n_parts(self) -> int:
        """K."""
        return sum(cast(PartBranch, branch).n_parts for branch in self.branches)

    def forward(self, shared: Tensor) -> Tensor:
        return torch.cat([branch(shared) for branch in self.branches], dim=1)


class IdentityEncoder(nn.Module):
    """E_R: shared feature map → identity-related parts φ_R [N, K, p].

    Each part has a 1×1 convolution without bias and a batch norm, without ReLU. (On a pooled vector that convolution
    is a matrix; it has 524,800 parameters with its batch norm.)
    """

    def __init__(self, parts: PartBranches, in_dim: int, norm: Norm, *, part_dim: int = IDENTITY_DIM) -> None:
        super().__init__()
        self.parts = parts
        self.part_dim = part_dim
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Linear(in_dim, part_dim, bias=False), norm(part_dim)) for _ in range(parts.n_parts)
        )
        for reduction in self.reductions:
            linear, batch_norm = cast(nn.Sequential, reduction)
            nn.init.kaiming_normal_(cast(nn.Linear, linear).weight, mode="fan_in")
            nn.init.normal_(cast(GroupBatchNorm, batch_norm).weight, 1.0, 0.02)

    @property
    def dim(self) -> int:
        """K · p, the size of φ_R as one vector."""
        return self.parts.n_parts * self.part_dim

    def forward(self, shared: Tensor) -> Tensor:
        vectors = self.parts(shared).unbind(dim=1)
        return torch.stack([reduce(v) for reduce, v in zip(self.reductions, vectors, strict=True)], dim=1)


class UnrelatedEncoder(nn.Module):
    """E_U: shared feature map → Gaussians [N, K, u] of identity-unrelated parts.

    Each part has two linear layers with bias, for mean and log-variance, and no batch norm. φ_U is a sample of the
    Gaussians, in training and in evaluation.
    """

    def __init__(self, parts: PartBranches, in_dim: int, *, part_dim: int = UNRELATED_DIM) -> None:
        super().__init__()
        self.parts = parts
        self.part_dim = part_dim
        self.means = nn.ModuleList(nn.Linear(in_dim, part_dim) for _ in range(parts.n_parts))
        self.log_variances = nn.ModuleList(nn.Linear(in_dim, part_dim) for _ in range(parts.n_parts))

    @property
    def dim(self) -> int:
        """K · u, the size of φ_U as one vector."""
        return self.parts.n_parts * self.part_dim

    def forward(self, shared: Tensor) -> GaussianCode:
        vectors = self.parts(shared).unbind(dim=1)
        return GaussianCode(
            torch.stack([head(v) for head, v in zip(self.means, vectors, strict=True)], dim=1),
            torch.stack([head(v) for head, v in zip(self.log_variances, vectors, strict=True)], dim=1),
        )


class IsGanRetriever(nn.Module):
    """The retriever: backbone and E_R.

    Attributes:
        flip_test: the features of the image and its mirror image are added, then L2-normalised (released code; the
            paper does not mention it). False: only the image's feature.
    """

    def __init__(self, backbone: nn.Module, identity_encoder: IdentityEncoder, *, flip_test: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.identity_encoder = identity_encoder
        self.flip_test = flip_test

    @property
    def dim(self) -> int:
        """Size of the retrieval feature, 2048 in the paper."""
        return self.identity_encoder.dim

    def embed(self, images: Tensor) -> Tensor:
        """The retrieval feature [N, dim], L2-normalised, of images [N, 3, H, W] with ImageNet normalisation."""
        features = self.identity_encoder(self.backbone(images))
        if self.flip_test:
            features = features + self.identity_encoder(self.backbone(images.flip(3)))
        return F.normalize(features.flatten(1))


class IsGanEncoders(NamedTuple):
    """The networks whose input is images; training stages freeze or train them separately."""

    backbone: SharedBackbone
    identity_encoder: IdentityEncoder
    classifiers: PartClassifiers
    unrelated_encoder: UnrelatedEncoder


def build_is_gan_encoders(
    config: ModelConfig,
    n_identities: int,
    *,
    stripes: Sequence[int] = STRIPES,
    identity_dim: int = IDENTITY_DIM,
    unrelated_dim: int = UNRELATED_DIM,
    unrelated_pooling: Literal["avg", "max"] = "avg",
    bf16: bool = False,
) -> IsGanEncoders:
    """Backbone, E_R with its classifiers, and E_U, with initial weights.

    Backbone and branches get the same weights as in `build_embedder(config)`, equal in every branch. The part-1
    branch keeps the stride 2 of the last stage, the others have stride 1 (the same weights). Heads are random, drawn
    from torch's global generator. E_R pools by maximum; for E_U the paper says the same, but the released code, which
    produced the tables, averages: `unrelated_pooling`. `config.pooling`, `branches` and `last_stride` are ignored.

    With a ResNet-50 and 751 identities: 2,957,376 parameters in the backbone, 67,394,424 in E_R with its classifiers,
    63,750,144 in E_U.

    Raises:
        ConfigError: no branches, or a number of stripes below 1.
        WeightsError: the weights cannot be loaded or do not fit.
    """
    if not stripes or min(stripes) < 1:
        raise ConfigError(f"The part branches {tuple(stripes)} are invalid; give each 1 or more stripes.")
    whole = build_embedder(config).backbone
    trunk, rest = split_backbone(whole, "conv4_1")
    norm = partial(GroupBatchNorm, group=config.bn_group, buffers=config.bn_buffers)

    def branches(pooling: Literal["avg", "max"]) -> PartBranches:
        return PartBranches(
            [PartBranch(copy_stages(rest, 2 if n == 1 else 1), n, build_pooling(pooling), bf16=bf16) for n in stripes]
        )

    identity = IdentityEncoder(branches("max"), whole.out_channels, norm, part_dim=identity_dim)
    classifiers = PartClassifiers(identity.parts.n_parts, identity_dim, n_identities)
    initialise_like_mgn(classifiers)
    return IsGanEncoders(
        SharedBackbone(trunk, bf16=bf16),
        identity,
        classifiers,
        UnrelatedEncoder(branches(unrelated_pooling), whole.out_channels, part_dim=unrelated_dim),
    )
