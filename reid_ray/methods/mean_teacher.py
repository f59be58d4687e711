"""Mean teachers with classifiers that are reinitialised for new labels; the teacher's follow the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from reid_ray.config import Config
from reid_ray.methods.pretraining import AdaptiveMethod
from reid_ray.methods.stage import Stage, StreamSpec, from_clusters, optimizers


class MeanTeacherMethod(AdaptiveMethod):
    """Student and teacher with one classifier each. The teacher is the retriever."""

    teacher: nn.Module
    student_classifiers: nn.Module
    teacher_classifiers: nn.Module

    @classmethod
    def views(cls, config: Config) -> Mapping[str, str]:
        """Views of the main stage."""
        return {"strong_1": "strong", "strong_2": "strong"}

    @classmethod
    def main_stage(cls, config: Config) -> Stage:
        return Stage(
            "main",
            config.training,
            {"train": StreamSpec(cls.views(config), labels=from_clusters(config, "centroids"))},
            optimizers(config.training, main=("student", "student_classifiers")),
            retriever="teacher",
            init={"teacher": "student"},
        )

    @property
    def main_modules(self) -> Mapping[str, nn.Module]:
        return {
            "student": self.student,
            "teacher": self.teacher,
            "student_classifiers": self.student_classifiers,
            "teacher_classifiers": self.teacher_classifiers,
        }

    def ema_pairs(self, stage: str) -> Sequence[tuple[nn.Module, nn.Module]]:
        if stage in self.pretraining:
            return []
        return [(self.teacher, self.student), (self.teacher_classifiers, self.student_classifiers)]

    def ema_momentum(self, step: int) -> float:
        return min(1 - 1 / (step + 1), self.config.model.ema)
