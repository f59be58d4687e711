"""IS-GAN (Eom & Ham, NeurIPS 2019): encoders of identity and of everything else, a generator, a discriminator."""

from reid_ray.models.is_gan.discriminator import DomainHead, IsGanDiscriminator, Judgement, PatchTrunk
from reid_ray.models.is_gan.encoders import (
    IdentityEncoder,
    IsGanEncoders,
    IsGanRetriever,
    PartBranch,
    PartBranches,
    UnrelatedEncoder,
    build_is_gan_encoders,
)
from reid_ray.models.is_gan.generator import IsGanGenerator, squash, unsquash

__all__ = [
    "DomainHead",
    "IdentityEncoder",
    "IsGanDiscriminator",
    "IsGanEncoders",
    "IsGanGenerator",
    "IsGanRetriever",
    "Judgement",
    "PartBranch",
    "PartBranches",
    "PatchTrunk",
    "UnrelatedEncoder",
    "build_is_gan_encoders",
    "squash",
    "unsquash",
]
