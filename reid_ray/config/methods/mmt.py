"""Settings of MMT."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class MMTConfig(MethodConfig):
    """Mutual mean-teaching (Ge et al., ICLR 2020): two students, each taught by the EMA of the other; see
    docs/methods/mmt.md."""

    name: Literal["mmt"] = "mmt"
    """The method."""
    weight_soft_ce: Annotated[float, Search(0, 1)] = Field(default=0.5, ge=0, le=1)
    """Share of the teacher's predictions in the cross-entropy; the cluster labels have the rest."""
    weight_soft_triplet: Annotated[float, Search(0, 1)] = Field(default=0.8, ge=0, le=1)
    """Share of the teacher's distances in the triplet loss; the cluster labels have the rest."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy with cluster labels; in the released code, not in the paper."""
