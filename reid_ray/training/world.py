"""The workers of one training run, as the maths sees them: one global batch, cut in equal slices.

Gradient convention, used everywhere: every worker computes the loss of the *global* batch from gathered features
and backpropagates `loss / size`; parameter gradients are then *summed* over workers. With `gather` below, whose
backward sums too, this gives the exact gradient of the global loss both for parameters used before a gather
(the network) and after it (a classifier), for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from reid_ray.types import PseudoLabels

T = TypeVar("T")

BUCKET_ELEMENTS = 2**24
"""Gradients are exchanged in flat buckets of at most this many numbers."""


@dataclass(frozen=True)
class World:
    """This worker among `size` workers; a single process is a world of one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The world of the initialised process group, or of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, local: Tensor) -> Tensor:
        """[n, ...] of each worker → [size·n, ...] in rank order, differentiable."""
        if self.size == 1:
            return local
        return cast(Tensor, _Gather.apply(local, self.rank, self.size))

    def local(self, whole: Tensor) -> Tensor:
        """This worker's slice of a global batch [size·n, ...]."""
        n = whole.shape[0] // self.size
        return whole[self.rank * n : (self.rank + 1) * n]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients over workers, in place; a parameter without one counts as zero."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
                _sum_bucket(bucket)
                bucket = []
        _sum_bucket(bucket)

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every worker; what the others pass is ignored."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def gather_objects(self, value: T) -> list[T]:
        """Every worker's value, in rank order, on every worker."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def highest(self, number: int) -> int:
        """The largest of the workers' numbers, on every worker; cheap enough for every step."""
        if self.size == 1:
            return number
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        box = torch.tensor(number, device=device)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def check_same_labels(self, labels: PseudoLabels) -> None:
        """Raise RuntimeError when the workers do not hold the same labels, which would train nonsense silently."""
        digests = self.gather_objects(labels.digest())
        if len(set(digests)) > 1:
            raise RuntimeError(f"Workers hold different pseudo-labels for epoch {labels.version}: {digests}.")


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
        whole = gradients[0].clone(memory_format=torch.contiguous_format)  # others may hold the same gradient
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
