"""Cluster-contrast: a memory of clusters that follows the batches (Dai et al., ACCV 2022).

One network, no teacher. L = mean over the batch of −log softmax(⟨f, φ⟩ / τ) at the own cluster; φ are the normalised
means of the clusters at the start of an epoch, and move by each batch's features after its step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F

from reid_ray.config import ClusterContrastConfig, Config
from reid_ray.losses import cluster_memory_loss, updated_cluster_memory
from reid_ray.methods.base import Batch, Exchange, Update
from reid_ray.methods.families import MemoryMethod
from reid_ray.methods.parts import joined_feature
from reid_ray.types import PseudoLabels


class ClusterContrast(MemoryMethod):
    """See `ClusterContrastConfig` for every number."""

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        self.settings = cast(ClusterContrastConfig, config.method)

    def begin_epoch(self, labels: PseudoLabels) -> None:
        like = next(self.student.parameters())
        self.memory.keep(clusters=F.normalize(torch.tensor(labels.centroids).to(like)))

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings, memory = self.settings, self.memory["clusters"]
        features = joined_feature(self.student, batch.views["strong"], self.exchange)
        loss = cluster_memory_loss(features, batch.labels, memory, temperature=settings.temperature)
        yield Update("student", loss, {"cluster": loss})
        self.memory.keep(
            clusters=updated_cluster_memory(
                memory, features.detach(), batch.labels, momentum=settings.momentum, mode=settings.update
            )
        )
