"""SCR: spatial and channel representations (H. Chen, B. Lagadec, F. Bremond, thesis ch. 3).

L = λ·L_ce + L_tri: L_ce is a mean over the classifiers of all vectors (Eq. 3.1), L_tri a mean over the global vectors
of the branches (Eq. 3.2). The retrieval feature concatenates all vectors after their batch norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import Config, SCRConfig
from reid_ray.data.table import ImageTable
from reid_ray.losses import triplet_loss
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.components import weighted_sum
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import PartClassifiers, PartEmbedding, PartitionEmbedder, build_partitions, parse_partitions


@register_method("scr")
class SCR(Method):
    """See `SCRConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = cast(SCRConfig, config.method)
        self.student = cast(PartitionEmbedder, self.network(config, "student"))
        self.classifiers = PartClassifiers(
            self.student.n_vectors, self.student.vector_dim, self.settings.n_identities or 1
        )

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        settings = cast(SCRConfig, config.method)
        n_identities = settings.n_identities or table.n_identities
        return config.model_copy(update={"method": settings.model_copy(update={"n_identities": n_identities})})

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        settings = cast(SCRConfig, config.method)
        train = StreamSpec(
            {"image": "strong"},
            labels=LabelSpec("ground_truth"),
            frames=settings.clip_frames,
            sampling=settings.clip_sampling,
        )
        trained = optimizers(config.training, main=("student", "classifiers"))
        return (Stage("main", config.training, {"train": train}, trained, "student"),)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        settings = cast(SCRConfig, config.method)
        partitions = parse_partitions(settings.partitions)
        bf16 = config.training.precision == "bf16"
        return build_partitions(config.model, partitions, reduced_dim=settings.reduced_dim, bf16=bf16)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "classifiers": self.classifiers}

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        settings, inputs = self.settings, batch["train"]
        embedding = self._embedding(inputs.views["image"])
        terms = {"ce": self._cross_entropy(embedding.vectors, inputs.labels)}
        if settings.weight_triplet:
            compared = embedding.reduced if settings.triplet_on == "reduced" else embedding.pooled
            terms["triplet"] = torch.stack(
                [
                    triplet_loss(vector, inputs.labels, margin=settings.margin, reduction=settings.loss_reduction)
                    for vector in compared.unbind(dim=1)
                ]
            ).mean()
        weights = {"ce": settings.weight_ce, "triplet": settings.weight_triplet}
        yield Update(("main",), weighted_sum(terms, weights), terms)

    def _embedding(self, images: Tensor) -> PartEmbedding:
        """The vectors of the global batch; for tracklets [n, T, 3, H, W], means over the frames."""
        found = self.student(images.flatten(0, 1) if images.ndim == 5 else images)
        if images.ndim == 5:
            found = PartEmbedding(*(part.unflatten(0, images.shape[:2]).mean(dim=1) for part in found))
        return PartEmbedding(*map(self.collectives.all_gather, found))

    def _cross_entropy(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Mean over the classifiers of all vectors [B, V, R]."""
        logits = self.classifiers(vectors)
        losses = [F.cross_entropy(one, labels, reduction=self.settings.loss_reduction) for one in logits]
        return torch.stack(losses).mean()
