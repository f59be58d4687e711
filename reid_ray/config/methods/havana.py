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
    """Whether the extractor is first trained, in the stage `baseline`. Null: yes, unless `model.weights` is the
    exported model of a run."""
    baseline_margin: float | None = Field(default=0.3, ge=0)
    """Margin of the baseline's triplet loss; null is the soft margin."""
    feature: Literal["neck", "pooled"] = "neck"
    """x, the extractor's feature, un-normalised: after its BN neck, or before it. The paper does not say."""
    features: Literal["cached", "augmented"] = "cached"
    """`cached`: `n_copies` augmented copies of each image are embedded once, and training runs at the speed of
    features. `augmented`: images are augmented and embedded at each step."""
    n_copies: int = Field(default=8, ge=1)
    """Augmented copies of each image in the cache."""
    triplet: Literal["js", "mean", "none"] = "js"
    """Triplets of the latent distributions by their Jensen–Shannon divergence (Eq. 8–9), of z_μ by Euclidean distance
    (the row VNAE of table 3), or none."""
    divergence: Literal["gaussian_mean", "geometric", "monte_carlo"] = "gaussian_mean"
    """Form of the Jensen–Shannon divergence, which has none that is closed; the paper gives no estimator."""
    divergence_reduction: Literal["sum", "mean"] = "sum"
    """Over dimensions. In 2048 of them the true divergence is at its bound for almost all pairs."""
    n_samples: int = Field(default=8, ge=1)
    """Samples of `monte_carlo`."""
    distiller: bool = True
    """The hierarchical variation distiller (HVD, Eq. 10–13)."""
    covariance_constraint: bool = True
    """z_σ = 1 (section 4.3)."""
    weight_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ."""
    margin: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """γ of the triplets."""
    weight_elbo: Annotated[float, Search(0.02, 2, log=True)] = Field(default=0.2, ge=0)
    """α."""
    weight_divergence: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """β: 1 on Market-1501, 2 on MSMT17."""
    without: tuple[Literal["reconstruction_x", "kl_z", "reconstruction_z", "kl_v"], ...] = ()
    """Terms of the bound that are left out (table 5)."""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """Of the divergences over dimensions; `mean` puts them on one scale with the mean squared errors."""
    signs: Literal["equation_13", "algorithm_1"] = "equation_13"
    """`algorithm_1` maximises the divergences, as printed there, and diverges."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy."""
    hidden_dim: int | None = Field(default=None, ge=1)
    """Width of the MLPs; null: that of the feature."""
    variation_dim: int = Field(default=256, ge=1)
    """Size of v. Not in the paper."""
    activation: Literal["relu", "leaky_relu", "tanh"] = "relu"
    """Activation of the MLPs."""
    n_identities: int | None = Field(default=None, ge=1)
    """Identities that the distiller is told; null takes them from the table when a run begins."""

    @model_validator(mode="after")
    def _spread_is_there(self) -> HAVANAConfig:
        if self.signs == "algorithm_1" and not self.distiller:
            raise ValueError("signs=algorithm_1 is that of the distiller; set distiller=true")
        return self
