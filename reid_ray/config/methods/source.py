"""Settings of supervised training on a labelled source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class SourceConfig(MethodConfig):
    """Supervised training on a labelled source (thesis Eq. 4.1), the first stage of domain adaptation; see
    docs/methods/source.md."""

    name: Literal["source"] = "source"
    """The method."""
    weight_ce: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ of the cross-entropy, averaged over branches. The paper's 0.5 per branch is equivalent."""
    weight_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ of the triplet loss, averaged over branches."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy; in the released code, not in the paper."""
    margin: Annotated[float | None, Search(0.05, 1)] = Field(default=None, ge=0)
    """Margin of the triplet loss; null is the soft margin (released code)."""
