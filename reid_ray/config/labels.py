"""How features become pseudo-labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reid_ray.config.base import Section


class LabelsConfig(Section):
    """k-reciprocal Jaccard distance and DBSCAN; defaults are ICE's."""

    variant: Literal["spcl", "cvpr17"] = "spcl"
    """Form of the Jaccard distance; eps is not portable between them (docs/labels.md)."""
    k1: int = Field(default=30, ge=1)
    """Neighbours of the k-reciprocal encoding."""
    k2: int = Field(default=6, ge=1)
    """Neighbours of the query expansion, self included; 1 switches it off."""
    eps: float = Field(default=0.55, gt=0, lt=1)
    """DBSCAN radius in Jaccard distance."""
    min_samples: int = Field(default=4, ge=1)
    """Images within eps, self included, that make a core point."""
    staleness: Literal[0] = 0
    """Epochs that labels may lag behind the weights; 0 is the papers' schedule."""
    max_degenerate_epochs: int = Field(default=3, ge=0)
    """Refreshes in a row that may give fewer than two clusters before the run ends; the labels before them are kept."""
