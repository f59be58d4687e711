"""Optimizers of a stage, each with its own kind, settings and modules."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from reid_ray.config import OptimizerConfig
from reid_ray.errors import MethodError
from reid_ray.methods import OptimizerSpec, Stage
from reid_ray.training.modules import Modules, trainable_parameters


def make_optimizers(modules: Modules, stage: Stage, old: Mapping[str, Optimizer]) -> dict[str, Optimizer]:
    """The optimizers of a stage. Parameters that were in `old` keep their moments, unless the stage resets them."""
    made = {}
    for name, spec in stage.optimizers.items():
        parameters = trainable_parameters(modules, spec.modules)
        made[name] = make_optimizer(parameters, spec.config)
        if name in old and not stage.config.reset_optimizer:
            moments = old[name].state
            made[name].state.update({p: moments[p] for p in parameters if p in moments})
    return made


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """An optimizer of the configured kind; `set_rates` sets its rate in each epoch."""
    if config.optimizer == "sgd":
        return SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
    return Adam(
        parameters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        amsgrad=config.optimizer == "amsgrad",
        fused=True,
    )


def set_rates(optimizers: Mapping[str, Optimizer], stage: Stage, epoch: int) -> dict[str, float]:
    """Set the learning rate of each optimizer for an epoch; returns the rates by name."""
    rates = {name: spec.config.learning_rate(epoch) for name, spec in stage.optimizers.items()}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name]
    return rates


def optimizer_spec(stage: Stage, name: str) -> OptimizerSpec:
    """An optimizer of a stage; `MethodError`, with the closest name, if there is none."""
    if name not in stage.optimizers:
        near = difflib.get_close_matches(name, stage.optimizers, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"optimizers are {', '.join(stage.optimizers)}."
        raise MethodError(f"Stage {stage.name} has no optimizer '{name}'; {hint}")
    return stage.optimizers[name]
