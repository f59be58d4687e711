"""GCL (Chen et al., thesis ch. 5; CVPR 2021): encoders of identity and structure, a decoder, and discriminators."""

from reid_ray.models.gcl.discriminator import MultiScaleDiscriminator, PatchDiscriminator
from reid_ray.models.gcl.generator import CodeToNorms, Decoder, StructureEncoder, ViewGenerator
from reid_ray.models.gcl.identity import CodeSplit, Identity, IdentityEncoder, code_parts, identity_code
from reid_ray.models.gcl.layers import ImageLayerNorm, adaptive_instance_norm

__all__ = [
    "CodeSplit",
    "CodeToNorms",
    "Decoder",
    "Identity",
    "IdentityEncoder",
    "ImageLayerNorm",
    "MultiScaleDiscriminator",
    "PatchDiscriminator",
    "StructureEncoder",
    "ViewGenerator",
    "adaptive_instance_norm",
    "code_parts",
    "identity_code",
]
