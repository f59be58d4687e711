"""The retriever: an embedding network with its module name and the version of its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from reid_ray.types import Version


@dataclass(frozen=True)
class Retriever:
    """A snapshot of an embedding network; it must not change while a service uses it.

    Attributes:
        module: its name in the method's modules, from which another process rebuilds it.
        version: of its weights.
        global_step: number of training steps of its weights.
    """

    module: str
    network: nn.Module
    version: Version
    global_step: int = 0

    def copied(self) -> Retriever:
        """A copy that training does not modify."""
        return replace(self, network=copy.deepcopy(self.network))

    def with_weights(self, weights: Mapping[str, Any], global_step: int) -> Retriever:
        """A copy with other weights, trained for `global_step` steps."""
        other = replace(self.copied(), global_step=global_step)
        other.network.load_state_dict(weights)
        return other
