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
    """Branches, and of each its stripes (s) and channel groups (c); tables 3.2 and 3.3 in their own notation."""
    reduced_dim: int = Field(default=256, ge=1)
    """Size that every vector is reduced to."""
    weight_ce: Annotated[float, Search(0.5, 4, log=True)] = Field(default=2.0, ge=0)
    """λ of the cross-entropy, a mean over the vectors' classifiers."""
    weight_triplet: Annotated[float, Search(0.1, 2, log=True)] = Field(default=1.0, ge=0)
    """Weight of the triplets, a mean over the branches; 0 is the row "without triplet" of table 3.4."""
    margin: Annotated[float, Search(0.3, 2)] = Field(default=1.2, ge=0)
    """Margin of the triplets."""
    triplet_on: Literal["reduced", "pooled"] = "reduced"
    """The global vector of a branch that triplets compare: after its reduction, or before. The thesis does not say."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """Over the batch, in both losses; Eq. 3.1 and 3.2 are written as sums."""
    n_identities: int | None = Field(default=None, ge=1)
    """Classes of the classifiers; null takes them from the table when a run begins."""
    clip_frames: int = Field(default=1, ge=1)
    """Frames of an item: 1 trains on images, also those of tracklets; T > 1 on tracklets, as the average of T
    frames."""
    clip_sampling: Literal["random", "even"] = "random"
    """The T frames: random ones in each epoch, or those at even steps."""
