"""What methods of one kind have in common: those with a memory and no teacher, and mean teachers with classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from reid_ray.config import Config
from reid_ray.methods.base import Exchange, Method
from reid_ray.methods.parts import Kept, trainable


class MemoryMethod(Method):
    """One network, no teacher, and a memory that moves with each batch."""

    views = ("strong",)

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        self.student = self.teacher = self.network(config)
        self.memory = Kept()

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "memory": self.memory}


class MeanTeacher(Method):
    """Student and teacher, with classifiers that are made anew for new labels; the teacher's follow the student's."""

    student_classifiers: nn.Module
    teacher_classifiers: nn.Module

    def parameters(self) -> Mapping[str, list[nn.Parameter]]:
        return {"student": trainable(self.student, self.student_classifiers)}

    def ema_momentum(self, step: int) -> float:
        return min(1 - 1 / (step + 1), self.config.model.ema)

    @property
    def averages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return [(self.teacher, self.student), (self.teacher_classifiers, self.student_classifiers)]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        classifiers = {"student_classifiers": self.student_classifiers, "teacher_classifiers": self.teacher_classifiers}
        return {"student": self.student, "teacher": self.teacher, **classifiers}
