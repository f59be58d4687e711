"""Settings of DG-VAE."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Search
from reid_ray.config.methods.base import MethodConfig, register_method_config


@register_method_config
class DGVAEConfig(MethodConfig):
    """Gaussian identity codes and ambiguity codes, for visible light and infrared (Pu et al.); see
    docs/methods/dg-vae.md."""

    name: Literal["dg_vae"] = "dg_vae"
    """The method."""
    swap: bool = True
    """Encode, swap and decode ambiguity codes, in the stages `generate` and `joint`. False removes the stage `generate`
    and its losses (rows 1 to 3 of table 2)."""
    identity_code: Literal["sampled", "mean"] = "sampled"
    """d: a sample of the identity encoder's Gaussian, or its mean (baseline, and the autoencoder's rows)."""
    ambiguity_code: Literal["sampled", "mean"] = "sampled"
    """a: the same for the ambiguity encoder. With `mean` there is no L_ambi."""
    identity_prior: Literal["mixture", "gaussian", "none"] = "mixture"
    """Prior of d: a mixture with a mean for each identity (L_gmm, L_lmc), one standard Gaussian (row 10 of table 2), or
    none."""
    weight_identity: float = Field(default=1.0, ge=0)
    """λ_id."""
    weight_triplet: Annotated[float, Search(0.1, 5, log=True)] = Field(default=1.0, ge=0)
    """λ_cmtl, for triplets across modalities."""
    weight_aux: float = Field(default=0.1, ge=0)
    """λ_aux, for both losses on samples."""
    margin: Annotated[float, Search(0.05, 0.5, log=True)] = Field(default=0.1, ge=0)
    """m of the triplets."""
    weight_decoded_identity: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ_idc, for the identity of decoded maps."""
    weight_cycle: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ_cyc, for the codes of decoded maps."""
    weight_reconstruction: Annotated[float, Search(0.1, 2, log=True)] = Field(default=0.5, ge=0)
    """λ_rec."""
    weight_swap: Annotated[float, Search(0.1, 10, log=True)] = Field(default=1.0, ge=0)
    """λ_tsr, for the three losses above. Not specified in the paper."""
    weight_mixture: float = Field(default=1.0, ge=0)
    """λ_gmm."""
    weight_large_margin: float = Field(default=0.1, ge=0)
    """λ_lmc."""
    weight_margin: float = Field(default=0.01, ge=0)
    """λ_α, the reward for large margins, as a term of L_lmc; not in the paper."""
    weight_discriminable: Annotated[float, Search(0.02, 2, log=True)] = Field(default=0.2, ge=0)
    """λ_disc, for the three losses above."""
    weight_ambiguity: Annotated[float, Search(1e-3, 0.1, log=True)] = Field(default=0.01, ge=0)
    """λ_ambi in the stage `joint`."""
    weight_ambiguity_generate: Annotated[float, Search(1e-4, 0.01, log=True)] = Field(default=0.001, ge=0)
    """λ_ambi in the stage `generate`."""
    gmm_logdet: Literal["minus", "plus"] = "minus"
    """Sign of ln det σ in L_gmm: `minus` is the divergence; `plus`, as Eq. 6 is printed, has no lower bound."""
    gmm_form: Literal["sampled", "closed"] = "sampled"
    """L_gmm for a sample (Eq. 6), or its expectation."""
    lmc_form: Literal["intent", "printed", "printed_variance"] = "intent"
    """Logit of the true identity in L_lmc. `intent`: the distance to its mean plus the margin. `printed` (Eq. 8): the
    distance to the encoder's own mean minus the margin, which gradient descent drives to infinity; `printed_variance`:
    the same with σ⁻²."""
    prior_margin: Literal["learnt_with_reward", "fixed"] = "learnt_with_reward"
    """Margins α of the identities."""
    latent_reduction: Literal["sum", "mean"] = "sum"
    """Distances and log-determinants of L_gmm and L_lmc over the dimensions of d: sum as printed, or mean."""
    triplets: Literal["random", "hardest"] = "random"
    """Positives and negatives: random ones, or the farthest and the nearest. Not specified in the paper."""
    swap_modality: Literal["cross", "same"] = "cross"
    """Codes are swapped with images of the other modality (text, fig. 4) or of the same (superscripts of Eq. 12)."""
    rec_target: Literal["detached", "live"] = "detached"
    """Whether the reconstruction loss also moves the feature maps that are reconstructed."""
    rec_space: Literal["features", "images"] = "features"
    """Output of the decoder: feature maps of the trunks, or images (table 3), which the trunks then encode again."""
    discriminator: bool = False
    """A patch discriminator on the decoder's output (table 3)."""
    weight_adversarial: Annotated[float, Search(0.01, 1, log=True)] = Field(default=0.1, ge=0)
    """Weight of the discriminator's loss for the decoder. Not in the paper."""
    erasing_stages: Literal["all", "first"] = "all"
    """Stages with random erasing; IS-GAN's authors found that it harms disentangling."""
    split: Literal["conv4_1", "conv4_end"] = "conv4_1"
    """Last block of the trunks: the first of the third stage, as in MGN, or its last."""
    last_stride: Literal[1, 2] = 1
    """Stride of the encoders' last stage."""
    idi_neck: Literal["none", "bn"] = "none"
    """A batch norm on the identity code before the classifier. Not in the paper."""
    identity_dim: int = Field(default=2048, ge=1)
    """Size of d."""
    ambiguity_dim: int = Field(default=512, ge=1)
    """Size of a."""
    decoder_channels: tuple[int, ...] = Field(default=(512, 512, 512), min_length=1)
    """Channels of the decoder's fully connected layer and of its transposed convolutions except the last. Each entry
    after the first doubles the size, up to the trunks' map."""
    image_decoder_channels: tuple[int, ...] = Field(default=(512, 512, 512, 1024, 512, 256, 128), min_length=1)
    """The same for the decoder of images."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate of the decoder."""
    n_identities: int | None = Field(default=None, ge=1)
    """Number of identities for classifier and mixture; null: from the training table."""

    @model_validator(mode="after")
    def _codes_and_priors_agree(self) -> DGVAEConfig:
        if self.identity_code == "mean" and self.identity_prior != "none":
            raise ValueError("identity_code=mean has no Gaussian for a prior; set identity_prior=none")
        return self

    @property
    def has_mixture(self) -> bool:
        """Whether class means and margins are trained."""
        return self.identity_prior == "mixture" and bool(self.weight_discriminable)

    def reads(self, key: str) -> bool:
        mixture = ("weight_mixture", "weight_large_margin", "weight_margin")
        swaps = ("weight_decoded_identity", "weight_cycle", "weight_reconstruction", "weight_swap")
        if key in mixture:
            return self.has_mixture
        if key in (*swaps, "weight_ambiguity", "weight_ambiguity_generate", "weight_adversarial"):
            return self.swap and (key != "weight_adversarial" or self.discriminator)
        return key != "weight_discriminable" or self.identity_prior != "none"
