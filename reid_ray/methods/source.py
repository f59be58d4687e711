"""Supervised training on a labelled source as a separate run; see `pretraining` for the computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import nn

from reid_ray.config import Config, SourceConfig
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.pretraining import SourceTraining, supervised_stage
from reid_ray.methods.stage import Stage
from reid_ray.types import Labels


@register_method("source")
class Source(Method):
    """See `SourceConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        settings = cast(SourceConfig, config.method)
        self._training = SourceTraining(self.network(config, "student"), settings, config.seed, collectives)

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        target = "target" if config.target is not None else None
        return (
            supervised_stage(
                "main", config.training, network="student", classifiers="classifiers", data="data", target=target
            ),
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"student": self._training.network, "classifiers": self._training.classifiers}

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:
        self._training.on_labels(labels["train"])

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        return self._training.updates(batch)
