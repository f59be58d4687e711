"""Training of the identity encoder before the generator: by cluster-contrast, or on a labelled source."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import ClusterContrastConfig, Config, GCLConfig
from reid_ray.losses import cluster_memory_loss, updated_cluster_memory
from reid_ray.methods.base import Batch, Collectives, Update
from reid_ray.methods.components import BufferDict, joined_feature
from reid_ray.methods.pretraining import STRONG, has_source_stage, is_exported_model, supervised_stage
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import Embedding
from reid_ray.models.gcl import IdentityEncoder
from reid_ray.types import Labels


class WarmupNetwork(nn.Module):
    """The encoder with the interface of a plain network: images → vectors before and after the neck."""

    def __init__(self, encoder: IdentityEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def forward(self, images: Tensor) -> Embedding:
        return self.encoder.embedded(images)


def warmup_stages(config: Config, settings: GCLConfig, frozen: tuple[str, ...]) -> tuple[Stage, ...]:
    """The stages before the generative ones: `source`, `warmup` or none."""
    if has_source_stage(config):
        source = supervised_stage(
            "source",
            config.stage_config("source"),
            network="identity",
            classifiers="source_classifiers",
            data="source",
            target="data",
            frozen=frozen,
            evaluated=False,
        )
        return (source,)
    if not has_warmup(config, settings):
        return ()
    own = config.stage_config("warmup")
    train = StreamSpec(STRONG, labels=LabelSpec("clusters", frozenset({"centroids"})))
    return (Stage("warmup", own, {"train": train}, optimizers(own, main=("identity",)), "identity", frozen=frozen),)


def has_warmup(config: Config, settings: GCLConfig) -> bool:
    """Whether a run starts with cluster-contrast; `WeightsError` if the weights file cannot be read."""
    if settings.warmup is not None:
        return settings.warmup
    return config.source is None and not is_exported_model(config)


class ClusterWarmup:
    """Labels and updates of the stage `warmup`: cluster-contrast with the settings of its own paper.

    Args:
        memory: stores a row per cluster, under the name `centroids`.
    """

    def __init__(self, encoder: IdentityEncoder, memory: BufferDict, collectives: Collectives) -> None:
        self._network = WarmupNetwork(encoder)
        self._memory = memory
        self._collectives = collectives
        self._settings = ClusterContrastConfig()

    def on_labels(self, labels: Labels) -> None:
        self._memory.set(centroids=F.normalize(torch.tensor(labels.centroids)))

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings, memory, labels = self._settings, self._memory["centroids"], batch["train"].labels
        features = joined_feature(self._network, batch["train"].views["strong"], self._collectives)
        loss = cluster_memory_loss(features, labels, memory, temperature=settings.temperature)
        yield Update(("main",), loss, {"cluster": loss})
        moved = updated_cluster_memory(
            memory, features.detach(), labels, momentum=settings.momentum, mode=settings.update
        )
        self._memory.set(centroids=moved)
