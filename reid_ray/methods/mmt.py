"""MMT: mutual mean-teaching (Ge et al., ICLR 2020).

Two students, each with a moving average, which supervises the other student. Each student has its own augmented view of
the images. L = Σ over students of (1−w_c)·L_ce + w_c·L_sce + (1−w_t)·L_tri + w_t·L_stri.

Clustering, evaluation and export use both moving averages, as in the released code: the feature is the normalised sum
of their two features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import Config, MMTConfig
from reid_ray.errors import ConfigError
from reid_ray.losses import soft_cross_entropy, soft_triplet_loss, triplet_loss
from reid_ray.methods.base import Batch, Collectives, Update, register_method
from reid_ray.methods.components import Classifiers, branch_dims, cluster_classifiers, embeddings, mean_distance
from reid_ray.methods.mean_teacher import MeanTeacherMethod
from reid_ray.methods.pretraining import has_source_stage
from reid_ray.models import Embedder, build_network, make_teacher
from reid_ray.types import Labels


class Pair(nn.Module):
    """Two networks of the same architecture, combined into one retriever."""

    def __init__(self, first: Embedder, second: Embedder) -> None:
        super().__init__()
        self.members = nn.ModuleList([first, second])

    @property
    def dim(self) -> int:
        return cast(Embedder, self.members[0]).dim

    def embed(self, images: Tensor) -> Tensor:
        """The normalised sum [N, D] of the two retrieval features."""
        first, second = (cast(Embedder, member).embed(images) for member in self.members)
        return F.normalize(first + second)


@register_method("mmt")
class MMT(MeanTeacherMethod):
    """See `MMTConfig` for every number."""

    student_classifiers: nn.ModuleList
    teacher_classifiers: nn.ModuleList

    n_networks = 2

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.settings = cast(MMTConfig, config.method)
        self.student = self.network(config, "student")
        self.teacher = make_teacher(self.student)
        dims = branch_dims(self.teacher)
        self.student_classifiers = nn.ModuleList([Classifiers(dims), Classifiers(dims)])
        self.teacher_classifiers = make_teacher(self.student_classifiers)
        self.prepare_source_stages()

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        if config.model.branches:
            raise ConfigError("MMT's two networks have one branch each; set model.branches=[].")
        bf16 = config.training.precision == "bf16"
        models = [config.model.model_copy(update={"weights": config.model.weights_of(i)}) for i in (0, 1)]
        first = build_network(models[0], bf16=bf16)
        with random_weights_of(config.seed + 1) if has_source_stage(config) else nullcontext():
            second = build_network(models[1], bf16=bf16)
        return Pair(cast(Embedder, first), cast(Embedder, second))

    def on_main_labels(self, labels: Labels) -> None:
        weights = cluster_classifiers(labels.centroids, [labels.centroids.shape[1]])
        for classifiers in (*self.student_classifiers, *self.teacher_classifiers):
            cast(Classifiers, classifiers).restart(weights)

    def main_updates(self, batch: Batch) -> Iterator[Update]:
        settings, labels = self.settings, batch["train"].labels
        images = [batch["train"].views["strong_1"], batch["train"].views["strong_2"]]
        students, logits = self._forward(self.student, self.student_classifiers, images)
        with torch.no_grad():
            teachers, targets = self._forward(self.teacher, self.teacher_classifiers, images)
        terms = {
            "ce": sum_of(F.cross_entropy(one, labels, label_smoothing=settings.label_smoothing) for one in logits),
            "triplet": sum_of(triplet_loss(one, labels, margin=None) for one in students),
            "soft_ce": sum_of(soft_cross_entropy(logits[i], targets[1 - i]) for i in (0, 1)),
            "soft_triplet": sum_of(soft_triplet_loss(students[i], teachers[1 - i], labels) for i in (0, 1)),
        }
        soft_ce, soft_triplet = settings.weight_soft_ce, settings.weight_soft_triplet
        loss = (
            (1 - soft_ce) * terms["ce"]
            + (1 - soft_triplet) * terms["triplet"]
            + soft_ce * terms["soft_ce"]
            + soft_triplet * terms["soft_triplet"]
        )
        distances = {
            "distance_teacher": mean_distance(students, teachers),
            "distance_peers": mean_distance(teachers[:1], teachers[1:]),
        }
        yield Update(("main",), loss, {**terms, **distances})

    def _forward(
        self, pair: nn.Module, classifiers: nn.ModuleList, images: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Pooled features and logits of the global batch, for each of the two networks on its own view."""
        pooled, logits = [], []
        for member, classifier, view in zip(cast(Pair, pair).members, classifiers, images, strict=True):
            (embedding,) = embeddings(member, view, self.collectives)
            pooled.append(embedding.pooled)
            logits += classifier([embedding.feature])
        return pooled, logits


@contextmanager
def random_weights_of(seed: int) -> Iterator[None]:
    """In the block, draw initial weights with another seed, as a run with that seed would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def sum_of(losses: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
