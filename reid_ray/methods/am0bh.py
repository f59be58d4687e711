"""AM0BH: normalised softmax with batch-hard triplets, with attributes AM0BH-Attr (Sabri et al.).

L = L_AM(f_id) + γ·L_BH(f_id) + λ·L_attr(f_a) (Eq. 6 and 7). The softmax depends on directions only; triplets compare
the un-normalised feature, so their gradients also have a radial component. With attributes, the first entries of the
feature are split into a segment per attribute, and the rest is f_id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from reid_ray.config import AM0BHConfig, Config
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError
from reid_ray.losses import angular_margin_loss, attribute_loss, triplet_loss
from reid_ray.methods.base import Batch, Collectives, Method, Update, register_method
from reid_ray.methods.components import Classifiers, weighted_sum
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import AttributeEmbedder, AttributeHead, Embedder, SplitEmbedding
from reid_ray.types import Labels

CLASSIFIER_STD = 0.01
"""Standard deviation of the initial identity weights. Only their direction is used; the norm determines how far
a step rotates them."""


@register_method("am0bh")
class AM0BH(Method):
    """See `AM0BHConfig` for every number."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = cast(AM0BHConfig, config.method)
        self.student = self.network(config, "student")
        self.identities = Classifiers([identity_dim(self.student)])

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        settings = cast(AM0BHConfig, config.method)
        if not settings.weight_attributes:
            return config
        values = tuple(max(2, int(column.max(initial=-1)) + 1) for column in table.column("attributes").T)
        known = {
            "attribute_values": settings.attribute_values or values,
            "attribute_names": settings.attribute_names or table.attribute_names,
        }
        return config.model_copy(update={"method": settings.model_copy(update=known)})

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        columns = ("attributes",) if cast(AM0BHConfig, config.method).weight_attributes else ()
        train = StreamSpec({"image": "strong"}, labels=LabelSpec("ground_truth"), columns=columns)
        trained = optimizers(config.training, main=("student", "identities"))
        return (Stage("main", config.training, {"train": train}, trained, "student"),)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        if config.model.branches:
            raise ConfigError("AM0BH has one branch; set model.branches=[].")
        settings = cast(AM0BHConfig, config.method)
        embedder = cast(Embedder, super().build(config, name))
        embedder.neck.bias.requires_grad_(settings.neck_bias == "free")
        if not settings.weight_attributes:
            return embedder
        head = AttributeHead(settings.attribute_values or (), settings.piece_dim)
        names = settings.attribute_names or ()
        return AttributeEmbedder(embedder, head, retrieve=settings.retrieve, attribute_names=names)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "identities": self.identities}

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:
        generator = torch.Generator().manual_seed(self.config.seed)
        shape = labels["train"].n_clusters, identity_dim(self.student)
        self.identities.restart([torch.randn(shape, generator=generator) * CLASSIFIER_STD])

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        settings, inputs = self.settings, batch["train"]
        embedding = self.student(inputs.views["image"])
        gathered = type(embedding)(*map(self.collectives.all_gather, embedding))
        feature = gathered.identity if isinstance(gathered, SplitEmbedding) else gathered.feature
        compared = feature if settings.triplet_on == "bn" else gathered.pooled
        softmax: dict[str, Any] = {name: getattr(settings, name) for name in ("scale", "margin", "angular_guard")}
        terms: dict[str, Tensor] = {}
        if settings.weight_softmax:
            terms["softmax"] = angular_margin_loss(feature, inputs.labels, self.identities.weights[0], **softmax)
        if settings.weight_triplet:
            terms["triplet"] = triplet_loss(
                compared,
                inputs.labels,
                margin=settings.triplet_margin,
                surrogate=settings.triplet_surrogate,
                normalize=settings.triplet_normalized,
            )
        if isinstance(gathered, SplitEmbedding):
            head = cast(AttributeEmbedder, self.student).head
            terms["attributes"] = attribute_loss(
                gathered.attributes, inputs.columns["attributes"], head.weight, n_values=head.n_values, **softmax
            )
        weights = {"softmax": settings.weight_softmax, "triplet": settings.weight_triplet}
        weights["attributes"] = settings.weight_attributes
        yield Update(("main",), weighted_sum(terms, weights), {**terms, "norm": feature.detach().norm(dim=1).mean()})


def identity_dim(network: nn.Module) -> int:
    """Size of the feature that the identity classifier uses."""
    return network.identity_dim if isinstance(network, AttributeEmbedder) else cast(Embedder, network).dim
