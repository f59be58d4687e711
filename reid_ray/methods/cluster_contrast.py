"""Cluster-contrast: a cluster memory with momentum updates (Dai et al., ACCV 2022).

One network, no teacher. L = mean over the batch of −log softmax(⟨f, φ⟩ / τ) at the own cluster; φ are the normalised
cluster means at the start of an epoch, updated with each batch's features after its step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F

from reid_ray.config import ClusterContrastConfig, Config
from reid_ray.losses import cluster_memory_loss, updated_cluster_memory
from reid_ray.methods.base import Batch, Collectives, Update, register_method
from reid_ray.methods.components import joined_feature
from reid_ray.methods.memory_bank import MemoryMethod
from reid_ray.methods.pretraining import STRONG
from reid_ray.methods.stage import Stage, StreamSpec, from_clusters, optimizers
from reid_ray.types import Labels


@register_method("cluster_contrast")
class ClusterContrast(MemoryMethod):
    """See `ClusterContrastConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = cast(ClusterContrastConfig, config.method)

    @classmethod
    def main_stage(cls, config: Config) -> Stage:
        return Stage(
            "main",
            config.training,
            {"train": StreamSpec(STRONG, labels=from_clusters(config, "centroids"))},
            optimizers(config.training, main=("student",)),
            retriever="student",
        )

    def on_main_labels(self, labels: Labels) -> None:
        self.memory.set_arrays(clusters=labels.centroids)
        self.memory.set(clusters=F.normalize(self.memory["clusters"]))

    def main_updates(self, batch: Batch) -> Iterator[Update]:
        settings, memory, inputs = self.settings, self.memory["clusters"], batch["train"]
        features = joined_feature(self.student, inputs.views["strong"], self.collectives)
        loss = cluster_memory_loss(features, inputs.labels, memory, temperature=settings.temperature)
        yield Update(("main",), loss, {"cluster": loss})
        self.memory.set(
            clusters=updated_cluster_memory(
                memory, features.detach(), inputs.labels, momentum=settings.momentum, mode=settings.update
            )
        )
