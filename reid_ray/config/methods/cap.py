"""Settings of CAP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class CAPConfig(MethodConfig):
    """Camera-aware proxies (Wang et al., AAAI 2021); see docs/methods/cap.md."""

    name: Literal["cap"] = "cap"
    """The method."""
    temperature: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.07, gt=0)
    """τ of both softmaxes."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.2, ge=0, lt=1)
    """Momentum of the proxies: weight of the old value in an update."""
    weight_inter: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """Weight of the inter-camera loss."""
    inter_from_epoch: int = Field(default=5, ge=0)
    """First epoch, counted from 0, with the inter-camera loss."""
    n_negatives: int = Field(default=50, ge=1)
    """Hardest negative proxies per image in the inter-camera loss."""
