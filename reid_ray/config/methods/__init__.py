"""Settings of each method, one file per method. External methods register theirs with `register_method_config`."""

from reid_ray.config.methods.abmt import ABMTConfig
from reid_ray.config.methods.am0bh import AM0BHConfig
from reid_ray.config.methods.base import METHOD_CONFIGS, MethodConfig, parse_method_config, register_method_config
from reid_ray.config.methods.cap import CAPConfig
from reid_ray.config.methods.cluster_contrast import ClusterContrastConfig
from reid_ray.config.methods.dg_vae import DGVAEConfig
from reid_ray.config.methods.gcl import GCLConfig
from reid_ray.config.methods.havana import HAVANAConfig
from reid_ray.config.methods.ice import ICEConfig
from reid_ray.config.methods.is_gan import ISGANConfig
from reid_ray.config.methods.mmt import MMTConfig
from reid_ray.config.methods.scr import SCRConfig
from reid_ray.config.methods.source import SourceConfig
from reid_ray.config.methods.spcl import SpCLConfig

__all__ = [
    "METHOD_CONFIGS",
    "ABMTConfig",
    "AM0BHConfig",
    "CAPConfig",
    "ClusterContrastConfig",
    "DGVAEConfig",
    "GCLConfig",
    "HAVANAConfig",
    "ICEConfig",
    "ISGANConfig",
    "MMTConfig",
    "MethodConfig",
    "SCRConfig",
    "SourceConfig",
    "SpCLConfig",
    "parse_method_config",
    "register_method_config",
]
