"""Branches whose feature maps are partitioned into stripes and channel groups (SCR, thesis §3.3).

The branches share the trunk up to conv4_1, the first block of the third stage, and copy the layers after it. Each map
gives a global vector and one per part; every vector has its own 1×1 convolution, batch norm and classifier.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.models.backbone import Backbone, Norm
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.embedder import build_embedder
from reid_ray.models.pooling import MaxPooling
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.splitting import split_backbone

REDUCED_DIM = 256
"""Size that all vectors are reduced to (thesis §3.3.1)."""

SCR_PARTITIONS = "p1+p2(s2c2)+p3(s3c3)"
"""The network of the thesis: 13 vectors, 3328 dimensions. Ablations in tables 3.2 and 3.3 use the same notation."""

_BRANCH = re.compile(r"(?P<name>p\d+)(?:\((?=[sc])(?:s(?P<stripes>\d+))?(?:c(?P<groups>\d+))?\))?")


@dataclass(frozen=True)
class Partition:
    """How the feature map of one branch is partitioned.

    Attributes:
        name: of the branch: p1, p2, …
        stripes: number of horizontal stripes; 1 for the whole map only.
        groups: number of groups of consecutive channels; 1 for none.
    """

    name: str
    stripes: int = 1
    groups: int = 1

    @property
    def n_vectors(self) -> int:
        """Number of vectors: one for the whole map, and one per part."""
        return 1 + (self.stripes if self.stripes > 1 else 0) + (self.groups if self.groups > 1 else 0)


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """The branches that a string names, in the notation of the thesis's tables.

    >>> parse_partitions("p1+p2(s2c2)")
    (Partition(name='p1', stripes=1, groups=1), Partition(name='p2', stripes=2, groups=2))

    Raises:
        ConfigError: an invalid branch, a duplicate branch, or fewer than two parts.
    """
    branches = []
    for part in text.split("+"):
        match = _BRANCH.fullmatch(part.strip())
        if match is None:
            raise ConfigError(
                f"'{part.strip()}' in the partitions '{text}' is not a branch; write p1, p2(s2), p2(c2) or p2(s2c2), "
                f"joined by +."
            )
        stripes, groups = (None if match[key] is None else int(match[key]) for key in ("stripes", "groups"))
        if stripes in (0, 1) or groups in (0, 1):
            raise ConfigError(f"'{part.strip()}' in the partitions '{text}' makes fewer than two parts; leave it out.")
        branches.append(Partition(match["name"], stripes or 1, groups or 1))
    names = [branch.name for branch in branches]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"The partitions '{text}' have the branch {name} twice; give each its own number.")
    return tuple(branches)


class PartEmbedding(NamedTuple):
    """Output for a batch of images, in float32 or better. P branches give V vectors.

    Attributes:
        pooled: [N, P, C], the global vector of each branch, before its 1×1 convolution.
        reduced: [N, P, R], the same after it and its batch norm.
        vectors: [N, V, R], all vectors after their batch norms: branch by branch, its global vector, its stripes from
            the top, its channel groups.
    """

    pooled: Tensor
    reduced: Tensor
    vectors: Tensor


class PartitionBranch(nn.Module):
    """Feature map of the trunk → vectors of one branch.

    Attributes:
        backbone: the branch's own layers.
        reductions: vector → [N, R], one for each vector: a 1×1 convolution, which on a vector is a matrix without bias,
            and a batch norm. No ReLU, because the thesis mentions none.
        bf16: the backbone computes in bfloat16.
    """

    def __init__(
        self,
        backbone: Backbone,
        partition: Partition,
        norm: Norm,
        *,
        reduced_dim: int = REDUCED_DIM,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        channels = backbone.out_channels
        n_groups = partition.groups
        if n_groups > channels:
            raise ConfigError(f"{partition.name} has {n_groups} groups of only {channels} channels; take fewer groups.")
        self.backbone = backbone
        self.partition = partition
        self.pooling = MaxPooling()
        self.bf16 = bf16
        dims = [channels] * (partition.n_vectors - (n_groups if n_groups > 1 else 0))
        if n_groups > 1:
            dims += [channels // n_groups + (i < channels % n_groups) for i in range(n_groups)]
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, reduced_dim, bias=False), norm(reduced_dim)) for dim in dims
        )

    def forward(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        """The global vector [N, C] before its reduction, and all vectors [N, V, R] after theirs."""
        with bf16_autocast(shared, self.bf16):
            feature_map = self.backbone(shared)
        feature_map = feature_map.to(torch.promote_types(feature_map.dtype, torch.float32))
        parts = self.pool_parts(feature_map)
        reduced = [reduction(part) for reduction, part in zip(self.reductions, parts, strict=True)]
        return parts[0], torch.stack(reduced, dim=1)

    def pool_parts(self, feature_map: Tensor) -> list[Tensor]:
        """Maxima over the whole map, each stripe, and each channel group; see the function `pool_parts`."""
        return pool_parts(feature_map, self.partition, self.pooling)


def pool_parts(feature_map: Tensor, partition: Partition, pooling: nn.Module) -> list[Tensor]:
    """Vectors of the whole map [N, C, h, w], of each stripe from the top, and of each channel group.

    Parts are disjoint and cover all rows or channels. If they cannot be equal, the first ones are larger by one (2048
    channels in three groups: 683, 683, 682). The vector of a channel group is a slice of the global one.

    Raises:
        ConfigError: the map has fewer rows than stripes.
    """
    if feature_map.shape[2] < partition.stripes:
        raise ConfigError(
            f"{partition.name} has {partition.stripes} stripes, but its feature map has "
            f"{feature_map.shape[2]} rows; take fewer stripes or a larger data.height."
        )
    whole = pooling(feature_map)
    parts = [whole]
    if partition.stripes > 1:
        parts += [pooling(stripe) for stripe in feature_map.tensor_split(partition.stripes, dim=2)]
    if partition.groups > 1:
        parts += whole.tensor_split(partition.groups, dim=1)
    return parts


class PartitionEmbedder(nn.Module):
    """Images → vectors of whole and partitioned feature maps, and their concatenation for retrieval.

    Attributes:
        backbone: images → shared feature map; everything up to conv4_1.
        branches: shared feature map → vectors.
        bf16: trunk and branches compute in bfloat16; weights, poolings and reductions stay float32.
    """

    def __init__(self, backbone: Backbone, branches: Sequence[PartitionBranch], *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.branches = nn.ModuleList(branches)
        self.bf16 = bf16

    @property
    def n_vectors(self) -> int:
        """V, 13 in the thesis, with one classifier each."""
        return sum(len(cast(PartitionBranch, branch).reductions) for branch in self.branches)

    @property
    def vector_dim(self) -> int:
        """R, the size of each vector."""
        first = cast(PartitionBranch, self.branches[0]).reductions[0]
        return cast(nn.Linear, cast(nn.Sequential, first)[0]).out_features

    @property
    def dim(self) -> int:
        """Size of the retrieval feature, 13 · 256 = 3328 in the thesis."""
        return self.n_vectors * self.vector_dim

    def forward(self, images: Tensor) -> PartEmbedding:
        """Embed images [N, 3, H, W]: RGB, normalised with ImageNet's mean and standard deviation."""
        with bf16_autocast(images, self.bf16):
            shared = self.backbone(images)
        pooled, vectors = zip(*(branch(shared) for branch in self.branches), strict=True)
        reduced = torch.stack([of_branch[:, 0] for of_branch in vectors], dim=1)
        return PartEmbedding(torch.stack(pooled, dim=1), reduced, torch.cat(vectors, dim=1))

    def embed(self, images: Tensor) -> Tensor:
        """The retrieval feature [N, dim]: all vectors after their batch norms, concatenated, then L2-normalised."""
        return F.normalize(self(images).vectors.flatten(1))


