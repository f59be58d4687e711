"""Batch normalisation over groups of the global batch, independent of the number of workers.

The papers trained with `DataParallel` on 4 GPUs, so their statistics are those of 8 to 64 images rather
than of the batch. Here the size of such a *BN group* is a setting, and 1, 2 or 4 workers compute the same
function.

Conventions: the local batch of rank r is the r-th contiguous slice of the global batch, and all ranks have
equally many images. Each rank's loss is the global loss / world size and gradients of parameters are summed
over ranks by the training loop; so the gradients of weight and bias are local sums here, and only the
input's gradient is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_ray.errors import ConfigError

Buffers = Literal["first", "mean"]


class GroupBatchNorm(_BatchNorm):
    """Batch norm of [N, C] or [N, C, H, W] whose training statistics are those of groups of `group` images.

    A drop-in for `BatchNorm1d` and `BatchNorm2d`: same state-dict keys, same evaluation mode, and with a
    single group in one process the same bits in training too.

    In training with `group` images per group of the *global* batch:
    * the local batch consists of whole groups: each is normalised by its own statistics, without communication;
    * a group consists of the local batches of several ranks: their statistics are merged over these ranks
      (call `prepare_bn_groups` first);
    * neither divides the other: ConfigError.

    Running statistics follow this rank's own groups; `synchronise_buffers` averages them over the global batch.

    Args:
        num_features: C.
        group: images per group; None = the whole global batch.
        buffers: `first` keeps the statistics of the first group of the global batch, as `DataParallel`
            does; `mean` the average over all groups (of the means, and of the unbiased variances).
        eps: added to the variance.
        momentum: weight of the new statistics in the running ones.
    """

    momentum: float

    def __init__(
        self,
        num_features: int,
        *,
        group: int | None = None,
        buffers: Buffers = "first",
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.group = group
        self.running_from: Buffers = buffers
        self.ranks: _RankSpan | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if self.ranks is not None:
            return self._normalise_over_ranks(input, self.ranks)
        n_groups = self._local_groups(len(input))
        return super().forward(input) if n_groups == 1 else self._normalise_groups(input, n_groups)

    def extra_repr(self) -> str:
        return f"{self.num_features}, group={self.group}, buffers={self.running_from}"

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected input of 2 or 4 dimensions, got {input.dim()}")

    def _local_groups(self, n_images: int) -> int:
        """Number of groups in a local batch of `n_images`, if no group spans ranks."""
        if self.group is not None and n_images % self.group == 0:
            return n_images // self.group
        if _world_size() > 1:
            raise ConfigError(
                f"model.bn_group={self.group or 'null'} makes a BN group of the images of several workers, "
                f"which have {n_images} each; call prepare_bn_groups on every worker before training."
            )
        if self.group is None:
            return 1
        raise ConfigError(
            f"model.bn_group={self.group} does not divide the batch of {n_images} images; "
            "set it to a divisor of the batch, or to null for one group."
        )

    def _normalise_groups(self, input: Tensor, n_groups: int) -> Tensor:
        chunks = input.chunk(n_groups)
        running_mean, running_var = self._running()
        if self.running_from == "first":
            first = self._normalise(chunks[0], running_mean, running_var, self.momentum)
            output = torch.cat([first, *(self._normalise(chunk, None, None, 0.0) for chunk in chunks[1:])])
        else:
            # With momentum 1 the running buffers receive the group's statistics, without another pass.
            means = running_mean.new_zeros(n_groups, self.num_features)
            variances = torch.zeros_like(means)
            output = torch.cat([self._normalise(*row, 1.0) for row in zip(chunks, means, variances, strict=True)])
            running_mean.lerp_(means.mean(0), self.momentum)
            running_var.lerp_(variances.mean(0), self.momentum)
        self._count_batch()
        return output

    def _normalise(self, chunk: Tensor, mean: Tensor | None, variance: Tensor | None, momentum: float) -> Tensor:
        return F.batch_norm(
            chunk, mean, variance, self.weight, self.bias, training=True, momentum=momentum, eps=self.eps
        )

    def _normalise_over_ranks(self, input: Tensor, ranks: _RankSpan) -> Tensor:
        self._check_input_dim(input)
        if ranks.local_batch is not None and len(input) != ranks.local_batch:
            raise ConfigError(
                f"The BN groups were prepared for {ranks.local_batch} images per worker, but a batch has "
                f"{len(input)}; in training mode every batch must have the size given to prepare_bn_groups."
            )
        with torch.no_grad():
            mean, variance = _moments_over_ranks(input, ranks)
            count = ranks.n_ranks * input.numel() // input.shape[1]
            running_mean, running_var = self._running()
            running_mean.lerp_(mean.to(running_mean.dtype), self.momentum)
            unbiased = variance * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), self.momentum)
        self._count_batch()
        inverse_std = torch.rsqrt(variance + self.eps)
        output: Tensor = _NormaliseOverRanks.apply(input, self.weight, self.bias, mean, inverse_std, ranks)
        return output

    def _running(self) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean, self.running_var

    def _count_batch(self) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)


def prepare_bn_groups(model: nn.Module, group: int | None, local_batch: int) -> None:
    """Set the BN groups of the `GroupBatchNorm` layers of `model`, for `local_batch` images per rank.

    Every rank calls it once before training, with the same arguments: process groups are created here, shared
    by all layers and by deep copies of the model (the teacher). Without `torch.distributed` it only checks.

    Raises ConfigError if the global batch cannot be divided into groups of `group` images (None = one
    group).
    """
    ranks = _span_ranks(group, local_batch)
    for layer in _layers(model):
        layer.group = group
        layer.ranks = ranks


@torch.no_grad()
def synchronise_buffers(model: nn.Module) -> None:
    """Set the running statistics of `GroupBatchNorm` layers to those of the global batch, the same on all ranks.

    Every rank calls it at the end of epochs and before checkpoints. The moving average is linear in the
    batches' statistics, so averaging it over ranks is exact, for any number of steps since the last
    call.
    """
    n_ranks = _world_size()
    if n_ranks == 1:
        return
    by_setting: dict[Buffers, list[Tensor]] = {"first": [], "mean": []}
    for layer in _layers(model):
        by_setting[layer.running_from].extend(layer._running())
    if by_setting["first"]:
        packed = _pack(by_setting["first"])
        dist.broadcast(packed, src=0)
        _unpack(packed, by_setting["first"])
    if by_setting["mean"]:
        packed = _pack(by_setting["mean"])
        dist.all_reduce(packed)
        _unpack(packed / n_ranks, by_setting["mean"])


@contextmanager
def kept_running_statistics(*models: nn.Module) -> Iterator[None]:
    """In the block, `GroupBatchNorm` layers normalise as usual but do not update their running statistics.

    For inputs that do not occur in evaluation, such as generated images.
    """
    layers = [layer for model in models for layer in _layers(model)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum


def local_buffers(model: nn.Module) -> Tensor:
    """A copy of this rank's own running statistics as one vector; empty for a model without `GroupBatchNorm`."""
    running = [tensor for layer in _layers(model) for tensor in layer._running()]
    return _pack(running).cpu() if running else torch.empty(0)


