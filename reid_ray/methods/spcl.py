"""SpCL: self-paced contrastive learning with a memory of all images (Ge et al., NeurIPS 2020).

One network, no teacher. A memory has a unit row for each image; it is what is clustered, and of the clusters only
reliable members are kept (`labels.reliability`). L = mean over the batch of −log softmax over clusters and single
images of the mean ⟨f, v⟩ / τ of their rows; the rows of a batch's images move after its step.

With a labelled source both are learned at once: the memory has a row for each source identity too, all rows are in
one softmax, L is that of the source batch + that of the target batch, and the source has batch norms of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import Config, SpCLConfig
from reid_ray.errors import ConfigError
from reid_ray.losses import hybrid_memory_loss, update_instance_memory_
from reid_ray.methods.base import Batch, Exchange, Update
from reid_ray.methods.families import MemoryMethod
from reid_ray.methods.parts import joined_feature, trainable
from reid_ray.models import with_own_norms
from reid_ray.types import FloatArray, PseudoLabels


class SpCL(MemoryMethod):
    """See `SpCLConfig` for every number."""

    wants_features = True

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        if config.labels.staleness:
            raise ConfigError("SpCL clusters its memory, which is at hand at once; set labels.staleness=0.")
        if config.labels.source_weight:
            raise ConfigError("SpCL learns from the source itself; set labels.source_weight=0.")
        self.settings = cast(SpCLConfig, config.method)
        self.source = with_own_norms(self.student) if self.learns_source(config) else None
        self._n_classes = 0  # of the source, whose rows are the memory's first
        self._filled = False

    @classmethod
    def learns_source(cls, config: Config) -> bool:
        return config.source is not None

    def parameters(self) -> Mapping[str, list[nn.Parameter]]:
        own_norms = trainable(self.source) if self.source is not None else []
        return {"student": list(dict.fromkeys([*trainable(self.student), *own_norms]))}

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {**super().networks, **({"source": self.source} if self.source is not None else {})}

    def begin_epoch(self, labels: PseudoLabels) -> None:
        like = next(self.student.parameters())
        if not self._filled:
            rows = labels.features
            if rows is None:  # a resumed run, whose memory is about to be loaded
                rows = np.zeros((len(labels.labels), labels.centroids.shape[1]), dtype=np.float32)
            if labels.source_centroids is not None:
                self._n_classes = len(labels.source_centroids)
                rows = np.concatenate([labels.source_centroids, rows])
            self.memory.keep(rows=F.normalize(torch.tensor(rows).to(like)))
            self._filled = True
        clusters = np.where(labels.labels < 0, labels.labels, labels.labels + self._n_classes)
        numbers = np.concatenate([np.arange(self._n_classes), clusters])
        self.memory.keep(labels=torch.tensor(numbers, device=like.device))

    def clustered(self) -> FloatArray | None:
        return np.asarray(self.memory["rows"][self._n_classes :].float().cpu().numpy()) if self._filled else None

    def updates(self, batch: Batch) -> Iterator[Update]:
        features = joined_feature(self.student, batch.views["strong"], self.exchange)
        rows = batch.rows + self._n_classes
        target = self._loss(features, rows)
        if self.source is None or batch.other is None:
            yield Update("student", target, {"hybrid": target})
        else:
            of_source = joined_feature(self.source, batch.other.views["strong"], self.exchange)
            source = self._loss(of_source, batch.other.labels)
            yield Update("student", source + target, {"source": source, "target": target})
            self._move(of_source, batch.other.labels)
        self._move(features, rows)

    def _loss(self, features: Tensor, rows: Tensor) -> Tensor:
        memory, labels = self.memory["rows"], self.memory["labels"]
        return hybrid_memory_loss(features, rows, memory, labels, temperature=self.settings.temperature)

    def _move(self, features: Tensor, rows: Tensor) -> None:
        update_instance_memory_(self.memory["rows"], features, rows, momentum=self.settings.momentum)
