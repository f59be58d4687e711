"""A network that embeds, with its name in the method and the version of its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from reid_ray.types import Version


@dataclass(frozen=True)
class Retriever:
    """A network that embeds, as it is now; it does not change while a service uses it.

    Attributes:
        module: its name in the method's modules, by which another process builds one.
        version: of its weights.
        global_step: steps that its weights have been trained for.
    """

    module: str
    network: nn.Module
    version: Version
    global_step: int = 0

    def copied(self) -> Retriever:
        """A copy, which training leaves as it is."""
        return replace(self, network=copy.deepcopy(self.network))

    def with_weights(self, weights: Mapping[str, Any], global_step: int) -> Retriever:
        """A copy with other weights, which have been trained for so many steps."""
        other = replace(self.copied(), global_step=global_step)
        other.network.load_state_dict(weights)
        return other
