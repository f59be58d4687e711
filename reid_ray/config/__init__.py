"""The configuration: one frozen tree, a file per section.

Every part of the system reads a `Config`. `load_config` builds one from a recipe, files and `key=value` overrides;
`dump_config` writes it back; `config_hash` identifies its computation.
"""

from __future__ import annotations

from reid_ray.config.base import Search
from reid_ray.config.data import DataConfig, MeshConfig, StrongViewConfig, SyntheticConfig
from reid_ray.config.labels import LabelsConfig
from reid_ray.config.loading import (
    RUN_PREFIX,
    config_hash,
    dump_config,
    hashed_settings,
    load_config,
    recipe_names,
    with_absolute_paths,
)
from reid_ray.config.methods import (
    METHOD_CONFIGS,
    ABMTConfig,
    AM0BHConfig,
    CAPConfig,
    ClusterContrastConfig,
    DGVAEConfig,
    GCLConfig,
    HAVANAConfig,
    ICEConfig,
    ISGANConfig,
    MethodConfig,
    MMTConfig,
    SCRConfig,
    SourceConfig,
    SpCLConfig,
    register_method_config,
)
from reid_ray.config.model import BranchConfig, ModelConfig
from reid_ray.config.training import (
    EvaluationConfig,
    OptimizerConfig,
    RuntimeConfig,
    StageConfig,
    TrainingConfig,
)
from reid_ray.config.tree import Config

__all__ = [
    "METHOD_CONFIGS",
    "RUN_PREFIX",
    "ABMTConfig",
    "AM0BHConfig",
    "BranchConfig",
    "CAPConfig",
    "ClusterContrastConfig",
    "Config",
    "DGVAEConfig",
    "DataConfig",
    "EvaluationConfig",
    "GCLConfig",
    "HAVANAConfig",
    "ICEConfig",
    "ISGANConfig",
    "LabelsConfig",
    "MMTConfig",
    "MeshConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RuntimeConfig",
    "SCRConfig",
    "Search",
    "SourceConfig",
    "SpCLConfig",
    "StageConfig",
    "StrongViewConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "config_hash",
    "dump_config",
    "hashed_settings",
    "load_config",
    "recipe_names",
    "register_method_config",
    "with_absolute_paths",
]
