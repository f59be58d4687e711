"""DG-VAE's encoders: a trunk for each modality, and shared Gaussian encoders of identity-discriminable and
identity-ambiguous codes (Pu et al., *Dual Gaussian-based Variational Subspace Disentanglement*, ACM MM 2020, §3, 4.2).

The paper does not specify where the ResNet is split, the heads or their initialisation; its Appendix F is not public.
[R] marks choices of this project.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import ModelConfig
from reid_ray.models.backbone import Backbone, Norm
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.codes import GaussianCode
from reid_ray.models.embedder import build_embedder
from reid_ray.models.pooling import build_pooling
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.splitting import SharedBackbone, SplitAt, copy_stages, split_backbone

IDENTITY_DIM = 2048
"""Size of the identity-discriminable code d."""

AMBIGUITY_DIM = 512
"""Size of the identity-ambiguous code a."""

LOG_VARIANCE_RANGE = (-10.0, 10.0)
"""Range to which ln σ² is clamped [R]."""

INITIAL_LOG_VARIANCE = -2.0
"""ln σ² of every code before training [R]: the initial biases of that head, whose weights start at 0."""

VISIBLE, INFRARED = 0, 1
"""Codes of the column `modality`."""


class ModalityTrunks(nn.Module):
    """E^V and E^I: images [N, 3, H, W] → feature maps [N, C, H/16, W/16], with one trunk per modality.

    The trunks start from the same weights and share none. Infrared images are replicated to three channels.

    Training calls `visible` and `infrared` on their streams. In every case, each batch norm processes one modality.
    """

    def __init__(self, visible: SharedBackbone, infrared: SharedBackbone) -> None:
        super().__init__()
        self.visible = visible
        self.infrared = infrared

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        """Pass each image through the trunk of its modality.

        Args:
            images: [N, 3, H, W], with ImageNet normalisation.
            modality: int64 [N], 0 visible, 1 infrared. For evaluation only: in training, batch norms would treat the
                images of each modality as slices of the global batch.
        """
        feature_maps: Tensor | None = None
        for code, trunk in ((VISIBLE, self.visible), (INFRARED, self.infrared)):
            rows = (modality == code).nonzero().flatten()
            if len(rows):
                of_modality = trunk(images[rows])
                if feature_maps is None:
                    feature_maps = of_modality.new_zeros(len(images), *of_modality.shape[1:])
                feature_maps = feature_maps.index_copy(0, rows, of_modality)
        if feature_maps is None or not ((modality == VISIBLE) | (modality == INFRARED)).all():
            raise ValueError("every image needs the modality 0 (visible) or 1 (infrared)")
        return feature_maps


class GaussianEncoder(nn.Module):
    """Feature map of the trunks → Gaussian code: residual stages, 1×1 convolutions for mean and log-variance, pooling.

    E^D (identity-discriminable, 2048-d) pools by maximum, 28,943,360 parameters; E^A (identity-ambiguous, 512-d) by
    mean, 22,648,832. Decoded feature maps are encoded in the same way. The stages have the batch norms of the
    ResNet, the heads none.

    Attributes:
        backbone: the encoder's own residual stages.
        pooling: of the heads' maps.
        bf16: the stages compute in bfloat16; heads and pooling stay in float32 or better.
    """

    def __init__(self, backbone: Backbone, dim: int, pooling: nn.Module, *, bf16: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = dim
        self.pooling = pooling
        self.bf16 = bf16
        self.mean = nn.Conv2d(backbone.out_channels, dim, 1)
        self.log_variance = nn.Conv2d(backbone.out_channels, dim, 1)
        nn.init.zeros_(self.log_variance.weight)
        assert self.log_variance.bias is not None
        nn.init.constant_(self.log_variance.bias, INITIAL_LOG_VARIANCE)

    def forward(self, feature_map: Tensor) -> GaussianCode:
        """Encode maps [N, C, h, w] to μ and ln σ² [N, dim]."""
        with bf16_autocast(feature_map, self.bf16):
            encoded = self.backbone(feature_map)
        encoded = encoded.to(torch.promote_types(encoded.dtype, torch.float32))
        log_variance = self.pooling(self.log_variance(encoded)).clamp(*LOG_VARIANCE_RANGE)
        return GaussianCode(self.pooling(self.mean(encoded)), log_variance)


class LatentClassifier(nn.Module):
    """D^C: codes [N, dim] → logits [N, n_identities], for μ, samples d, and re-encoded maps.

    One linear layer with bias. The paper mentions no BN neck; `neck="bn"` puts a batch norm of vectors before it.
    """

    def __init__(self, dim: int, n_identities: int, norm: Norm, *, neck: Literal["none", "bn"] = "none") -> None:
        super().__init__()
        self.neck = norm(dim) if neck == "bn" else nn.Identity()
        self.classifier = nn.Linear(dim, n_identities)

    def forward(self, codes: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.neck(codes))
        return logits


class DgVaeRetriever(nn.Module):
    """The retriever: trunks and E^D. The feature is μ_φ, L2-normalised, without mirrored images.

    Attributes:
        columns: columns of the table that `embed` reads in addition to images.
    """

    columns = ("modality",)

    def __init__(self, trunks: ModalityTrunks, identity_encoder: GaussianEncoder) -> None:
        super().__init__()
        self.trunks = trunks
        self.identity_encoder = identity_encoder

    @property
    def dim(self) -> int:
        """Size of the retrieval feature, 2048 in the paper."""
        return self.identity_encoder.dim

    def embed(self, images: Tensor, modality: Tensor) -> Tensor:
        """The retrieval feature [N, dim] of images [N, 3, H, W] with the modalities int64 [N] (0 visible)."""
        return F.normalize(self.identity_encoder(self.trunks(images, modality)).mean)


class DgVaeEncoders(NamedTuple):
    """The networks whose input is images or feature maps; training stages freeze or train them separately."""

    trunks: ModalityTrunks
    identity_encoder: GaussianEncoder
    ambiguity_encoder: GaussianEncoder
    classifier: LatentClassifier


def build_dg_vae_encoders(
    config: ModelConfig,
    n_identities: int,
    *,
    identity_dim: int = IDENTITY_DIM,
    ambiguity_dim: int = AMBIGUITY_DIM,
    split: SplitAt = "conv4_1",
    last_stride: Literal[1, 2] = 1,
    idi_neck: Literal["none", "bn"] = "none",
    bf16: bool = False,
) -> DgVaeEncoders:
    """E^V and E^I, E^D, E^A and D^C, with initial weights.

    Trunks and stages get copies of the weights in `build_embedder(config)`. Heads and classifier are random, drawn from
    torch's global generator. `config.pooling`, `branches` and `last_stride` are ignored.

    Args:
        config: backbone, weights and batch-norm groups.
        n_identities: N_y.
        identity_dim: of d.
        ambiguity_dim: of a.
        split: `conv4_1`: the trunks end with the first block of the third stage, as in MGN, 2,957,376 parameters each,
            and the encoders begin with the rest of it [R]. `conv4_end`: the trunks end with the third stage.
        last_stride: of the encoders' last stage [R].
        idi_neck: `neck` of `LatentClassifier`.
        bf16: trunks and stages compute in bfloat16.

    Raises:
        WeightsError: the weights cannot be loaded or do not fit.
    """
    whole = build_embedder(config).backbone
    trunk, rest = split_backbone(whole, split)
    norm = partial(GroupBatchNorm, group=config.bn_group, buffers=config.bn_buffers)
    trunks = ModalityTrunks(SharedBackbone(trunk, bf16=bf16), SharedBackbone(copy.deepcopy(trunk), bf16=bf16))

    def encoder(dim: int, pooling: Literal["avg", "max"]) -> GaussianEncoder:
        return GaussianEncoder(copy_stages(rest, last_stride), dim, build_pooling(pooling), bf16=bf16)

    return DgVaeEncoders(
        trunks,
        encoder(identity_dim, "max"),
        encoder(ambiguity_dim, "avg"),
        LatentClassifier(identity_dim, n_identities, norm, neck=idi_neck),
    )
