"""SpCL: self-paced contrastive learning with a memory of all images (Ge et al., NeurIPS 2020), without a source.

One network, no teacher. A memory has a unit row for each image; it is what is clustered, and of the clusters only
reliable members are kept (`labels.reliability`). L = mean over the batch of −log softmax over clusters and single
images of the mean ⟨f, v⟩ / τ of their rows; the rows of a batch's images move after its step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F

from reid_ray.config import Config, SpCLConfig
from reid_ray.errors import ConfigError
from reid_ray.losses import hybrid_memory_loss, updated_instance_memory
from reid_ray.methods.base import Batch, Exchange, Update
from reid_ray.methods.families import MemoryMethod
from reid_ray.methods.parts import joined_feature
from reid_ray.types import FloatArray, PseudoLabels


class SpCL(MemoryMethod):
    """See `SpCLConfig` for every number."""

    wants_features = True

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        if config.labels.staleness:
            raise ConfigError("SpCL clusters its memory, which is at hand at once; set labels.staleness=0.")
        self.settings = cast(SpCLConfig, config.method)
        self._filled = False

    def begin_epoch(self, labels: PseudoLabels) -> None:
        like = next(self.student.parameters())
        if labels.features is not None:
            self.memory.keep(images=F.normalize(torch.tensor(labels.features).to(like)))
        elif not self._filled:  # a resumed run, whose memory is about to be loaded
            self.memory.keep(images=like.new_zeros(len(labels.labels), labels.centroids.shape[1]))
        self._filled = True
        self.memory.keep(labels=torch.tensor(labels.labels, device=like.device))

    def clustered(self) -> FloatArray | None:
        return np.asarray(self.memory["images"].float().cpu().numpy()) if self._filled else None

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings, memory = self.settings, self.memory["images"]
        features = joined_feature(self.student, batch.views["strong"], self.exchange)
        loss = hybrid_memory_loss(features, batch.rows, memory, self.memory["labels"], temperature=settings.temperature)
        yield Update("student", loss, {"hybrid": loss})
        self.memory.keep(
            images=updated_instance_memory(memory, features.detach(), batch.rows, momentum=settings.momentum)
        )
