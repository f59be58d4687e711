"""Collectives between the workers of a training run, which hold equal slices of one global batch.

Gradient convention, used everywhere: every worker computes the loss of the *global* batch from gathered features
and backpropagates `loss / size`; parameter gradients are then *summed* over workers. With `all_gather` below, whose
backward sums too, this gives the exact gradient of the global loss both for parameters used before a gather
(the network) and after it (a classifier), for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from reid_ray.types import Labels

T = TypeVar("T")

BUCKET_ELEMENTS = 2**24
"""Maximum number of elements in a flat bucket of the gradient exchange."""


@dataclass(frozen=True)
class DistributedContext:
    """This worker among `size` workers.

    Attributes:
        rank: of this worker.
        size: number of workers; 1 in a single process.
        control: process group for messages between hosts that do not wait for a device; None = the default group.
    """

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None

    @classmethod
    def current(cls) -> DistributedContext:
        """The context of the initialised process group, or of this process alone.

        Every rank calls it at the same point: with NCCL it creates a second group, with the gloo backend.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        control = dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else None
        return cls(dist.get_rank(), dist.get_world_size(), cast("dist.ProcessGroup | None", control))

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0

    def all_gather(self, local: Tensor) -> Tensor:
        """[n, ...] of each worker → [size·n, ...] in rank order, differentiable."""
        if self.size == 1:
            return local
        return cast(Tensor, _Gather.apply(local, self.rank, self.size))

    def local_slice(self, whole: Tensor) -> Tensor:
        """This worker's slice of a global batch [size·n, ...]."""
        n = whole.shape[0] // self.size
        return whole[self.rank * n : (self.rank + 1) * n]

    def all_reduce_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients over workers, in place. Parameters without a gradient (the same on all) are skipped."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                continue
            bucket.append(parameter.grad)
            if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
                _sum_bucket(bucket)
                bucket = []
        _sum_bucket(bucket)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, on every worker; the values of other ranks are ignored."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return cast(T, box[0])

    def all_gather_objects(self, value: T) -> list[T]:
        """Every worker's value, in rank order, on every worker."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return cast(list[T], values)

    def all_reduce_max(self, number: int) -> int:
        """The largest of the workers' numbers, on every worker; cheap enough for every step."""
        if self.size == 1:
            return number
        box = torch.tensor(number)
        dist.all_reduce(box, dist.ReduceOp.MAX, group=self.control)
        return int(box)

    def check_same_labels(self, labels: Mapping[str, Labels]) -> None:
        """Raise RuntimeError if labels differ between workers, which would silently corrupt training."""
        digests = self.all_gather_objects([one.digest() for one in labels.values()])
        if any(digest != digests[0] for digest in digests):
            raise RuntimeError(f"Workers hold different labels of {', '.join(labels)}: {digests}.")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.n = rank, local.shape[0]
        local = local.contiguous()
        parts = [torch.empty_like(local) for _ in range(size)]
        dist.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd may share the gradient
        dist.all_reduce(whole)
        return whole[ctx.rank * ctx.n : (ctx.rank + 1) * ctx.n], None, None


def _sum_bucket(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([grad.reshape(-1) for grad in gradients])
    dist.all_reduce(flat)
    offset = 0
    for grad in gradients:
        grad.copy_(flat[offset : offset + grad.numel()].view_as(grad))
        offset += grad.numel()
