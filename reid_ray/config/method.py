"""Settings of each method. A method's section is named by the file in `reid_ray/methods` that reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search, Section


class ICEConfig(Section):
    """ICE, thesis ch. 6 (Eq. 6.3–6.12). Defaults made the published tables; see docs/methods/ice.md."""

    name: Literal["ice"] = "ice"
    """The method."""
    mode: Literal["aware", "agnostic", "supervised"] = "aware"
    """`aware` uses camera proxies, `agnostic` does not; `supervised` takes true identities in place of clusters."""
    temperature_agnostic: Annotated[float, Search(0.1, 1, log=True)] = Field(default=0.5, gt=0)
    """τ_a of the centroid softmax (Eq. 6.5)."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the centroid softmax; in the released code, not in the text."""
    normalize_student: bool = False
    """Normalise the student's feature in Eq. 6.5. The released code does not (norm ≈ 45), which is another loss
    than the equation read literally."""
    weight_cross: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """Weight of the cross-camera proxy loss (Eq. 6.8)."""
    temperature_cross: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.07, gt=0)
    """τ_c of the cross-camera softmax (Eq. 6.7)."""
    n_negatives: int = Field(default=50, ge=1)
    """Hardest negative proxies per anchor (Eq. 6.7)."""
    own_camera_positive: bool = True
    """Count the anchor's own-camera proxy among the positives, as the released code; Eq. 6.7 leaves it out."""
    cross_reduction: Literal["sum_over_cameras", "mean"] = "sum_over_cameras"
    """Per-camera means summed over the batch's cameras (released code), or one mean over the batch (Eq. 6.7)."""
    proxy_normalization: Literal["cosine", "released"] = "cosine"
    """`released` normalises each dimension over all proxies, the slip in the authors' code, for exact reproduction."""
    weight_hard: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ_h of the hard instance loss (Eq. 6.3)."""
    temperature_hard: Annotated[float, Search(0.03, 0.5, log=True)] = Field(default=0.1, gt=0)
    """τ of the hard instance softmax (Eq. 6.9)."""
    weight_soft: Annotated[float, Search(1, 50, log=True)] = Field(default=10.0, ge=0)
    """λ_s of the soft consistency loss (Eq. 6.3)."""
    temperature_soft: Annotated[float, Search(0.1, 1, log=True)] = Field(default=0.4, gt=0)
    """τ of the soft consistency softmax (Eq. 6.10–6.11)."""
    teacher_forwards: Literal["all", "used"] = "all"
    """`all`: the teacher also forwards view 1, which only moves its BN statistics (released code). `used`: it does
    not, and a step is an eighth faster."""


class ClusterContrastConfig(Section):
    """Cluster-contrast (Dai et al., ACCV 2022): a momentum memory of clusters; see docs/methods/cluster-contrast.md."""

    name: Literal["cluster_contrast"] = "cluster_contrast"
    """The method."""
    temperature: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.05, gt=0)
    """τ of the softmax over clusters."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.1, ge=0, lt=1)
    """Weight of the old row when a feature moves its cluster's row."""
    update: Literal["sequential", "hard", "average"] = "sequential"
    """Which features of a batch move a row: all, one after another (made the published tables); the least similar one;
    or their mean."""


class CAPConfig(Section):
    """Camera-aware proxies (Wang et al., AAAI 2021); see docs/methods/cap.md."""

    name: Literal["cap"] = "cap"
    """The method."""
    temperature: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.07, gt=0)
    """τ of both softmaxes."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.2, ge=0, lt=1)
    """Weight of the old proxy when a feature moves it."""
    weight_inter: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """Weight of the inter-camera loss."""
    inter_from_epoch: int = Field(default=5, ge=0)
    """First epoch, counted from 0, with the inter-camera loss."""
    n_negatives: int = Field(default=50, ge=1)
    """Hardest negative proxies per image in the inter-camera loss."""


class SpCLConfig(Section):
    """Self-paced contrastive learning (Ge et al., NeurIPS 2020), also with a `source`; see docs/methods/spcl.md."""

    name: Literal["spcl"] = "spcl"
    """The method."""
    temperature: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.05, gt=0)
    """τ of the softmax over clusters and outliers."""
    momentum: Annotated[float, Search(0, 0.9)] = Field(default=0.2, ge=0, lt=1)
    """Weight of the old row when a feature moves its image's row."""


class ABMTConfig(Section):
    """Asymmetric branched mean teaching, thesis ch. 4; see docs/methods/abmt.md. With `model.branches: []` it is the
    MT-baseline of table 4.3."""

    name: Literal["abmt"] = "abmt"
    """The method."""
    cross_branch: bool = True
    """Each branch learns from the teacher's other branches (Eq. 4.4–4.7); else from its own."""
    weight_ce: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ of the cross-entropy with cluster labels (Eq. 4.8)."""
    weight_soft_ce: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ of the cross-entropy with the teacher's predictions."""
    weight_soft_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ of the triplet loss with the teacher's distances."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy; in the released code, not in the text."""
    teacher_view: Literal["same", "own"] = "same"
    """The teacher sees the student's augmented image, or another augmentation of it (the row "stochastic data
    augmentation" of table 4.3)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the features' entries that are dropped before the classifiers, drawn apart for student and teacher (the
    row "drop out" of table 4.3)."""


class MMTConfig(Section):
    """Mutual mean-teaching (Ge et al., ICLR 2020): two students, each taught by the other's mean; see
    docs/methods/mmt.md."""

    name: Literal["mmt"] = "mmt"
    """The method."""
    weight_soft_ce: Annotated[float, Search(0, 1)] = Field(default=0.5, ge=0, le=1)
    """Share of the teacher's predictions in the cross-entropy; the cluster labels have the rest."""
    weight_soft_triplet: Annotated[float, Search(0, 1)] = Field(default=0.8, ge=0, le=1)
    """Share of the teacher's distances in the triplet loss; the cluster labels have the rest."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy with cluster labels; in the released code, not in the text."""
    weights_2: str | None = None
    """Initial weights of the second network, a file; null: those of `model.weights`. In domain adaptation it is the
    model of a second source run with another seed."""


class SourceConfig(Section):
    """Supervised training on a labelled source (thesis Eq. 4.1), the first stage of domain adaptation; see
    docs/methods/source.md."""

    name: Literal["source"] = "source"
    """The method."""
    weight_ce: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ of the cross-entropy, averaged over branches. The text's 0.5 per branch is the same."""
    weight_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ of the triplet loss, averaged over branches."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy; in the released code, not in the text."""
    margin: Annotated[float | None, Search(0.05, 1)] = Field(default=None, ge=0)
    """Margin of the triplet loss, of distances; null is the soft margin (released code)."""


MethodConfig = Annotated[
    ICEConfig | ABMTConfig | MMTConfig | SpCLConfig | CAPConfig | ClusterContrastConfig | SourceConfig,
    Field(discriminator="name"),
]
"""The settings of one method; `name` says of which."""
