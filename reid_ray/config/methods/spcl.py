"""Settings of SpCL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class SpCLConfig(MethodConfig):
    """Self-paced contrastive learning (Ge et al., NeurIPS 2020), with or without a `source`; see
    docs/methods/spcl.md."""

    name: Literal["spcl"] = "spcl"
    """The method."""
    temperature: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.05, gt=0)
    """τ of the softmax over clusters and outliers."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.2, ge=0, lt=1)
    """Momentum of the memory: weight of the old value in an update."""
