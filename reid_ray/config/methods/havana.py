"""Settings of HAVANA."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class HAVANAConfig(MethodConfig):
    """A variational autoencoder on frozen features, with a variation distiller; see docs/methods/havana.md."""

    name: Literal["havana"] = "havana"
    """The method."""
    baseline: bool | None = None
    """Whether the stage `baseline` trains the extractor first. Null: yes, unless `model.weights` is the exported model
    of a run."""
    baseline_margin: float | None = Field(default=0.3, ge=0)
    """Margin of the baseline's triplet loss; null is the soft margin."""
    feature: Literal["neck", "pooled"] = "neck"
    """x, the un-normalised feature of the extractor: after its BN neck, or before it. Not specified in the paper."""
    features: Literal["cached", "augmented"] = "cached"
    """`cached`: extract `n_copies` augmented copies of each image once, and train on the features. `augmented`: augment
    and extract images at each step."""
    n_copies: int = Field(default=8, ge=1)
    """Augmented copies of each image in the cache."""
    triplet: Literal["js", "mean", "none"] = "js"
    """Triplet loss on the Jensen–Shannon divergence of the latent distributions (Eq. 8–9), on Euclidean distances of
    z_μ (the row VNAE of table 3), or none."""
    divergence: Literal["gaussian_mean", "geometric", "monte_carlo"] = "gaussian_mean"
    """Estimator of the Jensen–Shannon divergence, which has no closed form. Not specified in the paper."""
    divergence_reduction: Literal["mean", "sum"] = "mean"
    """Reduction over dimensions, not specified in the paper. As a sum over 2048 dimensions, the true divergence
    saturates for almost all pairs, and the others dwarf the margin."""
    n_samples: int = Field(default=8, ge=1)
    """Samples of `monte_carlo`."""
    distiller: bool = True
    """The hierarchical variation distiller (HVD, Eq. 10–13)."""
    covariance_constraint: bool = True
    """z_σ = 1 (section 4.3)."""
    weight_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """Weight λ of the triplet loss."""
    margin: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """Margin γ of the triplet loss."""
    weight_elbo: Annotated[float, Search(0.02, 2, log=True)] = Field(default=0.2, ge=0)
    """Weight α of the negative ELBO."""
    weight_divergence: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """Weight β of the divergences: 1 on Market-1501, 2 on MSMT17."""
    without: tuple[Literal["reconstruction_x", "kl_z", "reconstruction_z", "kl_v"], ...] = ()
    """Terms of the bound to omit (table 5)."""
    kl_reduction: Literal["mean", "sum"] = "mean"
    """Reduction of the divergences over dimensions, not specified in the paper. `mean` puts them on the scale of the
    mean squared errors; with `sum` they outweigh all other terms, and z_μ keeps little of x."""
    signs: Literal["equation_13", "algorithm_1"] = "equation_13"
    """`algorithm_1` maximises the divergences as printed in the paper, and training diverges."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy."""
    hidden_dim: int | None = Field(default=None, ge=1)
    """Width of the MLPs; null: width of the feature."""
    variation_dim: int = Field(default=256, ge=1)
    """Dimension of v. Not in the paper."""
    activation: Literal["relu", "leaky_relu", "tanh"] = "relu"
    """Activation of the MLPs."""
    n_identities: int | None = Field(default=None, ge=1)
    """Number of identities for the distiller; null: from the training table."""

    @model_validator(mode="after")
    def _spread_is_there(self) -> HAVANAConfig:
        if self.signs == "algorithm_1" and not self.distiller:
            raise ValueError("signs=algorithm_1 is that of the distiller; set distiller=true")
        return self
