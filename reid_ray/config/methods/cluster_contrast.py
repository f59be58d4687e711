"""Settings of cluster-contrast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class ClusterContrastConfig(MethodConfig):
    """Cluster-contrast (Dai et al., ACCV 2022): a momentum memory of clusters; see docs/methods/cluster-contrast.md."""

    name: Literal["cluster_contrast"] = "cluster_contrast"
    """The method."""
    temperature: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.05, gt=0)
    """τ of the softmax over clusters."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.1, ge=0, lt=1)
    """Momentum of the memory: weight of the old value in an update."""
    update: Literal["sequential", "hard", "average"] = "sequential"
    """Features of a batch that update a cluster: all, one after another (produced the published tables); the least
    similar one; or their mean."""
