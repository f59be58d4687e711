"""`Config`: the sections of a run's configuration as one frozen tree."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from reid_ray.config.base import Overrides, Section, first_error, import_modules, overridden
from reid_ray.config.data import DataConfig
from reid_ray.config.labels import LabelsConfig
from reid_ray.config.methods import ICEConfig, MethodConfig, parse_method_config
from reid_ray.config.model import ModelConfig
from reid_ray.config.training import EvaluationConfig, RuntimeConfig, StageConfig, TrainingConfig, check_runtime


class Config(Section):
    """The complete configuration of a run."""

    name: str = Field(default="run", min_length=1)
    """Name of the run: letters, digits, dot, dash, underscore."""
    output: str = "runs"
    """Parent folder of the run directories; the run is `output`/`name`. Can be in an object store, as
    s3://bucket/runs."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of all randomness in training."""
    imports: tuple[str, ...] = ()
    """Python modules to import first in every process of the run, for example to register external methods and views.
    They must be installed or on PYTHONPATH."""
    data: DataConfig = DataConfig()
    """The images."""
    source: DataConfig | None = None
    """Labelled source of domain adaptation. The network is first trained on it in the stage `source`, which also
    forwards images of `data` for their BN statistics. SpCL has no such stage and learns from source and data jointly.
    Image sizes are those of `data`. Null: no source."""
    source_stage: bool | None = None
    """Whether a run with a source starts with the stage `source`. Null: yes, unless `model.weights` is the exported
    model of a run."""
    target: DataConfig | None = None
    """Recipe `source` only: unlabelled images that are forwarded for their BN statistics."""
    model: ModelConfig = ModelConfig()
    """The network and its teacher."""
    method: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(parse_method_config)] = ICEConfig()
    """Settings of the method; the keys depend on `method.name`."""
    labels: LabelsConfig = LabelsConfig()
    """How features become pseudo-labels."""
    training: TrainingConfig = TrainingConfig()
    """Epochs, batches and optimisation of the main stage, the last stage of a method."""
    stages: Annotated[dict[str, dict[str, Any]], Overrides(StageConfig)] = Field(default_factory=dict)
    """For methods with several stages: settings by stage that differ from `training`, for example
    `stages.source.epochs=80`."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Retrieval on query and gallery."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Processes, devices and resources."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"name '{self.name}' may hold letters, digits, '.', '-' and '_' only")
        for stage in (self.training, *map(self.stage_config, self.stages)):
            check_runtime(stage, self.model.bn_group, self.runtime)
        return self

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Import the modules again in another process, so that their methods and views are registered there."""
        super().__setstate__(state)
        import_modules(self.imports)

    def stage_config(self, name: str) -> StageConfig:
        """The settings of a stage other than the main one."""
        main = self.training.model_dump(include=set(StageConfig.model_fields))
        try:
            return StageConfig.model_validate(overridden(main, self.stages.get(name, {})))
        except ValidationError as error:
            raise ValueError(first_error(error, f"stages.{name}.")) from error
