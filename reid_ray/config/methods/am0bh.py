"""Settings of AM0BH and AM0BH-Attr."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class AM0BHConfig(MethodConfig):
    """Normalised softmax with batch-hard triplets, and attributes (Sabri et al.); see docs/methods/am0bh.md."""

    name: Literal["am0bh"] = "am0bh"
    """The method."""
    weight_softmax: float = Field(default=1.0, ge=0)
    """Weight of the normalised softmax (Eq. 2); 0 leaves the triplet loss only (the row BH of table 3)."""
    scale: Annotated[float, Search(10, 64, log=True)] = Field(default=30.0, gt=0)
    """Scale s of the softmax. Not in the paper; SphereReID uses 14."""
    margin: Annotated[float, Search(0, 0.5)] = Field(default=0.0, ge=0, le=3.2)
    """Additive angular margin m, radians: 0 is AM0, 0.5 is AM."""
    angular_guard: bool = True
    """Keep the target logit monotonically decreasing when angle plus margin exceeds π."""
    weight_triplet: Annotated[float, Search(0.1, 1, log=True)] = Field(default=0.43, ge=0)
    """Weight γ of the batch-hard triplet loss (Eq. 6): 0.43 on Market-1501, 0.5 on DukeMTMC-reID, 0.4 on MSMT17; 0.33
    with attributes."""
    triplet_margin: Annotated[float, Search(0.1, 1)] = Field(default=0.3, ge=0)
    """Margin of the triplet loss. Not in the paper."""
    triplet_surrogate: Literal["hinge", "softplus"] = "hinge"
    """`softplus` is the row AM0BHsp."""
    triplet_normalized: bool = False
    """Triplet loss on normalised features (the row AM0BH1). The paper recommends un-normalised ones."""
    triplet_on: Literal["bn", "pooled"] = "bn"
    """Input of the triplet loss: after the BN neck, as in fig. 1, or before it."""
    neck_bias: Literal["free", "frozen"] = "free"
    """Whether the bias of the BN neck is trained. Not specified in the paper."""
    weight_attributes: Annotated[float, Search(0.05, 1, log=True)] = Field(default=0.0, ge=0)
    """Weight λ of the attribute loss (Eq. 7; AM0BH-Attr: 0.25); 0: no attributes."""
    piece_dim: int = Field(default=16, ge=1)
    """Q, dimensions of the feature per attribute."""
    attribute_values: tuple[int, ...] | None = None
    """Number of values of each attribute; null: from the `attr_` columns of the training table."""
    retrieve: Literal["id", "all"] = "id"
    """With attributes: the retrieval feature is the identity part of the vector, or the whole vector."""

    @model_validator(mode="after")
    def _trains_something(self) -> AM0BHConfig:
        if not (self.weight_softmax or self.weight_triplet):
            raise ValueError(
                "weight_softmax and weight_triplet are both 0, which leaves identities nothing to learn by"
            )
        return self

    def reads(self, key: str) -> bool:
        if key in ("scale", "margin"):
            return bool(self.weight_softmax or self.weight_attributes)
        return key != "triplet_margin" or bool(self.weight_triplet)
