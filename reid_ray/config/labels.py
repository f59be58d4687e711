"""How features become pseudo-labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search, Section


class LabelsConfig(Section):
    """k-reciprocal Jaccard distance and DBSCAN; defaults are ICE's."""

    unit: Literal["image", "tracklet"] = "image"
    """What is clustered: images, or tracklets by the mean of their frames' features; each frame then has the label of
    its tracklet. An image in no tracklet is one of its own."""
    variant: Literal["spcl", "cvpr17", "camera"] = "spcl"
    """Form of the Jaccard distance; eps is not portable between them (docs/labels.md). `camera` is CA-Jaccard (CVPR
    2024), whose settings are k1=20, k2=4 and the two below."""
    k1: Annotated[int, Search(10, 50)] = Field(default=30, ge=1)
    """Neighbours of the k-reciprocal encoding; for `camera`, those of other cameras."""
    k2: Annotated[int, Search(1, 12)] = Field(default=6, ge=1)
    """Neighbours of the query expansion, self included; 1 switches it off. For `camera`, those of other cameras."""
    k1_within: Annotated[int, Search(2, 15)] = Field(default=5, ge=1)
    """For `camera`: neighbours of the encoding in the image's own camera."""
    k2_within: Annotated[int, Search(1, 6)] = Field(default=2, ge=1)
    """For `camera`: neighbours of the query expansion in the image's own camera, self included."""
    neighbours: Literal["exact", "ivf", "hnsw"] = "exact"
    """How neighbours are searched: exactly, or approximately by faiss (`pip install reid_ray[ann]`)."""
    clusterer: Literal["dbscan", "hdbscan", "kmeans"] = "dbscan"
    """What clusters: DBSCAN or HDBSCAN on the Jaccard graph, or k-means on the features (ABMT's ablation)."""
    eps: Annotated[float, Search(0.3, 0.8)] = Field(default=0.55, gt=0, lt=1)
    """DBSCAN radius in Jaccard distance."""
    rho: Annotated[float | None, Search(5e-4, 5e-3, log=True)] = Field(default=None, gt=0, le=0.1)
    """Share of all pairs, the closest ones, whose mean distance is taken for eps at each refresh (ABMT: 0.002); null
    takes `eps`."""
    min_samples: Annotated[int, Search(2, 10)] = Field(default=4, ge=1)
    """Images within eps, self included, that make a core point; for HDBSCAN also the smallest cluster."""
    reliability: Annotated[float | None, Search(0.005, 0.05, log=True)] = Field(default=None, gt=0, lt=0.5)
    """Keep only members of clusters that are the same at eps − this and eps + this (SpCL: 0.02); null keeps all. With
    `clusterer: dbscan` and a fixed eps."""
    source_weight: Annotated[float, Search(0, 0.3)] = Field(default=0.0, ge=0, lt=1)
    """λ of the source-similarity term of the distance in domain adaptation: J' = (1−λ)·J + λ·(v_i + v_j), v from the
    image's nearest source image (ABMT: 0.1); read only where there is a `source`."""
    n_clusters: Annotated[int, Search(200, 2000, log=True)] = Field(default=500, ge=1)
    """Clusters of k-means."""
    outliers: Literal["drop", "singleton"] = "drop"
    """Images in no cluster are left out of training, or are a cluster each."""
    memory_mb: int = Field(default=1024, ge=64)
    """Memory of the neighbour search in each labeller, beyond features and results, MB."""
    staleness: Literal[0, 1] = 0
    """Epochs that labels may lag behind the weights. 0 is the papers' schedule; 1 makes the labels of the next epoch
    while this one trains, with the teacher as it was at this epoch's start."""
    max_degenerate_epochs: int = Field(default=3, ge=0)
    """Refreshes in a row that may give fewer than two clusters before the run ends; the labels before them are kept."""

    @model_validator(mode="after")
    def _reliability_has_room(self) -> LabelsConfig:
        gap = self.reliability
        if gap is None:
            return self
        if self.clusterer != "dbscan" or self.rho is not None:
            raise ValueError("labels.reliability goes with labels.clusterer=dbscan and a fixed eps (labels.rho=null)")
        if not gap < self.eps < 1 - gap:
            raise ValueError(f"labels.eps={self.eps} ± labels.reliability={gap} should lie between 0 and 1")
        return self
