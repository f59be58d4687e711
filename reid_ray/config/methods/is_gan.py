"""Settings of IS-GAN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class ISGANConfig(MethodConfig):
    """Disentangling by identity shuffling, with a generator (Eom & Ham); see docs/methods/is-gan.md."""

    name: Literal["is_gan"] = "is_gan"
    """The method."""
    generate: bool = True
    """Three stages; the last two train a generator. False: only the stage `identity`, as the main one (the row L_R of
    table 2)."""
    stripes: tuple[int, ...] = (1, 2, 3)
    """Horizontal stripes of each part branch: part-1, part-2, part-3. The rows of table 3 are subsets, such as [1,
    3]."""
    weight_identity: Annotated[float, Search(5, 20)] = Field(default=20.0, ge=0)
    """λ_R of the identity loss in the stage `joint`; in the stage `identity` it is the only loss."""
    weight_kl: Annotated[float, Search(1e-3, 0.1, log=True)] = Field(default=0.01, ge=0)
    """λ_U of the divergence of the identity-unrelated codes, in the stage `joint`."""
    weight_kl_disentangle: Annotated[float, Search(1e-4, 0.01, log=True)] = Field(default=0.001, ge=0)
    """λ_U in the stage `disentangle`."""
    weight_shuffling: Annotated[float, Search(5, 20)] = Field(default=10.0, gt=0)
    """λ_S of identity shuffling."""
    weight_part_shuffling: Annotated[float, Search(5, 20)] = Field(default=10.0, ge=0)
    """λ_PS of part-level shuffling; 0: no part-shuffled images are generated."""
    weight_domain: float = Field(default=1.0, ge=0)
    """λ_D of the domain loss, real or generated; 0: no domain loss."""
    weight_classes: Annotated[float, Search(1, 2)] = Field(default=2.0, ge=0)
    """λ_C of the class loss, the identity of generated images by the discriminator's class head; 0: no class loss."""
    weight_classes_discriminator: float = Field(default=0.5, ge=0)
    """Weight of the class loss in the discriminator's loss: ½ in the released code, λ_C in the paper."""
    part_shuffle: Literal["random_mask", "none"] = "random_mask"
    """`random_mask` swaps random parts, as described in the paper; `none` swaps none, as in the released code, whose
    mask stays zero."""
    pairs: Literal["per_image", "disjoint"] = "per_image"
    """A random positive for each image (released code), or disjoint pairs of anchor and positive (paper)."""
    ce_reduction: Literal["mean", "sum"] = "mean"
    """Identity loss over the parts: mean (released code), or sum (Eq. 1)."""
    kl_reduction: Literal["released", "paper"] = "released"
    """Divergence: sum over the batch and mean over parts (released code), or mean over the batch and sum over parts."""
    domain_loss: Literal["log-nonsaturating", "log"] = "log-nonsaturating"
    """The generator's domain loss: −log D (released code), or log(1 − D) as Eq. 6 is printed."""
    label_noise: bool = True
    """Noisy targets of the domain loss, 0.7 … 1 and 0 … 0.3 (released code); false: 1 and 0."""
    auto_in_class_loss: bool = True
    """Whether the class loss includes the autoencoder's images (released code; Eq. 7 omits them)."""
    unrelated_pooling: Literal["avg", "max"] = "avg"
    """Pooling of the identity-unrelated encoder: average (released code), or maximum (paper)."""
    heads: Literal["same_size", "kernel4"] = "same_size"
    """Heads of the discriminator: 3×3 blocks that keep the map's size, as the paper describes, or those of the released
    code with its pooling corrected so that it runs."""
    discriminator_tanh: Literal["both", "real_only"] = "both"
    """Whether generated images pass through the tanh at the discriminator's input, like real ones (released code)."""
    flip_test: bool = True
    """The retrieval feature is the sum of the features of the image and its mirror image (released code)."""
    identity_dim: Annotated[int, Search(128, 512)] = Field(default=256, ge=1)
    """p, size of an identity-related part."""
    unrelated_dim: int = Field(default=64, ge=1)
    """Size of an identity-unrelated part."""
    noise_dim: int = Field(default=128, ge=1)
    """Size of the generator's noise."""
    generator_channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64, 3)
    """Channels of the generator's fully connected layer and of each transposed convolution. Each entry after the first
    doubles the size of the image: with seven entries, height and width must be multiples of 64."""
    discriminator_channels: tuple[int, ...] = (32, 64, 128, 256, 256)
    """Channels of the discriminator's convolutions; each convolution halves the size."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate of the generator."""
    n_identities: int | None = Field(default=None, ge=1)
    """Number of classes of classifiers, generator and discriminator; null: from the training table."""

    @model_validator(mode="after")
    def _networks_can_be_built(self) -> ISGANConfig:
        if not self.stripes or min(self.stripes) < 1:
            raise ValueError("stripes lists the stripes of each part branch, 1 or more")
        if len(self.generator_channels) < 3 or self.generator_channels[-1] != 3:
            raise ValueError("generator_channels ends with 3, the channels of an image, after two layers or more")
        if not self.discriminator_channels:
            raise ValueError("discriminator_channels has no layer")
        return self

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator is trained."""
        return bool(self.weight_domain or self.weight_classes)

    def reads(self, key: str) -> bool:
        always = ("name", "generate", "stripes", "ce_reduction", "flip_test", "identity_dim", "n_identities")
        if not self.generate:
            return key in always
        if key in ("heads", "discriminator_tanh", "discriminator_channels"):
            return self.adversarial
        if key in ("domain_loss", "label_noise"):
            return bool(self.weight_domain)
        if key in ("auto_in_class_loss", "weight_classes_discriminator"):
            return bool(self.weight_classes)
        return key != "part_shuffle" or bool(self.weight_part_shuffling)
