"""Settings of ICE."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class ICEConfig(MethodConfig):
    """ICE, thesis ch. 6 (Eq. 6.3–6.12). Defaults produced the published tables; see docs/methods/ice.md."""

    name: Literal["ice"] = "ice"
    """The method."""
    mode: Literal["aware", "agnostic", "supervised"] = "aware"
    """`aware` uses camera proxies, `agnostic` does not, `supervised` uses identities instead of clusters."""
    temperature_agnostic: Annotated[float, Search(0.1, 1, log=True)] = Field(default=0.5, gt=0)
    """τ_a of the centroid softmax (Eq. 6.5)."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the centroid softmax; in the released code, not in the paper."""
    normalize_student: bool = False
    """Normalise the student feature in Eq. 6.5. The released code does not (norm ≈ 45), which differs from the
    equation."""
    weight_cross: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """Weight of the cross-camera proxy loss (Eq. 6.8)."""
    temperature_cross: Annotated[float, Search(0.03, 0.3, log=True)] = Field(default=0.07, gt=0)
    """τ_c of the cross-camera softmax (Eq. 6.7)."""
    n_negatives: int = Field(default=50, ge=1)
    """Hardest negative proxies per anchor (Eq. 6.7)."""
    own_camera_positive: bool = True
    """Treat the proxy of the anchor's own camera as a positive, as in the released code; Eq. 6.7 excludes it."""
    cross_reduction: Literal["sum_over_cameras", "mean"] = "sum_over_cameras"
    """Per-camera means summed over the batch's cameras (released code), or one mean over the batch (Eq. 6.7)."""
    proxy_normalization: Literal["cosine", "released"] = "cosine"
    """`released` normalises each dimension over all proxies, a bug in the authors' code, for exact reproduction."""
    weight_hard: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ_h of the hard instance loss (Eq. 6.3)."""
    temperature_hard: Annotated[float, Search(0.03, 0.5, log=True)] = Field(default=0.1, gt=0)
    """τ of the hard instance softmax (Eq. 6.9)."""
    weight_soft: Annotated[float, Search(1, 50, log=True)] = Field(default=10.0, ge=0)
    """λ_s of the soft consistency loss (Eq. 6.3)."""
    temperature_soft: Annotated[float, Search(0.1, 1, log=True)] = Field(default=0.4, gt=0)
    """τ of the soft consistency softmax (Eq. 6.10–6.11)."""
    teacher_forwards: Literal["all", "used"] = "all"
    """`all`: the teacher also forwards view 1, which only updates its BN statistics (released code). `used`: it does
    not, and a step is an eighth faster."""

    def reads(self, key: str) -> bool:
        return self.mode == "aware" or key not in ("weight_cross", "temperature_cross")
