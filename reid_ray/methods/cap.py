"""CAP: camera-aware proxies (Wang et al., AAAI 2021).

One network, no teacher. A memory has a row per cluster and camera. L = L_intra + ½·L_inter: L_intra contrasts an image
with the proxies of its own camera; L_inter, from epoch 5 on, contrasts the proxies of its cluster in all cameras with
the hardest others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor

from reid_ray.config import CAPConfig, Config
from reid_ray.errors import DataError
from reid_ray.losses import inter_camera_loss, intra_camera_loss, updated_proxies
from reid_ray.methods.base import Batch, Collectives, Update, register_method
from reid_ray.methods.components import joined_feature
from reid_ray.methods.memory_bank import MemoryMethod
from reid_ray.methods.pretraining import STRONG
from reid_ray.methods.stage import Stage, StreamSpec, from_clusters, optimizers
from reid_ray.types import Labels


@register_method("cap")
class CAP(MemoryMethod):
    """See `CAPConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = cast(CAPConfig, config.method)

    @classmethod
    def main_stage(cls, config: Config) -> Stage:
        return Stage(
            "main",
            config.training,
            {"train": StreamSpec(STRONG, labels=from_clusters(config, "proxies"))},
            optimizers(config.training, main=("student",)),
            retriever="student",
        )

    def on_main_labels(self, labels: Labels) -> None:
        if not len(labels.proxies):
            raise DataError(
                "CAP learns from cameras, and no clustered image has one; set where to find them (data.camera_level, "
                "data.camera_regex, data.use_cameras=true), or use the recipe cluster-contrast."
            )
        self.memory.set_arrays(proxies=labels.proxies, labels=labels.proxy_labels, camids=labels.proxy_camids)

    def main_updates(self, batch: Batch) -> Iterator[Update]:
        settings, temperature, inputs = self.settings, self.settings.temperature, batch["train"]
        images = inputs.labels, inputs.camids
        proxies: tuple[Tensor, Tensor, Tensor] = (
            self.memory["proxies"],
            self.memory["labels"],
            self.memory["camids"],
        )
        features = joined_feature(self.student, inputs.views["strong"], self.collectives)
        terms = {"intra": intra_camera_loss(features, *images, *proxies, temperature=temperature)}
        loss = terms["intra"]
        _, epoch, _ = batch.key
        if epoch >= settings.inter_from_epoch:
            terms["inter"] = inter_camera_loss(
                features, *images, *proxies, temperature=temperature, n_negatives=settings.n_negatives
            )
            loss = loss + settings.weight_inter * terms["inter"]
        yield Update(("main",), loss, terms)
        self.memory.set(proxies=updated_proxies(features.detach(), *images, *proxies, momentum=settings.momentum))
