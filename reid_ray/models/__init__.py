"""Networks: backbones with batch-norm groups, pooling, BN neck, mean teacher, and weights."""

from reid_ray.models.attributes import AttributeEmbedder, AttributeHead, SplitEmbedding
from reid_ray.models.backbone import Backbone, partial_backbone
from reid_ray.models.batchnorm import (
    GroupBatchNorm,
    kept_running_statistics,
    local_buffers,
    prepare_bn_groups,
    set_local_buffers,
    synchronise_buffers,
)
from reid_ray.models.branches import ABMT_BRANCHES, AsymmetricEmbedder, build_branches
from reid_ray.models.codes import GaussianCode
from reid_ray.models.domain_bn import with_domain_bn
from reid_ray.models.embedder import Embedder, Embedding, build_embedder
from reid_ray.models.network import build_network
from reid_ray.models.partitions import (
    SCR_PARTITIONS,
    PartClassifiers,
    PartEmbedding,
    Partition,
    PartitionEmbedder,
    build_partitions,
    parse_partitions,
)
from reid_ray.models.pooling import AveragePooling, GeMPooling, MaxPooling, build_pooling
from reid_ray.models.resnet import InstanceBatchNorm
from reid_ray.models.splitting import SharedBackbone, copy_stages, split_backbone
from reid_ray.models.teacher import make_teacher, update_teacher
from reid_ray.models.transposed import TransposedDecoder
from reid_ray.models.trunks import build_backbone
from reid_ray.models.variational import HVD, VNAE, Gaussian, GaussianMLP, HVDOutput, VNAEOutput, build_mlp
from reid_ray.models.weights import (
    from_numpy,
    is_model_file,
    load_backbone_weights,
    load_torchvision_weights,
    to_numpy,
)

__all__ = [
    "ABMT_BRANCHES",
    "HVD",
    "SCR_PARTITIONS",
    "VNAE",
    "AsymmetricEmbedder",
    "AttributeEmbedder",
    "AttributeHead",
    "AveragePooling",
    "Backbone",
    "Embedder",
    "Embedding",
    "Gaussian",
    "GaussianCode",
    "GaussianMLP",
    "GeMPooling",
    "GroupBatchNorm",
    "HVDOutput",
    "InstanceBatchNorm",
    "MaxPooling",
    "PartClassifiers",
    "PartEmbedding",
    "Partition",
    "PartitionEmbedder",
    "SharedBackbone",
    "SplitEmbedding",
    "TransposedDecoder",
    "VNAEOutput",
    "build_backbone",
    "build_branches",
    "build_embedder",
    "build_mlp",
    "build_network",
    "build_partitions",
    "build_pooling",
    "copy_stages",
    "from_numpy",
    "is_model_file",
    "kept_running_statistics",
    "load_backbone_weights",
    "load_torchvision_weights",
    "local_buffers",
    "make_teacher",
    "parse_partitions",
    "partial_backbone",
    "prepare_bn_groups",
    "set_local_buffers",
    "split_backbone",
    "synchronise_buffers",
    "to_numpy",
    "update_teacher",
    "with_domain_bn",
]
