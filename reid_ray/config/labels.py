"""How features become pseudo-labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search, Section


class LabelsConfig(Section):
    """k-reciprocal Jaccard distance and clustering; defaults are those of ICE."""

    unit: Literal["image", "tracklet"] = "image"
    """Items to cluster: images, or tracklets by the mean feature of their frames; each frame gets the label of its
    tracklet. An image without a tracklet counts as a tracklet of one frame."""
    variant: Literal["spcl", "cvpr17", "camera"] = "spcl"
    """Variant of the Jaccard distance; eps is not transferable between variants (docs/labels.md). `camera` is
    CA-Jaccard (CVPR 2024), with k1=20, k2=4 and the next two settings."""
    k1: Annotated[int, Search(10, 50)] = Field(default=30, ge=1)
    """Neighbours of the k-reciprocal encoding; for `camera`, those of other cameras."""
    k2: Annotated[int, Search(1, 12)] = Field(default=6, ge=1)
    """Neighbours of the query expansion, self included; 1 disables it. For `camera`, those of other cameras."""
    k1_within: Annotated[int, Search(2, 15)] = Field(default=5, ge=1)
    """For `camera`: neighbours of the encoding in the image's own camera."""
    k2_within: Annotated[int, Search(1, 6)] = Field(default=2, ge=1)
    """For `camera`: neighbours of the query expansion in the image's own camera, self included."""
    neighbours: Literal["exact", "ivf", "hnsw"] = "exact"
    """Neighbour search: exact, or approximate with faiss (`pip install 'reid-ray[ann]'`)."""
    clusterer: Literal["dbscan", "hdbscan", "kmeans"] = "dbscan"
    """Clustering algorithm: DBSCAN or HDBSCAN on the Jaccard graph, or k-means on the features (ABMT's ablation)."""
    eps: Annotated[float, Search(0.3, 0.8)] = Field(default=0.55, gt=0, lt=1)
    """DBSCAN radius in Jaccard distance."""
    rho: Annotated[float | None, Search(5e-4, 5e-3, log=True)] = Field(default=None, gt=0, le=0.1)
    """Share of closest pairs whose mean distance becomes eps at each refresh (ABMT: 0.002); null: use `eps`."""
    min_samples: Annotated[int, Search(2, 10)] = Field(default=4, ge=1)
    """Images within eps, self included, that make a core point; for HDBSCAN also the smallest cluster size."""
    reliability: Annotated[float | None, Search(0.005, 0.05, log=True)] = Field(default=None, gt=0, lt=0.5)
    """Keep only members of clusters that agree at eps − this and eps + this (SpCL: 0.02); null keeps all. Requires
    `clusterer: dbscan` and a fixed eps."""
    source_weight: Annotated[float, Search(0, 0.3)] = Field(default=0.0, ge=0, lt=1)
    """λ of the source-similarity term in domain adaptation: J' = (1−λ)·J + λ·(v_i + v_j), where v depends on the
    nearest source image (ABMT: 0.1). Used only with a `source`."""
    n_clusters: Annotated[int, Search(200, 2000, log=True)] = Field(default=500, ge=1)
    """Number of clusters of k-means."""
    outliers: Literal["drop", "singleton"] = "drop"
    """Images without a cluster: `drop` excludes them from training, `singleton` makes each a cluster."""
    constraints: str | None = None
    """A `constraints.csv` of corrections (path_a, path_b, verdict: same, different or junk) that the clusters obey;
    requires `clusterer: dbscan`."""
    objective: bool = False
    """Also log the label-free objectives `label_free` and `cycle_consistency` at each refresh (docs/labels.md); takes
    as long as two exact neighbour searches."""
    memory_mb: int = Field(default=1024, ge=64)
    """Memory of the neighbour search in each labeller, in addition to features and results, MB."""
    staleness: Literal[0, 1] = 0
    """Epochs by which labels lag behind the weights. 0 is the schedule of the papers; 1 computes the labels of the next
    epoch during this one, with the teacher as of its start."""
    max_degenerate_epochs: int = Field(default=3, ge=0)
    """Consecutive refreshes with fewer than two clusters before the run ends; until then the previous labels are
    kept."""

    @model_validator(mode="after")
    def _fits_the_clusterer(self) -> LabelsConfig:
        gap = self.reliability
        if self.constraints is not None and self.clusterer != "dbscan":
            raise ValueError(f"labels.constraints goes with labels.clusterer=dbscan, not with {self.clusterer}")
        if gap is None:
            return self
        if self.clusterer != "dbscan" or self.rho is not None:
            raise ValueError("labels.reliability goes with labels.clusterer=dbscan and a fixed eps (labels.rho=null)")
        if not gap < self.eps < 1 - gap:
            raise ValueError(f"labels.eps={self.eps} ± labels.reliability={gap} should lie between 0 and 1")
        return self
