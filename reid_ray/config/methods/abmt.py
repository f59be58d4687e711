"""Settings of ABMT."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class ABMTConfig(MethodConfig):
    """Asymmetric branched mean teaching, thesis ch. 4; see docs/methods/abmt.md. `model.branches: []` gives the
    MT-baseline of table 4.3."""

    name: Literal["abmt"] = "abmt"
    """The method."""
    cross_branch: bool = True
    """Each branch learns from the other branches of the teacher (Eq. 4.4–4.7); otherwise from its own."""
    weight_ce: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ of the cross-entropy with cluster labels (Eq. 4.8)."""
    weight_soft_ce: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ of the cross-entropy with the teacher's predictions."""
    weight_soft_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ of the triplet loss with the teacher's distances."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy; in the released code, not in the paper."""
    teacher_view: Literal["same", "own"] = "same"
    """The teacher sees the augmented image of the student, or its own augmentation (the row "stochastic data
    augmentation" of table 4.3)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of the features before the classifiers, with separate masks for student and teacher (the row "drop
    out" of table 4.3)."""
