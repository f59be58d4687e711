"""GCL: joint generative and contrastive learning (Chen et al., CVPR 2021; thesis ch. 5).

An identity encoder E_id, trained by an earlier run or stage; a generator G that makes images of a person from an
identity code and the projection of a body mesh; discriminators; and a memory with a row f/‖f‖ for each image.

* Stage `generate`: E_id is frozen; there are no labels. L = 5·L_img + 5·L_feat + L_adv (Eq. 5.1-5.3).
* Stage `joint`: L_vi + L'_vi + L''_vi (5.6-5.8) are added, and E_id is trained too. Labels are clusters of the memory
  at the start of each epoch, so that extraction is needed only once, to initialise the memory.

In each batch the discriminators step first; the generator's losses use the updated discriminators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import Config, GCLConfig, SourceConfig
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError
from reid_ray.losses import (
    ContrastDraws,
    discriminator_loss,
    draw_contrast,
    feature_reconstruction_loss,
    generator_loss,
    image_reconstruction_loss,
    memory_groups,
    most_negatives,
    original_contrast_loss,
    r1_penalty,
    scaled_negatives,
    update_instance_memory_,
    view_contrast_losses,
)
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.components import BufferDict, weighted_sum
from reid_ray.methods.gcl import sheets
from reid_ray.methods.gcl.warmup import ClusterWarmup, WarmupNetwork, has_warmup, warmup_stages
from reid_ray.methods.pretraining import (
    SourceTraining,
    has_source_stage,
    is_exported_model,
    resolve_source_stage,
)
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import Embedder, GroupBatchNorm, build_embedder
from reid_ray.models.gcl import IdentityEncoder, MultiScaleDiscriminator, ViewGenerator
from reid_ray.models.weights import load_model_file
from reid_ray.types import FloatArray, IntArray, Labels

N_FAKES = 3
"""Generated views of an image: x'_ori, x'_new and x''_ori."""

TURNS = ("45", "90", "135", "180", "225", "270", "315")
"""Angles of a rotation sheet, in addition to 0."""


class Views(NamedTuple):
    """A batch of images, the views generated from them, and E_id's codes and features of both (this worker's slice).

    Attributes:
        reconstructed: x'_ori [n, 3, H, W], from the image's own structure and code.
        novel: x'_new, from the novel structure.
        cycled: x''_ori, from the own structure and the code of `novel`.
        codes: f_id of the images, [n, 4·C].
        of_reconstructed, of_novel, of_cycled: codes of the generated views; the first only if a loss reads it.
        feature: f of the images [n, D].
        novel_feature: f_new.
    """

    reconstructed: Tensor
    novel: Tensor
    cycled: Tensor
    codes: Tensor
    of_reconstructed: Tensor
    of_novel: Tensor
    of_cycled: Tensor
    feature: Tensor
    novel_feature: Tensor


@register_method("gcl")
class GCL(Method):
    """See `GCLConfig` for every number."""

    optional_stages = ("warmup", "generate")

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        if config.labels.staleness:
            raise ConfigError("GCL clusters its memory, so labels are never stale; set labels.staleness=0.")
        if config.labels.source_weight:
            raise ConfigError("GCL's labels come from its memory alone; set labels.source_weight=0.")
        self.settings = settings = cast(GCLConfig, config.method)
        self.identity = cast(IdentityEncoder, self.build(config, "identity"))
        self.memory = BufferDict()
        self.generator: ViewGenerator | None = None
        self.discriminator: MultiScaleDiscriminator | None = None
        if settings.generation:
            self.generator = ViewGenerator(
                self.identity.code_dim,
                width=settings.generator_width,
                dilations=settings.dilations,
                hidden=settings.hidden_dim,
                code_split=settings.code_split,
            )
            self.discriminator = MultiScaleDiscriminator(settings.discriminator_width, settings.n_scales)
        self.warmup = ClusterWarmup(self.identity, self.memory, collectives)
        self.source: SourceTraining | None = None
        if has_source_stage(config):
            self.source = SourceTraining(WarmupNetwork(self.identity), SourceConfig(), config.seed, collectives)
        self._n_negatives: int | None = None

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        config = resolve_source_stage(config)
        settings = cast(GCLConfig, config.method)
        known = settings.model_copy(update={"warmup": has_warmup(config, settings)})
        return config.model_copy(update={"method": known})

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        settings = cast(GCLConfig, config.method)
        generators = ("generator", "discriminator") if settings.generation else ()
        source = ("source_classifiers",) if has_source_stage(config) else ()
        joint = config.training
        if not settings.generation:
            train = StreamSpec({"image": "strong" if settings.augment else "resize"}, labels=_from_memory())
            own = optimizers(joint, identity=("identity",))
            main = Stage("joint", joint, {"train": train}, own, "identity", frozen=source, seed_offset=2)
            return (*warmup_stages(config, settings, ()), main)
        views = {"image": "resize", "structure": "projection@0", "novel": f"projection@{settings.angles}"}
        generate = config.stage_config("generate")
        turns = {view: view for view in (f"{sheets.PROJECTION}{angle}" for angle in TURNS)}
        stages = (
            Stage(
                "generate",
                generate,
                {"train": StreamSpec(views)},
                optimizers(generate, generator=("generator",), discriminator=("discriminator",)),
                retriever="identity",
                frozen=("identity", *source),
                evaluated=False,
                seed_offset=1,
                renders=True,
                rendered_views=turns,
            ),
            Stage(
                "joint",
                joint,
                {"train": StreamSpec(views, labels=_from_memory())},
                optimizers(joint, identity=("identity",), **{name: (name,) for name in generators}),
                retriever="identity",
                frozen=source,
                resumes=generators,
                seed_offset=2,
                renders=True,
                rendered_views=turns,
            ),
        )
        return (*warmup_stages(config, settings, generators), *stages)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        """E_id, with the weights of an earlier run if `model.weights` is its exported model."""
        if config.model.branches:
            raise ConfigError("GCL's identity encoder has one branch; set model.branches=[].")
        settings, weights = cast(GCLConfig, config.method), config.model.weights_of()
        exported = is_exported_model(config)
        model = config.model.model_copy(update={"weights": None}) if exported else config.model
        embedder: Embedder = build_embedder(model, bf16=config.training.precision == "bf16")
        if settings.embedding_dim is None:
            encoder = IdentityEncoder.around(embedder)
        else:
            norm = partial(GroupBatchNorm, group=model.bn_group, buffers=model.bn_buffers)
            dim = settings.embedding_dim
            encoder = IdentityEncoder.with_embedding(embedder.backbone, norm, dim=dim, bf16=embedder.bf16)
        if exported:
            load_model_file(encoder, str(weights))
        return encoder

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        optional: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "source_classifiers": self.source.classifiers if self.source else None,
        }
        made = {name: module for name, module in optional.items() if module is not None}
        return {"identity": self.identity, "memory": self.memory, **made}

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:
        train = labels["train"]
        if stage == "source" and self.source is not None:
            self.source.on_labels(train)
        elif stage == "warmup":
            self.warmup.on_labels(train)
        elif stage == "joint":
            if train.features is not None:  # the first labels, which come from extracted features
                self.memory.set(rows=F.normalize(torch.tensor(train.features)))
            groups, sizes = memory_groups(train.labels)
            self.memory.set_arrays(groups=groups, sizes=sizes)
            self._n_negatives = self._negatives_among(sizes)

    def memory_features(self, stage: str) -> FloatArray | None:
        if stage != "joint" or "rows" not in self.memory:
            return None
        return np.asarray(F.normalize(self.memory["rows"].float()).cpu().numpy())

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        if stage == "source" and self.source is not None:
            return self.source.updates(batch)
        if stage == "warmup":
            return self.warmup.updates(batch)
        return self._generative_updates(stage, batch) if self.settings.generation else self._contrastive_updates(batch)

    def render(self, stage: str, batch: Batch) -> Mapping[str, Tensor]:
        """The grids of the thesis's figures, and a panel with the images of a training step."""
        assert self.generator is not None
        views, (encoder, generator) = batch["train"].views, (self.identity, self.generator)
        return {
            "rotation": sheets.rotation_sheet(encoder, generator, views),
            "interpolation": sheets.interpolation_sheet(encoder, generator, views),
            "swap": sheets.swap_matrix(encoder, generator, views),
            "panel": sheets.training_panel(encoder, generator, views),
        }

    # Steps

    def _generative_updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        settings, inputs = self.settings, batch["train"]
        images = inputs.views["image"]
        views = self._views(images, inputs.views["structure"], inputs.views["novel"])
        fakes = (views.reconstructed, views.novel, views.cycled)
        yield self._discriminator_update(images, fakes)

        assert self.discriminator is not None
        adversarial = generator_loss(*_scores(self.discriminator, fakes), kind=settings.gan_loss)
        feature = feature_reconstruction_loss(
            views.codes,
            reconstructed=views.of_reconstructed,
            novel=views.of_novel,
            cycled=views.of_cycled,
            views=settings.feature_views,
        )
        image = image_reconstruction_loss(images, views.reconstructed, views.cycled)
        terms = {"image": self._mean(image), "feature": self._mean(feature), "adversarial": self._mean(adversarial)}
        weights = {
            "image": settings.weight_image,
            "feature": settings.weight_feature,
            "adversarial": settings.weight_adversarial,
        }
        if stage == "generate":
            yield Update(("generator",), weighted_sum(terms, weights), terms)
            return
        features, novel = (self.collectives.all_gather(each) for each in (views.feature, views.novel_feature))
        contrast = view_contrast_losses(
            features,
            novel,
            inputs.rows,
            self.memory["rows"],
            self._draws(batch),
            temperature=settings.temperature,
            instance_positive=settings.instance_positive,
            negatives_from=settings.negatives_from,
        )
        terms |= contrast._asdict()
        weights |= {
            "original": settings.weight_original,
            "instance": settings.weight_instance,
            "generated": settings.weight_generated,
        }
        yield Update(("identity", "generator"), weighted_sum(terms, weights), terms)
        self._move(features, inputs.rows)

    def _contrastive_updates(self, batch: Batch) -> Iterator[Update]:
        """L_vi^woGAN: without generated images; positives and negatives of the image's own feature."""
        inputs = batch["train"]
        features = self.collectives.all_gather(self.identity(inputs.views["image"]).feature)
        temperature = self.settings.temperature
        loss = original_contrast_loss(features, self.memory["rows"], self._draws(batch), temperature=temperature)
        yield Update(("identity",), loss, {"original": loss})
        self._move(features, inputs.rows)

    def _views(self, images: Tensor, structure: Tensor, novel: Tensor) -> Views:
        """Generate the three views; nothing is detached, so that gradients reach E_id both directly and through G."""
        assert self.generator is not None
        generator, encoder = self.generator, self.identity
        codes, feature = encoder(images)
        own = generator.structure(structure)
        reconstructed = generator.decode(own, codes)
        turned = generator(novel, codes)
        with self._of_generated_views():
            reads_first = self.settings.feature_views == "ori+cycle"
            of_reconstructed = encoder(reconstructed).code if reads_first else codes
            of_novel, novel_feature = encoder(turned)
            cycled = generator.decode(own, of_novel)
            of_cycled = encoder(cycled).code
        return Views(
            reconstructed, turned, cycled, codes, of_reconstructed, of_novel, of_cycled, feature, novel_feature
        )

    def _of_generated_views(self) -> AbstractContextManager[None]:
        return _kept_statistics(self.identity) if self.settings.bn_views == "real" else nullcontext()

    def _discriminator_update(self, images: Tensor, fakes: tuple[Tensor, ...]) -> Update:
        assert self.discriminator is not None
        settings, images = self.settings, images.detach().requires_grad_()
        real = self.discriminator(images)
        generated = _scores(self.discriminator, tuple(fake.detach() for fake in fakes))
        terms = {"adversarial": self._mean(discriminator_loss(real, *generated, kind=settings.gan_loss))}
        if settings.r1_weight:
            terms["r1"] = self._mean(r1_penalty(images, real))
        weights = {"adversarial": 1.0, "r1": N_FAKES * settings.r1_weight}
        return Update(("discriminator",), weighted_sum(terms, weights), terms)

    def _mean(self, loss: Tensor) -> Tensor:
        """The loss of the global batch from a mean over this worker's images; all workers have equally many."""
        return self.collectives.all_gather(loss[None]).mean()

    # Memory

    def _draws(self, batch: Batch) -> ContrastDraws:
        memory, rows = self.memory, batch["train"].rows
        if self._n_negatives is None:  # a resumed run
            self._n_negatives = self._negatives_among(memory["sizes"].cpu().numpy())
        n_rows = len(memory["rows"])
        keys = batch.rng("contrast").random((2, len(rows), n_rows), dtype=np.float32)
        return draw_contrast(
            rows,
            memory["groups"],
            torch.from_numpy(keys).to(memory["rows"].device),
            n_negatives=self._n_negatives,
            positives=self.settings.positives,
        )

    def _negatives_among(self, sizes: IntArray) -> int:
        """K for clusters of these sizes."""
        wanted = self.settings.n_negatives or scaled_negatives(int(sizes.sum()))
        return min(wanted, most_negatives(sizes))

    def _move(self, features: Tensor, rows: Tensor) -> None:
        settings = self.settings
        update_instance_memory_(
            self.memory["rows"], features.detach(), rows, momentum=settings.momentum, renormalise=settings.renormalise
        )


def _from_memory() -> LabelSpec:
    return LabelSpec("clusters", frozenset({"features"}), features_from="memory")


def _scores(discriminator: MultiScaleDiscriminator, views: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """The discriminator's scores by view and scale; in one pass, because scores do not depend on the other images."""
    scales = [score.chunk(len(views)) for score in discriminator(torch.cat(views))]
    return [list(scores) for scores in zip(*scales, strict=True)]


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """In the block, batch norms normalise by the batch and do not update their running statistics."""
    layers = [layer for layer in module.modules() if isinstance(layer, GroupBatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
