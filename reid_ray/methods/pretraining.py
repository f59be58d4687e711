"""Supervised training on a labelled source (thesis Eq. 4.1), alone or as the first stage of domain adaptation.

L = L_ce + L_tri, each a mean over branches. Target images, if there are any, only pass through the network, so that the
running BN statistics cover both domains.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.config import Config, SourceConfig, StageConfig
from reid_ray.data.table import ImageTable
from reid_ray.losses import triplet_loss
from reid_ray.methods.base import Batch, Collectives, Method, Update
from reid_ray.methods.components import Classifiers, branch_dims, embeddings
from reid_ray.methods.stage import LabelSpec, Stage, StreamSpec, optimizers
from reid_ray.models import is_model_file
from reid_ray.types import Labels

CLASSIFIER_STD = 0.001
"""Standard deviation of a new classifier's random weights (released codes)."""

STRONG = {"strong": "strong"}


class SourceTraining:
    """Labels and updates of a stage that trains one network on true identities.

    Args:
        network: the network to train.
        seed: for the initial weights of the classifiers.
    """

    def __init__(self, network: nn.Module, settings: SourceConfig, seed: int, collectives: Collectives) -> None:
        self.network = network
        self.classifiers = Classifiers(branch_dims(network))
        self._settings = settings
        self._seed = seed
        self._collectives = collectives

    def on_labels(self, labels: Labels) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        dims = branch_dims(self.network)
        self.classifiers.restart(
            [torch.randn(labels.n_clusters, dim, generator=generator) * CLASSIFIER_STD for dim in dims]
        )

    def updates(self, batch: Batch) -> Iterator[Update]:
        settings, inputs = self._settings, batch["train"]
        branches = embeddings(self.network, inputs.views["strong"], self._collectives)
        if "target" in batch.streams:
            with torch.no_grad():
                self.network(batch["target"].views["strong"])
        logits = self.classifiers([branch.feature for branch in branches])
        smoothing, margin, labels = settings.label_smoothing, settings.margin, inputs.labels
        terms = {
            "ce": torch.stack([F.cross_entropy(one, labels, label_smoothing=smoothing) for one in logits]).mean(),
            "triplet": torch.stack([triplet_loss(one.pooled, labels, margin=margin) for one in branches]).mean(),
        }
        loss = settings.weight_ce * terms["ce"] + settings.weight_triplet * terms["triplet"]
        yield Update(("main",), loss, terms)


def supervised_stage(
    name: str,
    config: StageConfig,
    *,
    network: str,
    classifiers: str,
    data: str,
    target: str | None,
    frozen: tuple[str, ...] = (),
    evaluated: bool = True,
    seed_offset: int = 0,
) -> Stage:
    """The stage of a `SourceTraining`.

    Args:
        network, classifiers: names of its modules.
        data, target: sections of the configuration: the labelled images, and the images that are only forwarded.
    """
    streams = {"train": StreamSpec(STRONG, data=data, labels=LabelSpec("ground_truth"))}
    if target is not None:
        streams["target"] = StreamSpec(STRONG, data=target)
    return Stage(
        name,
        config,
        streams,
        optimizers(config, main=(network, classifiers)),
        retriever=network,
        frozen=frozen,
        evaluated=evaluated,
        seed_offset=seed_offset,
    )


class AdaptiveMethod(Method):
    """A method that starts with a stage on a labelled source if `config.source` is set.

    A subclass creates `student`, lists its own modules in `main_modules`, and trains them in `main_updates`.

    Attributes:
        pretraining: stage name → training of this source stage.
    """

    n_networks: ClassVar[int] = 1
    """Number of networks in the student, which are trained on the source one after another with different seeds."""
    student: nn.Module

    @classmethod
    @abstractmethod
    def main_stage(cls, config: Config) -> Stage: ...

    @property
    @abstractmethod
    def main_modules(self) -> Mapping[str, nn.Module]:
        """The modules of the main stage by name; the student is called `student`."""

    @abstractmethod
    def main_updates(self, batch: Batch) -> Iterator[Update]: ...

    @abstractmethod
    def on_main_labels(self, labels: Labels) -> None:
        """Use new labels of the main stage's primary stream."""

    @classmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        main = cls.main_stage(config)
        if not has_source_stage(config):
            return (main,)
        names = source_names(cls.n_networks)
        networks = network_paths(cls.n_networks)
        trained = {path for optimizer in main.optimizers.values() for path in optimizer.modules} - {"student"}
        stages = [
            supervised_stage(
                name,
                config.stage_config(name),
                network=network,
                classifiers=f"{name}_classifiers",
                data="source",
                target="data",
                frozen=(
                    *sorted(trained),
                    *(other for other in networks if other != network),
                    *(f"{other}_classifiers" for other in names if other != name),
                ),
                evaluated=False,
                seed_offset=number,
            )
            for number, (name, network) in enumerate(zip(names, networks, strict=True))
        ]
        idle = tuple(f"{name}_classifiers" for name in names)
        return (*stages, Stage(**{**vars(main), "frozen": (*main.frozen, *idle)}))

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        return resolve_source_stage(config)

    def prepare_source_stages(self) -> None:
        """Set up the training of the source stages; called at the end of a subclass's `__init__`."""
        self.pretraining: dict[str, SourceTraining] = {}
        if not has_source_stage(self.config):
            return
        for number, path in enumerate(network_paths(self.n_networks)):
            network = self.student.get_submodule(path.removeprefix("student").removeprefix("."))
            name = source_names(self.n_networks)[number]
            seed = self.config.seed + number
            self.pretraining[name] = SourceTraining(network, SourceConfig(), seed, self.collectives)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        classifiers = {f"{name}_classifiers": stage.classifiers for name, stage in self.pretraining.items()}
        return {**self.main_modules, **classifiers}

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:
        if stage in self.pretraining:
            self.pretraining[stage].on_labels(labels["train"])
        else:
            self.on_main_labels(labels["train"])

    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        return self.pretraining[stage].updates(batch) if stage in self.pretraining else self.main_updates(batch)


def has_source_stage(config: Config) -> bool:
    """Whether a run starts with a source stage."""
    return config.source is not None and bool(resolve_source_stage(config).source_stage)


def resolve_source_stage(config: Config) -> Config:
    """The configuration with `source_stage` resolved: false if the initial weights are the exported model of a run.

    Raises:
        WeightsError: the weights file cannot be read.
    """
    if config.source is None or config.source_stage is not None:
        return config
    return config.model_copy(update={"source_stage": not is_exported_model(config)})


def is_exported_model(config: Config) -> bool:
    """Whether `model.weights` is the exported model of a run; `WeightsError` if the file cannot be read."""
    weights = config.model.weights_of(0)
    return weights not in (None, "torchvision") and is_model_file(str(weights))


def source_names(n_networks: int) -> list[str]:
    """Names of the source stages: `source`, `source_2` …"""
    return ["source", *(f"source_{number + 1}" for number in range(1, n_networks))]


def network_paths(n_networks: int) -> list[str]:
    """Paths of the networks that are trained one after another: the student, or its members."""
    return ["student"] if n_networks == 1 else [f"student.members.{number}" for number in range(n_networks)]
