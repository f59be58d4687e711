"""GCL's identity encoder E_id: one feature map gives the identity code for generation and the feature for retrieval.

Thesis §5.4.2. It is built from a trunk with the 512-d embedding of the paper, or from the network of any earlier run,
whose weights it uses unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.models.backbone import Backbone
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.embedder import Embedder, Embedding
from reid_ray.models.pooling import AveragePooling
from reid_ray.models.precision import bf16_autocast

CodeSplit = Literal["channels", "stripes"]

N_STRIPES = 4
EMBEDDING_DIM = 512


class Identity(NamedTuple):
    """Output for a batch of images, in float32 or better.

    Attributes:
        code: f_id [N, 4·C], the input of the generator; divided by `code_parts`.
        feature: f [N, D], after the neck, not normalised.
    """

    code: Tensor
    feature: Tensor


class IdentityEncoder(nn.Module):
    """E_id: images → identity codes and features.

    With the embedding of the paper (`with_embedding`), 24,558,144 parameters on ResNet-50: average pooling, a linear
    layer to 512 with bias, batch norm whose weight and bias both are trained. Around the network of an earlier run
    (`around`), its pooling and its neck, with a bias of 0, are kept: f is 2048-d, as in the variants of the
    released code for warm-ups without an embedding. State-dict keys: those of `Embedder` and of the embedding.

    Attributes:
        backbone: images → feature map.
        pooling: feature map → vector.
        embedding: vector → vector, the identity function if there is none.
        neck: batch norm of the vectors.
        n_stripes: horizontal stripes of the code.
        bf16: the backbone computes in bfloat16.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: nn.Module,
        embedding: nn.Module,
        neck: GroupBatchNorm,
        *,
        n_stripes: int = N_STRIPES,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.embedding = embedding
        self.neck = neck
        self.n_stripes = n_stripes
        self.bf16 = bf16

    @classmethod
    def with_embedding(
        cls,
        backbone: Backbone,
        norm: Callable[[int], GroupBatchNorm] = GroupBatchNorm,
        *,
        dim: int = EMBEDDING_DIM,
        n_stripes: int = N_STRIPES,
        bf16: bool = False,
    ) -> Self:
        """E_id with a new linear embedding to `dim` and a new neck, created by `norm`."""
        embedding = nn.Linear(backbone.out_channels, dim)
        return cls(backbone, AveragePooling(), embedding, norm(dim), n_stripes=n_stripes, bf16=bf16)

    @classmethod
    def around(cls, embedder: Embedder, *, n_stripes: int = N_STRIPES) -> Self:
        """E_id that shares the layers of `embedder`, and has its retrieval feature."""
        return cls(
            embedder.backbone,
            embedder.pooling,
            nn.Identity(),
            embedder.neck,
            n_stripes=n_stripes,
            bf16=embedder.bf16,
        )

    @property
    def dim(self) -> int:
        """Size D of the features."""
        return self.neck.num_features

    @property
    def code_dim(self) -> int:
        """Size of the identity codes: 8192 with ResNet-50."""
        return self.n_stripes * self.backbone.out_channels

    def forward(self, images: Tensor) -> Identity:
        """Encode images [N, 3, H, W]: RGB, normalised with ImageNet's mean and standard deviation."""
        feature_map = self._feature_map(images)
        feature = self.neck(self.embedding(self.pooling(feature_map)))
        return Identity(identity_code(feature_map, self.n_stripes), feature)

    def embedded(self, images: Tensor) -> Embedding:
        """The vectors [N, D] before and after the neck, for losses of networks that generate nothing."""
        pooled = self.embedding(self.pooling(self._feature_map(images)))
        return Embedding(pooled, self.neck(pooled))

    def embed(self, images: Tensor) -> Tensor:
        """The retrieval feature f/‖f‖ [N, D]; squared Euclidean distances give the same ranking as cosines."""
        return F.normalize(self.embedded(images).feature)

    def _feature_map(self, images: Tensor) -> Tensor:
        """[N, C, h, w] in float32 or better."""
        with bf16_autocast(images, self.bf16):
            feature_map: Tensor = self.backbone(images)
        return feature_map.to(torch.promote_types(feature_map.dtype, torch.float32))


def identity_code(feature_map: Tensor, n_stripes: int) -> Tensor:
    """Means of horizontal stripes of a map [N, C, h, w] → [N, C·n_stripes], at index n_stripes·channel + stripe."""
    return F.adaptive_avg_pool2d(feature_map, (n_stripes, 1)).flatten(1)


def code_parts(code: Tensor, n_parts: int, split: CodeSplit, n_stripes: int = N_STRIPES) -> tuple[Tensor, ...]:
    """Divide the code [N, C·n_stripes] into equal parts, one for each residual block of the decoder.

    Args:
        split: `channels`: consecutive entries, as in the released code; with four stripes, part p is a quarter of the
            channels in *all* stripes. `stripes`: part p is stripe p, which the released code may have intended.
    """
    if split == "stripes":
        code = code.reshape(len(code), -1, n_stripes).transpose(1, 2).flatten(1)
    return code.chunk(n_parts, dim=1)
