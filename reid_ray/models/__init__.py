"""Networks: ResNet trunks with batch-norm groups, pooling, BN neck, the mean teacher, and their weights."""

from reid_ray.models.batchnorm import (
    GroupBatchNorm,
    local_buffers,
    prepare_bn_groups,
    set_local_buffers,
    synchronise_buffers,
)
from reid_ray.models.branches import ABMT_BRANCHES, AsymmetricEmbedder, build_branches
from reid_ray.models.domains import with_own_norms
from reid_ray.models.embedder import Embedder, Embedding, build_embedder
from reid_ray.models.inference import for_extraction
from reid_ray.models.network import build_network
from reid_ray.models.pooling import AveragePooling, GeMPooling, MaxPooling, build_pooling
from reid_ray.models.resnet import Backbone, InstanceBatchNorm, build_backbone
from reid_ray.models.teacher import make_teacher, update_teacher
from reid_ray.models.weights import (
    from_numpy,
    is_model_file,
    load_backbone_weights,
    load_torchvision_weights,
    to_numpy,
)

__all__ = [
    "ABMT_BRANCHES",
    "AsymmetricEmbedder",
    "AveragePooling",
    "Backbone",
    "Embedder",
    "Embedding",
    "GeMPooling",
    "GroupBatchNorm",
    "InstanceBatchNorm",
    "MaxPooling",
    "build_backbone",
    "build_branches",
    "build_embedder",
    "build_network",
    "build_pooling",
    "for_extraction",
    "from_numpy",
    "is_model_file",
    "load_backbone_weights",
    "load_torchvision_weights",
    "local_buffers",
    "make_teacher",
    "prepare_bn_groups",
    "set_local_buffers",
    "synchronise_buffers",
    "to_numpy",
    "update_teacher",
    "with_own_norms",
]
