"""What a method is: that which differs between papers, and nothing else.

The loop owns batches, backward, gradient exchange, optimizer steps, moving averages, checkpoints and logs. A method
declares its stages, and owns its modules and its losses.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.config import Config
from reid_ray.data.table import ImageTable
from reid_ray.methods.stage import Stage
from reid_ray.models import build_network
from reid_ray.types import FloatArray, Labels


class Collectives(Protocol):
    """What a method may ask of the other workers; `reid_ray.training.distributed.DistributedContext` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def all_gather(self, local: Tensor) -> Tensor:
        """[n, ...] of each worker → the global batch [size·n, ...], differentiable."""
        ...

    def local_slice(self, whole: Tensor) -> Tensor:
        """This worker's slice of a global batch."""
        ...


@dataclass(frozen=True)
class Inputs:
    """One stream of a batch.

    Attributes:
        views: view → this worker's items: images [n, 3, H, W], tracklets [n, T, 3, H, W] or features [n, D].
        labels: int64 [B], labels of the *global* batch; this worker's slice is contiguous in it.
        rows: int64 [B], rows of the training table (of tracklets, the first frame's).
        columns: columns of the global batch, int64 [B] or [B, M]; `camid` is always there.
    """

    views: Mapping[str, Tensor]
    labels: Tensor
    rows: Tensor
    columns: Mapping[str, Tensor]

    @property
    def camids(self) -> Tensor:
        """int64 [B], cameras of the global batch."""
        return self.columns["camid"]


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        streams: by name, as the stage declares them.
        key: (seed, epoch, step), for randomness that all workers share.
    """

    streams: Mapping[str, Inputs]
    key: tuple[int, int, int]

    def __getitem__(self, stream: str) -> Inputs:
        return self.streams[stream]

    def rng(self, name: str = "") -> np.random.Generator:
        """A generator that gives the same numbers on every worker; another one for each name."""
        salt = zlib.crc32(name.encode()) if name else 0x5EED
        return np.random.default_rng([*self.key, salt])

    def noise(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers of the *global* batch, the same for any number of workers.

        Args:
            name: of what is drawn; two draws of one step need two names.
            shape: [B, …]; `Collectives.local_slice` gives this worker's share.
            like: gives dtype and device.
        """
        return torch.from_numpy(self.rng(name).standard_normal(tuple(shape))).to(like)


@dataclass(frozen=True)
class Update:
    """One optimizer step: minimise `loss`, the loss of the global batch.

    Attributes:
        optimizers: names of those that step. Only their parameters get a gradient.
        loss: scalar.
        terms: for the log: the terms of the loss before their weights, and what else is worth a curve.
    """

    optimizers: tuple[str, ...]
    loss: Tensor
    terms: Mapping[str, Tensor]


class Method(ABC):
    """A system of the papers. Made once for a run, on the CPU, with initial weights."""

    optional_stages: ClassVar[tuple[str, ...]] = ()
    """Stages that a run may leave out. A configuration, such as a recipe's, may have settings for them all the same."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        self.config = config
        self.collectives = collectives

    @classmethod
    @abstractmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        """The stages of a run, in order; the last one is the main stage, with the settings of `config.training`."""

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        """The configuration with what follows from the data or from files filled in, before a run is begun.

        Args:
            table: the training table of `data`.
        """
        return config

    @classmethod
    def network(cls, config: Config, module: str) -> nn.Module:
        """A module that retrieves or fills a feature cache, as any process can build it, with initial weights.

        It has `embed(images, **columns) -> [n, D]` and `dim`; one that reads columns names them in `columns`. A network
        that predicts attributes names them in `attribute_names` and has `embed_and_predict(images) -> ([n, D], [n,
        M])`. One with `representations(images) -> {name: [n, …]}` provides the vectors that figures show.

        Args:
            module: a name in `modules`, or a path below one.
        """
        name, _, below = module.partition(".")
        return cls.build(config, name).get_submodule(below)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        """One of `modules` that retrieves, or has a part that does, with initial weights."""
        return build_network(config.model, bf16=config.training.precision == "bf16")

    @property
    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """All that a checkpoint holds: networks, moving averages, memories, classifiers."""

    @abstractmethod
    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        """The optimizer steps of one batch, in order; each is applied before the next is requested."""

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:  # noqa: B027  not all methods keep any
        """Take new labels, by stream: rebuild what the losses read.

        Called once for each refresh that gave labels to train on. What it makes of them must be in `modules`, because
        a resumed run does not call it again.
        """

    def render(self, stage: str, batch: Batch) -> Mapping[str, Tensor]:
        """Grids of images that the modules generate now, by name; of stages that declare `renders`.

        Called on one process alone, without gradient and with all modules in evaluation mode, so `collectives` must not
        be used.

        Args:
            batch: training images of the stage's streams without augmentation, at every evaluation the same: of true
                identities 8, with two adjacent images each. Its key, too, is always the same.

        Returns:
            [rows, columns, 3, H, W] each, normalised as the images of the batch are; NaN is white.
        """
        return {}

    def memory_features(self, stage: str) -> FloatArray | None:
        """What is clustered in place of extracted features, float32 [N, D], unit rows; None: extract."""
        return None

    def ema_pairs(self, stage: str) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Pairs (moving average, module that it follows) that are updated after each step."""
        return []

    def ema_momentum(self, step: int) -> float:
        """α of the moving averages after step `step` of the stage, counted from 0."""
        return self.config.model.ema

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the modules; images arrive in the same dtype, or are autocast."""
        for module in self.modules.values():
            module.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


METHODS: dict[str, type[Method]] = {}
"""Name → class of every registered method, filled by `register_method`."""

MethodClass = TypeVar("MethodClass", bound=Method)


def register_method(name: str) -> Callable[[type[MethodClass]], type[MethodClass]]:
    """Class decorator: the method whose settings have this name (`register_method_config`)."""

    def register(cls: type[MethodClass]) -> type[MethodClass]:
        METHODS[name] = cls
        return cls

    return register
