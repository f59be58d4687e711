"""One training step: the method's updates, backward for their own parameters, gradient exchange, moving averages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.optim import Optimizer

from reid_ray.methods import Batch, Method, Stage, Update
from reid_ray.models import update_teacher
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.modules import Modules, trainable_parameters
from reid_ray.training.optimizers import optimizer_spec


def train_step(
    method: Method,
    stage: Stage,
    batch: Batch,
    optimizers: Mapping[str, Optimizer],
    context: DistributedContext,
    *,
    step: int,
    before_backward: Callable[[Update], None],
) -> list[Update]:
    """Make the optimizer steps of one batch, then update the moving averages.

    Args:
        step: completed steps of the stage.
        before_backward: called with each update, so that a run whose loss is not finite can be stopped.

    Returns:
        The updates, detached.
    """
    done = []
    for update in method.updates(stage.name, batch):
        before_backward(update)
        apply_update(update, stage, method.modules, optimizers, context)
        terms = {name: value.detach() for name, value in update.terms.items()}
        done.append(replace(update, loss=update.loss.detach(), terms=terms))
    momentum = method.ema_momentum(step)
    for mean, followed in method.ema_pairs(stage.name):
        update_teacher(mean, followed, momentum)
    return done


def apply_update(
    update: Update, stage: Stage, modules: Modules, optimizers: Mapping[str, Optimizer], context: DistributedContext
) -> None:
    """Step the optimizers of an update on its loss. Parameters of other optimizers get no gradient."""
    paths = [path for name in update.optimizers for path in optimizer_spec(stage, name).modules]
    parameters = trainable_parameters(modules, paths)
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(update.loss / context.size, inputs=parameters)
    context.all_reduce_gradients(parameters)
    for name in update.optimizers:
        optimizers[name].step()


def loss_fields(updates: Sequence[Update], rates: Mapping[str, float]) -> dict[str, Any]:
    """The fields of a `step` event for these updates; reading the values waits for the device.

    `loss` is the sum of the losses, `lr` the learning rate of the first optimizer. With several updates, `losses` lists
    the losses by optimizer; with several optimizers, `lrs` lists the rates.
    """
    losses: dict[str, float] = {}
    for update in updates:
        name = "+".join(update.optimizers)
        losses[name] = losses.get(name, 0.0) + float(update.loss)
    fields: dict[str, Any] = {"lr": next(iter(rates.values())), "loss": sum(losses.values())}
    fields |= {"lrs": dict(rates)} if len(rates) > 1 else {}
    fields |= {"losses": losses} if len(losses) > 1 else {}
    return fields | {"terms": {name: float(value) for name, value in _terms(updates)}}


@torch.no_grad()
def teacher_fields(method: Method, stage: Stage) -> dict[str, float]:
    """The field `teacher_distance` of an `epoch` event, for stages with moving averages.

    It is ‖θ' − θ‖ / ‖θ‖ over the parameters θ that are followed and their averages θ'.
    """
    pairs = [
        (average, latest)
        for mean, followed in method.ema_pairs(stage.name)
        for average, latest in zip(mean.parameters(), followed.parameters(), strict=True)
    ]
    if not pairs:
        return {}
    apart, length = (
        sum(float(each.double().square().sum()) for each in tensors)
        for tensors in ((average - latest for average, latest in pairs), (latest for _, latest in pairs))
    )
    return {"teacher_distance": (apart / max(length, sys.float_info.min)) ** 0.5}


def _terms(updates: Sequence[Update]) -> Iterator[tuple[str, torch.Tensor]]:
    """Terms by name; a name that two updates share is prefixed with the names of their optimizers."""
    names = [name for update in updates for name in update.terms]
    for update in updates:
        for name, value in update.terms.items():
            shared = names.count(name) > 1
            yield (f"{'+'.join(update.optimizers)}/{name}" if shared else name), value
