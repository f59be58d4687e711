"""ICE: inter-instance contrastive encoding (H. Chen, B. Lagadec, F. Bremond, ICCV 2021; thesis ch. 6).

L = L_agnostic + ½·L_cross + λ_h·L_hard + λ_s·L_soft (Eq. 6.3, 6.8). The student sees strong views; the teacher, whose
parameters follow the student's (Eq. 6.2), provides centroids and proxies once per epoch, hard positives from
strong views, and soft targets from weak ones (table 6.1).

The released code also forwards the second strong view through the student. This affects only the student's running
BN statistics, which are never used (clustering and export use the teacher), so it is left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from reid_ray.config import Config, ICEConfig
from reid_ray.errors import ConfigError
from reid_ray.losses import centroid_loss, cross_camera_loss, hard_instance_loss, soft_consistency_loss
from reid_ray.methods.base import Batch, Collectives, Inputs, Update, register_method
from reid_ray.methods.components import BufferDict
from reid_ray.methods.pretraining import AdaptiveMethod
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, from_clusters, optimizers
from reid_ray.models import make_teacher
from reid_ray.types import Labels


@register_method("ice")
class ICE(AdaptiveMethod):
    """Camera-aware, camera-agnostic or supervised ICE; see `ICEConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        if config.model.branches:
            raise ConfigError("ICE has one branch; set model.branches=[].")
        self.settings = cast(ICEConfig, config.method)
        self.student = self.network(config, "student")
        self.teacher = make_teacher(self.student)
        self.targets = BufferDict()
        self.prepare_source_stages()

    @classmethod
    def main_stage(cls, config: Config) -> Stage:
        supervised = cast(ICEConfig, config.method).mode == "supervised"
        needs = ("centroids", "proxies")
        labels = LabelSpec("ground_truth", frozenset(needs)) if supervised else from_clusters(config, *needs)
        views = {"strong_1": "strong", "strong_2": "strong", "weak": "resize"}
        return Stage(
            "main",
            config.training,
            {"train": StreamSpec(views, labels=labels)},
            optimizers(config.training, main=("student",)),
            retriever="teacher",
            init={"teacher": "student"},
        )

    @property
    def main_modules(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher, "targets": self.targets}

    def ema_pairs(self, stage: str) -> Sequence[tuple[nn.Module, nn.Module]]:
        return [] if stage in self.pretraining else [(self.teacher, self.student)]

    def on_main_labels(self, labels: Labels) -> None:
        self.targets.set_arrays(
            centroids=labels.centroids,
            proxies=labels.proxies,
            proxy_labels=labels.proxy_labels,
            proxy_camids=labels.proxy_camids,
        )

    def main_updates(self, batch: Batch) -> Iterator[Update]:
        settings, inputs, targets = self.settings, batch["train"], self.targets
        anchors = self.collectives.all_gather(self.student(inputs.views["strong_1"]).feature)
        with torch.no_grad():
            order = torch.from_numpy(batch.rng().permutation(len(inputs.labels))).to(anchors.device)
            hard_targets, soft_targets = self._teacher_features(inputs, order)
        terms = {
            "agnostic": centroid_loss(
                anchors,
                inputs.labels,
                targets["centroids"],
                temperature=settings.temperature_agnostic,
                label_smoothing=settings.label_smoothing,
                normalize=settings.normalize_student,
            ),
            "hard": hard_instance_loss(anchors, hard_targets, inputs.labels, temperature=settings.temperature_hard),
            "soft": soft_consistency_loss(anchors, hard_targets, soft_targets, temperature=settings.temperature_soft),
        }
        loss = terms["agnostic"] + settings.weight_hard * terms["hard"] + settings.weight_soft * terms["soft"]
        if settings.mode != "agnostic" and len(targets["proxies"]):
            terms["cross"] = cross_camera_loss(
                anchors,
                inputs.labels,
                inputs.camids,
                targets["proxies"],
                targets["proxy_labels"],
                targets["proxy_camids"],
                temperature=settings.temperature_cross,
                n_negatives=settings.n_negatives,
                own_camera_positive=settings.own_camera_positive,
                reduction=settings.cross_reduction,
                normalization=settings.proxy_normalization,
            )
            loss = loss + settings.weight_cross * terms["cross"]
        yield Update(("main",), loss, terms)

    def _teacher_features(self, inputs: Inputs, order: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher features of the global batch: of the second strong view and of the weak view, both [B, D].

        Inputs are shuffled over the BN groups by `order` [B], so that the statistics of a group do not leak the
        identity.
        """
        views = inputs.views
        if self.settings.teacher_forwards == "all":
            self._shuffled_forward(views["strong_1"], order)
        return self._shuffled_forward(views["strong_2"], order), self._shuffled_forward(views["weak"], order)

    def _shuffled_forward(self, images: Tensor, order: Tensor) -> Tensor:
        shuffled = self.collectives.local_slice(self.collectives.all_gather(images)[order])
        features: Tensor = self.collectives.all_gather(self.teacher(shuffled).feature)
        return features[torch.argsort(order)]
