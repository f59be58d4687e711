"""Supervised training on a labelled source, the first stage of domain adaptation (thesis Eq. 4.1).

L = L_ce + L_tri, each a mean over branches. Images of the target (`target`), where there are any, are only forwarded,
so that the running BN statistics know both domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.config import Config, DataConfig, SourceConfig
from reid_ray.losses import triplet_loss
from reid_ray.methods.base import Batch, Exchange, Method, Update
from reid_ray.methods.parts import Classifiers, branch_dims, embeddings, trainable
from reid_ray.types import PseudoLabels

CLASSIFIER_STD = 0.001
"""Of a new classifier's random weights (released codes)."""


class Source(Method):
    """See `SourceConfig` for every number."""

    views = ("strong",)

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        self.settings = cast(SourceConfig, config.method)
        self.student = self.teacher = self.network(config)
        self.classifiers = Classifiers(branch_dims(self.student))

    @classmethod
    def labels_source(cls, config: Config) -> Literal["pseudo", "truth"]:
        return "truth"

    @classmethod
    def other_data(cls, config: Config) -> DataConfig | None:
        return config.target

    def parameters(self) -> Mapping[str, list[nn.Parameter]]:
        return {"student": trainable(self.student, self.classifiers)}

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "classifiers": self.classifiers}

    def begin_epoch(self, labels: PseudoLabels) -> None:
        if len(self.classifiers.weights[0]) == labels.n_clusters:
            return  # identities are the same in each epoch
        generator = torch.Generator().manual_seed(self.config.seed)
        weights = [
            torch.randn(labels.n_clusters, dim, generator=generator) * CLASSIFIER_STD
            for dim in branch_dims(self.student)
        ]
        self.classifiers.restart(weights, like=next(self.student.parameters()))

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings = self.settings
        branches = embeddings(self.student, batch.views["strong"], self.exchange)
        if batch.other is not None:
            with torch.no_grad():
                self.student(batch.other.views["strong"])
        logits = self.classifiers([branch.feature for branch in branches])
        smoothing, margin = settings.label_smoothing, settings.margin
        parts = {
            "ce": torch.stack([F.cross_entropy(one, batch.labels, label_smoothing=smoothing) for one in logits]).mean(),
            "triplet": torch.stack([triplet_loss(one.pooled, batch.labels, margin=margin) for one in branches]).mean(),
        }
        yield Update("student", settings.weight_ce * parts["ce"] + settings.weight_triplet * parts["triplet"], parts)