@torch.no_grad()
def set_local_buffers(model: nn.Module, buffers: Tensor) -> None:
    """Restore running statistics returned by `local_buffers`."""
    running = [tensor for layer in _layers(model) for tensor in layer._running()]
    if running:
        _unpack(buffers, running)


@dataclass(frozen=True)
class _RankSpan:
    """The consecutive ranks, including this one, whose local batches form one BN group.

    Attributes:
        local_batch: images that each rank must have; None if the group is the whole batch, of any size.
    """

    handle: dist.ProcessGroup
    n_ranks: int
    local_batch: int | None

    def __deepcopy__(self, memo: dict[int, Any]) -> _RankSpan:
        """The teacher is a deep copy of the student; process groups cannot and need not be copied."""
        return self


class _NormaliseOverRanks(torch.autograd.Function):
    """(x − mean)·inverse_std·weight + bias; mean and inverse_std come from the inputs of several ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        ranks: _RankSpan,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, inverse_std)
        ctx.ranks = ranks
        normalised = _standardise(input, mean, inverse_std)
        return (normalised * _per_channel(weight, input) + _per_channel(bias, input)).to(input.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse_std = ctx.saved_tensors
        ranks: _RankSpan = ctx.ranks
        grad = grad_outputs[0].to(mean.dtype)
        normalised = _standardise(input, mean, inverse_std)
        grad_bias = grad.sum(_reduced(input))
        grad_weight = (grad * normalised).sum(_reduced(input))

        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums, group=ranks.handle)
        mean_grad, mean_grad_normalised = sums / (ranks.n_ranks * input.numel() // input.shape[1])
        centred = grad - _per_channel(mean_grad, input) - normalised * _per_channel(mean_grad_normalised, input)
        grad_input = centred * _per_channel(weight * inverse_std, input)
        return (
            grad_input.to(input.dtype),
            grad_weight.to(weight.dtype),
            grad_bias.to(weight.dtype),
            None,
            None,
            None,
        )


def _moments_over_ranks(input: Tensor, ranks: _RankSpan) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] over the batches of all `ranks`, merged from each rank's own two moments.

    Merging centred moments avoids the cancellation of mean of squares − square of mean.
    """
    variance, mean = torch.var_mean(_at_least_float32(input), _reduced(input), correction=0)
    local = torch.stack([mean, variance])
    gathered = [torch.empty_like(local) for _ in range(ranks.n_ranks)]
    dist.all_gather(gathered, local, group=ranks.handle)
    means, variances = torch.stack(gathered, dim=1)
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)


def _span_ranks(group: int | None, local_batch: int) -> _RankSpan | None:
    """This rank's span of ranks, or None if its local batch consists of whole groups."""
    n_ranks = _world_size()
    if group is None:
        return None if n_ranks == 1 else _RankSpan(_whole_world(), n_ranks, None)
    global_batch, size = n_ranks * local_batch, group
    if global_batch % size or (local_batch % size and size % local_batch):
        raise ConfigError(
            f"model.bn_group={size} cannot be made from {n_ranks} worker(s) with {local_batch} images each; "
            f"it must divide the global batch of {global_batch}, and divide {local_batch} or be its multiple."
        )
    if local_batch % size == 0:
        return None
    span = size // local_batch
    if span == n_ranks:
        return _RankSpan(_whole_world(), span, local_batch)
    # new_group is collective: every rank creates all groups in the same order and keeps its own.
    handles = [dist.new_group(list(range(first, first + span))) for first in range(0, n_ranks, span)]
    own = handles[dist.get_rank() // span]
    return _RankSpan(cast(dist.ProcessGroup, own), span, local_batch)


def _whole_world() -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.group.WORLD)


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _layers(model: nn.Module) -> Iterable[GroupBatchNorm]:
    return (module for module in model.modules() if isinstance(module, GroupBatchNorm))


def _pack(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _unpack(packed: Tensor, into: list[Tensor]) -> None:
    for tensor, values in zip(into, torch.split(packed, [t.numel() for t in into]), strict=True):
        tensor.copy_(values.view_as(tensor))


def _standardise(input: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    return (_at_least_float32(input) - _per_channel(mean, input)) * _per_channel(inverse_std, input)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _reduced(input: Tensor) -> list[int]:
    """All dimensions except that of channels."""
    return [0, *range(2, input.dim())]


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))
