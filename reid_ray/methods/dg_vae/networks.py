"""Build the networks of DG-VAE from a configuration."""

from __future__ import annotations

from functools import partial

from torch import nn

from reid_ray.config import Config, DGVAEConfig
from reid_ray.errors import ConfigError
from reid_ray.models import GroupBatchNorm
from reid_ray.models.dg_vae import (
    CodeDecoder,
    DgVaeEncoders,
    ImageDiscriminator,
    MapDiscriminator,
    build_dg_vae_encoders,
    build_image_decoder,
    build_map_decoder,
)

N_HALVINGS = 4
"""The trunks' map has 1/16 of the image's height and width."""


def build_encoders(config: Config, settings: DGVAEConfig) -> DgVaeEncoders:
    """Trunks, encoders and classifier; `ConfigError` for a network with branches."""
    if config.model.branches:
        raise ConfigError("DG-VAE's trunks have one branch; set model.branches=[].")
    return build_dg_vae_encoders(
        config.model,
        settings.n_identities or 1,
        identity_dim=settings.identity_dim,
        ambiguity_dim=settings.ambiguity_dim,
        split=settings.split,
        last_stride=settings.last_stride,
        idi_neck=settings.idi_neck,
        bf16=config.training.precision == "bf16",
    )


def build_decoder(config: Config, settings: DGVAEConfig, map_channels: int) -> CodeDecoder:
    """The decoder of maps [N, map_channels, H/16, W/16] or of images [N, 3, H, W].

    Raises:
        ConfigError: the layers cannot produce this size.
    """
    height, width = config.data.height, config.data.width
    images = settings.rec_space == "images"
    key = "image_decoder_channels" if images else "decoder_channels"
    channels: tuple[int, ...] = getattr(settings, key)
    size = (height, width) if images else map_size(height, width)
    step = 1 << (len(channels) - 1)
    if size[0] % step or size[1] % step:
        what = "images" if images else "feature maps"
        raise ConfigError(
            f"method.{key} has {len(channels)} entries, so the decoder doubles its size {len(channels) - 1} times, and "
            f"{what} of {size[0]}×{size[1]} are no multiple of {step}; use fewer entries, or another data.height and "
            f"data.width."
        )
    norm = partial(GroupBatchNorm, group=config.model.bn_group, buffers=config.model.bn_buffers)
    build = build_image_decoder if images else build_map_decoder
    return build(
        norm,
        in_dim=settings.identity_dim + settings.ambiguity_dim,
        channels=(*channels, 3 if images else map_channels),
        start=(size[0] // step, size[1] // step),
        dropout_rate=settings.dropout,
    )


def build_discriminator(settings: DGVAEConfig, map_channels: int) -> nn.Module:
    """The patch discriminator of decoded maps or images."""
    return ImageDiscriminator() if settings.rec_space == "images" else MapDiscriminator(map_channels)


def map_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the trunks' feature map for images of this size."""
    for _ in range(N_HALVINGS):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width