class PartClassifiers(nn.Module):
    """A linear classifier, with bias, for each vector: [N, V, R] → logits [V, N, n_identities].

    They are a separate module, because retrieval and export do not need them.
    """

    def __init__(self, n_vectors: int, vector_dim: int, n_identities: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(nn.Linear(vector_dim, n_identities) for _ in range(n_vectors))

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.stack(
            [classifier(vector) for classifier, vector in zip(self.classifiers, vectors.unbind(dim=1), strict=True)]
        )


def build_partitions(
    config: ModelConfig, partitions: Sequence[Partition], *, reduced_dim: int = REDUCED_DIM, bf16: bool = False
) -> PartitionEmbedder:
    """The network that `config` and `partitions` describe, with initial weights.

    Trunk and branches get the same weights as in `build_embedder(config)`, equal in every branch (thesis §3.3.1:
    identical, but independent). Reductions are random, drawn from torch's global generator branch by branch.
    `config.pooling` and `config.branches` are ignored: pooling is by maximum.

    Raises:
        WeightsError: the weights cannot be loaded or do not fit.
        ConfigError: more channel groups than channels.
    """
    whole = build_embedder(config).backbone
    trunk, rest = split_backbone(whole, "conv4_1")
    norm = partial(GroupBatchNorm, group=config.bn_group, buffers=config.bn_buffers)
    branches = [
        PartitionBranch(copy.deepcopy(rest), partition, norm, reduced_dim=reduced_dim, bf16=bf16)
        for partition in partitions
    ]
    return PartitionEmbedder(trunk, branches, bf16=bf16)
