"""Adam for what a method trains, and its rate by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.optim import Adam

from reid_ray.config import TrainingConfig


def learning_rate(training: TrainingConfig, epoch: int) -> float:
    """The rate of an epoch: linear warm-up from `warmup_factor`·lr, by epoch, then constant; less after each step."""
    rate = training.lr * training.lr_gamma ** sum(epoch >= step for step in training.lr_steps)
    if epoch >= training.warmup_epochs:
        return rate
    share = epoch / training.warmup_epochs
    return rate * (training.warmup_factor * (1 - share) + share)


def make_optimizers(
    parameters: Mapping[str, list[nn.Parameter]], training: TrainingConfig, old: Mapping[str, Adam]
) -> dict[str, Adam]:
    """Adam for each group of parameters. Those that stay keep their moments of `old`, unless they are to be reset."""
    made = {}
    for name, group in parameters.items():
        made[name] = Adam(group, lr=training.lr, weight_decay=training.weight_decay, fused=True)
        if name in old and not training.reset_optimizer:
            moments = old[name].state
            made[name].state.update({p: moments[p] for p in group if p in moments})
    return made


def set_rate(optimizers: Iterable[Adam], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
