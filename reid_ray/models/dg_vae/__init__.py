"""DG-VAE (Pu et al., ACM MM 2020): two trunks, two Gaussian encoders, a mixture prior, decoders, discriminators."""

from reid_ray.models.dg_vae.decoders import (
    CodeDecoder,
    ImageDiscriminator,
    MapDiscriminator,
    build_image_decoder,
    build_map_decoder,
)
from reid_ray.models.dg_vae.encoders import (
    DgVaeEncoders,
    DgVaeRetriever,
    GaussianEncoder,
    LatentClassifier,
    ModalityTrunks,
    build_dg_vae_encoders,
)
from reid_ray.models.dg_vae.prior import MixturePrior

__all__ = [
    "CodeDecoder",
    "DgVaeEncoders",
    "DgVaeRetriever",
    "GaussianEncoder",
    "ImageDiscriminator",
    "LatentClassifier",
    "MapDiscriminator",
    "MixturePrior",
    "ModalityTrunks",
    "build_dg_vae_encoders",
    "build_image_decoder",
    "build_map_decoder",
]
