"""Settings of SCR."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class SCRConfig(MethodConfig):
    """Spatial and channel partitions, thesis ch. 3; see docs/methods/scr.md."""

    name: Literal["scr"] = "scr"
    """The method."""
    partitions: str = "p1+p2(s2c2)+p3(s3c3)"
    """Branches with their stripes (s) and channel groups (c), in the notation of tables 3.2 and 3.3."""
    reduced_dim: int = Field(default=256, ge=1)
    """Dimension after the reduction of each vector."""
    weight_ce: Annotated[float, Search(0.5, 4, log=True)] = Field(default=2.0, ge=0)
    """Weight λ of the cross-entropy, averaged over classifiers."""
    weight_triplet: Annotated[float, Search(0.1, 2, log=True)] = Field(default=1.0, ge=0)
    """Weight of the triplet loss, averaged over branches; 0 is the row "without triplet" of table 3.4."""
    margin: Annotated[float, Search(0.3, 2)] = Field(default=1.2, ge=0)
    """Margin of the triplet loss."""
    triplet_on: Literal["reduced", "pooled"] = "reduced"
    """Input of the triplet loss: the global vector of a branch after its reduction, or before. Not specified in the
    thesis."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """Reduction over the batch in both losses; Eq. 3.1 and 3.2 are sums."""
    n_identities: int | None = Field(default=None, ge=1)
    """Number of classes; null: from the training table."""
    clip_frames: int = Field(default=1, ge=1)
    """Frames per item: 1 trains on single images, T > 1 on tracklets, with the mean of T random frames."""
