"""IS-GAN: identity-related and -unrelated codes, disentangled by identity shuffling (Eom & Ham, NeurIPS 2019).

Three stages (§4.1). `identity` trains backbone and E_R by L_R (Eq. 1). `disentangle` freezes them and trains E_U, the
generator G and the discriminator D. `joint` trains everything on all losses (Eq. 8). Three images are generated for
each image: from its own codes, with the identity-related code of another image of the same identity, and with some
parts of that code. The target of all three is the image itself. E_R retrieves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from reid_ray.config import Config, ISGANConfig
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError
from reid_ray.losses import generator_loss
from reid_ray.losses.is_gan import (
    STAGE_WEIGHTS,
    IsGanWeights,
    class_loss,
    discriminator_domain_loss,
    draw_part_mask,
    draw_positives,
    identity_shuffling_loss,
    part_identity_loss,
    part_shuffling_loss,
    shuffle_parts,
    unrelated_kl_loss,
)
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.components import dropout_masks
from reid_ray.methods.is_gan.grids import Codes, render_grids
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import GroupBatchNorm
from reid_ray.models.is_gan import (
    IsGanDiscriminator,
    IsGanEncoders,
    IsGanGenerator,
    IsGanRetriever,
    Judgement,
    build_is_gan_encoders,
    squash,
    unsquash,
)
from reid_ray.models.precision import bf16_autocast

ENCODERS = ("retriever", "classifiers")
GENERATORS = ("unrelated", "generator", "discriminator")


@register_method("is_gan")
class ISGAN(Method):
    """See `ISGANConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = settings = cast(ISGANConfig, config.method)
        self.n_identities = settings.n_identities or 1
        self.bf16 = config.training.precision == "bf16"
        encoders = build_encoders(config)
        self.retriever = IsGanRetriever(encoders.backbone, encoders.identity_encoder, flip_test=settings.flip_test)
        self.classifiers = encoders.classifiers
        self.unrelated = encoders.unrelated_encoder
        self.generator = IsGanGenerator(
            self.n_identities,
            partial(GroupBatchNorm, group=config.model.bn_group, buffers=config.model.bn_buffers),
            identity_dim=self.retriever.dim,
            unrelated_dim=self.unrelated.dim,
            noise_dim=settings.noise_dim,
            channels=settings.generator_channels,
            start=generator_start(config),
            dropout_rate=settings.dropout,
        )
        self.discriminator = IsGanDiscriminator(
            self.n_identities,
            channels=settings.discriminator_channels,
            heads=settings.heads,
            input_tanh=settings.discriminator_tanh,
        )

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        settings = cast(ISGANConfig, config.method)
        n_identities = settings.n_identities or table.n_identities
        return config.model_copy(update={"method": settings.model_copy(update={"n_identities": n_identities})})

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        settings = cast(ISGANConfig, config.method)
        truth = LabelSpec("ground_truth")
        first = config.stage_config("identity") if settings.generate else config.training
        identity = Stage(
            "identity",
            first,
            {"train": StreamSpec({"image": "strong"}, labels=truth)},
            optimizers(first, networks=ENCODERS),
            retriever="retriever",
            frozen=GENERATORS,
        )
        if not settings.generate:
            return (identity,)
        streams = {"train": StreamSpec({"image": "flip"}, labels=truth)}
        second = config.stage_config("disentangle")
        disentangle = Stage(
            "disentangle",
            second,
            streams,
            optimizers(second, networks=("unrelated", "generator"), discriminator=("discriminator",)),
            retriever="retriever",
            frozen=ENCODERS,
            evaluated=False,
            renders=True,
            seed_offset=1,
        )
        joint = Stage(
            "joint",
            config.training,
            streams,
            optimizers(
                config.training, networks=(*ENCODERS, "unrelated", "generator"), discriminator=("discriminator",)
            ),
            retriever="retriever",
            resumes=("discriminator",),
            renders=True,
            seed_offset=2,
        )
        return identity, disentangle, joint

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        encoders = build_encoders(config)
        flip_test = cast(ISGANConfig, config.method).flip_test
        return IsGanRetriever(encoders.backbone, encoders.identity_encoder, flip_test=flip_test)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {name: getattr(self, name) for name in (*ENCODERS, *GENERATORS)}

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        return self._identity_updates(batch) if stage == "identity" else self._shuffling_updates(stage, batch)

    def _identity_updates(self, batch: Batch) -> Iterator[Update]:
        inputs = batch["train"]
        shared = self.retriever.backbone(inputs.views["image"])
        loss = self._identity_loss(self.collectives.all_gather(self.retriever.identity_encoder(shared)), inputs.labels)
        yield Update(("networks",), loss, {"identity": loss})

    def _shuffling_updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        settings, inputs, weights = self.settings, batch["train"], stage_weights(self.settings, stage)
        images, labels, gather = inputs.views["image"], inputs.labels, self.collectives.all_gather
        shared = self.retriever.backbone(images)
        identity, unrelated = self.retriever.identity_encoder(shared), self.unrelated(shared)
        everyone = gather(identity)
        generated = self._generated(batch, identity, everyone, unrelated.sample(self._noise(batch, unrelated.mean)))
        if settings.adversarial:
            real = self._judged(images, generated=False)
            fake = {name: self._judged(made.detach(), generated=True) for name, made in generated.items()}
            terms = self._discriminator_terms(real, fake, labels, batch)
            by = replace(weights, domain=1.0, classes=weights.discriminator_classes)
            yield Update(("discriminator",), by.total(terms), terms)
        target = squash(images)
        terms = {"kl": unrelated_kl_loss(*map(gather, unrelated), reduction=settings.kl_reduction)}
        terms["shuffling"] = self._mean(identity_shuffling_loss(generated["auto"], generated["swap"], target))
        if "part" in generated:
            terms["part_shuffling"] = self._mean(part_shuffling_loss(generated["part"], target))
        if stage == "joint":
            terms["identity"] = self._identity_loss(everyone, labels)
        if settings.adversarial:
            fake = {name: self._judged(made, generated=True) for name, made in generated.items()}
            terms |= self._generator_terms(fake, labels)
        yield Update(("networks",), weights.total(terms), terms)

    def _identity_loss(self, codes: Tensor, labels: Tensor) -> Tensor:
        """L_R of the global batch."""
        return part_identity_loss(self.classifiers(codes), labels, reduction=self.settings.ce_reduction)

    def _noise(self, batch: Batch, codes: Tensor) -> Tensor:
        """This worker's noise [n, K, u] for samples of the identity-unrelated Gaussians."""
        shape = len(batch["train"].labels), *codes.shape[1:]
        return self.collectives.local_slice(batch.noise("unrelated", shape, like=codes))

    def _generated(self, batch: Batch, own: Tensor, everyone: Tensor, unrelated: Tensor) -> dict[str, Tensor]:
        """Reconstructions of this worker's images, by set: `auto`, `swap` and, if it has a weight, `part`.

        Args:
            own: φ_R [n, K, p] of this worker's images.
            everyone: φ_R [B, K, p] of the global batch, from which the positives are taken.
            unrelated: φ_U [n, K, u], the same in every set.
        """
        settings, labels, local = self.settings, batch["train"].labels, self.collectives.local_slice
        positives = draw_positives(labels, _generator(batch, "positives"), pairs=settings.pairs)
        positive = everyone.index_select(0, local(positives))
        codes = {"auto": own, "swap": positive}
        if settings.weight_part_shuffling:
            mask = draw_part_mask(own.shape[1], _generator(batch, "parts"), part_shuffle=settings.part_shuffle)
            codes["part"] = shuffle_parts(own, positive, mask)
        classes, made = self._one_hot(local(labels), own), {}
        for name, code in codes.items():
            noise = local(batch.noise(f"generator/{name}", (len(labels), settings.noise_dim), like=own))
            shapes = self.generator.mask_shapes(len(labels))
            masks = dropout_masks(batch, f"dropout/{name}", shapes, settings.dropout, self.collectives, own.device)
            made[name] = self._generate(code, unrelated, noise, classes, masks)
        return made

    def _generate(
        self, identity: Tensor, unrelated: Tensor, noise: Tensor, classes: Tensor, masks: list[Tensor] | None
    ) -> Tensor:
        """G in the configured precision; images [n, 3, H, W] in −1 … 1."""
        with bf16_autocast(identity, self.bf16):
            images: Tensor = self.generator(identity, unrelated, noise, classes, masks)
        return images.to(identity.dtype)

    def _one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        return (labels[:, None] == torch.arange(self.n_identities, device=labels.device)).to(like.dtype)

    def _judged(self, images: Tensor, *, generated: bool) -> Judgement:
        """D's output for the global batch, given this worker's images."""
        with bf16_autocast(images, self.bf16):
            judgement = self.discriminator(images, generated=generated)
        return Judgement(*(self.collectives.all_gather(logits.to(images.dtype)) for logits in judgement))

    def _discriminator_terms(
        self, real: Judgement, fake: Mapping[str, Judgement], labels: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        settings, terms = self.settings, {}
        if settings.weight_domain:

            def noise(name: str, logits: Tensor) -> Tensor:
                return torch.from_numpy(batch.rng(f"target/{name}").random(logits.shape)).to(logits)

            noisy = settings.label_noise
            terms["domain"] = discriminator_domain_loss(
                real.domain,
                [judgement.domain for judgement in fake.values()],
                real_noise=noise("real", real.domain) if noisy else None,
                generated_noise=[noise(name, made.domain) for name, made in fake.items()] if noisy else None,
            )
        if settings.weight_classes:
            terms["classes"] = class_loss([real.classes, *self._class_logits(fake)], labels)
        return terms

    def _generator_terms(self, fake: Mapping[str, Judgement], labels: Tensor) -> dict[str, Tensor]:
        settings, terms = self.settings, {}
        if settings.weight_domain:
            terms["domain"] = generator_loss([made.domain for made in fake.values()], kind=settings.domain_loss)
        if settings.weight_classes:
            terms["classes"] = class_loss(self._class_logits(fake), labels)
        return terms

    def _class_logits(self, fake: Mapping[str, Judgement]) -> list[Tensor]:
        """Class logits of the sets that the class loss includes."""
        return [made.classes for name, made in fake.items() if name != "auto" or self.settings.auto_in_class_loss]

    def _mean(self, local: Tensor) -> Tensor:
        """The mean over the global batch, given the mean over this worker's images."""
        return self.collectives.all_gather(local[None]).mean()

    def render(self, stage: str, batch: Batch) -> Mapping[str, Tensor]:
        """Interpolation (fig. 1), part swap (fig. 5) and swap matrix, without noise and with the mean of φ_U."""
        inputs = batch["train"]
        images = inputs.views["image"]
        shared = self.retriever.backbone(images)
        identity, unrelated = self.retriever.identity_encoder(shared), self.unrelated(shared).mean

        def generate(codes: Codes) -> Tensor:
            noise = codes.identity.new_zeros(len(codes.identity), self.settings.noise_dim)
            return unsquash(self._generate(codes.identity, codes.unrelated, noise, codes.classes, None))

        codes = Codes(identity, unrelated, self._one_hot(inputs.labels, identity))
        return render_grids(images, codes, inputs.labels.tolist(), generate, self.settings.stripes)


def build_encoders(config: Config) -> IsGanEncoders:
    """The networks whose input is images, with initial weights."""
    if config.model.branches:
        raise ConfigError("IS-GAN has part branches of its own; set model.branches=[] and choose method.stripes.")
    settings = cast(ISGANConfig, config.method)
    return build_is_gan_encoders(
        config.model,
        settings.n_identities or 1,
        stripes=settings.stripes,
        identity_dim=settings.identity_dim,
        unrelated_dim=settings.unrelated_dim,
        unrelated_pooling=settings.unrelated_pooling,
        bf16=config.training.precision == "bf16",
    )


def generator_start(config: Config) -> tuple[int, int]:
    """Height and width of the generator's first map, which the other layers double; `ConfigError` if none fits."""
    settings, height, width = cast(ISGANConfig, config.method), config.data.height, config.data.width
    factor = 2 ** (len(settings.generator_channels) - 2)
    if height % factor or width % factor:
        raise ConfigError(
            f"IS-GAN's generator makes images whose height and width are multiples of {factor}, not "
            f"{height}×{width}; change data.height and data.width, or take fewer method.generator_channels."
        )
    reduced = 2 ** len(settings.discriminator_channels)
    rows, columns = height // reduced, width // reduced
    if rows * columns < 2 or (settings.heads == "kernel4" and min(rows, columns) < 3):
        raise ConfigError(
            f"IS-GAN's discriminator leaves a map of {rows}×{columns} of images of {height}×{width}, too small for its "
            f"heads; take fewer method.discriminator_channels or larger images."
        )
    return height // factor, width // factor


def stage_weights(settings: ISGANConfig, stage: str) -> IsGanWeights:
    """The loss weights of a generative stage."""
    return replace(
        STAGE_WEIGHTS[stage],
        identity=settings.weight_identity if stage == "joint" else 0.0,
        kl=settings.weight_kl if stage == "joint" else settings.weight_kl_disentangle,
        shuffling=settings.weight_shuffling,
        part_shuffling=settings.weight_part_shuffling,
        domain=settings.weight_domain,
        classes=settings.weight_classes,
        discriminator_classes=settings.weight_classes_discriminator,
    )


def _generator(batch: Batch, name: str) -> torch.Generator:
    """A PyTorch generator with the same numbers on every worker."""
    return torch.Generator().manual_seed(int(batch.rng(name).integers(2**63)))
