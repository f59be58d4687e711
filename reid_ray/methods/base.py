"""What a method is: that which differs between papers, and nothing else.

The loop owns batches, backward, gradient exchange, optimizer steps, the teacher's moving average, checkpoints and
logs. A method owns its networks, what it keeps for an epoch (proxies, memories, classifiers) and its losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.config import Config, DataConfig
from reid_ray.models import build_network
from reid_ray.types import FloatArray, PseudoLabels


class Exchange(Protocol):
    """What a method may ask of the other workers; `reid_ray.training.world.World` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def gather(self, local: Tensor) -> Tensor:
        """[n, ...] of each worker → the global batch [size·n, ...], differentiable."""
        ...

    def local(self, whole: Tensor) -> Tensor:
        """This worker's slice of a global batch."""
        ...


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        views: view name → this worker's images, float [n, 3, H, W].
        labels: int64 [B], labels of the *global* batch; this worker's slice is contiguous in it.
        camids: int64 [B], cameras of the global batch.
        rows: int64 [B], rows of the training table.
        key: (seed, epoch, step), for randomness that all workers share.
        other: as many images of the method's second table (`Method.other_data`), None without one. Those of a source
            that it learns from have their identities as labels, others none.
    """

    views: Mapping[str, Tensor]
    labels: Tensor
    camids: Tensor
    rows: Tensor
    key: tuple[int, int, int]
    other: Batch | None = None

    def rng(self) -> np.random.Generator:
        """A generator that gives the same numbers on every worker."""
        return np.random.default_rng([*self.key, 0x5EED])


@dataclass(frozen=True)
class Update:
    """One optimizer step: minimise `loss`, the loss of the global batch; `parts` are its terms, for the log."""

    optimizer: str
    loss: Tensor
    parts: Mapping[str, Tensor]


class Method(ABC):
    """A system of the papers.

    Attributes:
        teacher: the retrieval network, as `network` builds it: what clusters, is evaluated and exported.
        student: what is trained. A method without a teacher has one network and names it twice.
    """

    views: tuple[str, ...]
    """Views that a batch holds; names that begin with `strong` are augmented."""
    wants_features: ClassVar[bool] = False
    """Whether `PseudoLabels.features` should be there at the first refresh."""
    n_starts: ClassVar[int] = 1
    """Models of a source stage that it starts from, each of another seed, where it has such a stage."""
    student: nn.Module
    teacher: nn.Module

    def __init__(self, config: Config, exchange: Exchange) -> None:
        self.config = config
        self.exchange = exchange

    @classmethod
    def network(cls, config: Config) -> nn.Module:
        """The retrieval network with its initial weights: a module with `embed(images)` and `dim`."""
        return build_network(config.model, bf16=config.training.precision == "bf16")

    @classmethod
    def started_from(cls, config: Config, files: Sequence[str]) -> Config:
        """The configuration that starts from the exported models of source stages, `n_starts` of them."""
        return config.model_copy(update={"model": config.model.model_copy(update={"weights": files[0]})})

    @classmethod
    def labels_source(cls, config: Config) -> Literal["pseudo", "truth"]:
        """Where training labels come from: clusters, or true identities."""
        return "pseudo"

    @classmethod
    def learns_source(cls, config: Config) -> bool:
        """Whether it learns from `source` and its identities beside the data, in place of a stage before.

        Its batches then come as `Batch.other`, and `PseudoLabels.source_centroids` with the first labels.
        """
        return False

    @classmethod
    def other_data(cls, config: Config) -> DataConfig | None:
        """A second table, whose images come with each batch as `Batch.other`."""
        return config.source if cls.learns_source(config) else None

    def parameters(self) -> Mapping[str, list[nn.Parameter]]:
        """Optimizer name → what it trains. `begin_epoch` may change it; parameters that stay keep their moments."""
        return {"student": [parameter for parameter in self.student.parameters() if parameter.requires_grad]}

    @abstractmethod
    def begin_epoch(self, labels: PseudoLabels) -> None:
        """Take new labels: rebuild what the losses read. Called once for each refresh that gave labels to train on.

        A resumed run calls it too, with the labels of then and before `networks` are loaded, for their shapes.
        """

    @abstractmethod
    def updates(self, batch: Batch) -> Iterator[Update]:
        """The optimizer steps of one batch, in order; each is applied before the next is asked for."""

    def clustered(self) -> FloatArray | None:
        """What is clustered in place of features extracted by the teacher, float32 [N, D], unit rows; None: nothing."""
        return None

    def ema_momentum(self, step: int) -> float:
        """α of the moving averages after global step `step`, counted from 0."""
        return self.config.model.ema

    @property
    def averages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Pairs (mean, what it follows) of networks, for the moving averages; none where there is no teacher apart."""
        return [] if self.teacher is self.student else [(self.teacher, self.student)]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """What a checkpoint saves: networks, and modules that hold what changes within an epoch."""
        return {"student": self.student, "teacher": self.teacher}

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the networks; images arrive in the same dtype, or are autocast."""
        for network in self.networks.values():
            network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self) -> None:
        for network in self.networks.values():
            network.train()
