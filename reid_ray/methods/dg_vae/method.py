"""DG-VAE: dual Gaussian codes, disentangled by swapping them between visible and infrared images.

L = λ_id·L_id + λ_cmtl·L_cmtl + λ_tsr·L_tsr + λ_ambi·L_ambi + λ_disc·L_disc (Eq. 19), in three stages: `task` trains
trunks, identity encoder, classifier and mixture; `generate` freezes them, except the classifier, and trains ambiguity
encoder and decoder; `joint` trains everything. The retrieval feature is the mean of the identity code, computed with
the trunk of the image's modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from reid_ray.config import Config, DGVAEConfig
from reid_ray.data.table import MODALITIES as MODALITY_NAMES
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.losses.adversarial import discriminator_loss, generator_loss
from reid_ray.losses.dg_vae import (
    CrossModalTriplets,
    DgVaeWeights,
    ambiguity_loss,
    cross_modal_triplet_loss,
    draw_triplets,
    hardest_triplets,
    large_margin_loss,
    latent_identity_loss,
    margin_reward,
    mixture_prior_loss,
)
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.dg_vae.networks import build_decoder, build_discriminator, build_encoders
from reid_ray.methods.dg_vae.pieces import (
    MODALITIES,
    apply_to_pieces,
    encode_pieces,
    gather_pieces,
    global_labels,
    global_mean,
    sample_pieces,
)
from reid_ray.methods.dg_vae.swaps import Decoded, Swapper
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import GaussianCode
from reid_ray.models.dg_vae import DgVaeRetriever, MixturePrior


@dataclass(frozen=True)
class Encoded:
    """The identity codes of a batch.

    Attributes:
        maps: this worker's feature maps, by modality.
        code: μ and ln σ² of the global batch.
        local: μ and ln σ² of this worker's pieces.
        samples: d of this worker's pieces (μ if codes are not sampled).
        sample: d of the global batch.
        labels, modality: int64 [B].
    """

    maps: list[Tensor]
    code: GaussianCode
    local: list[GaussianCode]
    samples: list[Tensor]
    sample: Tensor
    labels: Tensor
    modality: Tensor


@register_method("dg_vae")
class DGVAE(Method):
    """See `DGVAEConfig` for every number."""

    optional_stages = ("generate",)
    optional_optimizers = ("prior", "discriminator")

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = settings = cast(DGVAEConfig, config.method)
        encoders = build_encoders(config, settings)
        self.retriever = DgVaeRetriever(encoders.trunks, encoders.identity_encoder)
        self.ambiguity_encoder = encoders.ambiguity_encoder
        self.classifier = encoders.classifier
        self.prior = MixturePrior(settings.n_identities or 1, settings.identity_dim, margin=settings.prior_margin)
        map_channels = encoders.trunks.visible.backbone.out_channels
        self.decoder = build_decoder(config, settings, map_channels)
        self.discriminator = build_discriminator(settings, map_channels) if settings.discriminator else None
        self.together = config.model.bn_group is None
        self.swapper = Swapper(self.decoder, self.retriever, self.ambiguity_encoder, settings, together=self.together)

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        settings = cast(DGVAEConfig, config.method)
        check_shared_identities(table)
        known = {"n_identities": settings.n_identities or table.n_identities}
        return config.model_copy(update={"method": settings.model_copy(update=known)})

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        settings = cast(DGVAEConfig, config.method)
        prior = ("prior",) if settings.has_mixture else ()
        idle = () if settings.has_mixture else ("prior",)
        generators = ("ambiguity_encoder", "decoder")
        discriminator = ("discriminator",) if settings.discriminator else ()
        streams = {
            view: {
                name: StreamSpec({"image": view}, labels=LabelSpec("ground_truth"), modality=name)
                for name in MODALITIES
            }
            for view in ("strong", "flip")
        }
        later = streams["strong" if settings.erasing_stages == "all" else "flip"]

        task, generate = config.stage_config("task"), config.stage_config("generate")
        stages = [
            Stage(
                "task",
                task,
                streams["strong"],
                optimizers(task, **present(main=("retriever",), classifier=("classifier",), prior=prior)),
                retriever="retriever",
                frozen=(*generators, *discriminator, *idle),
            )
        ]
        if settings.swap:
            parts = present(main=generators, classifier=("classifier",), discriminator=discriminator)
            stages.append(
                Stage(
                    "generate",
                    generate,
                    later,
                    optimizers(generate, **parts),
                    retriever="retriever",
                    frozen=("retriever", "prior"),
                    evaluated=False,
                    renders=True,
                    seed_offset=1,
                )
            )
        parts = present(
            main=("retriever", *(generators if settings.swap else ())),
            classifier=("classifier",),
            prior=prior,
            discriminator=discriminator if settings.swap else (),
        )
        stages.append(
            Stage(
                "joint",
                config.training,
                later,
                optimizers(config.training, **parts),
                retriever="retriever",
                frozen=(*idle, *(() if settings.swap else (*generators, *discriminator))),
                renders=settings.swap,
                seed_offset=2,
            )
        )
        return tuple(stages)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        encoders = build_encoders(config, cast(DGVAEConfig, config.method))
        return DgVaeRetriever(encoders.trunks, encoders.identity_encoder)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        names = ("retriever", "ambiguity_encoder", "classifier", "prior", "decoder", "discriminator")
        return {name: module for name in names if (module := getattr(self, name)) is not None}

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        generates = stage == "generate"
        with torch.set_grad_enabled(not generates):
            encoded = self._encode(batch)
        triplets = self._triplets(encoded, batch)
        terms = {} if generates else self._task_terms(encoded, triplets)
        loss: Tensor | None = None
        if stage != "task" and self.settings.swap:
            swapped = self._swap_triplets(encoded, triplets, batch)
            ambiguity, decoded = self._decode(encoded, swapped, batch)
            if self.discriminator is not None:
                yield self._discriminator_update(encoded, decoded, batch)
            terms |= self._swap_terms(encoded, swapped, ambiguity, decoded, batch)
            if self.discriminator is not None:
                loss = self.settings.weight_adversarial * terms["adversarial"]
        weighted = {name: term for name, term in terms.items() if name != "adversarial"}
        total = self._weights(stage).total(weighted)
        names = ("main", "classifier", *(("prior",) if self.settings.has_mixture and not generates else ()))
        yield Update(names, total if loss is None else total + loss, terms)

    def render(self, stage: str, batch: Batch) -> Mapping[str, Tensor]:
        return self.swapper.render({name: batch[name].views["image"] for name in MODALITIES})

    def _encode(self, batch: Batch) -> Encoded:
        trunks, encoder = self.retriever.trunks, self.retriever.identity_encoder
        maps = [trunks.visible(batch["visible"].views["image"]), trunks.infrared(batch["infrared"].views["image"])]
        local = encode_pieces(encoder, maps, together=self.together)
        sampled = self.settings.identity_code == "sampled"
        samples = sample_pieces(local, "identity", batch, self.collectives, sampled=sampled)
        code = GaussianCode(*(gather_pieces(parts, self.collectives) for parts in zip(*local, strict=True)))
        sample = gather_pieces(samples, self.collectives)
        return Encoded(maps, code, local, samples, sample, *global_labels(batch))

    def _triplets(self, encoded: Encoded, batch: Batch) -> CrossModalTriplets:
        if self.settings.triplets == "hardest":
            return hardest_triplets(encoded.code.mean, encoded.labels, encoded.modality)
        return draw_triplets(encoded.labels, encoded.modality, cpu_generator(batch, "triplets"))

    def _swap_triplets(self, encoded: Encoded, triplets: CrossModalTriplets, batch: Batch) -> CrossModalTriplets:
        """The triplets whose codes are swapped: the same ones, or new ones within one modality, as configured."""
        if self.settings.swap_modality == "cross":
            return triplets
        generator = cpu_generator(batch, "triplets/same")
        return draw_triplets(encoded.labels, encoded.modality, generator, partners="same")

    def _task_terms(self, encoded: Encoded, triplets: CrossModalTriplets) -> dict[str, Tensor]:
        settings, labels, (mean, log_variance) = self.settings, encoded.labels, encoded.code
        sampled = settings.identity_code == "sampled" and settings.weight_aux > 0
        mean_logits = self._logits([code.mean for code in encoded.local])
        sample_logits = self._logits(encoded.samples) if sampled else None
        terms = {
            "identity": latent_identity_loss(mean_logits, sample_logits, labels, aux_weight=settings.weight_aux),
            "triplet": cross_modal_triplet_loss(mean, triplets, encoded.modality, margin=settings.margin),
        }
        if sampled:
            on_samples = cross_modal_triplet_loss(encoded.sample, triplets, encoded.modality, margin=settings.margin)
            terms["triplet"] = terms["triplet"] + settings.weight_aux * on_samples
        if settings.identity_prior == "gaussian" and settings.weight_discriminable:
            terms["mixture"] = ambiguity_loss(mean, log_variance)
        if not settings.has_mixture:
            return terms
        terms["mixture"] = mixture_prior_loss(
            mean,
            log_variance,
            encoded.sample,
            self.prior.means,
            labels,
            logdet=settings.gmm_logdet,
            form=settings.gmm_form,
            reduction=settings.latent_reduction,
        )
        if settings.weight_large_margin:
            terms["large_margin"] = large_margin_loss(
                mean,
                log_variance,
                encoded.sample,
                self.prior.means,
                self.prior.margins,
                labels,
                form=settings.lmc_form,
                reduction=settings.latent_reduction,
            )
            terms["margin"] = margin_reward(self.prior.margins)
        return terms

    def _logits(self, pieces: list[Tensor]) -> Tensor:
        """D^C of this worker's pieces, gathered."""
        return gather_pieces(apply_to_pieces(self.classifier, pieces, together=self.together), self.collectives)

    def _decode(
        self, encoded: Encoded, triplets: CrossModalTriplets, batch: Batch
    ) -> tuple[list[GaussianCode], Decoded]:
        """The ambiguity codes of this worker's pieces, and the outputs decoded from its anchors' triplets."""
        codes = encode_pieces(self.ambiguity_encoder, encoded.maps, together=self.together)
        sampled = self.settings.ambiguity_code == "sampled"
        samples = sample_pieces(codes, "ambiguity", batch, self.collectives, sampled=sampled)
        ambiguity = gather_pieces(samples, self.collectives)
        return codes, self.swapper.decode(encoded.sample, ambiguity, triplets, batch, self.collectives)

    def _swap_terms(
        self,
        encoded: Encoded,
        triplets: CrossModalTriplets,
        codes: list[GaussianCode],
        decoded: Decoded,
        batch: Batch,
    ) -> dict[str, Tensor]:
        settings = self.settings
        images = [batch[name].views["image"] for name in MODALITIES]
        targets = gather_pieces(self.swapper.targets(encoded.maps, images), self.collectives)
        local = self.swapper.losses(decoded, targets, encoded.labels, triplets, self.classifier, self.collectives)
        terms = {name: global_mean(value, self.collectives) for name, value in local.items()}
        if settings.ambiguity_code == "sampled":
            whole = (gather_pieces(parts, self.collectives) for parts in zip(*codes, strict=True))
            terms["ambiguity"] = ambiguity_loss(*whole)
        if self.discriminator is not None:
            scores = apply_to_pieces(self.discriminator, decoded.pieces, together=True)
            fooled = generator_loss([torch.cat(scores)], kind="log-nonsaturating")
            terms["adversarial"] = global_mean(fooled, self.collectives)
        return terms

    def _discriminator_update(self, encoded: Encoded, decoded: Decoded, batch: Batch) -> Update:
        """Binary cross-entropy of real maps (or images) against all decoded ones."""
        discriminator = cast(nn.Module, self.discriminator)
        images = [batch[name].views["image"] for name in MODALITIES]
        real = torch.cat(self.swapper.targets(encoded.maps, images)).detach()
        fake = torch.cat(decoded.pieces).detach()
        local = discriminator_loss([discriminator(real)], [discriminator(fake)], kind="log")
        loss = global_mean(local, self.collectives)
        return Update(("discriminator",), loss, {"discriminator": loss})

    def _weights(self, stage: str) -> DgVaeWeights:
        settings = self.settings
        return DgVaeWeights(
            identity=settings.weight_identity,
            triplet=settings.weight_triplet,
            aux=settings.weight_aux,
            decoded_identity=settings.weight_decoded_identity,
            cycle=settings.weight_cycle,
            reconstruction=settings.weight_reconstruction,
            swap=settings.weight_swap,
            mixture=settings.weight_mixture,
            large_margin=settings.weight_large_margin,
            margin=settings.weight_margin,
            discriminable=settings.weight_discriminable,
            ambiguity=settings.weight_ambiguity_generate if stage == "generate" else settings.weight_ambiguity,
        )


def present(**modules: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The optimizers that have modules to step."""
    return {name: paths for name, paths in modules.items() if paths}


def cpu_generator(batch: Batch, name: str) -> torch.Generator:
    """A PyTorch generator seeded with the key of the step, the same on every worker."""
    return torch.Generator().manual_seed(int(batch.rng(name).integers(2**62)))


def check_shared_identities(table: ImageTable) -> None:
    """Raise `DataError` if fewer than two people have training images in both modalities.

    A triplet needs a negative and a positive in the other modality.
    """
    pids, modality = table.column("pid"), table.column("modality")
    shared = set.intersection(*(set(pids[modality == code].tolist()) for code in range(len(MODALITY_NAMES)))) - {-1}
    if len(shared) < 2:
        raise DataError(
            f"{table.name} has {len(shared)} people with visible and with infrared training images; DG-VAE needs two "
            f"or more."
        )
