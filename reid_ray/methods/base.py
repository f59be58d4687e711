"""Interface of a method, limited to what differs between papers.

The training loop is responsible for batches, backward, gradient exchange, optimizer steps, moving averages, checkpoints
and logs. A method declares its stages and defines its modules and losses.
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
    """Collective operations available to methods, implemented by `reid_ray.training.distributed.DistributedContext`."""

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
        rows: int64 [B], rows of the training table; for tracklets, the row of the first frame.
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
        """A random generator with the same numbers on every worker; each name gives an independent one."""
        salt = zlib.crc32(name.encode()) if name else 0x5EED
        return np.random.default_rng([*self.key, salt])

    def noise(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal noise for the *global* batch, independent of the number of workers.

        Args:
            name: key of the noise; different draws within a step need different names.
            shape: [B, …]; `Collectives.local_slice` returns this worker's slice.
            like: tensor whose dtype and device are used.
        """
        return torch.from_numpy(self.rng(name).standard_normal(tuple(shape))).to(like)


@dataclass(frozen=True)
class Update:
    """One optimizer step: minimise `loss`, the loss of the global batch.

    Attributes:
        optimizers: names of the optimizers that step. Only their parameters get a gradient.
        loss: scalar.
        terms: for the log: the unweighted terms of the loss, and other quantities worth plotting.
    """

    optimizers: tuple[str, ...]
    loss: Tensor
    terms: Mapping[str, Tensor]


class Method(ABC):
    """A published re-identification system. Created once per run, on the CPU, with initial weights."""

    optional_stages: ClassVar[tuple[str, ...]] = ()
    """Stages that a run may skip. A configuration, such as a recipe, may have settings for them nevertheless."""
    optional_optimizers: ClassVar[tuple[str, ...]] = ()
    """Optimizers that a run may do without, in the same sense."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        self.config = config
        self.collectives = collectives

    @classmethod
    @abstractmethod
    def stages(cls, config: Config) -> tuple[Stage, ...]:
        """The stages of a run, in order; the last one is the main stage, with the settings of `config.training`."""

    @classmethod
    def resolve(cls, config: Config, table: ImageTable) -> Config:
        """The configuration with values that depend on the data or on files filled in, before a run starts.

        Args:
            table: the training table of `data`.
        """
        return config

    @classmethod
    def network(cls, config: Config, module: str) -> nn.Module:
        """A module that retrieves or fills a feature cache, with initial weights; any process can build it.

        The module has `embed(images, **columns) -> [n, D]` and `dim`. Optional members: `columns` names the columns
        that `embed` reads; a network that predicts attributes names them in `attribute_names` and has
        `embed_and_predict(images) -> ([n, D], [n, M])`; `representations(images) -> {name: [n, …]}` returns the vectors
        for figures.

        Args:
            module: a name in `modules`, or a dotted path below one.
        """
        name, _, below = module.partition(".")
        return cls.build(config, name).get_submodule(below)

    @classmethod
    def build(cls, config: Config, name: str) -> nn.Module:
        """One of `modules`, with initial weights: the retriever, or the module that contains it."""
        return build_network(config.model, bf16=config.training.precision == "bf16")

    @property
    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """Everything stored in checkpoints: networks, moving averages, memories, classifiers."""

    @abstractmethod
    def updates(self, stage: str, batch: Batch) -> Iterator[Update]:
        """The optimizer steps of one batch, in order; each is applied before the next is requested."""

    def on_labels(self, stage: str, labels: Mapping[str, Labels]) -> None:  # noqa: B027  not all methods keep any
        """Rebuild the state that depends on labels, such as memories and classifiers, from new labels by stream.

        Called once for each refresh with usable labels. The rebuilt state must be in `modules`, because a resumed run
        does not call this method again.
        """

    def render(self, stage: str, batch: Batch) -> Mapping[str, Tensor]:
        """Grids of generated images by name; for stages that declare `renders`.

        Called on a single process, without gradient and with all modules in evaluation mode, so `collectives` must not
        be used.

        Args:
            batch: training images of the stage's streams without augmentation. Streams with true identities have 8 of
                them, with two adjacent images each. Images and key are the same at every evaluation.

        Returns:
            Name → [rows, columns, 3, H, W], normalised like the images of the batch; NaN is white.
        """
        return {}

    def memory_features(self, stage: str) -> FloatArray | None:
        """Features to cluster in place of extracted ones, float32 [N, D], unit rows; None: extract."""
        return None

    def ema_pairs(self, stage: str) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Pairs (moving average, module that it follows) that are updated after each step."""
        return []

    def ema_momentum(self, step: int) -> float:
        """α of the moving averages after step `step` of the stage, counted from 0."""
        return self.config.model.ema

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the modules; images have the same dtype, or are autocast."""
        for module in self.modules.values():
            module.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


METHODS: dict[str, type[Method]] = {}
"""Name → class of every registered method, filled by `register_method`."""

MethodClass = TypeVar("MethodClass", bound=Method)


def register_method(name: str) -> Callable[[type[MethodClass]], type[MethodClass]]:
    """Class decorator: registers a method under the name of its settings (`register_method_config`)."""

    def register(cls: type[MethodClass]) -> type[MethodClass]:
        METHODS[name] = cls
        return cls

    return register
