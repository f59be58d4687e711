"""The configuration: one frozen tree, a file per section.

`Config` is what every part of the system reads. `load_config` builds one from a recipe, files and `key=value`
overrides; `dump_config` writes it back; `config_hash` names what it computes.
"""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from reid_ray.config.base import Search, Section
from reid_ray.config.data import DataConfig, StrongViewConfig, SyntheticConfig
from reid_ray.config.labels import LabelsConfig
from reid_ray.config.method import (
    ABMTConfig,
    CAPConfig,
    ClusterContrastConfig,
    ICEConfig,
    MethodConfig,
    MMTConfig,
    SourceConfig,
    SpCLConfig,
)
from reid_ray.config.model import BranchConfig, ModelConfig
from reid_ray.config.training import EvaluationConfig, RuntimeConfig, TrainingConfig, check_runtime


class Config(Section):
    """Everything a run is."""

    name: str = Field(default="run", min_length=1)
    """Name of the run: letters, digits, dot, dash, underscore."""
    output: str = "runs"
    """Folder that holds the run directories; the run is `output`/`name`. May be on an object store, as s3://bucket/runs."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of all randomness in training."""
    data: DataConfig = DataConfig()
    """The images."""
    source: DataConfig | None = None
    """The labelled source of domain adaptation: the network is first trained on it, in a run of its own that is called
    NAME-source, and begins from that run's model. Where `model.weights` is the exported model of a run, that is taken
    instead. SpCL has no such stage: it learns from source and data at once. Image sizes are those of `data`. Null: no
    source."""
    pretraining: TrainingConfig | None = None
    """Epochs, batches and optimisation of that stage; null takes those of `training`."""
    target: DataConfig | None = None
    """Images without labels that are forwarded for their BN statistics; the source stage sets it, to `data`."""
    model: ModelConfig = ModelConfig()
    """The network and its teacher."""
    method: MethodConfig = ICEConfig()
    """What the method computes; its keys depend on `method.name`."""
    labels: LabelsConfig = LabelsConfig()
    """How features become pseudo-labels."""
    training: TrainingConfig = TrainingConfig()
    """Epochs, batches, optimisation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Retrieval on query and gallery."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where things run."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"name '{self.name}' may hold letters, digits, '.', '-' and '_' only")
        for training in (self.training, self.pretraining):
            if training is not None:
                check_runtime(training, self.model.bn_group, self.runtime)
        return self


from reid_ray.config.loading import (  # noqa: E402
    config_hash,
    dump_config,
    hashed_settings,
    load_config,
    recipe_names,
    with_absolute_paths,
)

__all__ = [
    "ABMTConfig",
    "BranchConfig",
    "CAPConfig",
    "ClusterContrastConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ICEConfig",
    "LabelsConfig",
    "MMTConfig",
    "MethodConfig",
    "ModelConfig",
    "RuntimeConfig",
    "Search",
    "SourceConfig",
    "SpCLConfig",
    "StrongViewConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "config_hash",
    "dump_config",
    "hashed_settings",
    "load_config",
    "recipe_names",
    "with_absolute_paths",
]
