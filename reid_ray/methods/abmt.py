"""ABMT: asymmetric branched mean teaching (H. Chen, B. Lagadec, F. Bremond, WACV 2021; thesis ch. 4).

L = ½·L_ce + ½·L_sce + L_stri (Eq. 4.8), each a mean over branches. Student and teacher have the branches of
`model.branches` and a classifier for each, reinitialised from the cluster means at every label refresh. Each
teacher branch supervises the other branches of the student (Eq. 4.4–4.7). Without branches it is the MT-baseline
(table 4.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.config import ABMTConfig, Config
from reid_ray.losses import soft_cross_entropy, soft_triplet_loss
from reid_ray.methods.base import Batch, Collectives, Update, register_method
from reid_ray.methods.components import (
    Classifiers,
    branch_dims,
    cluster_classifiers,
    embeddings,
    mean_distance,
)
from reid_ray.methods.mean_teacher import MeanTeacherMethod
from reid_ray.models import Embedding, make_teacher
from reid_ray.types import Labels


@register_method("abmt")
class ABMT(MeanTeacherMethod):
    """See `ABMTConfig` for every number."""

    student_classifiers: Classifiers
    teacher_classifiers: Classifiers

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = cast(ABMTConfig, config.method)
        self.student = self.network(config, "student")
        self.teacher = make_teacher(self.student)
        self._dims = branch_dims(self.student)
        self.student_classifiers = Classifiers(self._dims)
        self.teacher_classifiers = make_teacher(self.student_classifiers)
        self.prepare_source_stages()

    @classmethod
    def views(cls, config: Config) -> Mapping[str, str]:
        same = cast(ABMTConfig, config.method).teacher_view == "same"
        return {"strong_1": "strong"} if same else super().views(config)

    def on_main_labels(self, labels: Labels) -> None:
        weights = cluster_classifiers(labels.centroids, self._dims)
        for classifiers in (self.student_classifiers, self.teacher_classifiers):
            classifiers.restart(weights)

    def main_updates(self, batch: Batch) -> Iterator[Update]:
        settings, rng = self.settings, batch.rng()
        views, labels = batch["train"].views, batch["train"].labels
        students = embeddings(self.student, views["strong_1"], self.collectives)
        logits = self.student_classifiers(self._dropped(students, rng))
        with torch.no_grad():
            teachers = embeddings(self.teacher, views.get("strong_2", views["strong_1"]), self.collectives)
            targets = self.teacher_classifiers(self._dropped(teachers, rng))
        pairs = teacher_student_pairs(len(students), cross=settings.cross_branch)
        terms = {
            "ce": mean([F.cross_entropy(one, labels, label_smoothing=settings.label_smoothing) for one in logits]),
            "soft_ce": mean([soft_cross_entropy(logits[taught], targets[by]) for taught, by in pairs]),
            "soft_triplet": mean(
                [soft_triplet_loss(students[taught].pooled, teachers[by].pooled, labels) for taught, by in pairs]
            ),
        }
        loss = (
            settings.weight_ce * terms["ce"]
            + settings.weight_soft_ce * terms["soft_ce"]
            + settings.weight_soft_triplet * terms["soft_triplet"]
        )
        distances = {"distance_teacher": mean_distance([s.pooled for s in students], [t.pooled for t in teachers])}
        if len(teachers) > 1:
            distances["distance_peers"] = mean_distance([teachers[0].pooled], [teachers[1].pooled])
        yield Update(("main",), loss, {**terms, **distances})

    def _dropped(self, branches: Sequence[Embedding], rng: np.random.Generator) -> list[Tensor]:
        """Features of the branches after dropout: some entries are 0, others scaled up; equal on all workers."""
        share = self.settings.dropout
        features = [branch.feature for branch in branches]
        if not share:
            return features
        return [one * torch.from_numpy(rng.random(one.shape) >= share).to(one) / (1 - share) for one in features]


def teacher_student_pairs(n_branches: int, *, cross: bool) -> list[tuple[int, int]]:
    """Pairs (student branch, teacher branch that supervises it): all others if `cross`, else the same one."""
    if not cross or n_branches == 1:
        return [(branch, branch) for branch in range(n_branches)]
    return [(taught, by) for taught in range(n_branches) for by in range(n_branches) if by != taught]


def mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
