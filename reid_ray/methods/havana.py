"""HAVANA: hierarchical and variation-normalised autoencoder on the features of a frozen extractor.

L = L_cls + λ·L_jst + α·(L_reconx + β·(L_klz + L_reconz + L_klv)) (Eq. 13). The stage `baseline` trains the extractor;
it is skipped if `model.weights` is the exported model of a run. The stage `vnae` trains the rest on its features.
z_μ is the input of the classifier and the retrieval feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import Config, HAVANAConfig, SourceConfig
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError
from reid_ray.losses import hvd_terms, js_triplet_loss, negative_elbo, triplet_loss, vnae_terms
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.components import Classifiers
from reid_ray.methods.pretraining import CLASSIFIER_STD, SourceTraining, is_exported_model, supervised_stage
from reid_ray.methods.stage import FeatureCache, LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import HVD, VNAE, Embedder, Gaussian, build_network
from reid_ray.types import Labels

EXTRACTOR = "network.extractor"


class Extractor(nn.Module):
    """Images → x, the un-normalised feature of an embedder."""

    def __init__(self, embedder: Embedder, *, pooled: bool) -> None:
        super().__init__()
        self.embedder = embedder
        self.pooled = pooled

    @property
    def dim(self) -> int:
        return self.embedder.dim

    def embed(self, images: Tensor) -> Tensor:
        """x [N, D]."""
        embedding = self.embedder(images)
        x: Tensor = embedding.pooled if self.pooled else embedding.feature
        return x


class HAVANANetwork(nn.Module):
    """An extractor and the autoencoder on its features; f_μ of the autoencoder computes the retrieval feature."""

    def __init__(self, extractor: Extractor, vnae: VNAE) -> None:
        super().__init__()
        self.extractor = extractor
        self.vnae = vnae

    @property
    def dim(self) -> int:
        return self.extractor.dim

    def embed(self, images: Tensor) -> Tensor:
        """z_μ [N, D], L2-normalised."""
        return self.vnae.embed(self.extractor.embed(images))

    def representations(self, images: Tensor) -> Mapping[str, Tensor]:
        """x, z_μ and z_σ, each [N, D] (fig. 6)."""
        x = self.extractor.embed(images)
        return dict(zip(("features x", "means z_μ", "deviations z_σ"), (x, *self.vnae.encoder(x)), strict=True))


@register_method("havana")
class HAVANA(Method):
    """See `HAVANAConfig` for every number."""

    optional_stages = ("baseline",)

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = settings = cast(HAVANAConfig, config.method)
        self.network_ = cast(HAVANANetwork, self.build(config, "network"))
        dim = self.network_.dim
        self.classifier = Classifiers([dim])
        self.distiller = HVD(
            settings.n_identities or 1,
            dim,
            settings.hidden_dim or dim,
            settings.variation_dim,
            activation=settings.activation,
            covariance_constraint=settings.covariance_constraint,
        )
        baseline = SourceConfig(margin=settings.baseline_margin, label_smoothing=settings.label_smoothing)
        self.baseline = SourceTraining(self.network_.extractor.embedder, baseline, config.seed, collectives)

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        settings = cast(HAVANAConfig, config.method)
        baseline = not is_exported_model(config) if settings.baseline is None else settings.baseline
        known = {"baseline": baseline, "n_identities": settings.n_identities or table.n_identities}
        return config.model_copy(update={"method": settings.model_copy(update=known)})

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        settings = cast(HAVANAConfig, config.method)
        own = ("network.vnae", "classifier", *(("distiller",) if settings.distiller else ()))
        idle = () if settings.distiller else ("distiller",)
        embedder = f"{EXTRACTOR}.embedder"
        baseline = supervised_stage(
            "baseline",
            config.stage_config("baseline"),
            network=embedder,
            classifiers="baseline_classifier",
            data="data",
            target=None,
            frozen=(*own, *idle),
        )
        cached = settings.features == "cached"
        train = StreamSpec(
            {"feature": "feature"} if cached else {"image": "strong"},
            labels=LabelSpec("ground_truth"),
            cache=FeatureCache(EXTRACTOR, view="strong", copies=settings.n_copies) if cached else None,
        )
        vnae = Stage(
            "vnae",
            config.training,
            {"train": train},
            optimizers(config.training, main=own),
            retriever="network",
            frozen=(EXTRACTOR, "baseline_classifier", *idle),
            seed_offset=1,
        )
        return (vnae,) if settings.baseline is False else (baseline, vnae)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        if config.model.branches:
            raise ConfigError("HAVANA's extractor has one branch; set model.branches=[].")
        settings = cast(HAVANAConfig, config.method)
        embedder = cast(Embedder, build_network(config.model, bf16=config.training.precision == "bf16"))
        vnae = VNAE(
            embedder.dim,
            settings.hidden_dim or embedder.dim,
            activation=settings.activation,
            covariance_constraint=settings.covariance_constraint,
        )
        return HAVANANetwork(Extractor(embedder, pooled=settings.feature == "pooled"), vnae)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {
            "network": self.network_,
            "classifier": self.classifier,
            "distiller": self.distiller,
            "baseline_classifier": self.baseline.classifiers,
        }

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:
        if stage == "baseline":
            self.baseline.on_labels(labels["train"])
            return
        generator = torch.Generator().manual_seed(self.config.seed)
        shape = labels["train"].n_clusters, self.network_.dim
        self.classifier.restart([torch.randn(shape, generator=generator) * CLASSIFIER_STD])

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        return self.baseline.updates(batch) if stage == "baseline" else self._vnae_updates(batch)

    def _vnae_updates(self, batch: Batch) -> Iterator[Update]:
        settings, inputs, vnae = self.settings, batch["train"], self.network_.vnae
        x = self._features(inputs.views)
        n, (gather, local) = len(inputs.labels), (self.collectives.all_gather, self.collectives.local_slice)
        noise = local(batch.noise("z", (n, x.shape[1]), like=x))
        z, z_sample, x_decoded = vnae(x, noise)
        gathered = Gaussian(gather(z.mean), gather(z.std))
        (logits,) = self.classifier([gathered.mean])
        terms = {"ce": F.cross_entropy(logits, inputs.labels, label_smoothing=settings.label_smoothing)}
        loss = terms["ce"]
        if settings.triplet != "none":
            terms["triplet"] = self._triplet(gathered, inputs.labels, batch)
            loss = loss + settings.weight_triplet * terms["triplet"]
        known = gather(x), gather(x_decoded), gathered
        if settings.distiller:
            noise = local(batch.noise("v", (n, settings.variation_dim), like=x))
            v, z_decoded = self.distiller(z_sample, local(inputs.labels), noise)
            bound = hvd_terms(
                *known,
                Gaussian(gather(v.mean), gather(v.std)),
                Gaussian(gather(z_decoded.mean), gather(z_decoded.std)),
                covariance_constraint=settings.covariance_constraint,
                kl_reduction=settings.kl_reduction,
            )
        else:
            bound = vnae_terms(*known, kl_reduction=settings.kl_reduction)
        bound = bound._replace(**{name: x.new_zeros(()) for name in settings.without})
        elbo = negative_elbo(bound, beta=settings.weight_divergence, signs=settings.signs)
        yield Update(("main",), loss + settings.weight_elbo * elbo, {**terms, **bound._asdict()})

    def _features(self, views: Mapping[str, Tensor]) -> Tensor:
        """This worker's x [n, D]: cached, or computed by the frozen extractor."""
        if "feature" in views:
            return views["feature"]
        with torch.no_grad():
            return self.network_.extractor.embed(views["image"])

    def _triplet(self, z: Gaussian, labels: Tensor, batch: Batch) -> Tensor:
        settings = self.settings
        if settings.triplet == "mean":
            return triplet_loss(z.mean, labels, margin=settings.margin)
        noise = None
        if settings.divergence == "monte_carlo":
            noise = batch.noise("divergence", (settings.n_samples, *z.mean.shape), like=z.mean)
        return js_triplet_loss(
            *z,
            labels,
            margin=settings.margin,
            divergence=settings.divergence,
            reduction=settings.divergence_reduction,
            noise=noise,
        )
