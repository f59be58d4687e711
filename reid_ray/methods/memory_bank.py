"""Methods with a memory bank and no teacher: one network, and rows that each batch updates."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from reid_ray.config import Config
from reid_ray.methods.base import Collectives
from reid_ray.methods.components import BufferDict
from reid_ray.methods.pretraining import AdaptiveMethod


class MemoryMethod(AdaptiveMethod):
    """One network, no teacher, and a memory bank that each batch updates."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.student = self.network(config, "student")
        self.memory = BufferDict()
        self.prepare_source_stages()

    @property
    def main_modules(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "memory": self.memory}
