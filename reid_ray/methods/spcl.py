"""SpCL: self-paced contrastive learning with a memory of all images (Ge et al., NeurIPS 2020).

One network, no teacher. A memory has a unit row for each image. Its rows are clustered, and only reliable
cluster members are kept (`labels.reliability`). L = mean over the batch of −log softmax over clusters and single
images of the mean ⟨f, v⟩ / τ of their rows; after each step the rows of the batch's images are updated.

With a labelled source both domains are trained jointly: the memory also has a row for each source identity, all rows
share one softmax, L is the sum of the losses of the source and the target batch, and the source has its own batch
norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import Config, SpCLConfig
from reid_ray.errors import ConfigError
from reid_ray.losses import hybrid_memory_loss, memory_groups, update_instance_memory_
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.components import BufferDict, joined_feature
from reid_ray.methods.pretraining import STRONG
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, from_clusters, optimizers
from reid_ray.models import with_domain_bn
from reid_ray.types import FloatArray, Labels


@register_method("spcl")
class SpCL(Method):
    """See `SpCLConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        if config.labels.staleness:
            raise ConfigError("SpCL clusters its memory, so labels are never stale; set labels.staleness=0.")
        if config.labels.source_weight:
            raise ConfigError("SpCL learns from the source itself; set labels.source_weight=0.")
        self.settings = cast(SpCLConfig, config.method)
        self.student = self.network(config, "student")
        self.source = with_domain_bn(self.student) if config.source is not None else None
        self.memory = BufferDict()

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        streams = {"train": StreamSpec(STRONG, labels=from_clusters(config, "features", memory=True))}
        trained = ["student"]
        if config.source is not None:
            identities = LabelSpec("ground_truth", frozenset({"centroids"}), once=True)
            streams["source"] = StreamSpec(STRONG, data="source", labels=identities)
            trained.append("source")
        return (Stage("main", config.training, streams, optimizers(config.training, main=tuple(trained)), "student"),)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        source = {"source": self.source} if self.source is not None else {}
        return {"student": self.student, "memory": self.memory, **source}

    @property
    def _n_classes(self) -> int:
        """Number of source identities, whose rows come first in the memory."""
        return len(self.memory["source_pids"])

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:
        train = labels["train"]
        if train.features is not None:  # the first labels, which come from extracted features
            rows = train.features
            if "source" in labels:
                rows = np.concatenate([labels["source"].centroids, rows])
            self.memory.set_arrays(rows=rows, source_pids=np.arange(len(rows) - len(train.features)))
            self.memory.set(rows=F.normalize(self.memory["rows"]))
        clusters = np.where(train.labels < 0, train.labels, train.labels + self._n_classes)
        groups, sizes = memory_groups(np.concatenate([np.arange(self._n_classes), clusters]))
        self.memory.set_arrays(groups=groups, sizes=sizes)

    def memory_features(self, stage: str) -> FloatArray | None:
        if "rows" not in self.memory:
            return None
        return np.asarray(self.memory["rows"][self._n_classes :].float().cpu().numpy())

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        features = joined_feature(self.student, batch["train"].views["strong"], self.collectives)
        rows = batch["train"].rows + self._n_classes
        target = self._loss(features, rows)
        if self.source is None:
            yield Update(("main",), target, {"hybrid": target})
        else:
            inputs = batch["source"]
            of_source = joined_feature(self.source, inputs.views["strong"], self.collectives)
            source = self._loss(of_source, inputs.labels)
            yield Update(("main",), source + target, {"source": source, "target": target})
            self._move(of_source, inputs.labels)
        self._move(features, rows)

    def _loss(self, features: Tensor, rows: Tensor) -> Tensor:
        memory = self.memory
        return hybrid_memory_loss(
            features, rows, memory["rows"], memory["groups"], memory["sizes"], temperature=self.settings.temperature
        )

    def _move(self, features: Tensor, rows: Tensor) -> None:
        update_instance_memory_(self.memory["rows"], features, rows, momentum=self.settings.momentum)
