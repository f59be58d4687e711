"""Settings of GCL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class GCLConfig(MethodConfig):
    """Joint generative and contrastive learning without labels (Chen et al., CVPR 2021); see docs/methods/gcl.md."""

    name: Literal["gcl"] = "gcl"
    """The method."""
    warmup: bool | None = None
    """Whether the identity encoder is first trained by cluster-contrast, in the stage `warmup`. Null: yes, unless
    `model.weights` is the exported model of a run, or a `source` trains it."""
    generation: bool = True
    """False removes generator and discriminator: only images are contrasted with the memory (L_vi^woGAN)."""
    augment: bool = False
    """Use the strong view of images in the stage `joint`; requires `generation=false`, since a mesh fits only the plain
    image."""
    embedding_dim: int | None = Field(default=None, ge=1)
    """Size of a linear embedding before the neck, 512 in the paper and in its code for JVTC. Null: none, as for
    warm-ups by runs without one; the feature is the pooled one."""
    angles: Literal["seven", "six"] = "seven"
    """Novel views: 45° … 315°, or without 315°, which the released code never samples."""
    code_split: Literal["channels", "stripes"] = "channels"
    """How the identity code is cut for the four residual blocks: by channels of all stripes (released code), or by
    stripes."""
    weight_image: Annotated[float, Search(1, 20, log=True)] = Field(default=5.0, ge=0)
    """Weight of both terms of L_img (5.1)."""
    weight_feature: Annotated[float, Search(1, 20, log=True)] = Field(default=5.0, ge=0)
    """Weight of both terms of L_feat (5.2)."""
    feature_views: Literal["ori+cycle", "new+cycle"] = "ori+cycle"
    """Generated views whose codes L_feat compares: released code, or Eq. 5.2 as printed."""
    weight_adversarial: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """Weight of the adversarial loss (5.3) of the generator."""
    gan_loss: Literal["lsgan", "log", "log-nonsaturating"] = "lsgan"
    """Least squares (released code), Eq. 5.3 as printed, or its non-saturating form."""
    r1_weight: float = Field(default=0.01, ge=0)
    """Weight of the gradient penalty at real images, which the paper does not mention; 0 = none. It is added once for
    each of the three generated views."""
    weight_original: float = Field(default=1.0, ge=0)
    """Weight of L_vi (5.6): image against memory."""
    weight_instance: float = Field(default=1.0, ge=0)
    """Weight of L'_vi (5.7): generated view against its image."""
    weight_generated: float = Field(default=1.0, ge=0)
    """Weight of L''_vi (5.8): generated view against memory. With all three 0, the joint stage only generates."""
    temperature: Annotated[float, Search(0.03, 0.1, log=True)] = Field(default=0.04, gt=0)
    """τ of the contrast."""
    n_negatives: int | None = Field(default=None, ge=1)
    """K, rows of the memory that are negatives of an image. Null: 8192, but at most 63 % of the images, which is its
    share on Market-1501."""
    instance_positive: Literal["memory", "feature"] = "memory"
    """Positive of a generated view in L'_vi: the memory's row of its image (released code), or the image's current
    feature (5.7)."""
    positives: Literal["independent", "shared"] = "independent"
    """Positives of L_vi and L''_vi: two draws (released code), or one."""
    negatives_from: Literal["generated", "original"] = "generated"
    """Feature whose similarities to the negatives are in the denominators."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.2, ge=0, lt=1)
    """Weight of the old row when a feature moves its image's row (5.5)."""
    renormalise: bool = True
    """Rows of the memory keep unit norm (released code); not specified by Eq. 5.5."""
    bn_views: Literal["all", "real"] = "all"
    """Images that update the running statistics of the identity encoder's batch norms in the joint stage: real images
    and generated views (released code), or real images only."""
    generator_width: int = Field(default=16, ge=2, multiple_of=2)
    """Channels of the structure encoder's first convolution; the decoder has eight times as many."""
    dilations: tuple[int, ...] = Field(default=(3, 6, 9), min_length=1)
    """Dilations of the structure encoder's last layer. Images must be larger than four times the largest."""
    hidden_dim: int = Field(default=512, ge=1)
    """Width of the MLPs from identity codes to the decoder's norms."""
    discriminator_width: int = Field(default=32, ge=1)
    """Channels of the discriminators' first convolutions."""
    n_scales: int = Field(default=3, ge=1)
    """Number of image scales, each with its own discriminator."""

    @model_validator(mode="after")
    def _views_fit(self) -> GCLConfig:
        if self.augment and self.generation:
            raise ValueError("augment=true is for images without generated views; set generation=false")
        return self
