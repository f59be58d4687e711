"""ICE: inter-instance contrastive encoding (H. Chen, B. Lagadec, F. Bremond, ICCV 2021; thesis ch. 6).

L = L_agnostic + ½·L_cross + λ_h·L_hard + λ_s·L_soft (Eq. 6.3, 6.8). The student sees strong views; the teacher, whose
parameters follow the student's (Eq. 6.2), gives centroids and proxies once an epoch, hard positives from strong
views, and soft targets from weak ones (table 6.1).

The released code also forwards the second strong view through the student. That moves nothing but the student's running
BN statistics, which nothing reads (the teacher is what clusters and is exported), so it is left out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor

from reid_ray.config import Config, ICEConfig
from reid_ray.errors import ConfigError
from reid_ray.losses import centroid_loss, cross_camera_loss, hard_instance_loss, soft_consistency_loss
from reid_ray.methods.base import Batch, Exchange, Method, Update
from reid_ray.models import make_teacher
from reid_ray.types import PseudoLabels


class ICE(Method):
    """Camera-aware, camera-agnostic or supervised ICE; see `ICEConfig` for every number."""

    views = ("strong_1", "strong_2", "weak")

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        if config.model.branches:
            raise ConfigError("ICE has one branch; set model.branches=[].")
        self.settings = cast(ICEConfig, config.method)
        self.student = self.network(config)
        self.teacher = make_teacher(self.student)
        self._centroids = torch.empty(0, 0)
        self._proxies = torch.empty(0, 0)
        self._proxy_labels = torch.empty(0, dtype=torch.long)
        self._proxy_camids = torch.empty(0, dtype=torch.long)

    @classmethod
    def labels_source(cls, config: Config) -> Literal["pseudo", "truth"]:
        return "truth" if cast(ICEConfig, config.method).mode == "supervised" else "pseudo"

    def begin_epoch(self, labels: PseudoLabels) -> None:
        like = next(self.student.parameters())
        self._centroids = torch.tensor(labels.centroids).to(like)
        self._proxies = torch.tensor(labels.proxies).to(like)
        self._proxy_labels = torch.tensor(labels.proxy_labels, device=like.device)
        self._proxy_camids = torch.tensor(labels.proxy_camids, device=like.device)

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings = self.settings
        anchors = self.exchange.gather(self.student(batch.views["strong_1"]).feature)
        with torch.no_grad():
            hard_targets, soft_targets = self._teacher_features(batch)
        parts = {
            "agnostic": centroid_loss(
                anchors,
                batch.labels,
                self._centroids,
                temperature=settings.temperature_agnostic,
                label_smoothing=settings.label_smoothing,
                normalize=settings.normalize_student,
            ),
            "hard": hard_instance_loss(anchors, hard_targets, batch.labels, temperature=settings.temperature_hard),
            "soft": soft_consistency_loss(anchors, hard_targets, soft_targets, temperature=settings.temperature_soft),
        }
        loss = parts["agnostic"] + settings.weight_hard * parts["hard"] + settings.weight_soft * parts["soft"]
        if settings.mode != "agnostic" and len(self._proxies):
            parts["cross"] = cross_camera_loss(
                anchors,
                batch.labels,
                batch.camids,
                self._proxies,
                self._proxy_labels,
                self._proxy_camids,
                temperature=settings.temperature_cross,
                n_negatives=settings.n_negatives,
                own_camera_positive=settings.own_camera_positive,
                reduction=settings.cross_reduction,
                normalization=settings.proxy_normalization,
            )
            loss = loss + settings.weight_cross * parts["cross"]
        yield Update("student", loss, parts)

    def _teacher_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Teacher features of the global batch: of the second strong view and of the weak view, both [B, D].

        Inputs are shuffled over the BN groups, so that a group's statistics do not give the identity away.
        """
        order = torch.from_numpy(batch.rng().permutation(len(batch.labels)))
        if self.settings.teacher_forwards == "all":
            self._shuffled_forward(batch.views["strong_1"], order)
        return (
            self._shuffled_forward(batch.views["strong_2"], order),
            self._shuffled_forward(batch.views["weak"], order),
        )

    def _shuffled_forward(self, images: Tensor, order: Tensor) -> Tensor:
        order = order.to(images.device)
        shuffled = self.exchange.local(self.exchange.gather(images)[order])
        features: Tensor = self.exchange.gather(self.teacher(shuffled).feature)
        return features[torch.argsort(order)]
