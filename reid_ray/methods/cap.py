"""CAP: camera-aware proxies (Wang et al., AAAI 2021).

One network, no teacher. A memory has a row for each cluster and camera. L = L_intra + ½·L_inter: an image against the
proxies of its own camera, and, from epoch 5 on, the proxies of its cluster in all cameras against the hardest others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from reid_ray.config import CAPConfig, Config
from reid_ray.errors import DataError
from reid_ray.losses import inter_camera_loss, intra_camera_loss, updated_proxies
from reid_ray.methods.base import Batch, Exchange, Update
from reid_ray.methods.families import MemoryMethod
from reid_ray.methods.parts import joined_feature
from reid_ray.types import PseudoLabels


class CAP(MemoryMethod):
    """See `CAPConfig` for every number."""

    def __init__(self, config: Config, exchange: Exchange) -> None:
        super().__init__(config, exchange)
        self.settings = cast(CAPConfig, config.method)

    def begin_epoch(self, labels: PseudoLabels) -> None:
        if not len(labels.proxies):
            raise DataError(
                "CAP learns from cameras, and no clustered image has one; say where they stand (data.camera_level, "
                "data.camera_regex, data.use_cameras=true), or take the recipe cluster-contrast."
            )
        like = next(self.student.parameters())
        self.memory.keep(
            proxies=torch.tensor(labels.proxies).to(like),
            labels=torch.tensor(labels.proxy_labels, device=like.device),
            camids=torch.tensor(labels.proxy_camids, device=like.device),
        )

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings, temperature = self.settings, self.settings.temperature
        images = batch.labels, batch.camids
        proxies: tuple[Tensor, Tensor, Tensor] = (
            self.memory["proxies"],
            self.memory["labels"],
            self.memory["camids"],
        )
        features = joined_feature(self.student, batch.views["strong"], self.exchange)
        parts = {"intra": intra_camera_loss(features, *images, *proxies, temperature=temperature)}
        loss = parts["intra"]
        _, epoch, _ = batch.key
        if epoch >= settings.inter_from_epoch:
            parts["inter"] = inter_camera_loss(
                features, *images, *proxies, temperature=temperature, n_negatives=settings.n_negatives
            )
            loss = loss + settings.weight_inter * parts["inter"]
        yield Update("student", loss, parts)
        self.memory.keep(proxies=updated_proxies(features.detach(), *images, *proxies, momentum=settings.momentum))
